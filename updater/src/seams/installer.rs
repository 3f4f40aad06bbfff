//! Moves a release into a slot.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bundle::approval::ReleaseRef;
use bundle::reason::Reason;
use tokio::sync::watch;
use updater_core::event::Transfer;
use updater_core::release::{Source, Update, VerifiedManifest};
use updater_core::slot::SlotId;
use updater_core::status::Progress;

use super::BoxFuture;

/// What to install.
#[derive(Debug, Clone, PartialEq)]
pub struct InstallRequest {
    /// Release, target, source, delta. `target` is never the running slot; refuse it all the same.
    pub update: Update,
    /// The running slot: what unchanged frames are taken from. Read only.
    pub booted: SlotId,
}

/// Where progress goes: the newest value wins, a slow reader costs nothing.
pub type ProgressSink = watch::Sender<Option<Progress>>;

/// Asked to stop?
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    flag: Arc<AtomicBool>,
    wake: Arc<tokio::sync::Notify>,
}

impl Cancel {
    /// Not asked yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks. Repeating it changes nothing.
    pub fn cancel(&self) {
        self.flag.store(true, Ordering::SeqCst);
        self.wake.notify_waiters();
    }

    /// For blocking code, between two frames.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.flag.load(Ordering::SeqCst)
    }

    /// Ends when asked; for `select!`.
    pub async fn cancelled(&self) {
        loop {
            let woken = self.wake.notified();
            // The flag is looked at after the wait was registered, so that a `cancel` in between is not missed.
            if self.is_cancelled() {
                return;
            }
            woken.await;
        }
    }
}

/// An install ended early. Reasons: `network`, `server_error`, `truncated`, `frame_mismatch`, `image_mismatch`,
/// `signature_invalid`, `write_error`, `no_space`, `slot_unknown`, `cancelled`, `format_too_new`, `malformed`, ...
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct InstallError {
    /// The code.
    pub reason: Reason,
    /// What was being done, and the chain of causes.
    pub detail: String,
    /// The server's `Retry-After`.
    pub retry_after: Option<Duration>,
}

impl InstallError {
    /// An error without `Retry-After`.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), retry_after: None }
    }
}

/// Moves releases into slots.
pub trait Installer: Send + Sync {
    /// Reads the head of the bundle and verifies the manifest's envelope against the release keys, and its digest
    /// against `expected`. A pipe stays open for the `install` that follows.
    fn manifest<'a>(
        &'a self,
        source: &'a Source,
        expected: Option<&'a ReleaseRef>,
    ) -> BoxFuture<'a, Result<VerifiedManifest, InstallError>>;

    /// Has each image of the release its place in the target, unused and large enough, and is there room for what must be
    /// kept meanwhile? Changes nothing of the target. Reads the head of the bundle where `manifest` did not.
    fn fits<'a>(&'a self, update: &'a Update) -> BoxFuture<'a, Result<(), InstallError>>;

    /// Fetches, verifies and writes into the target; keeps what is already right there. Returns when everything is
    /// flushed. Called again after a crash, a failure or a power cut, it goes on. The caller has cleared the target's
    /// boot record, durably, before.
    fn install<'a>(
        &'a self,
        request: &'a InstallRequest,
        progress: &'a ProgressSink,
        cancel: &'a Cancel,
    ) -> BoxFuture<'a, Result<Transfer, InstallError>>;

    /// Reads the whole target back from the device, past every cache, and compares with the signed digests.
    fn verify<'a>(
        &'a self,
        request: &'a InstallRequest,
        progress: &'a ProgressSink,
        cancel: &'a Cancel,
    ) -> BoxFuture<'a, Result<(), InstallError>>;
}
