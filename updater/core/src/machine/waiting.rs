//! Waiting: what for, how long, and whom it costs nothing.
//!
//! A device that waits asks nobody: it looks around until nothing at the device is in the way, and only then fetches
//! documents. A start is no reason to ask either: whoever reads the status starts the daemon.

use std::time::Duration;

use bundle::reason::Reason;

use super::{Asked, Machine, Occasion, Ordered, Out, backoff};
use crate::effect::Work;
use crate::event::Answers;
use crate::gate::{Decision, Point, Verdict, ask_here};
use crate::journal::Phase;
use crate::now::Now;

/// How soon to look again where a change comes within minutes: an application at work, a clock being set.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Devices that wait for the same instant, the opening of their hours for instance, come within this time after it.
/// No window is shorter.
const SPREAD: Duration = Duration::from_secs(60);
/// Longest sleep towards an instant of the wall clock: clocks are set, and summer time begins.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

impl Machine {
    /// Finds out whether something at the device is in the way, before anybody else is asked.
    pub(super) fn look_around(&mut self, point: Point, occasion: Occasion, out: &mut Out) {
        if self.order.is_none() {
            let asked = Asked::Around(occasion);
            self.run(Ordered::Ask(Some(point), asked), Work::Ask { point: Some(point), fetch: false }, out);
        }
    }

    /// Nothing is under way that a command would have to wait for.
    pub(super) fn is_free(&self) -> bool {
        self.order.as_ref().is_none_or(|order| matches!(order.what, Ordered::Ask(_, Asked::Around(_))))
    }

    pub(super) fn looked_around(
        &mut self,
        now: &Now,
        point: Point,
        occasion: Occasion,
        around: Answers,
        out: &mut Out,
    ) {
        match &mut self.answers {
            Some((known, _)) => known.surroundings = around.surroundings,
            None => self.answers = Some((Box::new(around), None)),
        }
        let Some(here) = self.with_candidate(now, |inputs, candidate| ask_here(inputs, point, candidate)) else {
            return;
        };
        match (here.decision, &self.journal.phase) {
            (Decision::Proceed, _) => {}
            (Decision::Wait { .. }, _) | (_, Phase::Armed { .. }) => return self.obey(now, point, here, out),
            (Decision::Refuse { .. }, _) => return self.stay(now, &here),
        }
        if self.is_patient(now) {
            return;
        }
        // At a start the stored copy answers for the region: what it refuses, the next check asks about.
        if let Some(verdict) = self
            .verdict(now, point)
            .filter(|verdict| occasion == Occasion::Start && !matches!(verdict.decision, Decision::Proceed))
        {
            return self.stay(now, &verdict);
        }
        match self.journal.phase {
            Phase::Writing(_) | Phase::Verifying(_) => self.rewrite(now, out),
            _ => self.ask(now, point, out),
        }
    }

    /// Shows why it is not going on, and changes nothing.
    fn stay(&mut self, now: &Now, verdict: &Verdict) {
        let Some(reason) = verdict.decision.reason() else { return };
        let until = match verdict.decision {
            Decision::Wait { until, .. } => until,
            Decision::Proceed | Decision::Refuse { .. } => None,
        };
        self.wait_for(now, reason, &verdict.sentence(), until);
        self.schedule_wait(now, reason, until);
    }

    /// Waits out what failures, or a server, asked for. False: there is nothing to wait out.
    pub(super) fn is_patient(&mut self, now: &Now) -> bool {
        let Some(until) = self.journal.retry.still(now.wall) else { return false };
        let reason = self.last_error.as_ref().map_or(Reason::Network, |problem| problem.reason);
        self.wait_for(now, reason, "waiting before the next try", Some(until));
        self.wake_at_wall(now, until);
        true
    }

    /// The longest patience a server asked for.
    pub(super) fn asked_for(&self) -> Option<Duration> {
        let documents = &self.answers.as_ref()?.0.documents;
        let failures = documents.approval_failures.iter().chain(&documents.channel_failure);
        failures.filter_map(|failure| failure.retry_after).max()
    }

    pub(super) fn schedule_wait(&mut self, now: &Now, reason: Reason, until: Option<jiff::Timestamp>) {
        let spread = Duration::from_millis(now.random % u64::try_from(SPREAD.as_millis()).unwrap_or(1));
        if let Some(until) = until {
            self.wake_at_wall(now, until);
            self.wake = self.wake.map(|wake| wake.saturating_add(spread));
        } else if matches!(reason, Reason::Inhibited | Reason::ClockUntrusted) {
            self.wake_in(now, LOOK_AGAIN.saturating_add(spread));
        } else {
            // A link or a battery may stay as it is for days: the timer that starts the daemon asks again.
            self.wake_for_poll(now);
        }
    }

    /// Waits longer after each failure in a row.
    pub(super) fn back_off(&mut self, now: &Now, retry_after: Option<Duration>) {
        let retry = &mut self.journal.retry;
        retry.failures = if retry.is_over(now.wall) { 1 } else { retry.failures.saturating_add(1) };
        retry.since = Some(now.wall);
        let delay = backoff(&self.setup.policy.retry, retry.failures, now.random, retry_after);
        retry.not_before =
            jiff::SignedDuration::try_from(delay).ok().and_then(|delay| now.wall.checked_add(delay).ok());
        if let (Some(waiting), until) = (&mut self.waiting, retry.not_before) {
            waiting.until = waiting.until.or(until);
        }
        self.wake_in(now, delay);
    }

    pub(super) fn wake_at_wall(&mut self, now: &Now, at: jiff::Timestamp) {
        let delay = Duration::try_from(at.duration_since(now.wall)).unwrap_or_default();
        self.wake_in(now, delay.clamp(Duration::from_secs(1), LONGEST_SLEEP));
    }

    /// Sleeps until the next look, where the daemon looks by itself. A tenth of jitter keeps a fleet out of step.
    pub(super) fn wake_for_poll(&mut self, now: &Now) {
        self.wake = self.policy().poll.map(|poll| {
            let tenth = u64::try_from(poll.as_millis() / 10).unwrap_or(u64::MAX).max(1);
            now.uptime.saturating_add(poll).saturating_add(Duration::from_millis(now.random % tenth))
        });
    }
}

#[cfg(test)]
mod tests;
