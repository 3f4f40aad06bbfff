//! The new system proves itself: Trying, then Good.
//!
//! Nothing here asks the gate, the network or the clock on the wall: they never block a confirmation.

use std::time::Duration;

use bundle::reason::Reason;

use super::{Machine, Mood, Ordered, Out, TrialRun, Trouble};
use crate::effect::Work;
use crate::event::{Failure, Finished, HealthReport, Verdict};
use crate::history::OutcomeKind;
use crate::journal::{Phase, Retry, Trial};
use crate::now::Now;
use crate::release::Update;
use crate::slot::SlotId;

/// How often to look at a system that failed and has nothing to fall back to.
const SLOW_LOOK: Duration = Duration::from_secs(300);

impl Machine {
    /// A slot that is not confirmed runs: let it prove itself.
    pub(super) fn begin_trial(&mut self, now: &Now, slot: SlotId, update: Option<Update>, out: &mut Out) {
        let Some(facts) = &self.facts else { return };
        let trial = Trial { slot, update, boot: facts.boot_id.clone(), since_ms: now.uptime_ms() };
        self.enter(Phase::Trying(trial), Mood::Plain);
        self.record(now, OutcomeKind::Trial, Some(slot), None);
        self.look(out);
    }

    /// The daemon or the device restarted during the trial.
    pub(super) fn go_on_trying(&mut self, now: &Now, out: &mut Out) {
        let (Some(facts), Phase::Trying(trial)) = (&self.facts, &mut self.journal.phase) else { return };
        if trial.boot != facts.boot_id {
            // Another boot: the boot loader has counted it, so the deadline starts anew.
            trial.boot = facts.boot_id.clone();
            trial.since_ms = now.uptime_ms();
            self.count_change();
        }
        self.look(out);
    }

    /// Looks at the health once.
    pub(super) fn look(&mut self, out: &mut Out) {
        let policy = self.policy().health;
        self.run(Ordered::Health, Work::CheckHealth { policy }, out);
        // A look that hangs must not outlast the deadline.
        self.wake = self.deadline();
    }

    /// Uptime at which the trial has failed; none when there is nothing to fall back to.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let Phase::Trying(trial) = &self.journal.phase else { return None };
        if self.mood != Mood::Plain {
            return None;
        }
        Some(Duration::from_millis(trial.since_ms).saturating_add(self.policy().health.deadline))
    }

    pub(super) fn tick_trial(&mut self, now: &Now, due: bool, out: &mut Out) {
        if self.deadline().is_some_and(|deadline| deadline <= now.uptime) && !self.is_confirming() {
            return self.out_of_time(now, out);
        }
        if self.order.is_some() {
            self.wake = self.deadline();
        } else if due || self.wake.is_none() {
            self.look(out);
        }
    }

    fn is_confirming(&self) -> bool {
        self.order.as_ref().is_some_and(|order| order.what == Ordered::Confirm)
    }

    pub(super) fn health_seen(&mut self, now: &Now, result: Result<Finished, Failure>, out: &mut Out) {
        if !matches!(self.journal.phase, Phase::Trying(_)) {
            return;
        }
        let report = match result {
            Ok(Finished::Health(report)) => Ok(self.demand_network(report)),
            Ok(_) => Err(Failure::new(Reason::Internal, "not a look at the health")),
            Err(failure) => Err(failure),
        };
        let report = match report {
            Ok(report) => report,
            // A probe that broke is no proof of health.
            Err(failure) => {
                self.fail(now, &failure);
                self.trial.soak = None;
                return self.look_later(now, out);
            }
        };
        let policy = self.policy().health;
        let strikes = self.trial.note(now, report);
        if self.trial.has_soaked(now, policy.soak) {
            return self.confirm(out);
        }
        let struck_out = strikes >= policy.strikes.max(1);
        if struck_out && self.mood == Mood::Plain {
            let detail = self.trial.failed_checks();
            return self.trial_failed(now, Reason::HealthFailed, &detail, out);
        }
        self.look_later(now, out);
    }

    /// Requires the network checks that passed in the old slot just before the reboot. What failed there already is not
    /// the new system's fault; and a network may take its time to come up, so only the deadline makes it a failure.
    fn demand_network(&self, mut report: HealthReport) -> HealthReport {
        let Phase::Trying(Trial { update: Some(update), .. }) = &self.journal.phase else { return report };
        if self.policy().health.network_required {
            for check in report.checks.iter_mut().filter(|check| update.network.contains(&check.name)) {
                check.required = true;
                if check.verdict == Verdict::Failed {
                    check.verdict = Verdict::Pending;
                }
            }
        }
        report
    }

    fn look_later(&mut self, now: &Now, out: &mut Out) {
        if self.deadline().is_some_and(|deadline| deadline <= now.uptime) {
            return self.out_of_time(now, out);
        }
        let policy = self.policy().health;
        let soaked = self.trial.soak.map(|(since, _)| since.saturating_add(policy.soak));
        let interval = if self.mood == Mood::Plain { policy.interval } else { SLOW_LOOK };
        let next = now.uptime.saturating_add(interval.max(Duration::from_millis(100)));
        // Not later than the end of the soak, or the deadline.
        self.wake = [Some(next), soaked.filter(|end| *end > now.uptime), self.deadline()].into_iter().flatten().min();
    }

    fn out_of_time(&mut self, now: &Now, out: &mut Out) {
        let failed = self.trial.failed_checks();
        let (reason, detail) = if failed.is_empty() {
            (Reason::HealthTimeout, self.trial.pending_checks())
        } else {
            (Reason::HealthFailed, failed)
        };
        self.trial_failed(now, reason, &detail, out);
    }

    fn confirm(&mut self, out: &mut Out) {
        let Phase::Trying(trial) = &self.journal.phase else { return };
        let slot = trial.slot;
        self.run(Ordered::Confirm, Work::Confirm { slot }, out);
    }

    pub(super) fn confirmed(&mut self, now: &Now, result: Result<Finished, Failure>, out: &mut Out) {
        let Phase::Trying(trial) = &self.journal.phase else { return };
        let failure = match result {
            Ok(Finished::Facts(facts)) if facts.slot(trial.slot).is_confirmed() => return self.good(now, out),
            Ok(_) => Failure::new(Reason::BootControlError, "confirmed, but the boot loader does not show it"),
            Err(failure) => failure,
        };
        // The system is healthy; a boot loader that can not be told is no reason to leave it. Look and try again.
        self.fail(now, &failure);
        self.stumbles = self.stumbles.saturating_add(1);
        self.trial.soak = None;
        let delay = self.short_backoff(now);
        if let Phase::Trying(trial) = &mut self.journal.phase {
            let since = now.uptime.saturating_add(delay);
            trial.since_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        }
        self.wake_in(now, delay);
    }

    /// The running slot is confirmed: what it proved is kept.
    pub(super) fn good(&mut self, now: &Now, out: &mut Out) {
        let (slot, update) = match &self.journal.phase {
            Phase::Trying(trial) => (trial.slot, trial.update.clone()),
            Phase::Armed { update, .. } => (update.target, Some(update.clone())),
            _ => return,
        };
        self.drop_order(out);
        self.proven(now, slot, update);
        self.journal.retry = Retry::default();
        self.last_error = None;
        self.trial = TrialRun::default();
        self.enter(Phase::Idle, Mood::Good);
        self.wake_for_poll(now);
    }

    /// It was confirmed, power was lost before that was written down, and somebody chose the other slot.
    pub(super) fn keep_proof(&mut self, now: &Now) {
        let Some(facts) = &self.facts else { return };
        let (slot, update, boot) = match &self.journal.phase {
            Phase::Trying(trial) => (trial.slot, trial.update.clone(), &trial.boot),
            Phase::Armed { update, boot } => (update.target, Some(update.clone()), boot),
            _ => return,
        };
        if *boot != facts.boot_id && facts.booted != Some(slot) && facts.slot(slot).is_confirmed() {
            self.proven(now, slot, update);
        }
    }

    /// What a confirmed system has proven is kept.
    fn proven(&mut self, now: &Now, slot: SlotId, update: Option<Update>) {
        if let Some(update) = update {
            let floor = &mut self.journal.floor;
            floor.counter = floor.counter.max(update.rollback_floor);
            floor.data_schema = floor.data_schema.max(update.state_schema.map(|schema| schema.max));
            self.journal.changes.remove(&update.release.manifest_sha256);
            self.journal.blocked.remove(&update.release.manifest_sha256);
            *self.journal.slots.get_mut(slot) = Some(update.record(now.wall));
        }
        // Of a boot before this system was armed, kept by an updater that did not know it.
        let facts = self.facts.as_ref();
        let confirmed = |owed: SlotId| owed == slot || facts.is_some_and(|facts| facts.slot(owed).is_confirmed());
        self.journal.letting_go.take_if(|letting_go| confirmed(letting_go.slot));
        self.record(now, OutcomeKind::Healthy, Some(slot), None);
    }

    pub(super) fn tick_degraded(&mut self, trouble: Trouble, due: bool, out: &mut Out) {
        match trouble {
            Trouble::Blind => self.look_again(due, out),
            Trouble::NoFallback if self.order.is_none() && (due || self.wake.is_none()) => self.look(out),
            Trouble::NoFallback | Trouble::Ignored | Trouble::Incomplete => {}
        }
    }
}

impl TrialRun {
    /// Counts a look. Returns the most looks in a row at which one required check failed.
    fn note(&mut self, now: &Now, report: HealthReport) -> u32 {
        let required = || report.checks.iter().filter(|check| check.required);
        let failed: Vec<&str> =
            required().filter(|check| check.verdict == Verdict::Failed).map(|check| check.name.as_str()).collect();
        self.strikes.retain(|name, _| failed.contains(&name.as_str()));
        for name in failed {
            let strikes = self.strikes.entry(name.to_owned()).or_default();
            *strikes = strikes.saturating_add(1);
        }
        let restarts = required().fold(0u64, |sum, check| sum.saturating_add(u64::from(check.restarts)));
        let well = required().all(|check| check.verdict == Verdict::Passed);
        self.soak = match self.soak {
            // A unit that systemd had to restart did not hold.
            Some((since, counted)) if well && counted == restarts => Some((since, counted)),
            _ if well => Some((now.uptime, restarts)),
            _ => None,
        };
        self.last = Some(report);
        self.strikes.values().copied().max().unwrap_or(0)
    }

    fn has_soaked(&self, now: &Now, soak: Duration) -> bool {
        self.soak.is_some_and(|(since, _)| now.uptime.saturating_sub(since) >= soak)
    }

    /// The required checks that failed at the last look, with what they said.
    fn failed_checks(&self) -> String {
        self.named(Verdict::Failed)
    }

    fn pending_checks(&self) -> String {
        self.named(Verdict::Pending)
    }

    fn named(&self, verdict: Verdict) -> String {
        let checks = self.last.iter().flat_map(|report| &report.checks);
        let named = checks.filter(|check| check.required && check.verdict == verdict).map(|check| {
            if check.detail.is_empty() { check.name.clone() } else { format!("{}: {}", check.name, check.detail) }
        });
        named.collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests;
