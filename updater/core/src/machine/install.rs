//! Filling the other slot: Approved, Writing, Verifying, Staged.

use bundle::reason::Reason;

use super::{Machine, Mood, Occasion, Ordered, Out};
use crate::effect::Work;
use crate::event::{Failure, Finished};
use crate::facts::{BootFacts, SlotBoot};
use crate::gate::Point;
use crate::history::OutcomeKind;
use crate::journal::{Phase, Retry};
use crate::now::Now;
use crate::release::{Source, Update};

impl Machine {
    /// The gate let the download in.
    pub(super) fn download_allowed(&mut self, out: &mut Out) {
        self.admitted = true;
        match &self.journal.phase {
            Phase::Offered(update) => {
                let update = update.clone();
                self.enter(Phase::Approved(update), Mood::Plain);
                // What the boot loader says now decides whether writing is safe, not what it said at the start.
                self.run(Ordered::Facts, Work::ReadFacts, out);
            }
            Phase::Approved(_) => self.run(Ordered::Facts, Work::ReadFacts, out),
            Phase::Writing(update) => {
                let update = Box::new(update.clone());
                self.run(Ordered::Install, Work::Install { update }, out);
            }
            _ => {}
        }
    }

    /// Fresh facts before the first byte (Approved), or for another state that asked.
    pub(super) fn facts_read(&mut self, now: &Now, result: Result<Finished, Failure>, out: &mut Out) {
        if matches!(self.mood, Mood::Degraded(_)) {
            return self.sight_regained(now, result, out);
        }
        if matches!(self.journal.phase, Phase::Reverting(_)) {
            return self.seen_while_reverting(now, result, out);
        }
        let Phase::Approved(update) = &self.journal.phase else { return };
        let update = update.clone();
        match result {
            Ok(Finished::Facts(facts)) if facts.confirmed_booted() == Some(update.target.other()) => {
                self.enter(Phase::Writing(update.clone()), Mood::Plain);
                self.record(now, OutcomeKind::Started, Some(update.target), None);
                self.clear_for(update, out);
            }
            Ok(Finished::Facts(facts)) => {
                let reason = if facts.booted.is_none() { Reason::SlotUnknown } else { Reason::BootedSlotUnconfirmed };
                self.abandon(now, reason, "", out);
            }
            Ok(_) => self.install_failed(now, &Failure::new(Reason::Internal, "not facts"), out),
            Err(failure) => self.install_failed(now, &failure, out),
        }
    }

    /// The target's boot record is gone: the first byte may follow, once nothing has changed in between.
    pub(super) fn cleared(&mut self, now: &Now, result: Result<Finished, Failure>, out: &mut Out) {
        let Phase::Writing(update) = &self.journal.phase else { return };
        let update = update.clone();
        match result {
            Ok(Finished::Facts(facts)) if may_write(&facts, update.target) => {
                self.journal.letting_go = None;
                // From here on the target holds nothing that is known.
                *self.journal.slots.get_mut(update.target) = None;
                if self.admitted {
                    self.run(Ordered::Install, Work::Install { update: Box::new(update) }, out);
                } else {
                    // Resumed after a restart or a failure: the approval may be gone by now.
                    self.ask(now, Point::Download, out);
                }
            }
            Ok(Finished::Facts(_)) => {
                let failure = Failure::new(Reason::BootControlError, "the boot record could not be cleared");
                self.install_failed(now, &failure, out);
            }
            Ok(_) => self.install_failed(now, &Failure::new(Reason::Internal, "not facts"), out),
            Err(failure) => self.install_failed(now, &failure, out),
        }
    }

    pub(super) fn installed(&mut self, now: &Now, result: Result<Finished, Failure>, out: &mut Out) {
        let Phase::Writing(update) = &self.journal.phase else { return };
        let update = update.clone();
        match result {
            Ok(Finished::Installed(_)) => {
                self.enter(Phase::Verifying(update.clone()), Mood::Plain);
                self.run(Ordered::Verify, Work::Verify { update: Box::new(update) }, out);
            }
            Ok(_) => self.install_failed(now, &Failure::new(Reason::Internal, "not an install"), out),
            Err(failure) => self.install_failed(now, &failure, out),
        }
    }

    pub(super) fn verified(&mut self, now: &Now, result: Result<Finished, Failure>, out: &mut Out) {
        let (first, update) = match &self.journal.phase {
            Phase::Verifying(update) => (true, update.clone()),
            Phase::Staged(update) => (false, update.clone()),
            _ => return,
        };
        match result {
            Ok(Finished::Verified) => {
                self.fresh = true;
                self.last_error = None;
                self.journal.retry = Retry::default();
                *self.journal.slots.get_mut(update.target) = Some(update.record(now.wall));
                self.enter(Phase::Staged(update.clone()), Mood::Plain);
                if first {
                    self.record(now, OutcomeKind::Installed, Some(update.target), None);
                }
                self.ask(now, Point::Activate, out);
            }
            Ok(_) => self.install_failed(now, &Failure::new(Reason::Internal, "not a read-back"), out),
            Err(failure) => {
                *self.journal.slots.get_mut(update.target) = None;
                if failure.reason == Reason::HealthFailed {
                    // The new system said so itself, on today's configuration: another download would say the same.
                    self.block_current(now, failure.reason, &failure.detail);
                }
                self.install_failed(now, &failure, out);
            }
        }
    }

    /// The gate let the switch in.
    pub(super) fn activation_allowed(&mut self, out: &mut Out) {
        let Phase::Staged(update) = &self.journal.phase else { return };
        if self.fresh {
            return self.switch(out);
        }
        // Read back before another boot or process: the disk may have changed since. Only now, not at every start of
        // the daemon while the hours are closed: it reads the whole slot.
        let update = Box::new(update.clone());
        self.run(Ordered::Verify, Work::Verify { update }, out);
    }

    /// Something between Approved and Staged went wrong.
    pub(super) fn install_failed(&mut self, now: &Now, failure: &Failure, out: &mut Out) {
        self.fail(now, failure);
        if self.passes(failure.reason) && !self.is_looping() {
            // Stays Writing: what is there is kept, and a bad line is not the release's fault.
            self.stumbles = self.stumbles.saturating_add(1);
            self.wait_for(now, failure.reason, &failure.detail, None);
            self.back_off(now, failure.retry_after);
            return;
        }
        if self.is_looping() {
            self.block_current(now, failure.reason, &failure.detail);
        }
        self.abandon(now, failure.reason, &failure.detail, out);
        self.back_off(now, failure.retry_after);
    }

    /// Whether an install is to be kept waiting for it to pass. A server may come back, with the rest; a file that ends too
    /// early is told to whoever named it, and what was written counts when it is named again.
    const fn passes(&self, reason: Reason) -> bool {
        let Phase::Writing(update) = &self.journal.phase else { return false };
        match reason {
            Reason::Network | Reason::ServerError => true,
            Reason::Truncated => !matches!(update.source, Source::Path(_)),
            _ => false,
        }
    }

    /// Remembers the update at hand as one not to be tried again.
    pub(super) fn block_current(&mut self, now: &Now, reason: Reason, detail: &str) {
        if let Some(release) = self.journal.phase.update().map(|update| update.release.clone()) {
            self.block(now, &release, reason, detail);
        }
    }

    pub(super) fn tick_install(&mut self, due: bool, out: &mut Out) {
        if due || self.wake.is_none() {
            self.look_around(Point::Download, Occasion::Wait, out);
        }
    }

    /// Goes on writing after a restart or a failure: the boot record is cleared again first, whatever the journal says.
    pub(super) fn rewrite(&mut self, now: &Now, out: &mut Out) {
        let (Phase::Writing(update) | Phase::Verifying(update)) = &self.journal.phase else { return };
        let update = update.clone();
        if self.is_looping() {
            self.block_current(now, Reason::Internal, "it caused too many state changes");
            return self.abandon(now, Reason::BlockedAfterFallback, "it caused too many state changes", out);
        }
        let stumbles = self.stumbles;
        self.admitted = false;
        self.enter(Phase::Writing(update.clone()), Mood::Plain);
        self.stumbles = stumbles;
        self.clear_for(update, out);
    }

    fn clear_for(&mut self, update: Update, out: &mut Out) {
        self.run(Ordered::Clear, Work::Clear { slot: update.target, to_write: Some(Box::new(update)) }, out);
    }
}

/// Nothing is written unless the other slot runs, confirmed, and the boot loader can not choose this one.
fn may_write(facts: &BootFacts, target: crate::slot::SlotId) -> bool {
    facts.confirmed_booted() == Some(target.other()) && facts.slot(target) == SlotBoot::Empty
}
