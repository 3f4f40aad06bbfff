//! How the parts of one install end together: the first failure is kept, everybody else stops.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::error::Error;
use crate::seams::Cancel;

/// Shared by all parts of one install.
#[derive(Debug, Clone, Default)]
pub struct Halt {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    stopped: AtomicBool,
    first: Mutex<Option<Error>>,
    wake: Notify,
    cancel: Cancel,
}

impl Halt {
    /// Also stops when `cancel` is asked for.
    #[must_use]
    pub fn new(cancel: &Cancel) -> Self {
        Self { inner: Arc::new(Inner { cancel: cancel.clone(), ..Inner::default() }) }
    }

    /// Stops everybody because of this; later failures are consequences and dropped.
    pub fn fail(&self, error: Error) {
        let mut first = self.inner.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(error);
        drop(first);
        self.inner.stopped.store(true, Ordering::SeqCst);
        self.inner.wake.notify_waiters();
    }

    /// Looks whether to go on, between two frames.
    #[must_use]
    pub fn stopped(&self) -> bool {
        if self.inner.cancel.is_cancelled() {
            self.fail(Error::Cancelled);
        }
        self.inner.stopped.load(Ordering::SeqCst)
    }

    /// Ends when everybody is to stop; for `select!`.
    pub async fn wait(&self) {
        loop {
            let woken = self.inner.wake.notified();
            if self.stopped() {
                return;
            }
            tokio::select! {
                () = woken => {}
                () = self.inner.cancel.cancelled() => {}
            }
        }
    }

    /// What it all came to.
    ///
    /// # Errors
    /// The first failure.
    pub fn result(&self) -> Result<(), Error> {
        match self.inner.first.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

/// Stops everybody when dropped: an install whose future is dropped must not go on writing in its threads.
#[derive(Debug)]
pub struct StopOnDrop(pub Halt);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.fail(Error::Cancelled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_failure_wins_and_wakes() {
        let cancel = Cancel::new();
        let halt = Halt::new(&cancel);
        assert!(!halt.stopped());
        halt.result().unwrap();
        let waiting = tokio::spawn({
            let halt = halt.clone();
            async move { halt.wait().await }
        });
        cancel.cancel();
        waiting.await.unwrap();
        halt.fail(Error::Lost("later".into()));
        assert!(matches!(halt.result(), Err(Error::Cancelled)));
    }
}
