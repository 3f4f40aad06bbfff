//! Reboots the device.

use super::BoxFuture;

/// The reboot was refused or could not be asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RebootError(pub String);

/// Reboots.
pub trait Rebooter: Send + Sync {
    /// Asks logind for an orderly reboot (never kexec: it would skip the boot loader's counting). Ok means that it was
    /// accepted, not that it happened.
    fn reboot(&self) -> BoxFuture<'_, Result<(), RebootError>>;
}
