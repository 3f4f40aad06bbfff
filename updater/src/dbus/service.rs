//! The service `org.flipside.Updater1`: properties, methods, jobs. Reading is open to all, changes go through the
//! [`Authorizer`].
//!
//! Every reading answers from the newest status, so it never waits for an install.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bundle::digest::Digest;
use bundle::reason::Reason;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use updater_core::event::Command;
use updater_core::release::{Intent, Source};
use updater_core::slot::SlotId;
use updater_core::status::StateName;
use zbus::message::{Flags, Header};
use zbus::object_server::{ObjectServer, SignalEmitter};
use zbus::{Connection, Fd, OwnedObjectPath, OwnedVariant, interface};

use super::PATH;
use super::authorize::{Action, Authorizer};
use super::error::Refused;
use super::job::{self, Job, JobEnd};
use super::values::{self, Dict};
use crate::engine::{self, Handle, Reply};
use crate::handed::Handed;

/// Ended jobs that can still be read.
const JOBS_KEPT: u64 = 8;

/// The tasks that wait for the end of a job. Each holds the connection and, through it, the engine. Clones share.
#[derive(Debug, Clone)]
pub struct Waiters(Arc<Mutex<Option<Vec<AbortHandle>>>>);

impl Default for Waiters {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Some(Vec::new()))))
    }
}

impl Waiters {
    fn add(&self, waiter: AbortHandle) {
        match &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(all) => {
                all.retain(|waiter| !waiter.is_finished());
                all.push(waiter);
            }
            // For a call that came as the daemon was leaving.
            None => waiter.abort(),
        }
    }

    /// Waits no longer, for none.
    pub fn end(&self) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        all.iter().flatten().for_each(AbortHandle::abort);
    }
}

/// The service object.
pub struct Updater1 {
    engine: Handle,
    authorizer: Authorizer,
    handed: Handed,
    waiters: Waiters,
    next_job: AtomicU64,
}

impl Updater1 {
    /// Over this engine; who waits for a job is among `waiters`.
    #[must_use]
    pub fn new(engine: Handle, authorizer: Authorizer, handed: Handed, waiters: Waiters) -> Self {
        Self { engine, authorizer, handed, waiters, next_job: AtomicU64::new(1) }
    }
}

/// Asks the engine for a change.
pub(super) async fn change(engine: &Handle, command: Command) -> Result<(), Refused> {
    match engine.ask(engine::Command::Change(command)).await {
        Ok(Reply::Refused(refusal)) => Err(refusal.into()),
        Ok(_) => Ok(()),
        Err(gone) => Err(Refused::new(Reason::Internal, gone.to_string())),
    }
}

#[interface(name = "org.flipside.Updater1", introspection_docs = false)]
impl Updater1 {
    async fn check(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<(), Refused> {
        self.authorizer.allow(connection, &call, Action::Check).await?;
        // Who is ready to be asked for a password is a person; a timer is not, and waits out a backoff.
        let by_operator = call.primary().flags().contains(Flags::ALLOW_INTERACTIVE_AUTH);
        change(&self.engine, Command::Check { by_operator }).await
    }

    #[zbus(out_args("job"))]
    async fn install(
        &self,
        source: &str,
        mut options: HashMap<String, OwnedVariant>,
        #[zbus(connection)] connection: &Connection,
        #[zbus(object_server)] server: &ObjectServer,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<OwnedObjectPath, Refused> {
        self.authorizer.allow(connection, &call, Action::Install).await?;
        let file = options.remove("file").map(opened).transpose()?;
        let intent = intent(options)?;
        if file.is_some() && (source.is_empty() || source.contains("://")) {
            return Err(Refused::new(Reason::Malformed, "option file goes with a path, or - for standard input"));
        }
        // Before the engine is asked, because it opens the source at once.
        let before = self.handed.replace(source, file);
        let accepted = change(&self.engine, Command::Install { source: parse_source(source), intent }).await;
        if accepted.is_err() {
            self.handed.restore(before);
        }
        accepted?;
        self.begin_job(connection, server).await.map_err(|e| Refused::new(Reason::Internal, e.to_string()))
    }

    async fn activate(
        &self,
        slot: &str,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<(), Refused> {
        self.authorizer.allow(connection, &call, Action::Activate).await?;
        change(&self.engine, Command::Activate { slot: parse_slot(slot)? }).await
    }

    async fn reboot(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<(), Refused> {
        self.authorizer.allow(connection, &call, Action::Reboot).await?;
        change(&self.engine, Command::Reboot).await
    }

    async fn confirm(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<(), Refused> {
        self.authorizer.allow(connection, &call, Action::Confirm).await?;
        change(&self.engine, Command::Confirm).await
    }

    async fn rollback(
        &self,
        reason: &str,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<(), Refused> {
        self.authorizer.allow(connection, &call, Action::Rollback).await?;
        change(&self.engine, Command::Rollback { reason: reason.to_owned() }).await
    }

    async fn reject(
        &self,
        slot: &str,
        reason: &str,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<(), Refused> {
        self.authorizer.allow(connection, &call, Action::Rollback).await?;
        change(&self.engine, Command::Reject { slot: parse_slot(slot)?, reason: reason.to_owned() }).await
    }

    async fn cancel(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<(), Refused> {
        self.authorizer.allow(connection, &call, Action::Cancel).await?;
        change(&self.engine, Command::Cancel).await
    }

    async fn retry(
        &self,
        manifest: &str,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<(), Refused> {
        self.authorizer.allow(connection, &call, Action::Install).await?;
        let manifest = if manifest.is_empty() { None } else { Some(parse_digest(manifest)?) };
        change(&self.engine, Command::Retry { manifest }).await
    }

    #[zbus(out_args("explanation"))]
    async fn explain(&self) -> Result<Dict, Refused> {
        let explanation = match self.engine.ask(engine::Command::Explain).await {
            Ok(Reply::Explained(explanation)) => explanation,
            Ok(Reply::Refused(refusal)) => return Err(refusal.into()),
            Ok(_) => return Err(Refused::new(Reason::Internal, "an answer to another question")),
            Err(gone) => return Err(Refused::new(Reason::Internal, gone.to_string())),
        };
        let mut dict = values::dict(&explanation);
        // The two whole documents, versioned, for programs that want all of it in one call.
        for (name, json) in [
            ("status_json", serde_json::to_string(&self.engine.status())),
            ("explanation_json", serde_json::to_string(&explanation)),
        ] {
            let json = json.map_err(|e| Refused::new(Reason::Internal, e.to_string()))?;
            dict.insert(name.to_owned(), zbus::Str::from(json).into());
        }
        Ok(dict)
    }

    #[zbus(out_args("outcomes"))]
    async fn history(&self) -> Result<Vec<Dict>, Refused> {
        match self.engine.ask(engine::Command::History).await {
            Ok(Reply::History(outcomes)) => Ok(outcomes.iter().map(values::dict).collect()),
            Ok(_) => Err(Refused::new(Reason::Internal, "an answer to another question")),
            Err(gone) => Err(Refused::new(Reason::Internal, gone.to_string())),
        }
    }

    #[zbus(property)]
    fn state(&self) -> &'static str {
        self.engine.status.borrow().state.as_str()
    }

    #[zbus(property)]
    fn operation(&self) -> String {
        values::operation(&self.engine.status.borrow())
    }

    #[zbus(property)]
    fn progress(&self) -> values::Progress {
        values::progress(&self.engine.status.borrow())
    }

    #[zbus(property)]
    fn booted_slot(&self) -> String {
        values::booted_slot(&self.engine.status.borrow())
    }

    #[zbus(property)]
    fn slots(&self) -> Dict {
        values::dict(&self.engine.status.borrow().slots)
    }

    #[zbus(property)]
    fn release(&self) -> Dict {
        values::dict(&self.engine.status.borrow().release)
    }

    #[zbus(property)]
    fn last_error(&self) -> Dict {
        values::dict(&values::last_error(&self.engine.status.borrow()))
    }

    #[zbus(property)]
    fn last_outcome(&self) -> Dict {
        values::dict(&self.engine.status.borrow().last_outcome)
    }

    #[zbus(property)]
    fn next_check(&self) -> u64 {
        values::next_check(&self.engine.status.borrow())
    }

    #[zbus(property)]
    fn approval_age(&self) -> u64 {
        self.engine.status.borrow().approval_age.unwrap_or(values::UNKNOWN)
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> String {
        self.engine.status.borrow().version.clone()
    }
}

impl Updater1 {
    /// Serves a job object and watches it in the background.
    async fn begin_job(&self, connection: &Connection, server: &ObjectServer) -> zbus::Result<OwnedObjectPath> {
        let number = self.next_job.fetch_add(1, Ordering::Relaxed);
        let path = job_path(number)?;
        let (ended, end) = watch::channel(None);
        let job = Job { engine: self.engine.clone(), authorizer: self.authorizer.clone(), end };
        server.at(&path, job).await?;
        if let Some(old) = number.checked_sub(JOBS_KEPT) {
            server.remove::<Job, _>(job_path(old)?).await?;
        }
        let (status, connection, at) = (self.engine.status.clone(), connection.clone(), path.clone());
        let handed = self.handed.clone();
        let waiter = tokio::spawn(async move {
            let end = job::wait_for_end(status.clone()).await;
            // An update that only waits for its hour still needs what came with the request.
            if !needs_source(status.borrow().state) {
                handed.clear();
            }
            ended.send_replace(Some(end.clone()));
            if let Err(e) = announce_end(&connection, &at, &end).await {
                tracing::debug!(error = %e, "the end of a job could not be announced");
            }
        });
        self.waiters.add(waiter.abort_handle());
        Ok(path)
    }
}

/// Whether an update in this state will read its bundle.
#[must_use]
pub fn needs_source(state: StateName) -> bool {
    use StateName::{Approved, Checking, Offered, Verifying, Writing};
    matches!(state, Checking | Offered | Approved | Writing | Verifying)
}

fn job_path(number: u64) -> zbus::Result<OwnedObjectPath> {
    OwnedObjectPath::try_from(format!("{PATH}/job/{number}"))
}

async fn announce_end(connection: &Connection, path: &OwnedObjectPath, end: &JobEnd) -> zbus::Result<()> {
    let emitter = SignalEmitter::new(connection, path)?;
    let job = connection.object_server().interface::<_, Job>(path).await?;
    let job = job.get().await;
    job.state_changed(&emitter).await?;
    job.result_changed(&emitter).await?;
    job.detail_changed(&emitter).await?;
    Job::finished(&emitter, &end.result, &end.detail).await
}

/// Empty: what is offered. `http(s)://…`: from there. Everything else is a file or pipe on this device.
fn parse_source(text: &str) -> Option<Source> {
    match text {
        "" => None,
        url if url.starts_with("http://") || url.starts_with("https://") => Some(Source::Urls(vec![url.to_owned()])),
        path => Some(Source::Path(path.to_owned())),
    }
}

fn parse_slot(text: &str) -> Result<SlotId, Refused> {
    text.parse().map_err(|e: updater_core::slot::ParseSlotError| Refused::new(Reason::SlotUnknown, e.to_string()))
}

fn parse_digest(text: &str) -> Result<Digest, Refused> {
    text.parse().map_err(|_| Refused::new(Reason::Malformed, "a manifest digest has 64 hexadecimal digits"))
}

/// The file that a caller opened for us.
fn opened(option: OwnedVariant) -> Result<File, Refused> {
    let no = |e: &dyn std::fmt::Display| Refused::new(Reason::Malformed, format!("option file: {e}"));
    let fd = Fd::try_from(option).map_err(|e| no(&e))?;
    let fd = OwnedFd::try_from(fd).map_err(|e| no(&e))?;
    Ok(File::from(fd))
}

/// Reads the options of `Install`. An unknown one is refused: silently ignoring `force` would be a surprise.
fn intent(options: HashMap<String, OwnedVariant>) -> Result<Intent, Refused> {
    // An install by hand stages whatever the mode says; that is what the caller asked for.
    let mut intent = Intent { stage: true, ..Intent::default() };
    for (name, value) in options {
        let flag = bool::try_from(value);
        let flag = flag.map_err(|_| Refused::new(Reason::Malformed, format!("option {name} is not a boolean")))?;
        match name.as_str() {
            "activate" => intent.activate |= flag,
            "reboot" => {
                intent.reboot = flag;
                // One can only reboot into what was switched to.
                intent.activate |= flag;
            }
            "force" => intent.force = flag,
            _ => return Err(Refused::new(Reason::Malformed, format!("unknown option {name}"))),
        }
    }
    Ok(intent)
}
