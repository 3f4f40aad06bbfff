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
        self.let_go(target, out);
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
