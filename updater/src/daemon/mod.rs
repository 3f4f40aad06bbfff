//! The daemon: wires configuration, adapters, engine and bus, and leaves when nothing is left to do.
//!
//! The engine runs without a bus too, or on one that refuses us: health, confirmation and fallback must not depend on one.

pub mod device;
mod seams;
mod served;
mod sim;
#[cfg(test)]
mod tests;

use std::time::Duration;

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use updater_core::status::{StateName, Status};

use crate::config::Severity;
use crate::dbus::announce::{Service, serve};
use crate::dbus::authorize::Authorizer;
use crate::dbus::service::needs_source;
use crate::dbus::{self, Bus, BusError};
use crate::engine::{self, Command, Handle};
use crate::handed::Handed;
use crate::store::lock::{self, Lock};
use crate::system::notify::{Notifier, watchdog_interval};
use crate::system::{chain, log};
use device::Device;
use seams::Assembled;
pub use seams::{http_settings, trust};

/// What the engine may take to end what it is in the middle of, when we leave.
const LAST_STEP: Duration = Duration::from_secs(20);
/// A bus that takes longer counts as none. Whoever started us over the bus waits 25 s.
const BUS_PATIENCE: Duration = Duration::from_secs(10);
/// Nobody may ask for this long before a daemon that is idle leaves, unless told otherwise.
const AT_LEAST_QUIET: Duration = Duration::from_secs(1);

/// How to run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Leave after this long without anything to do; none: stay.
    pub idle_exit: Option<Duration>,
    /// Say more in the log.
    pub debug: bool,
}

impl Options {
    /// From the command line; 0 seconds: stay.
    #[must_use]
    pub fn new(idle_exit_seconds: u64, debug: bool) -> Self {
        let idle_exit = (idle_exit_seconds > 0).then(|| Duration::from_secs(idle_exit_seconds).max(AT_LEAST_QUIET));
        Self { idle_exit, debug }
    }
}

/// Why the daemon ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nothing is left to do.
    Idle,
    /// The service manager or an operator said so.
    Told,
    /// A simulated device restarts.
    Restart,
}

/// Runs until there is nothing to do, or told to stop.
///
/// # Errors
/// Another updater runs, or the engine ended badly.
pub async fn run(device: Device, options: Options) -> anyhow::Result<()> {
    log::install(if options.debug { tracing::Level::DEBUG } else { tracing::Level::INFO });
    tell_findings(&device);
    let _lock = alone(&device)?;
    let notifier = Notifier::from_env();
    let bus = unless_it_fails("going on without a bus", Bus::connect(dbus::builder(device.simulated))).await;
    // Health, confirmation and fallback must not depend on a bus: without one, systemd is asked directly.
    let host = match &bus {
        _ if device.simulated => None,
        Some(bus) => Some(bus.clone()),
        None => unless_it_fails("systemd can not be asked", Bus::systemd()).await,
    };
    let Assembled { seams, restart, poster, handed } = seams::assemble(&device, host);
    // Ends with the process; what it has not delivered stays in the spool.
    if let Some(poster) = poster {
        tokio::spawn(poster.run());
    }
    let (engine, task) = engine::spawn(device.setup(), seams).await;
    let kept = handed.clone();
    let service = match &bus {
        Some(_) => {
            // There is one engine, by the lock. If the bus will not have us, nobody can ask it, and it works all the same.
            let served = serve(dbus::builder(device.simulated), engine.clone(), authorizer(&device), handed);
            unless_it_fails("nobody can ask over the bus", served).await
        }
        None => None,
    };
    // Ready only now: whoever was waiting for us may call at once.
    notifier.ready();
    let end = tokio::select! {
        end = idle(&engine, service.as_ref(), &kept, options.idle_exit) => end,
        end = told() => end?,
        () = feed_watchdog(&engine, &notifier, watchdog_interval()) => bail!("the engine does not answer"),
        () = tell_status(&engine, &notifier, bus.as_ref().filter(|_| !device.simulated)) => bail!("the engine has ended"),
        () = restart.wait() => End::Restart,
    };
    tracing::debug!(?end, "leaving");
    notifier.stopping();
    let limit = tokio::time::Instant::now() + LAST_STEP;
    if let Some(service) = service {
        service.leave().await;
        if end == End::Idle {
            // A call that came in between was taken: as far as it gets, and then from the journal.
            let mut idle = engine.idle.clone();
            let _ = tokio::time::timeout_at(limit, idle.wait_for(|idle| *idle)).await;
        }
    }
    // Ends with its last handle; what it writes is durable before each step, so nothing is lost by not waiting longer.
    drop(engine);
    let _ = tokio::time::timeout_at(limit, task).await;
    Ok(())
}

/// Two engines over one boot loader would undo each other's work. But a lock that can not be had at all says nothing of
/// another engine, and must not keep a system on trial from its confirmation or its fallback.
fn alone(device: &Device) -> anyhow::Result<Option<Lock>> {
    let path = device.lock_file();
    match lock::take(&path) {
        Ok(None) => bail!("another updater is running on this device"),
        Ok(lock) => Ok(lock),
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "going on without the lock");
            Ok(None)
        }
    }
}

fn tell_findings(device: &Device) {
    for finding in &device.loaded.findings {
        let file = finding.file.as_ref().map(|f| f.display().to_string()).unwrap_or_default();
        match finding.severity {
            Severity::Warning => tracing::warn!(file, "configuration: {}", finding.message),
            Severity::Error => tracing::error!(file, "configuration: {}", finding.message),
        }
    }
}

/// What comes of it, or a line in the log that says what its absence means.
async fn unless_it_fails<T>(otherwise: &str, asked: impl Future<Output = Result<T, BusError>>) -> Option<T> {
    match tokio::time::timeout(BUS_PATIENCE, asked).await {
        Ok(Ok(answer)) => Some(answer),
        Ok(Err(e)) => {
            tracing::warn!(error = chain(&e), "{otherwise}");
            None
        }
        Err(_) => {
            tracing::warn!(error = "no answer in time", "{otherwise}");
            None
        }
    }
}

/// On a device root may do everything; in a simulation, whoever started it.
fn authorizer(device: &Device) -> Authorizer {
    Authorizer::new(if device.simulated { nix::unistd::getuid().as_raw() } else { 0 })
}

/// Ends when the engine has nothing to do and nobody has asked for anything for a while.
async fn idle(engine: &Handle, service: Option<&Service>, handed: &Handed, quiet: Option<Duration>) -> End {
    let Some(quiet) = quiet else { return std::future::pending().await };
    let mut idle = engine.idle.clone();
    loop {
        if idle.wait_for(|idle| *idle).await.is_err() {
            return End::Idle;
        }
        let silence = async {
            match service {
                Some(service) => service.quiet(quiet).await,
                None => tokio::time::sleep(quiet).await,
            }
        };
        tokio::select! {
            // A bundle that only this process can read must not be lost while its update waits for its hour.
            () = silence => if !(handed.is_held() && needs_source(engine.status.borrow().state)) {
                return End::Idle;
            },
            _ = idle.wait_for(|idle| !*idle) => {}
        }
    }
}

async fn told() -> anyhow::Result<End> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => Ok(End::Told),
        _ = interrupt.recv() => Ok(End::Told),
    }
}

/// Feeds the service manager's watchdog as long as the engine's own loop answers; ends when it does not. `interval`: half
/// of what the service manager waits.
async fn feed_watchdog(engine: &Handle, notifier: &Notifier, interval: Option<Duration>) {
    let Some(interval) = interval else { return std::future::pending().await };
    // Slow flash may hold the loop for long. With the pause that is 1.75 intervals of the 2 that are waited for.
    let patience = interval + interval / 4;
    loop {
        let answered = tokio::time::timeout(patience, engine.ask(Command::History)).await;
        if !matches!(answered, Ok(Ok(_))) {
            return;
        }
        notifier.watchdog();
        tokio::time::sleep(interval / 2).await;
    }
}

/// One line for `systemctl status`, and what waits for a confirmation; ends with the engine.
async fn tell_status(engine: &Handle, notifier: &Notifier, bus: Option<&Bus>) {
    let mut status = engine.status.clone();
    let mut state = None;
    loop {
        let picture = status.borrow_and_update().clone();
        if state != Some(picture.state) {
            state = Some(picture.state);
            notifier.status(&line(&picture));
            if let (StateName::Good, Some(bus)) = (picture.state, bus) {
                // In the boot sequence it is on its way already; after a confirmation by hand nobody else starts it.
                if let Err(e) = bus.start_unit("flipside-confirmed.target").await {
                    tracing::debug!(error = chain(&e), "flipside-confirmed.target");
                }
            }
        }
        if status.changed().await.is_err() {
            return;
        }
    }
}

fn line(status: &Status) -> String {
    let release = status.release.as_ref().map(|r| format!(" {}", r.version)).unwrap_or_default();
    let why = status.waiting.as_ref().map(|p| format!(", {}", p.reason)).unwrap_or_default();
    format!("{}{release}{why}", status.state)
}
