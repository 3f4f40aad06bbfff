//! An answer's body with its three limits: silence, a trickle, and an early end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::Response;

use super::error::FetchError;
use super::throttle::Throttle;

/// What a body must keep to.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest silence.
    pub idle: Duration,
    /// Bytes per second, averaged over `window`; 0 switches the floor off.
    pub floor: u64,
    /// The time over which the rate is averaged.
    pub window: Duration,
}

/// A body being read.
#[derive(Debug)]
pub struct Body {
    host: String,
    response: Response,
    limits: Limits,
    /// Bytes still to come, where the server announced a length.
    remaining: Option<u64>,
    rate: Rate,
    throttle: Option<Arc<Throttle>>,
}

impl Body {
    /// The body of `response`.
    pub(super) fn new(host: String, response: Response, limits: Limits, throttle: Option<Arc<Throttle>>) -> Self {
        let remaining = response.content_length();
        Self { host, response, limits, remaining, rate: Rate::new(limits), throttle }
    }

    /// The host it comes from.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Bytes still to come, where the server announced it.
    #[must_use]
    pub fn remaining(&self) -> Option<u64> {
        self.remaining
    }

    /// The next bytes, or `None` at the announced end.
    ///
    /// Time the caller spends before asking again does not count against the server: a slow disk is not a slow link.
    ///
    /// # Errors
    /// [`FetchError`]: stalled, too slow, broken, or ended early.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, FetchError> {
        let asked = Instant::now();
        let chunk = match tokio::time::timeout(self.limits.idle, self.response.chunk()).await {
            Err(_) => return Err(FetchError::Stalled { host: self.host.clone(), seconds: self.limits.idle.as_secs() }),
            Ok(Err(error)) => return Err(self.broken(error)),
            Ok(Ok(chunk)) => chunk,
        };
        let Some(bytes) = chunk else {
            return match self.remaining {
                Some(missing) if missing > 0 => Err(FetchError::Truncated { host: self.host.clone(), missing }),
                _ => Ok(None),
            };
        };
        self.remaining = self.remaining.map(|left| left.saturating_sub(bytes.len() as u64));
        if self.rate.too_slow(asked.elapsed(), bytes.len()) {
            return Err(FetchError::TooSlow { host: self.host.clone(), floor: self.limits.floor });
        }
        // Behind the floor's clock: a rate that we ask for is no trickle of the server's.
        if let Some(throttle) = &self.throttle {
            throttle.pay(bytes.len()).await;
        }
        Ok(Some(bytes))
    }

    /// A body cut in the middle comes as a *decode* error; with a length announced we know better.
    fn broken(&self, error: reqwest::Error) -> FetchError {
        let host = self.host.clone();
        if error.is_timeout() {
            return FetchError::Stalled { host, seconds: self.limits.idle.as_secs() };
        }
        match self.remaining {
            Some(missing) if missing > 0 && error.is_decode() => FetchError::Truncated { host, missing },
            _ => FetchError::Connect { host, source: error.without_url() },
        }
    }
}

/// Bytes over time spent waiting.
#[derive(Debug)]
struct Rate {
    limits: Limits,
    waited: Duration,
    bytes: u64,
}

impl Rate {
    fn new(limits: Limits) -> Self {
        Self { limits, waited: Duration::ZERO, bytes: 0 }
    }

    /// Adds a wait and what it brought; true when a whole window brought too little.
    fn too_slow(&mut self, waited: Duration, bytes: usize) -> bool {
        self.waited += waited;
        self.bytes += bytes as u64;
        if self.waited < self.limits.window {
            return false;
        }
        let slow = self.bytes < self.limits.floor.saturating_mul(self.waited.as_secs().max(1));
        // A new window: speed at the start must not pay for a trickle later.
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trickle_is_noticed_whatever_came_before() {
        let limits = Limits { idle: Duration::from_secs(60), floor: 100, window: Duration::from_secs(10) };
        let mut rate = Rate::new(limits);
        assert!(!rate.too_slow(Duration::from_secs(10), 1_000_000), "fast");
        let slow = (0..10).any(|_| rate.too_slow(Duration::from_secs(1), 1));
        assert!(slow, "one byte a second");
    }

    #[test]
    fn no_verdict_before_the_window_is_over() {
        let limits = Limits { idle: Duration::from_secs(60), floor: 100, window: Duration::from_secs(10) };
        let mut rate = Rate::new(limits);
        assert!(!rate.too_slow(Duration::from_secs(9), 1));
    }
}
