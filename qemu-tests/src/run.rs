//! Runs one scenario: the world it happens in, from an empty folder to the invariants.
//!
//! Touches a folder of its own under TMPDIR, the cache of kept states beside the images, and, when it fails, the
//! evidence folder. The steps themselves are in `steps`, waiting for conditions in `watch`.

mod replay;
mod state;
mod steps;
mod watch;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::device::{self, Facts};
use crate::disk::{Disk, run as run_tool};
use crate::evidence;
use crate::invariants::{DiskFacts, Said, Sums, World, check_all};
use crate::machine::Machine;
use crate::qemu::Spec;
use crate::scenario::{FACTORY, Scenario};
use crate::seed;
use crate::server::Server;
use crate::site::Site;
use crate::timeline::Timeline;
use crate::workshop::{Published, Workshop};

pub use state::scenario_folder;

/// Everything a running scenario has.
pub struct Run<'a> {
    site: &'a Site,
    scenario: &'a Scenario,
    name: &'a str,
    // Removed with the value.
    dir: tempfile::TempDir,
    /// The device's settings, TOML.
    settings: String,
    server: Server,
    workshop: Workshop<'a>,
    /// What the machine is switched on with; the overlay in its folder is the disk.
    spec: Spec,
    /// `None`: no power.
    machine: Option<Machine>,
    published: Vec<Published>,
    approved: bool,
    /// The boot last seen.
    boot_id: Option<String>,
    /// Boots seen, for the summary.
    boots: usize,
    timeline: Timeline,
}

/// Runs a scenario; when it fails, leaves evidence and says where.
///
/// # Errors
/// A step failed, or an invariant is broken.
pub fn run(site: &Site, name: &str, scenario: &Scenario) -> Result<()> {
    match &scenario.leaves {
        Some(state) => state::produce(site, name, scenario, state),
        None => start(site, name, scenario)?.finish(None),
    }
}

/// Prepares folder, server and disk.
fn start<'a>(site: &'a Site, name: &'a str, scenario: &'a Scenario) -> Result<Run<'a>> {
    let dir = tempfile::Builder::new().prefix("flipside-vm-").tempdir()?;
    let www = dir.path().join("www");
    let state = dir.path().join("state");
    if scenario.from != FACTORY {
        state::borrow(site, &scenario.from, &state).with_context(|| format!("state {}", scenario.from))?;
        // What the device has seen published is still there: versions go on rising from it, as they must.
        copy_tree(&state.join(state::SERVED), &www)?;
    }
    let workshop = Workshop::new(site, &www)?;
    let server = Server::start(&www)?;
    let settings = settings(&server.guest_url(), &scenario.settings)?;
    let machine = dir.path().join("m");
    let spec = if scenario.from == FACTORY {
        site.spec(name, &machine, &seed::make(&site.factory_disk(), dir.path(), &settings)?)
    } else {
        let mut spec = site.spec(name, &machine, &state.join("disk.qcow2"));
        spec.resume = Some(state);
        spec
    };
    let mut spec = spec;
    spec.record = scenario.record_disk.then(|| dir.path().join("disk.log"));
    let timeline = Timeline::new(name);
    Ok(Run {
        site,
        scenario,
        name,
        dir,
        settings,
        server,
        workshop,
        spec,
        machine: None,
        published: Vec::new(),
        approved: false,
        boot_id: None,
        boots: 0,
        timeline,
    })
}

/// Copies a folder; what is large in it is shared where the file system can.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    run_tool(Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(to)).context("copy the served files")?;
    Ok(())
}

/// The device's settings: where the server is, and what the scenario wants.
fn settings(url: &str, wanted: &toml::Table) -> Result<String> {
    let mut all: toml::Table = toml::from_str(&format!("[source]\nurl = \"{url}\"\n[approval]\nurls = [\"{url}\"]\n"))?;
    merge(&mut all, wanted);
    Ok(toml::to_string(&all)?)
}

fn merge(into: &mut toml::Table, from: &toml::Table) {
    for (key, value) in from {
        match (into.get_mut(key), value) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(more)) => merge(inner, more),
            _ => {
                into.insert(key.clone(), value.clone());
            }
        }
    }
}

impl Run<'_> {
    /// All steps, then the invariants. Keeps the machine in the folder when one is given.
    fn finish(mut self, keep: Option<&Path>) -> Result<()> {
        self.all(keep).map_err(|e| self.fail(e))
    }

    fn all(&mut self, keep: Option<&Path>) -> Result<()> {
        let sums = Sums::of(self.site)?;
        let before = DiskFacts::read(&Disk::copy_of(&self.spec.base)?, self.site)?;
        for (index, step) in self.scenario.steps.iter().enumerate() {
            let what = step.to_string();
            self.timeline.note(&what);
            self.step(step).with_context(|| format!("step {}: {what}", index + 1))?;
        }
        self.timeline.note("invariants");
        let said = self.said()?;
        self.end(keep)?;
        let after = DiskFacts::read(&Disk::copy_of(&self.spec.overlay())?, self.site)?;
        let world = World { sums: &sums, before, after, said, approved: self.approved };
        check_all(&world, &self.scenario.skip_invariants)?;
        // Always shown: what the whole run costs is the sum of these.
        let seconds = self.timeline.elapsed().as_secs();
        eprintln!("{}::{}: passed in {seconds} s, {} boots", self.site.variant, self.name, self.boots);
        Ok(())
    }

    /// What the appliance says at the end.
    fn said(&mut self) -> Result<Said> {
        let agent = self.machine()?.agent();
        let memory = "p=$(pidof flipside) && for i in $p; do grep VmHWM /proc/$i/status; done | sort -k2n | tail -n 1";
        let peak = agent.shell(memory, Duration::from_secs(60))?.stdout;
        Ok(Said {
            facts: Facts::ask(agent)?,
            status: device::status(agent),
            history: device::history(agent),
            memory_kib: peak.split_whitespace().nth(1).and_then(|n| n.parse().ok()),
        })
    }

    /// Ends the machine so that its disk can be read. A sync and a power cut instead of a shutdown: it saves half a
    /// minute in each scenario.
    fn end(&mut self, keep: Option<&Path>) -> Result<()> {
        let machine = self.take_machine()?;
        machine.agent().exec(&["/bin/sync"], Duration::from_secs(120))?.ok()?;
        match keep {
            Some(folder) => {
                machine.keep(folder)?;
                copy_tree(self.workshop.www(), &folder.join(state::SERVED))
            }
            None => machine.power_cut().map(|_| ()),
        }
    }

    /// The machine, to be switched off; how often it restarted is counted here.
    fn take_machine(&mut self) -> Result<Machine> {
        let machine = self.machine.take().context("the machine has no power")?;
        self.boots += machine.resets();
        Ok(machine)
    }

    fn machine(&mut self) -> Result<&mut Machine> {
        self.machine.as_mut().context("the machine has no power: a `boot` step is missing")
    }

    /// Saves the evidence and says where it is.
    fn fail(&mut self, error: anyhow::Error) -> anyhow::Error {
        let folder = match evidence::folder(&self.site.evidence, &format!("{}-{}", self.site.variant, self.name)) {
            Ok(folder) => folder,
            Err(e) => return error.context(format!("and no evidence: {e:#}")),
        };
        if let Some(machine) = self.machine.take() {
            evidence::of_machine(&machine, &folder);
            drop(machine);
        }
        evidence::of_disk(&self.spec.dir, &self.spec.overlay(), &folder);
        let counts = self.server.counts();
        let fetched: Vec<_> = counts.iter().map(|(p, c)| format!("{:>5} {:>12} {p}\n", c.requests, c.bytes)).collect();
        let _ = fs::write(folder.join("server.txt"), fetched.concat());
        let _ = fs::write(folder.join("timeline.txt"), self.timeline.text());
        anyhow!("{error:#}\n\n{}\nevidence: {}", self.timeline.text(), folder.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_merged_by_value() {
        let wanted = toml::from_str("[approval]\nmax = 3\n[source]\nurl = 'x'").unwrap();
        let all: toml::Table = toml::from_str(&settings("http://h", &wanted).unwrap()).unwrap();
        assert_eq!(all["source"]["url"].as_str(), Some("x"));
        assert_eq!(all["approval"]["max"].as_integer(), Some(3));
        assert_eq!(all["approval"]["urls"][0].as_str(), Some("http://h"));
    }
}
