//! Time and randomness.

use updater_core::now::Now;

/// Tells the time. Never blocks for long (a few system calls, no bus).
pub trait Clock: Send + Sync {
    /// This moment, with a fresh random number.
    fn now(&self) -> Now;
}
