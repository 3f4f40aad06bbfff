//! The engine's one task.
//!
//! Its loop waits for whatever comes first: a request, the end of the work under way, a report taken, the time the
//! machine wants to be woken, or the next look at progress. Each becomes one step of the machine; the step's effects run
//! in order, the journal first.

use std::collections::VecDeque;
use std::time::Duration;

use bundle::reason::Reason;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use updater_core::effect::{Effect, Refusal, Ticket, Work};
use updater_core::event::{Event, Failure, Finished};
use updater_core::journal::{self, Journal};
use updater_core::machine::Machine;
use updater_core::policy::Policy;
use updater_core::status::{Progress, StateName, Status};

use super::told::Told;
use super::work::{self, Context, blocking};
use super::{Command, Reply, Seams, internal, persist_first};
use crate::seams::{Cancel, ProgressSink};

/// How often progress reaches the status. Faster helps nobody; slower looks stuck.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(300);
/// Saving evidence may take this long before the fallback goes on without it.
const EVIDENCE_LIMIT: Duration = Duration::from_secs(15);
/// Tries to write a journal that is not vital, and the pause between them.
const PERSIST_TRIES: u32 = 3;
const PERSIST_PAUSE: Duration = Duration::from_millis(200);
/// Waiting without a date still looks again now and then: clocks jump, and a lost wake-up must not be for ever.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

type Request = (Command, oneshot::Sender<Reply>);

pub(super) struct Engine {
    machine: Machine,
    policy: Policy,
    seams: Seams,
    queue: VecDeque<(Ticket, Work)>,
    running: Option<Running>,
    progress: ProgressSink,
    status: watch::Sender<Status>,
    idle: watch::Sender<bool>,
    internal: (mpsc::UnboundedSender<Event>, mpsc::UnboundedReceiver<Event>),
    told: Told,
}

struct Running {
    ticket: Ticket,
    cancel: Cancel,
    task: JoinHandle<Result<Finished, Failure>>,
}

impl Engine {
    pub(super) fn new(
        machine: Machine,
        policy: Policy,
        seams: Seams,
        status: watch::Sender<Status>,
        idle: watch::Sender<bool>,
    ) -> Self {
        Self {
            machine,
            policy,
            seams,
            queue: VecDeque::new(),
            running: None,
            progress: watch::channel(None).0,
            status,
            idle,
            internal: mpsc::unbounded_channel(),
            told: Told::default(),
        }
    }

    /// Runs until every handle is gone.
    pub(super) async fn run(mut self, first: Vec<Effect>, mut requests: mpsc::Receiver<Request>) {
        self.apply(first, None).await;
        let mut progress = tokio::time::interval(PROGRESS_INTERVAL);
        progress.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.publish();
            let wake = self.until_wake();
            tokio::select! {
                request = requests.recv() => match request {
                    Some((command, reply)) => self.request(command, reply).await,
                    None => return,
                },
                (ticket, result) = ended(&mut self.running) => {
                    self.step(Event::Done { ticket, result }, None).await;
                }
                Some(event) = self.internal.1.recv() => self.step(event, None).await,
                () = tokio::time::sleep(wake) => self.step(Event::Tick, None).await,
                _ = progress.tick(), if self.running.is_some() => {}
            }
        }
    }

    async fn request(&mut self, command: Command, reply: oneshot::Sender<Reply>) {
        match command {
            Command::Change(change) => self.step(Event::Command(change), Some(reply)).await,
            Command::Explain => {
                let explanation = self.machine.explain(&self.seams.clock.now());
                let _ = reply.send(Reply::Explained(explanation));
            }
            Command::History => {
                let _ = reply.send(Reply::History(self.machine.journal().history.clone()));
            }
        }
    }

    async fn step(&mut self, event: Event, reply: Option<oneshot::Sender<Reply>>) {
        let now = self.seams.clock.now();
        let effects = self.machine.step(&now, event);
        self.apply(effects, reply).await;
    }

    /// Runs the effects of one step. The caller of a command gets his answer when the intent is durable, not before.
    async fn apply(&mut self, effects: Vec<Effect>, mut reply: Option<oneshot::Sender<Reply>>) {
        let (persist, effects) = persist_first(effects);
        if let Some((journal, vital)) = persist
            && let Err(failure) = self.persist(*journal, vital).await
        {
            let now = self.seams.clock.now();
            let refusal = Refusal { reason: failure.reason, detail: failure.detail.clone() };
            // The machine orders nothing here: what it wants next comes with its wake-up or the end of its work.
            self.machine.step(&now, Event::PersistFailed { vital, failure });
            if vital {
                self.log_passages();
                answer(&mut reply, Err(refusal));
                return;
            }
            tracing::error!(
                detail = refusal.detail,
                "the journal could not be written; until it can, the boot loader alone knows"
            );
        }
        self.log_passages();
        for effect in effects {
            match effect {
                Effect::Persist { .. } => {}
                Effect::Run { ticket, work } => self.queue.push_back((ticket, work)),
                Effect::Stop(ticket) => self.stop(ticket),
                Effect::Answer(result) => answer(&mut reply, result),
                Effect::KeepEvidence(request) => {
                    let kept = tokio::time::timeout(EVIDENCE_LIMIT, self.seams.evidence.keep(&request)).await;
                    if let Err(error) = kept.unwrap_or_else(|_| Err("it took too long".into())) {
                        tracing::warn!(error, "the evidence of the failed boot could not be saved");
                    }
                }
                Effect::Report(report) => self.report(*report),
            }
        }
        answer(&mut reply, Ok(()));
        self.start_next();
    }

    async fn persist(&self, journal: Journal, vital: bool) -> Result<(), Failure> {
        let bytes = journal::encode(&journal).map_err(|error| internal(error.to_string()))?;
        let tries = if vital { 1 } else { PERSIST_TRIES };
        let mut last = None;
        for attempt in 0..tries {
            if attempt > 0 {
                tokio::time::sleep(PERSIST_PAUSE).await;
            }
            let (store, bytes) = (self.seams.journal.clone(), bytes.clone());
            match blocking(move || store.save(&bytes)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => last = Some(Failure::new(Reason::WriteError, format!("journal: {error}"))),
                Err(failure) => last = Some(failure),
            }
        }
        Err(last.unwrap_or_else(|| internal("no try was made")))
    }

    fn stop(&mut self, ticket: Ticket) {
        self.queue.retain(|(waiting, _)| *waiting != ticket);
        if let Some(running) = self.running.as_ref().filter(|running| running.ticket == ticket) {
            running.cancel.cancel();
        }
    }

    fn report(&self, report: updater_core::history::Report) {
        let (spool, events) = (self.seams.reports.clone(), self.internal.0.clone());
        tokio::spawn(async move {
            match spool.append(&report).await {
                Ok(()) => drop(events.send(Event::Reported { sequence: report.sequence })),
                Err(error) => tracing::warn!(error, "a report could not be spooled; tried again at the next start"),
            }
        });
    }

    /// One piece at a time: the next one starts when the one before has really ended.
    fn start_next(&mut self) {
        if self.running.is_some() {
            return;
        }
        let Some((ticket, work)) = self.queue.pop_front() else { return };
        self.progress.send_replace(None);
        let cancel = Cancel::new();
        let context = Context {
            seams: self.seams.clone(),
            policy: self.policy.clone(),
            progress: self.progress.clone(),
            cancel: cancel.clone(),
        };
        let task = tokio::spawn(async move { work::perform(work, &context).await });
        self.running = Some(Running { ticket, cancel, task });
    }

    fn until_wake(&self) -> Duration {
        let uptime = self.seams.clock.now().uptime;
        self.machine.wake_at().map_or(LONGEST_WAIT, |wake| wake.saturating_sub(uptime).min(LONGEST_WAIT))
    }

    fn publish(&mut self) {
        let now = self.seams.clock.now();
        let mut status = self.machine.status(&now);
        status.progress = self.shown_progress(status.state);
        self.status.send_if_modified(|shown| {
            let changed = *shown != status;
            *shown = status;
            changed
        });
        let idle = self.machine.is_idle(&now) && self.running.is_none() && self.queue.is_empty();
        self.idle.send_if_modified(|shown| std::mem::replace(shown, idle) != idle);
    }

    fn shown_progress(&self, state: StateName) -> Option<Progress> {
        let moving = matches!(state, StateName::Writing | StateName::Verifying | StateName::Staged);
        self.progress.borrow().as_ref().copied().filter(|_| moving && self.running.is_some())
    }

    /// One line for each state that was reached, and one for each new reason not to go on.
    fn log_passages(&mut self) {
        let passages = self.machine.take_passages();
        let status = self.machine.status(&self.seams.clock.now());
        self.told.log(&passages, &status);
    }
}

/// The end of the work under way; never, while there is none.
async fn ended(running: &mut Option<Running>) -> (Ticket, Result<Finished, Failure>) {
    let Some(work) = running else { return std::future::pending().await };
    let ticket = work.ticket;
    let joined = (&mut work.task).await;
    // Only now: when this future is dropped by `select!` before it is done, the work must still be there.
    *running = None;
    (ticket, joined.unwrap_or_else(|error| Err(internal(format!("a task ended badly: {error}")))))
}

fn answer(reply: &mut Option<oneshot::Sender<Reply>>, result: Result<(), Refusal>) {
    if let Some(reply) = reply.take() {
        let _ = reply.send(match result {
            Ok(()) => Reply::Done,
            Err(refusal) => Reply::Refused(refusal),
        });
    }
}
