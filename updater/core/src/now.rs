//! The time and the dice, handed in.

use std::time::Duration;

use jiff::Timestamp;

/// The moment an event happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The system's wall clock, right or wrong.
    pub wall: Timestamp,
    /// True when the wall clock is synchronised, or the configuration trusts the battery-backed clock.
    pub wall_trusted: bool,
    /// Time since boot (`CLOCK_BOOTTIME`). Never jumps; all timers run on it.
    pub uptime: Duration,
    /// A fresh random number, for jitter. Not secret.
    pub random: u64,
}

impl Now {
    /// [`Now::uptime`], as it is written down.
    #[must_use]
    pub fn uptime_ms(&self) -> u64 {
        u64::try_from(self.uptime.as_millis()).unwrap_or(u64::MAX)
    }
}
