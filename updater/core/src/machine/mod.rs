//! The state machine: what happened and what time it is in, what is to be done out.
//!
//! States that last (docs/src/state-machine.md) live in the journal's phase, the others only in memory. A step may
//! change the journal; when it did, `Persist` is its first effect, so nothing irreversible runs before its intent is
//! durable. At most one order for work is open at a time; a result that belongs to no open order is ignored.
//!
//! Each state's behaviour is a file: `check` (Idle, Checking, Offered), `install` (Approved to Staged), `switch`
//! (Armed), `trial` (Trying, Good), `revert` (Reverting, RolledBack, Degraded), `dark` (a boot loader that can not be
//! read). `command` is what operators may do, `let_go` what becomes of a slot that must not be booted, `save` what of a
//! step has to be durable, `recall` what happens to a running release that its vendor took back, `reconcile` what a
//! start means, `waiting` what costs nobody anything in between, `view` what is shown.

use std::collections::BTreeMap;
use std::time::Duration;

use bundle::reason::Reason;

use crate::effect::{Effect, Refusal, Ticket, Work};
use crate::event::{Answers, Event, Failure, Finished, HealthReport};
use crate::facts::{Boot, BootFacts};
use crate::gate::Point;
use crate::gate::select::Choice;
use crate::journal::{Journal, Phase};
use crate::now::Now;
use crate::policy::{Device, Policy};
use crate::release::{Intent, Source};
use crate::slot::SlotId;
use crate::status::{Problem, StateName};

mod backoff;
mod check;
mod command;
mod dark;
#[cfg(test)]
mod fixture;
mod install;
mod let_go;
mod memory;
mod recall;
pub mod reconcile;
mod revert;
mod save;
mod switch;
pub mod transitions;
mod trial;
mod view;
mod waiting;

pub use backoff::backoff;

/// State changes a release may cause before it is blocked. A smooth update takes eight; this leaves room for a few
/// bad nights and ends any loop nobody thought of.
pub const MAX_CHANGES: u32 = 64;

/// Boots in which a slot is rejected before the device stays up and says that its boot loader does not listen.
pub const MAX_REJECTS: u32 = 3;

/// What the machine is made of.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Who this device is.
    pub device: Device,
    /// What it may do.
    pub policy: Policy,
    /// Version of this updater, for the status.
    pub version: String,
    /// What runs.
    pub boot: Boot,
}

/// The state machine.
#[derive(Debug, Clone)]
pub struct Machine {
    setup: Setup,
    /// As it will be once the last step's `Persist` is done.
    journal: Journal,
    saving: save::Saving,
    /// None until the boot loader could be read.
    facts: Option<BootFacts>,
    /// What the journal does not hold.
    mood: Mood,
    order: Option<Order>,
    next_ticket: u64,
    /// Uptime at which to look again.
    wake: Option<Duration>,
    /// The boot loader's state can not be read.
    dark: Option<dark::Dark>,
    /// The boot loader could not be made to let go of a slot; when to try again.
    pause: Option<let_go::Pause>,
    /// A check that waits for that; by an operator.
    check_owed: Option<bool>,
    /// The last answers to the gate's questions, and when their documents were fetched (uptime); none: they are the
    /// stored copy.
    answers: Option<(Box<Answers>, Option<Duration>)>,
    trial: TrialRun,
    /// Failures in a row of the work at hand, in this process.
    stumbles: u32,
    /// Read back in this process.
    fresh: bool,
    /// The gate let this download in, and nothing has interrupted it since.
    admitted: bool,
    waiting: Option<Problem>,
    last_error: Option<Problem>,
    passed: Vec<Passage>,
}

/// States that are not in the journal.
#[derive(Debug, Clone, PartialEq)]
enum Mood {
    /// As the journal's phase says.
    Plain,
    /// Looking for a release; the phase stays what it was (`Idle` or `RolledBack`).
    Checking(Search),
    /// Just confirmed.
    Good,
    /// Stuck; the phase stays what it was.
    Degraded(Trouble),
}

/// What a check is looking for.
#[derive(Debug, Clone, Default, PartialEq)]
struct Search {
    /// An operator's bundle.
    source: Option<Source>,
    intent: Intent,
    by_operator: bool,
    /// What the documents offered, while its manifest is being read.
    choice: Option<Box<Choice>>,
}

/// Why the device stays where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// The boot loader's state can not be read, or the running slot is not certain.
    Blind,
    /// The running slot failed and there is nothing to fall back to.
    NoFallback,
    /// The boot loader keeps booting a slot that was rejected.
    Ignored,
    /// Somebody booted a slot that was never fully written and has no boot record.
    Incomplete,
}

/// Work under way.
#[derive(Debug, Clone, PartialEq)]
struct Order {
    ticket: Ticket,
    what: Ordered,
}

/// What the result of the open order means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ordered {
    Facts,
    /// For which question, and with what.
    Ask(Option<Point>, Asked),
    Manifest,
    Clear,
    Install,
    Verify,
    Arm,
    Confirm,
    Reject,
    /// Make the boot loader forget the other slot.
    LetGo,
    Health,
    /// What works over the network before the reboot.
    Network,
    Reboot,
}

/// With what a question is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// Documents that were fetched for it.
    Fetched,
    /// Documents of a moment ago.
    Fresh,
    /// What is around the device, before anybody else is asked.
    Around(Occasion),
}

/// Why the machine looks around.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Occasion {
    /// Whoever reads the status starts the daemon: that alone is no reason to ask a server.
    Start,
    /// A wait may be over.
    Wait,
}

/// The trial of this boot, as seen by this process.
#[derive(Debug, Clone, Default)]
struct TrialRun {
    /// Looks in a row at which a required check failed.
    strikes: BTreeMap<String, u32>,
    /// Uptime since which all required checks hold, and the restarts counted then.
    soak: Option<(Duration, u64)>,
    last: Option<HealthReport>,
}

/// A state change, for the log and for tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Passage {
    /// Before.
    pub from: StateName,
    /// After.
    pub to: StateName,
}

/// Effects of one step, in order.
type Out = Vec<Effect>;

impl Machine {
    /// A machine that goes on from what the journal and the boot loader say, and what it wants done first.
    #[must_use]
    pub fn start(setup: Setup, journal: Journal, facts: Result<BootFacts, Failure>, now: &Now) -> (Self, Vec<Effect>) {
        let mut machine = Self {
            setup,
            journal,
            saving: save::Saving::default(),
            facts: None,
            mood: Mood::Plain,
            order: None,
            next_ticket: 0,
            wake: None,
            dark: None,
            pause: None,
            check_owed: None,
            answers: None,
            trial: TrialRun::default(),
            stumbles: 0,
            fresh: false,
            admitted: false,
            waiting: None,
            last_error: None,
            passed: Vec::new(),
        };
        let mut out = Vec::new();
        let begin = machine.begin(None);
        machine.resume(now, facts, &mut out);
        machine.see_to_letting_go(now, &mut out);
        // Reports the spool had not confirmed when the last process ended.
        out.extend(begin.journal.outbox.iter().cloned().map(|report| Effect::Report(Box::new(report))));
        let effects = machine.finish(now, begin, out);
        (machine, effects)
    }

    /// Takes one event.
    pub fn step(&mut self, now: &Now, event: Event) -> Vec<Effect> {
        let mut out = Vec::new();
        if let Event::PersistFailed { vital, failure } = &event {
            self.persist_failed(now, *vital, failure);
            return out;
        }
        let begin = self.begin(Some(&event));
        match event {
            Event::Tick => self.tick(now, &mut out),
            Event::Command(command) => self.command(now, command, &mut out),
            Event::Done { ticket, result } => self.done(now, ticket, result, &mut out),
            Event::Policy(policy) => {
                self.setup.policy = *policy;
                self.tick(now, &mut out);
            }
            Event::Reported { sequence } => {
                // Made durable along with the next change: a report that is spooled twice is told apart by its number.
                self.journal.outbox.retain(|report| report.sequence != sequence);
                return out;
            }
            Event::PersistFailed { .. } => {}
        }
        self.see_to_letting_go(now, &mut out);
        self.finish(now, begin, out)
    }

    /// Nothing is written, and no boot loader switched.
    const fn is_quiet(&self) -> bool {
        matches!(self.journal.phase, Phase::Idle | Phase::RolledBack { .. } | Phase::Offered(_) | Phase::Staged(_))
    }

    fn tick(&mut self, now: &Now, out: &mut Out) {
        let due = self.wake.is_some_and(|wake| wake <= now.uptime);
        if due {
            self.wake = None;
        }
        // Work under way is let finish; only the deadline of a trial cuts it short.
        let busy = self.order.is_some() && !matches!(self.journal.phase, Phase::Trying(_));
        match &self.mood {
            _ if busy => {}
            Mood::Checking(_) => {}
            Mood::Degraded(trouble) => self.tick_degraded(*trouble, due, out),
            // Comes first, at the end of this step.
            Mood::Plain | Mood::Good if self.letting_go().is_some() => {}
            Mood::Plain | Mood::Good => match &self.journal.phase {
                Phase::Idle | Phase::RolledBack { .. } => self.tick_idle(now, due, out),
                Phase::Offered(_) => self.look_around(Point::Download, Occasion::Wait, out),
                Phase::Approved(_) | Phase::Writing(_) | Phase::Verifying(_) => self.tick_install(due, out),
                Phase::Staged(_) => self.look_around(Point::Activate, Occasion::Wait, out),
                Phase::Armed { .. } => self.tick_armed(due, out),
                Phase::Trying(_) => self.tick_trial(now, due, out),
                Phase::Reverting(_) => self.look_again(due, out),
            },
        }
    }

    fn done(&mut self, now: &Now, ticket: Ticket, result: Result<Finished, Failure>, out: &mut Out) {
        // Whether anybody still waits for it or not: work on the boot loader is done to its end, and this is what it did.
        if let Ok(Finished::Facts(facts)) = &result {
            self.facts = Some(facts.clone());
        }
        let Some(order) = self.order.take_if(|order| order.ticket == ticket) else { return };
        match order.what {
            Ordered::Facts => self.facts_read(now, result, out),
            Ordered::Ask(point, asked) => self.answered(now, point, asked, result, out),
            Ordered::Manifest => self.manifest_read(now, result, out),
            Ordered::Clear => self.cleared(now, result, out),
            Ordered::Install => self.installed(now, result, out),
            Ordered::Verify => self.verified(now, result, out),
            Ordered::Arm => self.armed(now, result, out),
            Ordered::Confirm => self.confirmed(now, result, out),
            Ordered::Reject => self.rejected(now, result, out),
            Ordered::Health => self.health_seen(now, result, out),
            Ordered::Network => self.network_seen(result, out),
            Ordered::Reboot => self.rebooting(now, result),
            Ordered::LetGo => self.has_let_go(now, result, out),
        }
    }

    /// Orders work, after stopping what is under way.
    fn run(&mut self, what: Ordered, work: Work, out: &mut Out) {
        self.drop_order(out);
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.order = Some(Order { ticket, what });
        out.push(Effect::Run { ticket, work });
    }

    fn drop_order(&mut self, out: &mut Out) {
        if let Some(order) = self.order.take() {
            out.push(Effect::Stop(order.ticket));
        }
    }

    fn wake_in(&mut self, now: &Now, delay: Duration) {
        self.wake = Some(now.uptime.saturating_add(delay));
    }

    /// Changes state. Counts the change for the loop breaker and notes it for the log.
    fn enter(&mut self, phase: Phase, mood: Mood) {
        let from = self.state();
        self.journal.phase = phase;
        self.mood = mood;
        let to = self.state();
        if from == to {
            return;
        }
        self.passed.push(Passage { from, to });
        self.stumbles = 0;
        self.wake = None;
        self.waiting = None;
        self.count_change();
    }

    /// Uptime at which the machine wants a `Tick`.
    #[must_use]
    pub fn wake_at(&self) -> Option<Duration> {
        [self.wake, self.lets_go_at(), self.saves_at()].into_iter().flatten().min()
    }

    /// The running slot; none while nobody knows.
    fn booted(&self) -> Option<SlotId> {
        self.facts.as_ref().and_then(|facts| facts.booted)
    }

    const fn policy(&self) -> &Policy {
        &self.setup.policy
    }
}

/// A command was not taken.
fn refuse(reason: Reason, detail: impl Into<String>) -> Refusal {
    Refusal { reason, detail: detail.into() }
}

#[cfg(test)]
mod tests;
