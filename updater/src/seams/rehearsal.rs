//! Lets the system in a slot prove, before anything boots it, that its own updater can work here.

use updater_core::slot::SlotId;

use super::BoxFuture;

/// The new system's own updater said no, or could not even say that. Reason code `health_failed`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RehearsalError(pub String);

/// Rehearses.
pub trait Rehearsal: Send + Sync {
    /// Runs the updater of `slot` from that slot, read-only, on today's configuration and state. Bounded in time; writes
    /// nothing. Ok also where this can not be tried (said in the log): the trial boot still proves the release.
    fn rehearse(&self, slot: SlotId) -> BoxFuture<'_, Result<(), RehearsalError>>;
}
