//! Is the running system well? One look: its configuration, systemd's units and the executables in the check folders.
//!
//! Asks systemd over D-Bus and runs programs; decides nothing about the slot (the core does: strikes, soak, deadline).

pub mod configuration;
pub mod evidence;
pub mod folders;
pub mod program;
pub mod units;

use std::path::PathBuf;

use updater_core::event::{HealthCheck, HealthReport, Verdict};

use crate::config;
use crate::dbus::Bus;
use crate::seams::{BoxFuture, HealthProbe};

/// The health of this system.
#[derive(Debug, Clone)]
pub struct SystemHealth {
    /// `/` on the device.
    pub root: PathBuf,
    /// What must hold.
    pub config: config::Health,
    /// What is wrong with the configuration.
    pub findings: Vec<config::Finding>,
    /// Where systemd is asked; none: there is no systemd to ask (`--sim`), units are not looked at.
    pub systemd: Systemd,
}

/// How systemd can be asked.
#[derive(Debug, Clone)]
pub enum Systemd {
    /// Over this bus.
    Bus(Bus),
    /// It should be there and is not: a required check that can not be run has failed.
    Unreachable,
    /// A simulated device has none.
    Absent,
}

impl HealthProbe for SystemHealth {
    fn check(&self) -> BoxFuture<'_, HealthReport> {
        Box::pin(async move {
            let mut checks = configuration::judge(&self.root, &self.findings);
            let (units, starting) = self.units().await;
            checks.extend(units);
            checks.extend(self.programs(folders::find(&self.root), starting).await);
            HealthReport { checks }
        })
    }

    fn network(&self) -> BoxFuture<'_, HealthReport> {
        let checks = folders::find(&self.root).into_iter().filter(folders::Check::needs_network).collect();
        Box::pin(async move { HealthReport { checks: self.programs(checks, false).await } })
    }
}

impl SystemHealth {
    /// The unit checks, and whether systemd is still starting things.
    async fn units(&self) -> (Vec<HealthCheck>, bool) {
        match &self.systemd {
            Systemd::Absent => (Vec::new(), false),
            Systemd::Unreachable => (vec![units::unreachable("no bus to ask systemd over")], false),
            Systemd::Bus(bus) => match units::look(bus, &self.config).await {
                Ok(facts) => (units::judge(&facts, &self.config), units::is_starting(&facts)),
                Err(e) => (vec![units::unreachable(&crate::system::chain(&e))], false),
            },
        }
    }

    /// Runs all of them at once: a slow one must not eat the time of the others.
    async fn programs(&self, found: Vec<folders::Check>, starting: bool) -> Vec<HealthCheck> {
        let mut tasks = tokio::task::JoinSet::new();
        for check in found {
            let limit = self.config.check_timeout;
            tasks.spawn(async move {
                let run = program::run(&check.path, &[], limit).await;
                (check, run)
            });
        }
        let mut checks = Vec::new();
        while let Some(done) = tasks.join_next().await {
            match done {
                Ok((check, run)) => checks.push(judge_program(check, run, starting)),
                Err(e) => checks.push(HealthCheck {
                    name: "program".into(),
                    required: true,
                    verdict: Verdict::Failed,
                    detail: format!("running a check: {e}"),
                    restarts: 0,
                }),
            }
        }
        checks.sort_by(|a, b| a.name.cmp(&b.name));
        checks
    }
}

/// `EX_TEMPFAIL` of sysexits.h: "not yet" in the words of a check.
const NOT_YET: i32 = 75;

fn judge_program(check: folders::Check, run: program::Run, starting: bool) -> HealthCheck {
    let verdict = match run.end {
        program::End::Exited(0) => Verdict::Passed,
        program::End::Exited(NOT_YET) => Verdict::Pending,
        // While units are still being started, an application that is not up yet is no news.
        program::End::Exited(_) if starting => Verdict::Pending,
        _ => Verdict::Failed,
    };
    let detail = if verdict == Verdict::Passed { String::new() } else { run.sentence() };
    HealthCheck { name: format!("program:{}", check.name), required: check.required, verdict, detail, restarts: 0 }
}

#[cfg(test)]
mod tests;
