//! Counts what an install does and tells whoever watches.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use updater_core::event::Transfer;
use updater_core::status::{Progress, ProgressPhase};

use crate::seams::ProgressSink;

/// The speed shown is that of about this long.
const WINDOW: Duration = Duration::from_secs(3);

/// Counts; clones share.
#[derive(Debug, Clone)]
pub struct Meter {
    inner: Arc<Mutex<Inner>>,
    sink: ProgressSink,
}

#[derive(Debug)]
struct Inner {
    progress: Progress,
    transfer: Transfer,
    mark: Instant,
    mark_bytes: u64,
}

impl Meter {
    /// Starts a phase of `total` raw bytes.
    #[must_use]
    pub fn new(sink: &ProgressSink, phase: ProgressPhase, total: u64) -> Self {
        let progress = Progress { phase, bytes_total: total, ..Progress::default() };
        let inner = Inner { progress, transfer: Transfer::default(), mark: Instant::now(), mark_bytes: 0 };
        sink.send_replace(Some(progress));
        Self { inner: Arc::new(Mutex::new(inner)), sink: sink.clone() }
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut inner);
        let (done, elapsed) = (inner.progress.bytes_done, inner.mark.elapsed());
        if elapsed >= WINDOW / 4 {
            let rate = per_second(done.saturating_sub(inner.mark_bytes), elapsed);
            let old = inner.progress.bytes_per_second;
            inner.progress.bytes_per_second = if old == 0 { rate } else { (old * 3 + rate) / 4 };
            (inner.mark, inner.mark_bytes) = (Instant::now(), done);
        }
        self.sink.send_replace(Some(inner.progress));
    }

    /// Says how many raw bytes it will be.
    pub fn expect(&self, total: u64) {
        self.change(|inner| inner.progress.bytes_total = total);
    }

    /// Raw bytes found right in the target.
    pub fn kept(&self, bytes: u64) {
        self.change(|inner| {
            inner.progress.bytes_done += bytes;
            inner.progress.bytes_reused += bytes;
            inner.transfer.reused += bytes;
        });
    }

    /// Raw bytes of zeros made without fetching.
    pub fn zeroed(&self, bytes: u64) {
        self.change(|inner| {
            inner.progress.bytes_done += bytes;
            inner.progress.bytes_reused += bytes;
        });
    }

    /// Bytes that came from the bundle, as stored.
    pub fn fetched(&self, bytes: u64) {
        // Comes with every packet, and is no part of what is shown.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).transfer.fetched += bytes;
    }

    /// A frame that is right in the target now; `written` of its `raw` bytes differed.
    pub fn placed(&self, raw: u64, written: u64) {
        self.change(|inner| {
            inner.progress.bytes_done += raw;
            inner.transfer.written += written;
        });
    }

    /// Raw bytes of a placed frame that were taken from the running image.
    pub fn taken(&self, raw: u64) {
        self.change(|inner| {
            inner.progress.bytes_reused += raw;
            inner.transfer.reused += raw;
        });
    }

    /// Raw bytes read back.
    pub fn read(&self, bytes: u64) {
        self.change(|inner| inner.progress.bytes_done += bytes);
    }

    /// The sums.
    #[must_use]
    pub fn transfer(&self) -> Transfer {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).transfer
    }
}

fn per_second(bytes: u64, elapsed: Duration) -> u64 {
    let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).max(1);
    u64::try_from(u128::from(bytes) * 1_000_000 / u128::from(micros)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::watch;

    #[test]
    fn sums_and_the_newest_value() {
        let (sink, seen) = watch::channel(None);
        let meter = Meter::new(&sink, ProgressPhase::Writing, 100);
        meter.kept(40);
        meter.zeroed(10);
        meter.fetched(7);
        meter.placed(50, 20);
        assert_eq!(meter.transfer(), Transfer { fetched: 7, reused: 40, written: 20 });
        let progress = seen.borrow().unwrap();
        assert_eq!((progress.bytes_done, progress.bytes_reused, progress.bytes_total), (100, 50, 100));
    }

    #[test]
    fn speed() {
        assert_eq!(per_second(1000, Duration::from_millis(500)), 2000);
        assert_eq!(per_second(1000, Duration::ZERO), 1_000_000_000);
    }
}
