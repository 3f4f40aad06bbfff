//! What of a step has to be durable before the rest of it is done, and what becomes of a journal that can not be written.

use std::time::Duration;

use super::{Machine, Mood, Out, Trouble};
use crate::effect::Effect;
use crate::event::Failure;
use crate::history::Report;
use crate::journal::{Journal, Phase};
use crate::now::Now;

/// How soon to write again a journal that could not be written, and that nothing else depends on.
const SAVE_AGAIN: Duration = Duration::from_secs(60);

impl Machine {
    /// Puts `Persist` first where the journal is not what is durable, and new reports last.
    pub(super) fn finish(&mut self, now: &Now, before: Journal, mut out: Out) -> Vec<Effect> {
        self.journal.bound();
        let alone = out.is_empty();
        let due = self.save_at.is_some_and(|at| at <= now.uptime);
        if self.journal == before && !(self.unsaved && (!alone || due)) {
            return out;
        }
        let vital = self.is_vital(&before) && !(alone && self.journal == before);
        self.save_at = None;
        self.before_unsaved = std::mem::take(&mut self.unsaved);
        let new = |report: &&Report| report.sequence >= before.next_report;
        out.extend(self.journal.outbox.iter().filter(new).cloned().map(|report| Effect::Report(Box::new(report))));
        out.insert(0, Effect::Persist { journal: Box::new(self.journal.clone()), vital });
        self.before = before;
        out
    }

    /// Whether nothing of the step may be done unless it was written down. Without that a system is still proven or left, and
    /// a slot taken from the boot loader: never the less safe way.
    fn is_vital(&self, before: &Journal) -> bool {
        if matches!(self.journal.phase, Phase::Trying(_) | Phase::Reverting(_)) || self.mood == Mood::Good {
            return false;
        }
        let quiet = self.is_quiet();
        let over = quiet && before.letting_go.is_some() && self.journal.letting_go.is_none();
        let begun = self.letting_go().filter(|_| before.letting_go.is_none());
        // A confirmed system is the way back: it is given up on a word that is kept, or not at all.
        let gives_up = begun.zip(self.facts.as_ref()).is_some_and(|(slot, facts)| facts.slot(slot).is_confirmed());
        gives_up || (self.letting_go().is_none() && !over)
    }

    /// The shell takes no orders here: what was decided is under way, or nothing of the step was done.
    pub(super) fn persist_failed(&mut self, now: &Now, vital: bool, failure: &Failure) {
        if !vital {
            self.save_later(now);
            if self.last_error.is_none() {
                self.fail(now, failure);
            }
            return;
        }
        // Back to where the last step began, and on from there later.
        self.journal = self.before.clone();
        if self.before_unsaved {
            self.save_later(now);
        }
        self.order = None;
        self.mood = Mood::Degraded(Trouble::Blind);
        self.fail(now, failure);
        self.stumbles = self.stumbles.saturating_add(1);
        let delay = self.short_backoff(now);
        self.wake_in(now, delay);
    }

    fn save_later(&mut self, now: &Now) {
        self.unsaved = true;
        self.save_at = Some(now.uptime.saturating_add(SAVE_AGAIN));
    }
}
