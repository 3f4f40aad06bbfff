//! Keeps what tells why a boot failed, across the fallback.

use updater_core::effect::EvidenceRequest;

use super::BoxFuture;

/// Saves evidence on the data partition, bounded in number and size.
pub trait Evidence: Send + Sync {
    /// Saves check output and the journal lines of this boot. Best effort: the engine waits at most a few seconds and
    /// goes on whatever comes back. The error is a sentence for the log.
    fn keep<'a>(&'a self, request: &'a EvidenceRequest) -> BoxFuture<'a, Result<(), String>>;
}
