//! What time it is, and whether to believe it.
//!
//! Touches the clocks through system calls; nothing else.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};
use updater_core::now::Now;

use crate::seams::Clock;

/// The device's clocks.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    /// The battery-backed clock counts as right even without network time.
    pub trust_rtc: bool,
    /// When this image was built: an earlier clock is certainly wrong.
    pub build_time: Timestamp,
}

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let wall = Timestamp::now();
        Now {
            wall,
            wall_trusted: self.believes(wall, self.trust_rtc || synchronised()),
            uptime: uptime(),
            random: random(),
        }
    }
}

impl SystemClock {
    /// A clock that stands before the build of the image it runs was never set, whatever it says about itself.
    fn believes(&self, wall: Timestamp, vouched: bool) -> bool {
        vouched && wall >= self.build_time
    }
}

/// Time since boot, sleep included.
#[must_use]
pub fn uptime() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

/// Not secret: only spreads retries.
fn random() -> u64 {
    // RandomState is keyed by the kernel's random numbers.
    RandomState::new().build_hasher().finish()
}

/// Whether the kernel's clock is disciplined by a time source (NTP, PTP, chrony…).
#[must_use]
pub fn synchronised() -> bool {
    // SAFETY: an all-zero timex is a valid value (plain integers), and with modes = 0 the call only reads the clock's
    // state into it.
    let (state, status) = unsafe {
        let mut timex: nix::libc::timex = std::mem::zeroed();
        let state = nix::libc::adjtimex(&raw mut timex);
        (state, timex.status)
    };
    state >= 0 && state != nix::libc::TIME_ERROR && status & nix::libc::STA_UNSYNC == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_before_the_build_is_never_believed() {
        let clock = SystemClock { trust_rtc: true, build_time: "2026-11-20T00:00:00Z".parse().unwrap() };
        assert!(!clock.believes("1970-01-02T00:00:00Z".parse().unwrap(), true));
        assert!(clock.believes("2026-11-21T00:00:00Z".parse().unwrap(), true));
        assert!(!clock.believes("2026-11-21T00:00:00Z".parse().unwrap(), false));
    }

    #[test]
    fn uptime_does_not_stand_still() {
        let clock = SystemClock { trust_rtc: true, build_time: Timestamp::UNIX_EPOCH };
        let (first, second) = (clock.now(), clock.now());
        assert!(second.uptime >= first.uptime && first.uptime > Duration::ZERO);
        assert_ne!(first.random, second.random);
    }
}
