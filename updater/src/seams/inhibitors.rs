//! Keeps the device from being shut down in the middle of a write or a switch.

use super::BoxFuture;

/// Held until dropped. The real one owns logind's lock file descriptor.
pub trait Hold: Send {}

/// Takes locks.
pub trait Inhibitors: Send + Sync {
    /// Takes a `shutdown:sleep` delay or block lock with these words. None when it can not be had (no logind): the
    /// update goes on, since every step survives power loss anyway.
    fn hold<'a>(&'a self, why: &'a str) -> BoxFuture<'a, Option<Box<dyn Hold>>>;
}
