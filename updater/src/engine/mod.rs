//! The engine: turns the machine's effects into work and results into events.
//!
//! One task, one `select!` (`task`). It persists first; nothing else of a step runs until the journal is durable. Work
//! runs beside it, one piece at a time (`work`), so that commands and status questions are always answered.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use updater_core::effect::Effect;
use updater_core::event::Failure;
use updater_core::facts::BootFacts;
use updater_core::journal;
use updater_core::machine::{Machine, Setup};

use crate::seams::{
    ApprovalSource, BootControl, Clock, Evidence, HealthProbe, Inhibitors, Installer, JournalStore, Rebooter,
    Rehearsal, ReleaseSource, ReportSpool, SurroundingsProbe,
};
use crate::trust::TrustStore;

mod documents;
pub mod handle;
mod task;
mod told;
mod work;

pub use handle::{Command, EngineGone, Handle, Reply};

/// The test of boot control may hold up the start for so long. Whoever started us over the bus waits 25 s.
const SELF_TEST_LIMIT: Duration = Duration::from_secs(5);
/// Requests that may wait; more callers wait for a place.
const COMMAND_QUEUE: usize = 16;

/// Everything the engine may touch.
#[derive(Clone)]
pub struct Seams {
    /// The boot loader's state.
    pub boot: Arc<dyn BootControl>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The channel index.
    pub releases: Arc<dyn ReleaseSource>,
    /// Approvals.
    pub approvals: Arc<dyn ApprovalSource>,
    /// Inhibitors, link, battery, time zone.
    pub surroundings: Arc<dyn SurroundingsProbe>,
    /// What is kept of a failed boot.
    pub evidence: Arc<dyn Evidence>,
    /// Health of the running system.
    pub health: Arc<dyn HealthProbe>,
    /// Locks against shutdown.
    pub inhibitors: Arc<dyn Inhibitors>,
    /// Moves releases into slots.
    pub installer: Arc<dyn Installer>,
    /// Keeps the journal.
    pub journal: Arc<dyn JournalStore>,
    /// Reboots.
    pub rebooter: Arc<dyn Rebooter>,
    /// Tries the updater of a new slot.
    pub rehearsal: Arc<dyn Rehearsal>,
    /// Reports for the fleet host.
    pub reports: Arc<dyn ReportSpool>,
    /// Keys.
    pub trust: Arc<TrustStore>,
}

/// Starts the engine: reads the journal and the boot loader, decides what this start means, and goes on from there.
///
/// The task ends when every [`Handle`] is gone. An unreadable journal or boot loader does not keep it from starting.
pub async fn spawn(setup: Setup, seams: Seams) -> (Handle, JoinHandle<()>) {
    let store = Arc::clone(&seams.journal);
    let journal = work::blocking(move || load_journal(store.as_ref())).await.unwrap_or_default();
    let boot = Arc::clone(&seams.boot);
    let facts =
        work::blocking(move || boot.facts().map_err(|error| work::boot_failure(&error))).await.unwrap_or_else(Err);

    let doubt = test_boot_control(&seams.boot, &facts).await;

    let now = seams.clock.now();
    let policy = setup.policy.clone();
    let (mut machine, effects) = Machine::start(setup, journal, facts, &now);
    if let Some(failure) = doubt {
        machine.doubt_boot_control(&now, &failure);
    }
    let (commands, requests) = mpsc::channel(COMMAND_QUEUE);
    let (status_sender, status) = watch::channel(machine.status(&now));
    let (idle_sender, idle) = watch::channel(false);
    let handle = Handle { commands, status, idle };
    let task = task::Engine::new(machine, policy, seams, status_sender, idle_sender);
    (handle, tokio::spawn(task.run(effects, requests)))
}

/// Whether an update could be switched to and counted, told before one is there. Not while the running slot is on trial:
/// nothing may stand between a new system and its confirmation or its fallback.
async fn test_boot_control(boot: &Arc<dyn BootControl>, facts: &Result<BootFacts, Failure>) -> Option<Failure> {
    facts.as_ref().ok()?.confirmed_booted()?;
    let boot = Arc::clone(boot);
    let test = work::blocking(move || boot.self_test_once().map_err(|error| work::boot_failure(&error)));
    let Ok(tested) = tokio::time::timeout(SELF_TEST_LIMIT, test).await else {
        tracing::warn!("the test of boot control takes long; starting without its result");
        return None;
    };
    let failure = tested.and_then(|tested| tested).err()?;
    tracing::warn!(
        reason = %failure.reason,
        detail = failure.detail,
        "boot control does not work; no update can be installed before that is mended"
    );
    Some(failure)
}

/// The journal, or an empty one: the boot loader then tells what is going on.
fn load_journal(store: &dyn JournalStore) -> journal::Journal {
    match store.load() {
        Ok(None) => journal::Journal::default(),
        Ok(Some(bytes)) => {
            let decoded = journal::decode(&bytes);
            for loss in &decoded.lost {
                tracing::warn!(reason = %loss.reason, %loss, "part of the journal can not be used, left out");
            }
            decoded.journal
        }
        Err(error) => {
            tracing::warn!(%error, "the journal can not be read, going on from what the boot loader says");
            journal::Journal::default()
        }
    }
}

/// Splits a step's effects into what must be durable first and the rest.
fn persist_first(effects: Vec<Effect>) -> (Option<(Box<journal::Journal>, bool)>, Vec<Effect>) {
    let mut persist = None;
    let mut rest = Vec::with_capacity(effects.len());
    for effect in effects {
        match effect {
            Effect::Persist { journal, vital } => persist = Some((journal, vital)),
            other => rest.push(other),
        }
    }
    (persist, rest)
}

fn internal(detail: impl Into<String>) -> Failure {
    Failure::new(bundle::reason::Reason::Internal, detail)
}

#[cfg(test)]
mod tests;
