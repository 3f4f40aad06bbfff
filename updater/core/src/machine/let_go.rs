//! Letting go: a slot that the boot loader must not choose any more, because a switch is taken back, or because what the
//! slot holds was cancelled, taken back by its vendor, or fell back.
//!
//! Owed from the moment it is written down until the boot loader shows that it is done, over restarts and failures:
//! nothing else is begun before, and a refused system that comes up all the same is left.

use std::time::Duration;

use bundle::reason::Reason;

use super::{Machine, Mood, Occasion, Ordered, Out, Search};
use crate::effect::Work;
use crate::event::{Failure, Finished};
use crate::facts::{BootFacts, SlotBoot};
use crate::gate::Point;
use crate::journal::{LettingGo, Phase};
use crate::now::Now;
use crate::release::Update;
use crate::slot::SlotId;

/// A try that failed.
#[derive(Debug, Clone)]
pub(super) struct Pause {
    /// Uptime of the next one.
    until: Duration,
    /// Why.
    failure: Failure,
}

impl Machine {
    /// Notes that the boot loader must let go of that slot, and has it done.
    pub(super) fn let_go(&mut self, slot: SlotId, out: &mut Out) {
        self.owe(slot);
        self.order_letting_go(slot, out);
    }

    fn owe(&mut self, slot: SlotId) {
        let manifest = self.journal.slots.get(slot).as_ref().map(|record| record.release.manifest_sha256);
        self.journal.letting_go = Some(LettingGo { slot, manifest });
        self.pause = None;
    }

    fn order_letting_go(&mut self, slot: SlotId, out: &mut Out) {
        let work = match self.journal.phase {
            // Its content is good: there is just no switch to it.
            Phase::Staged(_) => Work::Clear { slot, to_write: None },
            _ => Work::Reject { slot },
        };
        self.run(Ordered::LetGo, work, out);
    }

    /// The slot that has to be let go of, and can be now.
    pub(super) fn letting_go(&self) -> Option<SlotId> {
        let quiet = matches!(self.mood, Mood::Plain | Mood::Good) && self.is_quiet();
        let running = self.facts.as_ref()?.confirmed_booted()?;
        let slot = self.journal.letting_go.as_ref().map(|letting_go| letting_go.slot);
        slot.filter(|slot| quiet && *slot == running.other())
    }

    /// Somebody waits: not after the pause, now.
    pub(super) fn let_go_now(&mut self) {
        self.pause = None;
    }

    /// The update at hand, when it is what that slot holds: one that is only offered goes to the same slot.
    pub(super) fn update_in(&self, slot: SlotId) -> Option<Update> {
        let update = self.journal.phase.update().filter(|update| update.target == slot)?;
        let held = &self.journal.slots.get(slot).as_ref()?.release;
        (held.manifest_sha256 == update.release.manifest_sha256).then(|| update.clone())
    }

    /// At the end of every step: what is owed is done, once nothing is under way.
    pub(super) fn see_to_letting_go(&mut self, now: &Now, out: &mut Out) {
        if self.order.is_some() {
            return;
        }
        self.note_owed();
        let due = self.pause.as_ref().is_none_or(|pause| pause.until <= now.uptime);
        if let Some(slot) = self.letting_go().filter(|_| due) {
            self.order_letting_go(slot, out);
        }
    }

    pub(super) fn note_owed(&mut self) {
        if let Some(slot) = self.owed() {
            self.owe(slot);
        }
    }

    /// A slot that the boot loader would choose and must not, of which nobody has taken note: the journal was lost, or a
    /// recall came.
    fn owed(&self) -> Option<SlotId> {
        let facts = self.facts.as_ref().filter(|_| self.journal.letting_go.is_none())?;
        let other = facts.confirmed_booted()?.other();
        let owed = match &self.journal.phase {
            Phase::Staged(update) => update.target == other && facts.slot(other) != SlotBoot::Empty,
            Phase::Idle | Phase::RolledBack { .. } | Phase::Offered(_) => {
                matches!(facts.slot(other), SlotBoot::Trying { left: 1.., .. }) && self.refused(other).is_some()
            }
            _ => false,
        };
        owed.then_some(other)
    }

    /// Why what a slot holds must not run, where it must not.
    fn refused(&self, slot: SlotId) -> Option<(Reason, String)> {
        let manifest = &self.journal.slots.get(slot).as_ref()?.release.manifest_sha256;
        let blocked = self.journal.blocked.get(manifest).map(|blocked| (blocked.reason, blocked.detail.clone()));
        blocked.or_else(|| self.recall_of(manifest).map(|recalled| (Reason::Recalled, recalled.words.clone())))
    }

    pub(super) fn has_let_go(&mut self, now: &Now, result: Result<Finished, Failure>, out: &mut Out) {
        let Some(LettingGo { slot, .. }) = self.journal.letting_go else { return };
        let failure = match result {
            Ok(Finished::Facts(facts)) if self.is_gone(&facts, slot) => return self.let_go_of(now, out),
            Ok(_) => Failure::new(Reason::BootControlError, format!("the boot loader would still choose slot {slot}")),
            Err(failure) => failure,
        };
        self.fail(now, &failure);
        self.stumbles = self.stumbles.saturating_add(1);
        let until = now.uptime.saturating_add(self.short_backoff(now));
        self.pause = Some(Pause { until, failure });
    }

    fn is_gone(&self, facts: &BootFacts, slot: SlotId) -> bool {
        match self.journal.phase {
            Phase::Staged(_) => facts.slot(slot) == SlotBoot::Empty,
            _ => !facts.slot(slot).is_choosable(),
        }
    }

    /// Done: what had to wait goes on.
    fn let_go_of(&mut self, now: &Now, out: &mut Out) {
        (self.journal.letting_go, self.pause, self.stumbles) = (None, None, 0);
        let check = self.check_owed.take();
        match &self.journal.phase {
            Phase::Staged(update) => match self.journal.blocked.get(&update.release.manifest_sha256).cloned() {
                Some(blocked) => {
                    self.enter(Phase::Idle, Mood::Plain);
                    self.wait_for(now, blocked.reason, &blocked.detail, None);
                    self.check_or_wait(now, check, out);
                }
                None if check.is_some() => self.ask_for_news(now, check == Some(true), out),
                // Taking back an arming had been interrupted.
                None if self.waiting.is_none() => self.look_around(Point::Activate, Occasion::Start, out),
                // Taken back because of the gate; its answer may change.
                None if self.wake.is_none() => self.wake_for_poll(now),
                None => {}
            },
            Phase::Offered(_) => self.look_around(Point::Download, Occasion::Wait, out),
            _ => self.check_or_wait(now, check, out),
        }
    }

    fn check_or_wait(&mut self, now: &Now, check: Option<bool>, out: &mut Out) {
        match check {
            // A refusal shows in the status; whoever asked had his answer.
            Some(by_operator) => drop(self.begin_check(now, Search { by_operator, ..Search::default() }, out)),
            None if self.wake.is_none() => self.wake_for_poll(now),
            None => {}
        }
    }

    /// At a start: what was owed may have no object any more, or may be what runs. True when it is left again.
    pub(super) fn came_up_unwanted(&mut self, now: &Now, out: &mut Out) -> bool {
        let (Some(facts), Some(owed)) = (&self.facts, &self.journal.letting_go) else { return false };
        let (slot, other) = (owed.slot, facts.slot(owed.slot.other()));
        let held = self.journal.slots.get(slot).as_ref().map(|record| record.release.manifest_sha256);
        let (runs, trial) = (facts.booted == Some(slot), !facts.slot(slot).is_confirmed());
        if !runs && held == owed.manifest {
            return false;
        }
        // It runs, or an older updater has filled the slot meanwhile.
        self.journal.letting_go = None;
        let Some((reason, detail)) = self.refused(slot).filter(|_| runs && trial && other.is_confirmed()) else {
            return false;
        };
        // The power went before the boot loader had let go of it. Nobody allowed it to be tried again.
        let update = self.update_in(slot);
        self.revert(now, slot, update, reason, &detail, out);
        true
    }

    /// What to tell while it does not work.
    pub(super) fn letting_go_notice(&self) -> Option<(Reason, String)> {
        let (slot, pause) = self.letting_go().zip(self.pause.as_ref())?;
        let detail = format!("slot {slot} is still to be taken from the boot loader: {}", pause.failure.detail);
        Some((pause.failure.reason, detail))
    }

    /// Uptime of the next try.
    pub(super) fn lets_go_at(&self) -> Option<Duration> {
        let pause = self.pause.as_ref().filter(|_| self.order.is_none() && self.letting_go().is_some());
        pause.map(|pause| pause.until)
    }
}

#[cfg(test)]
mod tests;
