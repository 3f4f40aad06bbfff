//! Serves the objects, takes the name, and tells listeners what changed.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use updater_core::status::Status;
use zbus::names::InterfaceName;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, connection, fdo};

use super::authorize::Authorizer;
use super::service::{Updater1, Waiters};
use super::{BusError, NAME, PATH, values};
use crate::engine::Handle;
use crate::handed::Handed;

/// Least time between two signals that carry progress alone: a bar needs no more, and each one wakes every listener.
const PROGRESS_PAUSE: Duration = Duration::from_millis(250);
/// Generous, because a person may be asked for a password in between.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(180);

/// Longest wait for calls in flight when leaving.
const FAREWELL: Duration = Duration::from_secs(5);

/// A served bus name.
#[derive(Debug)]
pub struct Service {
    connection: Connection,
    authorizer: Authorizer,
    waiters: Waiters,
    announcer: tokio::task::JoinHandle<()>,
}

/// Serves the engine on the bus at `builder`; files that come with a request go into `handed`. The objects are there
/// before the name is, so nobody can call into a void.
///
/// # Errors
/// No bus, or the name is taken.
pub async fn serve(
    builder: connection::Builder<'_>,
    engine: Handle,
    authorizer: Authorizer,
    handed: Handed,
) -> Result<Service, BusError> {
    let (status, waiters) = (engine.status.clone(), Waiters::default());
    let connection = builder
        .method_timeout(CALL_TIMEOUT)
        .serve_at(PATH, Updater1::new(engine, authorizer.clone(), handed, waiters.clone()))
        .build()
        .await
        .map_err(BusError::Connect)?;
    let failed =
        |source| BusError::Call { peer: "org.freedesktop.DBus", what: "the name org.flipside.Updater1", source };
    // Never in a queue: two engines on one device must not wait for each other to die.
    connection.request_name_with_flags(NAME, fdo::RequestNameFlags::DO_NOT_QUEUE).await.map_err(failed)?;
    let announcer = tokio::spawn(announce(connection.clone(), status));
    Ok(Service { connection, authorizer, waiters, announcer })
}

impl Service {
    /// The connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Ends after `quiet` without a message in either direction and without a caller who waits for permission.
    pub async fn quiet(&self, quiet: Duration) {
        while tokio::time::timeout(quiet, self.connection.monitor_activity()).await.is_ok()
            || self.authorizer.is_asking()
        {}
    }

    /// Gives the name back, answers what is still in flight, and leaves. A call that comes later starts a new daemon.
    pub async fn leave(self) {
        if let Err(e) = self.connection.release_name(NAME).await {
            tracing::debug!(error = %e, "the name could not be released");
        }
        // They hold the connection, which ends only with the last of its holders.
        self.waiters.end();
        self.announcer.abort();
        let _ = self.announcer.await;
        let _ = tokio::time::timeout(FAREWELL, self.connection.graceful_shutdown()).await;
    }
}

/// Sends `PropertiesChanged` for what differs from picture to picture.
async fn announce(connection: Connection, mut status: watch::Receiver<Status>) {
    let mut shown = status.borrow_and_update().clone();
    let mut last_progress = Instant::now();
    while status.changed().await.is_ok() {
        let mut next = status.borrow_and_update().clone();
        if only_progress(&shown, &next) {
            // The newest picture after the pause; a change of state in between goes out at once.
            let pause = tokio::time::sleep_until(last_progress + PROGRESS_PAUSE);
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    changed = status.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        next = status.borrow_and_update().clone();
                        if !only_progress(&shown, &next) {
                            break;
                        }
                    }
                }
            }
            last_progress = Instant::now();
        }
        if let Err(e) = send(&connection, &shown, &next).await {
            tracing::debug!(error = %e, "a change could not be announced");
        }
        shown = next;
    }
}

fn only_progress(a: &Status, b: &Status) -> bool {
    let (mut a, mut b) = (values::timeless(a), values::timeless(b));
    (a.progress, b.progress) = (None, None);
    a == b
}

async fn send(connection: &Connection, old: &Status, new: &Status) -> zbus::Result<()> {
    // That time passes is no news, and would keep a daemon that is watched from ever being idle.
    if values::timeless(old) == values::timeless(new) {
        return Ok(());
    }
    let changed: HashMap<_, _> = values::CHANGING
        .iter()
        .filter_map(|name| {
            let value = values::property(new, name)?;
            (values::property(old, name).as_ref() != Some(&value)).then_some((*name, value))
        })
        .collect();
    if changed.is_empty() {
        return Ok(());
    }
    let emitter = SignalEmitter::new(connection, PATH)?;
    fdo::Properties::properties_changed(
        &emitter,
        InterfaceName::from_static_str_unchecked(NAME),
        changed,
        Cow::Borrowed(&[]),
    )
    .await
}
