//! What is shown: status, explanation, and whether the daemon may leave.

use std::time::Duration;

use bundle::reason::Reason;
use jiff::{SignedDuration, Timestamp};

use super::{Asked, Machine, Mood, Ordered, Passage};
use crate::facts::BootFacts;
use crate::gate::select::choose;
use crate::journal::{Journal, Phase};
use crate::now::Now;
use crate::release::Intent;
use crate::slot::{PerSlot, SlotId};
use crate::status::{ExplainLine, Explanation, Finding, Problem, STATUS_FORMAT, SlotStatus, StateName, Status};

/// Sleeps shorter than this are waited out; over a longer one the daemon leaves and a timer starts it again.
const WORTH_STAYING: Duration = Duration::from_secs(600);
/// Hours that open within this time are waited for in memory. The timer comes round within 110 minutes (hourly, each
/// time up to 50 minutes late): left to it, hours of half an hour would be over on most days.
const WORTH_WAITING: SignedDuration = SignedDuration::from_hours(2);

impl Machine {
    /// The state.
    #[must_use]
    pub const fn state(&self) -> StateName {
        match (&self.mood, &self.journal.phase) {
            (Mood::Checking(_), _) => StateName::Checking,
            (Mood::Good, _) => StateName::Good,
            (Mood::Degraded(_), _) => StateName::Degraded,
            (Mood::Plain, Phase::Idle) => StateName::Idle,
            (Mood::Plain, Phase::Offered(_)) => StateName::Offered,
            (Mood::Plain, Phase::Approved(_)) => StateName::Approved,
            (Mood::Plain, Phase::Writing(_)) => StateName::Writing,
            (Mood::Plain, Phase::Verifying(_)) => StateName::Verifying,
            (Mood::Plain, Phase::Staged(_)) => StateName::Staged,
            (Mood::Plain, Phase::Armed { .. }) => StateName::Armed,
            (Mood::Plain, Phase::Trying(_)) => StateName::Trying,
            (Mood::Plain, Phase::Reverting(_)) => StateName::Reverting,
            (Mood::Plain, Phase::RolledBack { .. }) => StateName::RolledBack,
        }
    }

    /// The journal, as it will be once the last step's `Persist` is done.
    #[must_use]
    pub const fn journal(&self) -> &Journal {
        &self.journal
    }

    /// What the boot loader said last.
    #[must_use]
    pub const fn facts(&self) -> Option<&BootFacts> {
        self.facts.as_ref()
    }

    /// State changes since the last call, in order.
    pub fn take_passages(&mut self) -> Vec<Passage> {
        std::mem::take(&mut self.passed)
    }

    /// The picture, without the progress of an install (the shell adds it).
    #[must_use]
    pub fn status(&self, now: &Now) -> Status {
        let update = self.journal.phase.update();
        let choice = match &self.mood {
            Mood::Checking(search) => search.choice.as_ref().map(|choice| choice.release.clone()),
            _ => None,
        };
        let trial = match &self.journal.phase {
            Phase::Trying(trial) => Some(trial.slot),
            Phase::Reverting(reversal) => Some(reversal.slot),
            Phase::RolledBack { slot, .. } => Some(*slot),
            _ => None,
        };
        let floor = self.journal.floor.approvals.get(&crate::gate::approval::key(self.policy()));
        let age = |at: Timestamp| u64::try_from(now.wall.duration_since(at).as_secs()).ok();
        Status {
            format: STATUS_FORMAT,
            version: self.setup.version.clone(),
            state: self.state(),
            operation: self.order.as_ref().map(|order| operation(order.what).to_owned()),
            progress: None,
            booted_slot: self.booted(),
            confirmed: self.facts.as_ref().is_some_and(|facts| facts.confirmed_booted().is_some()),
            slots: PerSlot { a: self.slot_status(SlotId::A), b: self.slot_status(SlotId::B) },
            release: update.map(|update| update.release.clone()).or(choice),
            target: update.map(|update| update.target).or(trial),
            letting_go: self.letting_go(),
            waiting: self.shown_waiting(now),
            last_error: self.last_error.clone(),
            last_outcome: self.journal.history.last().cloned(),
            next_check: self.next_check(now),
            approval_age: floor.and_then(|floor| floor.seen).and_then(age),
            approval: floor.map(|floor| (floor.epoch, floor.version)),
            trial_seconds_left: self.deadline().map(|deadline| deadline.saturating_sub(now.uptime).as_secs()),
        }
    }

    /// Why it is not going on. That what runs was taken back matters more than that there is nothing newer.
    fn shown_waiting(&self, now: &Now) -> Option<Problem> {
        if let Some((reason, detail)) = self.letting_go_notice().or_else(|| self.unsaved_notice()) {
            return Some(Problem { reason, detail, at: Some(now.wall), until: None });
        }
        let quiet = self.waiting.as_ref().is_none_or(|waiting| waiting.reason == Reason::NoUpdate);
        let notice = self.recall_notice(now).filter(|_| quiet);
        notice
            .map(|detail| Problem { reason: Reason::Recalled, detail, at: Some(now.wall), until: None })
            .or_else(|| self.waiting.clone())
    }

    fn slot_status(&self, slot: SlotId) -> SlotStatus {
        SlotStatus {
            boot: self.facts.as_ref().map(|facts| facts.slot(slot)).unwrap_or_default(),
            release: self.journal.slots.get(slot).as_ref().map(|record| record.release.clone()),
        }
    }

    /// Wall-clock time of the next look.
    fn next_check(&self, now: &Now) -> Option<Timestamp> {
        let looks = !matches!(self.journal.phase, Phase::Trying(_) | Phase::Reverting(_));
        let delay = self.wake.filter(|_| looks)?.saturating_sub(now.uptime);
        now.wall.checked_add(SignedDuration::try_from(delay).ok()?).ok()
    }

    /// True while nothing is under way and nothing is due soon: the daemon may leave. Nothing is lost: the next start
    /// goes on from the journal.
    #[must_use]
    pub fn is_idle(&self, now: &Now) -> bool {
        let soon = self.wake_at().is_some_and(|wake| wake < now.uptime.saturating_add(WORTH_STAYING));
        let tied = matches!(self.journal.phase, Phase::Trying(_) | Phase::Reverting(_));
        self.order.is_none() && self.unsaved().is_none() && !soon && !tied && !self.opens_soon(now)
    }

    /// The update at hand waits for nothing but hours that open before the timer is sure to come.
    fn opens_soon(&self, now: &Now) -> bool {
        let hours = self.waiting.as_ref().filter(|waiting| waiting.reason == Reason::WindowClosed);
        let opens = hours.and_then(|waiting| waiting.until);
        opens.is_some_and(|opens| opens.duration_since(now.wall) < WORTH_WAITING)
    }

    /// Every question of the gate with its answer, for the release at hand or the one that came nearest.
    #[must_use]
    pub fn explain(&self, now: &Now) -> Explanation {
        let at_hand = self.journal.phase.update().map(|update| update.release.clone());
        let switching = matches!(self.journal.phase, Phase::Trying(_) | Phase::Reverting(_));
        let (release, mut lines) = if switching {
            (at_hand, self.explain_trial())
        } else if let Some(verdict) = self.verdict(now, self.point()) {
            (at_hand, verdict.lines)
        } else {
            self.explain_choice(now)
        };
        if let Some(notice) = self.recall_notice(now) {
            lines.insert(0, line("recall", Finding::Wait, Some(Reason::Recalled), notice));
        }
        if let Some((reason, text)) = self.unsaved_notice() {
            lines.insert(0, line("journal", Finding::Wait, Some(reason), text));
        }
        if let Some(slot) = self.letting_go() {
            let (reason, text) = self.letting_go_notice().unwrap_or_else(|| {
                (
                    Reason::Busy,
                    format!("slot {slot} is being taken from the boot loader; nothing else is begun before that"),
                )
            });
            lines.insert(0, line("boot loader", Finding::Wait, Some(reason), text));
        }
        let no = |wanted| lines.iter().find(move |line: &&ExplainLine| line.finding == wanted);
        let summary = match (self.state(), no(Finding::Refuse).or_else(|| no(Finding::Wait))) {
            (StateName::Degraded, _) => {
                let why = self.last_error.as_ref().map_or("", |error| &error.detail);
                format!("The device needs help: {why}.")
            }
            (_, Some(line)) => format!("Not now: {}.", line.sentence),
            (state, None) if lines.is_empty() => format!("Nothing is known yet; the state is {state}."),
            (_, None) => "Nothing stands against it.".to_owned(),
        };
        let next = match self.next_check(now) {
            Some(at) => format!("the daemon looks again by itself at {at}"),
            None => "the daemon looks again when its timer or an operator asks".to_owned(),
        };
        lines.push(line("next check", Finding::Passed, None, next));
        Explanation { summary, state: self.state(), release, lines }
    }

    fn explain_choice(&self, now: &Now) -> (Option<bundle::approval::ReleaseRef>, Vec<ExplainLine>) {
        match self.with_inputs(now, |inputs| choose(inputs, Intent::default())) {
            Some(Ok(choice)) => (Some(choice.release), choice.verdict.lines),
            Some(Err(nothing)) => match nothing.best {
                Some(best) => (Some(best.release), best.verdict.lines),
                None => (None, vec![line("documents", Finding::Refuse, Some(nothing.reason), nothing.detail)]),
            },
            None => {
                let text = "no documents have been looked at since the daemon started; run a check";
                let reason = self.waiting.as_ref().map(|waiting| waiting.reason);
                (None, vec![line("documents", Finding::Wait, reason, text.to_owned())])
            }
        }
    }

    fn explain_trial(&self) -> Vec<ExplainLine> {
        let mut lines = Vec::new();
        let unconfirmed = "the running system is not confirmed yet; no update starts before that";
        let reason = Some(Reason::BootedSlotUnconfirmed);
        lines.push(line("slot", Finding::Wait, reason, unconfirmed.to_owned()));
        for check in self.trial.last.iter().flat_map(|report| &report.checks) {
            let finding = match check.verdict {
                crate::event::Verdict::Passed => Finding::Passed,
                _ if !check.required => Finding::Passed,
                crate::event::Verdict::Pending => Finding::Wait,
                crate::event::Verdict::Failed => Finding::Refuse,
            };
            let reason = (finding != Finding::Passed).then_some(Reason::HealthFailed);
            lines.push(line(&check.name, finding, reason, format!("{:?} {}", check.verdict, check.detail)));
        }
        lines
    }
}

fn line(subject: &str, finding: Finding, reason: Option<Reason>, sentence: String) -> ExplainLine {
    ExplainLine { subject: subject.to_owned(), finding, reason, sentence, until: None }
}

/// A word for people.
const fn operation(what: Ordered) -> &'static str {
    match what {
        Ordered::Facts => "reading the boot loader's state",
        Ordered::Ask(_, Asked::Around(_)) => "looking around",
        Ordered::Ask(..) => "asking for approval",
        Ordered::Manifest => "reading the manifest",
        Ordered::Clear => "clearing the boot record",
        Ordered::Install => "writing",
        Ordered::Verify => "reading back",
        Ordered::Arm => "switching the boot loader",
        Ordered::Confirm => "confirming",
        Ordered::Reject => "rejecting",
        Ordered::LetGo => "taking a slot from the boot loader",
        Ordered::Health => "checking health",
        Ordered::Network => "checking the network",
        Ordered::Reboot => "rebooting",
    }
}
