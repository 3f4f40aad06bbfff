//! Jobs: a long request as an object of its own, with `Cancel` and a result.

use tokio::sync::watch;
use updater_core::event::Command;
use updater_core::status::{StateName, Status};
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, interface};

use super::authorize::{Action, Authorizer};
use super::error::Refused;
use super::service::change;
use crate::engine::Handle;

/// Result of a job that went well.
pub const OK: &str = "ok";

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobEnd {
    /// `ok` or a reason code.
    pub result: String,
    /// A sentence; empty when it went well.
    pub detail: String,
}

/// One request to install, as an object on the bus.
pub(super) struct Job {
    pub engine: Handle,
    pub authorizer: Authorizer,
    pub end: watch::Receiver<Option<JobEnd>>,
}

#[interface(name = "org.flipside.Updater1.Job", introspection_docs = false)]
impl Job {
    /// Stops the request as soon as it can be stopped. It still ends with a result.
    async fn cancel(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<(), Refused> {
        self.authorizer.allow(connection, &call, Action::Cancel).await?;
        if self.end.borrow().is_some() {
            return Ok(());
        }
        change(&self.engine, Command::Cancel).await
    }

    /// `running` or `done`.
    #[zbus(property)]
    fn state(&self) -> &'static str {
        if self.end.borrow().is_some() { "done" } else { "running" }
    }

    /// Empty while running, then `ok` or a reason code.
    #[zbus(property)]
    fn result(&self) -> String {
        self.end.borrow().as_ref().map(|e| e.result.clone()).unwrap_or_default()
    }

    /// A sentence about the result.
    #[zbus(property)]
    fn detail(&self) -> String {
        self.end.borrow().as_ref().map(|e| e.detail.clone()).unwrap_or_default()
    }

    /// The job has ended.
    #[zbus(signal)]
    pub(super) async fn finished(emitter: &SignalEmitter<'_>, result: &str, detail: &str) -> zbus::Result<()>;
}

/// Waits until what was begun is over.
pub(super) async fn wait_for_end(mut status: watch::Receiver<Status>) -> JobEnd {
    loop {
        if let Some(end) = end_of(&status.borrow_and_update()) {
            return end;
        }
        if status.changed().await.is_err() {
            return JobEnd { result: "internal".into(), detail: "the daemon leaves".into() };
        }
    }
}

/// What a picture says about a request to install; none while it goes on.
pub(crate) fn end_of(status: &Status) -> Option<JobEnd> {
    match status.state {
        StateName::Checking | StateName::Approved | StateName::Writing | StateName::Verifying => None,
        StateName::Staged | StateName::Armed | StateName::Trying | StateName::Good => {
            Some(JobEnd { result: OK.into(), detail: String::new() })
        }
        // At rest on the way is an end only when nothing is being done: between two steps there is an operation.
        _ if status.operation.is_some() => None,
        _ => Some(super::values::last_error(status).map_or_else(
            || JobEnd { result: "cancelled".into(), detail: "it is no longer under way".into() },
            |p| JobEnd { result: p.reason.code().into(), detail: p.detail },
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dbus::testing;
    use bundle::reason::Reason;
    use updater_core::status::Problem;

    #[test]
    fn a_job_ends_staged_or_with_the_reason() {
        let mut status = testing::status();
        status.state = StateName::Writing;
        assert_eq!(end_of(&status), None);
        status.state = StateName::Offered;
        status.operation = Some("asking".into());
        assert_eq!(end_of(&status), None);
        status.operation = None;
        status.waiting = Some(Problem { reason: Reason::NoSpace, detail: "full".into(), at: None, until: None });
        assert_eq!(end_of(&status).unwrap().result, "no_space");
        status.state = StateName::Staged;
        assert_eq!(end_of(&status).unwrap().result, OK);
    }
}
