//! Switching to the other slot: Armed, then the reboot.

use std::time::Duration;

use bundle::reason::Reason;

use super::{Machine, Mood, Occasion, Ordered, Out};
use crate::effect::Work;
use crate::event::{Failure, Finished, Verdict};
use crate::facts::SlotBoot;
use crate::gate::Point;
use crate::journal::Phase;
use crate::now::Now;
use crate::slot::SlotId;

/// Tries at switching the boot loader before the update is taken back to Staged.
const ARM_TRIES: u32 = 5;
/// An accepted reboot that has not happened after this long was held up; ask again.
const REBOOT_PATIENCE: Duration = Duration::from_secs(300);

impl Machine {
    /// Notes the switch, then makes it.
    pub(super) fn switch(&mut self, out: &mut Out) {
        let (Some(facts), Phase::Staged(update)) = (&self.facts, &self.journal.phase) else { return };
        let (mut update, boot) = (update.clone(), facts.boot_id.clone());
        update.network.clear();
        self.enter(Phase::Armed { update, boot }, Mood::Plain);
        self.arm(out);
    }

    /// Idempotent: also after a crash, when it may be armed already.
    pub(super) fn arm(&mut self, out: &mut Out) {
        let Phase::Armed { update, .. } = &self.journal.phase else { return };
        let work = Work::Arm { slot: update.target, tries: self.policy().tries.max(1) };
        self.run(Ordered::Arm, work, out);
    }

    pub(super) fn armed(&mut self, now: &Now, result: Result<Finished, Failure>, out: &mut Out) {
        let Phase::Armed { update, .. } = &self.journal.phase else { return };
        let target = update.target;
        let failure = match result {
            Ok(Finished::Facts(facts)) if matches!(facts.slot(target), SlotBoot::Trying { left: 1.., .. }) => {
                self.stumbles = 0;
                return self.ask(now, Point::Reboot, out);
            }
            Ok(_) => Failure::new(Reason::BootControlError, "the slot was armed, but the boot loader does not show it"),
            Err(failure) => failure,
        };
        self.fail(now, &failure);
        self.stumbles = self.stumbles.saturating_add(1);
        if self.stumbles >= ARM_TRIES {
            self.wait_for(now, failure.reason, &failure.detail, None);
            self.disarm(out);
            self.back_off(now, None);
        } else {
            let delay = self.short_backoff(now);
            self.wake_in(now, delay);
        }
    }

    /// Takes the switch back: the gate closed, or it could not be made. The slot's content stays good.
    pub(super) fn disarm(&mut self, out: &mut Out) {
        let Phase::Armed { update, .. } = &self.journal.phase else { return };
        let update = update.clone();
        let (target, waiting, wake) = (update.target, self.waiting.take(), self.wake);
        self.enter(Phase::Staged(update), Mood::Plain);
        self.waiting = waiting;
        self.wake = wake;
        self.run(Ordered::Disarm, Work::Clear { slot: target, to_write: false }, out);
    }

    /// The switch was to be taken back, and the boot loader would still make it.
    pub(super) fn is_still_armed(&self) -> bool {
        let (Phase::Staged(update), Some(facts)) = (&self.journal.phase, &self.facts) else { return false };
        facts.confirmed_booted() == Some(update.target.other()) && facts.slot(update.target) != SlotBoot::Empty
    }

    /// A switch is being taken back, or has to be: nothing else may come before that.
    pub(super) fn is_taking_back(&self) -> bool {
        let ordered = self.order.as_ref().is_some_and(|order| matches!(order.what, Ordered::Disarm));
        matches!(self.journal.phase, Phase::Staged(_)) && (ordered || self.is_still_armed())
    }

    /// Orders it, unless it is under way.
    pub(super) fn go_on_taking_back(&mut self, out: &mut Out) {
        if self.is_free() {
            self.take_back(out);
        }
    }

    pub(super) fn take_back(&mut self, out: &mut Out) {
        let Phase::Staged(update) = &self.journal.phase else { return };
        let slot = update.target;
        self.run(Ordered::Disarm, Work::Clear { slot, to_write: false }, out);
    }

    /// The slot beside the running one, when the boot loader would try it and what it holds was cancelled, recalled, or
    /// fell back: a command to reject it may have failed, or been lost with the power.
    pub(super) fn unwanted(&self) -> Option<SlotId> {
        let facts = self.facts.as_ref()?;
        let other = facts.confirmed_booted()?.other();
        let manifest = &self.journal.slots.get(other).as_ref()?.release.manifest_sha256;
        let refused = self.journal.blocked.contains_key(manifest) || self.recall_of(manifest).is_some();
        (refused && matches!(facts.slot(other), SlotBoot::Trying { left: 1.., .. })).then_some(other)
    }

    /// Lets the boot loader forget what nobody wants. False: there is nothing of the kind.
    pub(super) fn drop_unwanted(&mut self, out: &mut Out) -> bool {
        let Some(slot) = self.unwanted().filter(|_| self.order.is_none()) else { return false };
        self.run(Ordered::RejectOther, Work::Reject { slot }, out);
        true
    }

    /// The gate let the reboot in.
    pub(super) fn reboot_allowed(&mut self, out: &mut Out) {
        let Some(facts) = &self.facts else { return };
        let Phase::Armed { update, .. } = &self.journal.phase else { return };
        if !matches!(facts.slot(update.target), SlotBoot::Trying { left: 1.., .. }) {
            self.arm(out);
        } else if self.policy().health.network_required {
            self.run(Ordered::Network, Work::CheckNetwork, out);
        } else {
            self.run(Ordered::Reboot, Work::Reboot, out);
        }
    }

    /// Notes what works here, so that no more than that is asked of the new system; whatever it is, the reboot follows.
    pub(super) fn network_seen(&mut self, result: Result<Finished, Failure>, out: &mut Out) {
        let Phase::Armed { update, .. } = &mut self.journal.phase else { return };
        let checks = match result {
            Ok(Finished::Health(report)) => report.checks,
            Ok(_) | Err(_) => Vec::new(),
        };
        let passed = checks.into_iter().filter(|check| check.verdict == Verdict::Passed);
        update.network = passed.map(|check| check.name).collect();
        self.run(Ordered::Reboot, Work::Reboot, out);
    }

    pub(super) fn rebooting(&mut self, now: &Now, result: Result<Finished, Failure>) {
        match result {
            Ok(_) => self.wake_in(now, REBOOT_PATIENCE),
            Err(failure) => {
                self.fail(now, &failure);
                self.stumbles = self.stumbles.saturating_add(1);
                let delay = self.short_backoff(now);
                self.wake_in(now, delay);
            }
        }
    }

    pub(super) fn tick_armed(&mut self, due: bool, out: &mut Out) {
        // An accepted reboot, or a failed try, waits its time out; anything else looks again when poked.
        let patient = self.wake.is_some() && self.waiting.is_none() && !due;
        if self.order.is_some() || patient {
            return;
        }
        let Some(facts) = &self.facts else { return };
        let Phase::Armed { update, .. } = &self.journal.phase else { return };
        if matches!(facts.slot(update.target), SlotBoot::Trying { left: 1.., .. }) {
            self.look_around(Point::Reboot, Occasion::Wait, out);
        } else {
            self.arm(out);
        }
    }
}

#[cfg(test)]
mod tests;
