//! Runs one scenario: the world it happens in, from an empty folder to the invariants.
//!
//! Touches a folder of its own under TMPDIR, the cache of kept states beside the images, and, when it fails, the
//! evidence folder. The steps themselves are in `steps`, waiting for conditions in `watch`, and what belongs to one of
//! several appliances in `appliance`.

mod appliance;
mod replay;
mod state;
mod steps;
mod watch;

use std::collections::BTreeMap;
use std::fs;
use std::iter;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, anyhow};

use crate::disk::{Disk, run as run_tool};
use crate::evidence;
use crate::invariants::{DiskFacts, Sums, World, check_all};
use crate::machine::Machine;
use crate::qemu::Spec;
use crate::scenario::{FACTORY, FIRST, Scenario, patience};
use crate::scratch::Scratch;
use crate::seed;
use crate::server::{Count, Server};
use crate::site::Site;
use crate::timeline::Timeline;
use crate::workshop::{Published, Workshop};

use appliance::Appliance;
pub use state::scenario_folder;

/// Everything a running scenario has.
pub struct Run<'a> {
    site: &'a Site,
    scenario: &'a Scenario,
    name: &'a str,
    dir: Scratch,
    server: Server,
    workshop: Workshop<'a>,
    /// The appliance that the present step is about.
    here: Appliance,
    /// The others, in no order.
    others: Vec<Appliance>,
    published: Vec<Published>,
    /// What had been sent when the server last changed its ways.
    sent_before: BTreeMap<String, Count>,
    timeline: Timeline,
}

/// Scenarios that passed in this process, and the boots they took.
static PASSED: AtomicUsize = AtomicUsize::new(0);
static BOOTS: AtomicUsize = AtomicUsize::new(0);

/// How many scenarios passed so far, one that only makes a state for others included, and how many boots they took.
#[must_use]
pub fn totals() -> (usize, usize) {
    (PASSED.load(Ordering::Relaxed), BOOTS.load(Ordering::Relaxed))
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
    let dir = Scratch::new("flipside-vm-")?;
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
    let base = if scenario.from == FACTORY {
        seed::make(&site.factory_disk(), dir.path(), &settings)?
    } else {
        state.join("disk.qcow2")
    };
    let spec = |machine: &str| {
        let mut spec: Spec = site.spec(name, &dir.path().join(machine), &base);
        spec.resume = (scenario.from != FACTORY).then(|| state.clone());
        spec.record = scenario.record_disk.then(|| dir.path().join("disk.log"));
        spec
    };
    let appliance = |machine| Appliance::new(machine, scenario.bucket(machine), settings.clone(), spec(machine));
    let here = appliance(FIRST);
    let others = scenario.other_machines().map(appliance).collect();
    let timeline = Timeline::new(name);
    let (published, sent_before) = (Vec::new(), BTreeMap::new());
    Ok(Run { site, scenario, name, dir, server, workshop, here, others, published, sent_before, timeline })
}

/// Copies a folder; what is large in it is shared where the file system can.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    run_tool(Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(to)).context("copy the served files")?;
    Ok(())
}

/// The device's settings: where the server is, and what the scenario wants. A good system is not left because the host
/// is busy, so health has long to come; what is to fail, fails by its strikes, or says a deadline of its own.
fn settings(url: &str, wanted: &toml::Table) -> Result<String> {
    let mut all: toml::Table = toml::from_str(&format!(
        "[source]\nurl = \"{url}\"\n[approval]\nurls = [\"{url}\"]\n[health]\ndeadline_seconds = {}\n",
        patience()
    ))?;
    merge(&mut all, wanted);
    Ok(toml::to_string(&all)?.replace("@URL@", url))
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
        // They all start from one disk.
        let before = DiskFacts::read(&Disk::copy_of(&self.here.spec.base)?, self.site)?;
        for (index, line) in self.scenario.steps.iter().enumerate() {
            let what = line.to_string();
            self.timeline.note(&what);
            let done = self.go_to(line.machine()).and_then(|()| self.step(&line.step));
            done.with_context(|| format!("step {}: {what}", index + 1))?;
        }
        let mut boots = 0;
        for machine in self.scenario.machines() {
            self.timeline.note(&format!("invariants of the {machine} machine"));
            self.go_to(machine)?;
            self.invariants(&sums, before.clone(), keep).with_context(|| format!("the {machine} machine"))?;
            boots += self.here.boots;
        }
        let seconds = self.timeline.elapsed().as_secs();
        eprintln!("{}::{}: passed in {seconds} s, {boots} boots", self.site.variant, self.name);
        PASSED.fetch_add(1, Ordering::Relaxed);
        BOOTS.fetch_add(boots, Ordering::Relaxed);
        Ok(())
    }

    /// Ends the machine and looks at what it said last and at its disk.
    fn invariants(&mut self, sums: &Sums, before: DiskFacts, keep: Option<&Path>) -> Result<()> {
        let said = self.here.said()?;
        self.here.end(keep)?;
        if let Some(folder) = keep {
            copy_tree(self.workshop.www(), &folder.join(state::SERVED))?;
        }
        let after = DiskFacts::read(&Disk::copy_of(&self.here.spec.overlay())?, self.site)?;
        let world = World { sums, before, after, said, approved: self.here.approved.clone() };
        check_all(&world, &self.scenario.skip_invariants)
    }

    /// From now on it is about this appliance.
    fn go_to(&mut self, machine: &str) -> Result<()> {
        if self.here.name != machine {
            let other = self.others.iter_mut().find(|other| other.name == machine);
            std::mem::swap(&mut self.here, other.with_context(|| format!("no machine is called {machine}"))?);
        }
        Ok(())
    }

    fn machine(&mut self) -> Result<&mut Machine> {
        self.here.machine()
    }

    /// Saves the evidence and says where it is.
    fn fail(&mut self, error: anyhow::Error) -> anyhow::Error {
        let folder = match evidence::folder(&self.site.evidence, &format!("{}-{}", self.site.variant, self.name)) {
            Ok(folder) => folder,
            Err(e) => return error.context(format!("and no evidence: {e:#}")),
        };
        for appliance in iter::once(&mut self.here).chain(&mut self.others) {
            // One machine's evidence lies on top; several have a folder each.
            let own = match self.scenario.machines.is_empty() {
                true => Ok(folder.clone()),
                false => evidence::folder(&folder, &appliance.name),
            };
            match own {
                Ok(own) => appliance.leave_evidence(&own),
                Err(e) => self.timeline.note(&format!("no evidence of {}: {e:#}", appliance.name)),
            }
        }
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
        let wanted = toml::from_str("[approval]\nmax = 3\n[source]\nurl = 'x'\n[report]\nurl = '@URL@/r'").unwrap();
        let all: toml::Table = toml::from_str(&settings("http://h", &wanted).unwrap()).unwrap();
        assert_eq!(all["source"]["url"].as_str(), Some("x"));
        assert_eq!(all["approval"]["max"].as_integer(), Some(3));
        assert_eq!(all["approval"]["urls"][0].as_str(), Some("http://h"));
        assert_eq!(all["report"]["url"].as_str(), Some("http://h/r"));
        assert_eq!(all["health"]["deadline_seconds"].as_integer(), Some(900));
    }
}
