//! What of a step has to be durable before the rest of it is done, and what becomes of a journal that can not be written.

use std::time::Duration;

use bundle::reason::Reason;

use super::backoff::short_backoff;
use super::{Machine, Mood, Order, Ordered, Out, Passage, Trouble};
use crate::effect::Effect;
use crate::event::{Event, Failure};
use crate::history::Report;
use crate::journal::{Journal, Phase};
use crate::now::Now;
use crate::status::{Problem, StateName};

/// How soon to write again a journal that could not be written, and that nothing else depends on.
const SAVE_AGAIN: Duration = Duration::from_secs(60);

/// Uptime from which a system that has to be left is left although that can not be counted. Without a journal nothing
/// else bounds how often: seldom enough for somebody to look, soon enough for three tries within the hour.
const UNCOUNTED: Duration = Duration::from_secs(15 * 60);

/// What is durable, and what is not.
#[derive(Debug, Clone, Default)]
pub(super) struct Saving {
    /// Where the last step that wrote the journal began: where to go on from when it could not be written.
    begin: Option<Box<Begin>>,
    /// Why the journal may not be what is durable. It is written again before the next change, or in a while.
    unsaved: Option<Failure>,
    /// Uptime at which to try again, when nothing else is done before.
    due: Option<Duration>,
    /// Failures in a row.
    failures: u32,
    /// Handed over; whoever can not write it says so before the next event.
    handed: bool,
}

/// What a step begins with.
#[derive(Debug, Clone)]
pub(super) struct Begin {
    pub(super) journal: Journal,
    state: StateName,
    mood: Mood,
    /// Work that is still under way when the step is over, unless the step stops it.
    order: Option<Order>,
    waiting: Option<Problem>,
}

impl Machine {
    /// A step begins.
    pub(super) fn begin(&mut self, event: Option<&Event>) -> Begin {
        if std::mem::take(&mut self.saving.handed) {
            self.saving.failures = 0;
        }
        let over = match event {
            Some(Event::Done { ticket, .. }) => Some(*ticket),
            _ => None,
        };
        Begin {
            journal: self.journal.clone(),
            state: self.state(),
            mood: self.mood.clone(),
            order: self.order.clone().filter(|order| Some(order.ticket) != over),
            waiting: self.waiting.clone(),
        }
    }

    /// Puts `Persist` first where the journal is not what is durable, and new reports last.
    pub(super) fn finish(&mut self, now: &Now, begin: Begin, mut out: Out) -> Vec<Effect> {
        self.journal.bound();
        let before = &begin.journal;
        let (same, looks) = (self.journal == *before, out.iter().all(Effect::changes_nothing));
        let due = self.saving.due.is_some_and(|due| due <= now.uptime);
        if same && !(self.saving.unsaved.is_some() && (!looks || due)) {
            return out;
        }
        let vital = !(same && looks) && self.is_vital(now, before);
        let new = |report: &&Report| report.sequence >= before.next_report;
        out.extend(self.journal.outbox.iter().filter(new).cloned().map(|report| Effect::Report(Box::new(report))));
        out.insert(0, Effect::Persist { journal: Box::new(self.journal.clone()), vital });
        let failures = self.saving.failures;
        self.saving = Saving { begin: Some(Box::new(begin)), unsaved: None, due: None, failures, handed: true };
        out
    }

    /// Whether nothing of the step may be done unless it was written down. Without that a system is still proven or left,
    /// and a slot taken from the boot loader: never the less safe way.
    fn is_vital(&self, now: &Now, before: &Journal) -> bool {
        if self.gives_up(before) {
            return true;
        }
        // Also a restart that is ordered again, for it did not come. Its number is what ends such restarts.
        let in_the_dark = self.mood == Mood::Degraded(Trouble::Blind)
            && self.order.as_ref().is_some_and(|order| order.what == Ordered::Reboot);
        if in_the_dark || restarts_in_hope(&self.journal) > restarts_in_hope(before) {
            return now.uptime < UNCOUNTED;
        }
        if matches!(self.journal.phase, Phase::Trying(_) | Phase::Reverting(_)) || self.mood == Mood::Good {
            return false;
        }
        let over = self.is_quiet() && before.letting_go.is_some() && self.journal.letting_go.is_none();
        self.letting_go().is_none() && !over
    }

    /// A confirmed system is the way back, or the one that runs: it is given up on a word that is kept, or not at all.
    fn gives_up(&self, before: &Journal) -> bool {
        let slot = match &self.journal.phase {
            Phase::Reverting(reversal) if !matches!(before.phase, Phase::Reverting(_)) => Some(reversal.slot),
            _ => self.letting_go().filter(|_| before.letting_go != self.journal.letting_go),
        };
        slot.zip(self.facts.as_ref()).is_some_and(|(slot, facts)| facts.slot(slot).is_confirmed())
    }

    /// The shell takes no orders here: what was decided is under way, or nothing of the step was done.
    pub(super) fn persist_failed(&mut self, now: &Now, vital: bool, failure: &Failure) {
        self.saving.handed = false;
        self.saving.failures = self.saving.failures.saturating_add(1);
        self.saving.due = Some(now.uptime.saturating_add(SAVE_AGAIN));
        self.saving.unsaved = Some(failure.clone());
        let Some(begin) = self.saving.begin.take().filter(|_| vital) else { return };
        // Back to where the step began, and on from there later. Work that was under way still is.
        let Begin { journal, state, mood, order, waiting } = *begin;
        self.journal = journal;
        self.mood = if order.is_some() { mood } else { Mood::Degraded(Trouble::Blind) };
        (self.order, self.waiting) = (order, waiting);
        self.passed.clear();
        if self.state() != state {
            self.passed.push(Passage { from: state, to: self.state() });
        }
        self.fail(now, failure);
        let delay = short_backoff(self.saving.failures, now);
        self.wake_in(now, delay);
        // It may have been written all the same: written over as soon as that works.
        self.saving.due = self.wake;
    }

    /// Uptime at which the journal is written again.
    pub(super) const fn saves_at(&self) -> Option<Duration> {
        self.saving.due
    }

    /// The journal may not be what is durable, and why.
    pub(super) const fn unsaved(&self) -> Option<&Failure> {
        self.saving.unsaved.as_ref()
    }

    /// What to tell as long as that is so.
    pub(super) fn unsaved_notice(&self) -> Option<(Reason, String)> {
        let failure = self.unsaved()?;
        Some((failure.reason, format!("what happened can not be written down: {}", failure.detail)))
    }
}

/// Restarts of which nobody knows whether they lead back to the old system.
const fn restarts_in_hope(journal: &Journal) -> u32 {
    let hopes = match &journal.phase {
        Phase::Reverting(reversal) => reversal.hopes,
        _ => 0,
    };
    journal.blind_reboots.saturating_add(hopes)
}

#[cfg(test)]
mod tests;
