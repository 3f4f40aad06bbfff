//! In the dark: the boot loader's state can not be read. A new system is left, by a restart that its boot loader counts.

use std::time::Duration;

use bundle::reason::Reason;

use super::revert::MOST_TRIES;
use super::{Machine, Mood, Ordered, Out, Trouble};
use crate::effect::Work;
use crate::event::{Failure, Finished};
use crate::journal::Phase;
use crate::now::Now;

/// A time in which the boot loader's state can not be read.
#[derive(Debug, Clone)]
pub(super) struct Dark {
    /// Uptime at which it began; zero: this process never saw anything.
    since: Duration,
    /// Restarts for that reason that had been counted by then.
    counted: u32,
}

impl Machine {
    /// The boot loader can not be read.
    pub(super) fn blind(&mut self, now: &Now, failure: &Failure) {
        self.fail(now, failure);
        self.stumbles = self.stumbles.saturating_add(1);
        // Not through `enter`: nothing has changed but what we can see.
        if !matches!(self.mood, Mood::Degraded(_)) {
            let from = self.state();
            self.mood = Mood::Degraded(Trouble::Blind);
            self.passed.push(super::Passage { from, to: self.state() });
        }
        let delay = self.short_backoff(now);
        self.wake_in(now, delay);
    }

    /// Reads the boot loader's state when that is due and nothing is under way.
    pub(super) fn look_again(&mut self, due: bool, out: &mut Out) {
        if self.order.is_none() && (due || self.wake.is_none()) {
            self.run(Ordered::Facts, Work::ReadFacts, out);
        }
    }

    /// A new system that can not even read the boot loader's state can neither prove itself nor be rejected. Boots
    /// are counted without us, so rebooting gets the device back to the old one. Bounded: it may not help.
    pub(super) fn leave_the_dark(&mut self, now: &Now, out: &mut Out) {
        let counted = self.journal.blind_reboots;
        let since = if self.facts.is_some() { now.uptime } else { Duration::ZERO };
        let Dark { since, counted: before } = *self.dark.get_or_insert(Dark { since, counted });
        // Not at the first look: it may get well.
        let late = self.stumbles > 1 && now.uptime >= since.saturating_add(self.policy().health.deadline);
        let good = self.facts.as_ref().is_some_and(|facts| facts.confirmed_booted().is_some());
        if !late || good || !self.is_what_was_switched_to() {
            return;
        }
        // Once a boot.
        if counted == before {
            if counted > u32::from(MOST_TRIES) {
                return;
            }
            self.journal.blind_reboots = counted.saturating_add(1);
        }
        self.run(Ordered::Reboot, Work::Reboot, out);
    }

    /// Whether the system that was armed runs, or is being tried or left, as far as kernel and journal know. The old one stays
    /// up: it needs no boot loader to be good.
    fn is_what_was_switched_to(&self) -> bool {
        let boot = &self.setup.boot;
        let slot = match &self.journal.phase {
            Phase::Armed { update, boot: armed_in } if *armed_in != boot.id => update.target,
            Phase::Trying(trial) => trial.slot,
            Phase::Reverting(reversal) => reversal.slot,
            _ => return false,
        };
        boot.slot.is_none_or(|booted| booted == slot)
    }

    pub(super) fn sight_regained(&mut self, now: &Now, result: Result<Finished, Failure>, out: &mut Out) {
        let facts = match result {
            Ok(Finished::Facts(facts)) => Ok(facts),
            Ok(_) => Err(Failure::new(Reason::Internal, "not facts")),
            Err(failure) => Err(failure),
        };
        self.resume(now, facts, out);
    }
}
