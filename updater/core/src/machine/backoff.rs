//! Waiting after failures.

use std::time::Duration;

use super::Machine;
use crate::now::Now;
use crate::policy::RetryPolicy;

/// Never sooner than this, or a broken server meets a device every few milliseconds.
const LEAST: Duration = Duration::from_secs(5);
/// A server may ask for this much patience, not for more.
const MOST_ASKED: Duration = Duration::from_secs(24 * 3600);

/// How long to wait after the `failures`th failure in a row: anything up to a doubling bound ("full jitter"), and no
/// sooner than the server asked for.
#[must_use]
pub fn backoff(policy: &RetryPolicy, failures: u32, random: u64, retry_after: Option<Duration>) -> Duration {
    let factor = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    let bound = policy.base.checked_mul(factor).unwrap_or(policy.cap).min(policy.cap);
    let millis = u64::try_from(bound.as_millis()).unwrap_or(u64::MAX).max(1);
    let jittered = Duration::from_millis(random % millis);
    jittered.max(LEAST).max(retry_after.unwrap_or_default().min(MOST_ASKED))
}

impl Machine {
    /// Waiting for something local (boot loader, journal, reboot): seconds, at most a minute.
    pub(super) fn short_backoff(&self, now: &Now) -> Duration {
        short_backoff(self.stumbles, now)
    }
}

/// The same, after so many failures in a row.
pub(super) fn short_backoff(failures: u32, now: &Now) -> Duration {
    let policy = RetryPolicy { base: Duration::from_secs(5), cap: Duration::from_secs(60) };
    backoff(&policy, failures, now.random, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy { base: Duration::from_secs(60), cap: Duration::from_secs(600) };

    #[test]
    fn stays_between_least_and_bound() {
        for failures in [0, 1, 2, 3, 4, 5, 31, 32, 33, u32::MAX] {
            let bound = Duration::from_secs(60).saturating_mul(1 << failures.saturating_sub(1).min(5)).min(POLICY.cap);
            for random in [0, 1, 12_345, 59_999, 60_000, u64::MAX] {
                let delay = backoff(&POLICY, failures, random, None);
                assert!(delay >= LEAST && delay <= bound, "{failures} {random} {delay:?}");
            }
        }
    }

    #[test]
    fn spreads_over_the_whole_bound_and_that_doubles() {
        let spread = |failures| {
            let delays = (0..1000u64).map(|n| backoff(&POLICY, failures, n * 7919, None).as_secs());
            delays.fold((u64::MAX, 0), |(low, high), delay| (low.min(delay), high.max(delay)))
        };
        for (failures, bound) in [(1, 60), (2, 120), (3, 240), (4, 480), (5, 600), (40, 600)] {
            let (low, high) = spread(failures);
            assert!(low <= 6 && high < bound && high >= bound * 95 / 100, "{failures}: {low} {high}");
        }
    }

    #[test]
    fn the_server_may_ask_for_more_but_not_for_ever() {
        let asked = |seconds| backoff(&POLICY, 1, 0, Some(Duration::from_secs(seconds)));
        assert_eq!(asked(300), Duration::from_secs(300));
        assert_eq!(asked(10_000_000), MOST_ASKED);
    }
}
