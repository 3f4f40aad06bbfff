//! Our own inhibitor lock, held while a slot is written or switched.

use std::os::fd::OwnedFd;

use crate::dbus::Bus;
use crate::seams::{BoxFuture, Hold, Inhibitors};
use crate::system::chain;

/// Locks of logind.
#[derive(Debug, Clone)]
pub struct LogindInhibitors {
    /// Where logind is asked; none: nothing is held.
    pub bus: Option<Bus>,
}

/// logind releases the lock when the descriptor is closed, so also when this process dies.
#[derive(Debug)]
struct Lock {
    _fd: OwnedFd,
}

impl Hold for Lock {}

impl Inhibitors for LogindInhibitors {
    fn hold<'a>(&'a self, why: &'a str) -> BoxFuture<'a, Option<Box<dyn Hold>>> {
        Box::pin(async move {
            match self.bus.as_ref()?.inhibit(why).await {
                Ok(fd) => Some(Box::new(Lock { _fd: fd }) as Box<dyn Hold>),
                Err(e) => {
                    tracing::info!(error = chain(&e), "going on without an inhibitor lock");
                    None
                }
            }
        })
    }
}
