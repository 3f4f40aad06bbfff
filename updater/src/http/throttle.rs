//! Keeps all transfers together below a rate: an update must not take the line from the application.
//!
//! The reader waits before it takes more; the connection's own flow control then slows the server.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bytes that may come at once after a pause, as time at the full rate.
const BURST: Duration = Duration::from_millis(250);

/// A rate shared by everything one client fetches.
#[derive(Debug)]
pub struct Throttle {
    bytes_per_second: u64,
    /// Until when what came so far is paid for.
    paid: Mutex<Instant>,
}

impl Throttle {
    /// At most this many bytes per second.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), paid: Mutex::new(Instant::now()) }
    }

    /// Takes note of `bytes` and waits until they are within the rate.
    pub async fn pay(&self, bytes: usize) {
        let pause = self.owed(bytes, Instant::now());
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }

    fn owed(&self, bytes: usize, now: Instant) -> Duration {
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        *paid = (*paid).max(now) + cost;
        paid.saturating_duration_since(now).saturating_sub(BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_together_stay_within_the_rate() {
        let (throttle, start) = (Throttle::new(1000), Instant::now());
        assert_eq!(throttle.owed(250, start), Duration::ZERO, "a burst");
        let pause = throttle.owed(1000, start);
        assert!(pause > Duration::from_millis(990) && pause < Duration::from_millis(1010), "{pause:?}");
        // A long pause pays for nothing in advance.
        assert!(throttle.owed(2000, start + Duration::from_secs(100)) > Duration::from_millis(1700));
    }
}
