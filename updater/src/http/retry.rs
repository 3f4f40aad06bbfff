//! Reads a range to its end, whatever breaks on the way: goes on at the byte where it stopped, on the next mirror if
//! there is one, with growing jittered pauses, and gives up when nothing at all comes any more.

use std::hash::{BuildHasher as _, Hasher as _};
use std::time::Duration;

use bytes::Bytes;

use super::error::FetchError;
use super::source::{ByteStream, RangeSource};

/// Patience of one range.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Failures in a row without progress, per place, before giving up. The state machine then retries later
    /// and goes on from the frames that are written, so this may be small.
    pub attempts: u32,
    /// First pause; doubles.
    pub first_pause: Duration,
    /// Longest pause, also the longest `Retry-After` waited for here; a server that asks for more is left alone and
    /// the whole install fails with its wish.
    pub longest_pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { attempts: 4, first_pause: Duration::from_millis(250), longest_pause: Duration::from_secs(20) }
    }
}

/// Bytes that count as progress: less than this between two failures is a line that never gets anywhere. A server that
/// gives one byte a second, and is cut off for it, must not keep us for ever.
const PROGRESS: u64 = 16 << 10;

/// A range being read.
pub struct Reader<'a> {
    source: &'a dyn RangeSource,
    patience: Patience,
    position: u64,
    end: u64,
    stream: Option<Box<dyn ByteStream>>,
    failures: u32,
    /// Bytes since the last failure.
    since: u64,
}

impl<'a> Reader<'a> {
    /// Will read `start..end` of `source`.
    #[must_use]
    pub fn new(source: &'a dyn RangeSource, patience: Patience, start: u64, end: u64) -> Self {
        Self { source, patience, position: start, end, stream: None, failures: 0, since: 0 }
    }

    /// The next bytes; `None` exactly at the end of the range.
    ///
    /// # Errors
    /// [`FetchError`]: the last failure, when patience is over or waiting can not help.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        while self.position < self.end {
            match self.step().await {
                // An answer may end early without error (servers may cut ranges): ask for the rest.
                Ok(None) => {
                    self.stream = None;
                    self.failed(FetchError::Truncated { host: "the server".into(), missing: self.end - self.position })
                        .await?;
                }
                Ok(Some(bytes)) => {
                    let left = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
                    let bytes = bytes.slice(..bytes.len().min(left));
                    self.position += bytes.len() as u64;
                    self.since += bytes.len() as u64;
                    if self.since >= PROGRESS {
                        self.failures = 0;
                    }
                    return Ok(Some(bytes));
                }
                Err(error) => {
                    self.stream = None;
                    self.failed(error).await?;
                }
            }
        }
        Ok(None)
    }

    async fn step(&mut self) -> Result<Option<Bytes>, FetchError> {
        if self.stream.is_none() {
            self.stream = Some(self.source.open(self.position, self.end).await?);
        }
        match &mut self.stream {
            Some(stream) => stream.next().await,
            None => Ok(None),
        }
    }

    async fn failed(&mut self, error: FetchError) -> Result<(), FetchError> {
        self.failures += 1;
        self.since = 0;
        pause_after(self.source, self.patience, self.failures, error).await
    }
}

/// Waits before another try after `failures` failures in a row, or gives up with the last one.
///
/// # Errors
/// The `error`, when patience is over or waiting can not help.
pub async fn pause_after(
    source: &dyn RangeSource,
    patience: Patience,
    failures: u32,
    error: FetchError,
) -> Result<(), FetchError> {
    let places = u32::try_from(source.places()).unwrap_or(1).max(1);
    let pause = pause(patience, failures, places, random());
    let pause = error.retry_after().map_or(pause, |asked| asked.max(pause));
    // A mirror not asked yet is asked at once, whatever this one said.
    let another = failures < places;
    let worth_it = another || (error.transient() && pause <= patience.longest_pause);
    if failures >= patience.attempts.saturating_mul(places) || !worth_it {
        return Err(error);
    }
    tracing::debug!(%error, failures, "trying again");
    source.failed(&error);
    if !another {
        tokio::time::sleep(pause).await;
    }
    Ok(())
}

/// Full jitter: anywhere between nothing and the doubled pause, so that devices cut off together do not come back
/// together.
fn pause(patience: Patience, failures: u32, places: u32, random: u64) -> Duration {
    let rounds = (failures / places).min(16);
    let ceiling = patience.first_pause.saturating_mul(1 << rounds).min(patience.longest_pause);
    let span = u64::try_from(ceiling.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(random % span.max(1))
}

/// A random number for jitter, from the seed the standard library gives each hash map. Not for secrets.
fn random() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_differ() {
        let patience = Patience::default();
        for failures in 0..40 {
            for random in [0, 1, u64::MAX, 12_345_678_901] {
                assert!(pause(patience, failures, 2, random) <= patience.longest_pause);
            }
        }
        assert_ne!(random(), random());
        // Twice as long each time, at most, and anything below.
        let longest =
            |failures: u32| (0..2000).map(|n| pause(patience, failures * 2, 2, n * 790_019)).max().unwrap_or_default();
        for failures in 1..4 {
            let (before, after) = (longest(failures).as_secs_f64(), longest(failures + 1).as_secs_f64());
            let limit = patience.longest_pause.as_secs_f64();
            assert!(after > before * 1.9 || after > limit * 0.9, "{failures}: {before} {after}");
        }
        let several: std::collections::BTreeSet<_> = (0..20).map(|n| pause(patience, 6, 2, n * 1_234_567)).collect();
        assert!(several.len() > 10, "{several:?}");
    }
}
