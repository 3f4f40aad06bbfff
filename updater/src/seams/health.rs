//! Is the running system well?

use updater_core::event::HealthReport;

use super::BoxFuture;

/// Looks once. The core decides what it means: strikes, soak, deadline.
pub trait HealthProbe: Send + Sync {
    /// Runs every check, each with its own time-out; ends even when a check hangs. A check that could not be run at
    /// all is `Failed` when required (never silently good).
    fn check(&self) -> BoxFuture<'_, HealthReport>;

    /// Runs the network checks alone, in a system that is about to be left.
    fn network(&self) -> BoxFuture<'_, HealthReport>;
}
