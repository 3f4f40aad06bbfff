//! Scenario files: what they may say.
//!
//! A scenario reads like a line of a test plan: what is done to an appliance and what must be true afterwards. The
//! words are few on purpose, and unknown ones are errors; what a word does stands in `run/`. Pure parsing.

use std::collections::BTreeMap;
use std::fs;
use std::iter;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::server::fault::Rule;

mod documents;
mod line;
mod power;
pub use documents::{Approve, Publish};
pub use line::Line;
pub use power::{Destroy, PowerCut, Replay};

/// One scenario.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What is claimed, as a sentence.
    pub title: String,
    /// What would break in the field if it were not so.
    pub why: String,
    /// Boot loaders it runs on.
    pub variants: Vec<String>,
    /// Boot loaders on which a plain `make vm-test` runs it; not said: all of `variants`. The others run when asked for,
    /// with `ALL=1` or by name.
    pub by_default: Option<Vec<String>>,
    /// The state it starts from: `factory` (default), or a running appliance as another scenario leaves it; the first
    /// `boot` then goes on from there.
    #[serde(default = "factory")]
    pub from: String,
    /// The name under which it leaves the running appliance for others when it passes.
    pub leaves: Option<String>,
    /// Settings of the device for this scenario, TOML of the updater's configuration; `@URL@` stands for the server.
    #[serde(default)]
    pub settings: toml::Table,
    /// The machines, by name; not said: one, called `first`. With several, a step says by `on` which one it is about.
    #[serde(default)]
    pub machines: BTreeMap<String, Place>,
    /// Record every write and flush of the disk, for `replay`.
    #[serde(default)]
    pub record_disk: bool,
    /// What happens, in order. A machine has no power before its first `boot`.
    pub steps: Vec<Line>,
    /// Faults the final disk is excused from. Normally none: every scenario ends on a confirmed default slot.
    #[serde(default)]
    pub skip_invariants: Vec<String>,
}

/// The state no scenario has to make: the disk as `images/build.sh` left it, without power.
pub const FACTORY: &str = "factory";

fn factory() -> String {
    FACTORY.into()
}

/// The machine of a step that names none.
pub const FIRST: &str = "first";

/// A machine among several.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Its place in the rollout that is there when it is first switched on: so many percent of a fleet are let in
    /// before it. The harness looks for a device id with that place.
    pub bucket: u16,
}

/// What is done, or what must be true.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Put a release on the server.
    Publish(Publish),
    /// Let the region say something about a release.
    Approve(Approve),
    /// The region's document disappears from the server.
    WithdrawApproval {},
    /// The server shows the region's document of this version again.
    ServeApproval {
        /// As `bundle-tool` counted: 1 is the first that the scenario made.
        version: u64,
    },
    /// The release key is replaced: the next trust root is published, and the channel signed with the new key.
    RotateReleaseKey {
        /// Name of the new key.
        to: String,
    },
    /// Power on; done when the guest agent answers.
    Boot(Within),
    /// Let the shipped timer look for updates this often (a drop-in under /run: gone with the boot).
    Timer {
        /// Seconds.
        every: u64,
    },
    /// Run `flipside check`, which starts what is to be started and returns: for updates that end in a reboot, which
    /// would take the answer of a waiting command with it.
    Look {},
    /// Run `flipside check --wait` and look at how it ends.
    Check(Check),
    /// Wait until all of it is true.
    Wait(Wait),
    /// All of it must be true now.
    Expect(Condition),
    /// Wait for the condition, then cut the power and switch on again.
    PowerCut(PowerCut),
    /// Cut the power, overwrite the head of a partition with zeros, and switch on again.
    Destroy(Destroy),
    /// Write the device's settings again, after they were lost.
    Configure {},
    /// Boot the recorded disk as it stood at flushes.
    Replay(Replay),
    /// Power off in order and switch on again.
    PowerCycle(Within),
    /// History must hold an entry with these values.
    ExpectHistory(History),
    /// Wait until the fleet host holds a report of the appliance with these values (`settings` must name the host).
    WaitReport(History),
    /// Look for updates again: the release must be refused, and not a byte of it fetched.
    NotTriedAgain {
        /// The release.
        release: String,
        /// The reason that must be given.
        reason: String,
    },
    /// Run a command in the guest.
    Run(Run),
    /// Run a command in the guest again and again until it ends as wanted.
    RunUntil(Run),
    /// Misbehave from now on.
    Fault(Rule),
    /// Behave from now on.
    NoFaults {},
    /// The server vanishes from the network.
    ServerGone {},
    /// The server is there again.
    ServerBack {},
    /// What was fetched so far under a path must be in these bounds.
    Fetched(Fetched),
}

/// A time to wait at most.
#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Within {
    /// Seconds; default 900. A deadline, not a pause: no healthy step comes near it, even when an emulated machine has
    /// a tenth of a processor.
    #[serde(default = "patience")]
    pub within: u64,
}

/// Seconds for what has no time of its own.
#[must_use]
pub const fn patience() -> u64 {
    900
}

impl Within {
    /// As a duration.
    #[must_use]
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.within)
    }
}

/// How a check must end.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Exit code of `flipside check --wait`.
    pub code: i64,
    /// Reason code that must be told.
    pub reason: Option<String>,
    /// Seconds it may take.
    #[serde(default = "patience")]
    pub within: u64,
}

/// What can be asked of an appliance. Everything that is said must hold at the same time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// Booted slot, by the kernel command line.
    pub slot: Option<String>,
    /// Is the booted slot's boot entry without a counter?
    pub confirmed: Option<bool>,
    /// Version of the demo application that is installed in the booted system; whether it is well, health checks tell.
    pub version: Option<String>,
    /// State the updater tells over D-Bus.
    pub state: Option<String>,
    /// Is nothing under way: idle, good, or rolled back?
    pub settled: Option<bool>,
    /// Reason in the last outcome the updater tells.
    pub reason: Option<String>,
    /// At least this share of the bundle was fetched since the server last changed its ways, percent.
    pub fetched_percent: Option<u64>,
    /// At least this share of the images is right in the target slot, by the updater's progress, percent.
    pub progress_percent: Option<u64>,
    /// Is this boot another one than when the step began?
    pub new_boot: Option<bool>,
    /// Slot that boots next and is counted, by the boot loader's state.
    pub armed: Option<String>,
}

/// A condition and the time it has.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Wait {
    /// What must become true.
    pub until: Condition,
    /// Seconds.
    #[serde(default = "patience")]
    pub within: u64,
}

/// A line of `flipside history`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct History {
    /// The release it is about.
    pub release: String,
    /// How it ended.
    pub outcome: String,
    /// Why.
    pub reason: Option<String>,
}

/// A command for the guest.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Given to `/bin/sh -c`.
    pub command: String,
    /// Who runs it: `root` or `demo`, the ordinary user.
    #[serde(default = "root")]
    pub user: String,
    /// Must it succeed (true, default) or fail?
    #[serde(default = "yes")]
    pub succeeds: bool,
    /// Text that must be in its output.
    pub says: Option<String>,
    /// It restarts the machine: the restart is waited for, and may take the command's answer with it.
    #[serde(default)]
    pub restarts: bool,
    /// Seconds.
    #[serde(default = "patience")]
    pub within: u64,
}

fn root() -> String {
    "root".into()
}

fn yes() -> bool {
    true
}

/// Bounds for what the server sent.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Fetched {
    /// Path pattern.
    pub path: String,
    /// At least this many bytes.
    #[serde(default)]
    pub at_least: u64,
    /// At most this many bytes.
    pub at_most: Option<u64>,
    /// At most this share of the files that are there under this path, percent.
    pub at_most_percent: Option<u64>,
}

impl Scenario {
    /// Reads one file.
    ///
    /// # Errors
    /// Not readable, or says something no scenario may say; the text holds file and place.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("scenario {}", path.display()))
    }

    /// Parses and checks the text of a file.
    ///
    /// # Errors
    /// As [`Scenario::load`].
    pub fn parse(text: &str) -> Result<Self> {
        let scenario: Self = toml::from_str(text)?;
        if scenario.variants.is_empty() {
            bail!("no variants: it would never run");
        }
        scenario.check_machines()?;
        let idle = |line: &&Line| matches!(&line.step, Step::PowerCut(cut) if cut.in_boot == (cut.until != Condition::default()));
        if let Some(cut) = scenario.steps.iter().find(idle) {
            bail!("a power cut waits for `until` or for `in_boot`: {cut}");
        }
        if let Some(stray) = scenario.by_default.iter().flatten().find(|v| !scenario.variants.contains(v)) {
            bail!("by_default names {stray}, variants does not");
        }
        Ok(scenario)
    }

    fn check_machines(&self) -> Result<()> {
        for machine in self.machines() {
            let mut boots = self.steps.iter().filter(|line| matches!(line.step, Step::Boot(_)));
            if !boots.any(|line| line.machine() == machine) {
                bail!("no boot step for the {machine} machine: it would test nothing");
            }
        }
        if let Some(stray) = self.steps.iter().find(|line| !self.machines().any(|m| m == line.machine())) {
            bail!("no such machine: {stray}");
        }
        if !self.machines.is_empty() && (self.from == FACTORY || self.leaves.is_some() || self.record_disk) {
            bail!("`machines` need a kept state to start from, leave none, and can not be recorded");
        }
        Ok(())
    }

    /// Names of the machines, the first one first.
    pub fn machines(&self) -> impl Iterator<Item = &str> {
        iter::once(FIRST).chain(self.other_machines())
    }

    /// Names of the machines but the first.
    pub fn other_machines(&self) -> impl Iterator<Item = &str> {
        self.machines.keys().map(String::as_str).filter(|name| *name != FIRST)
    }

    /// Where a machine shall stand in the rollout, if that matters.
    #[must_use]
    pub fn bucket(&self, machine: &str) -> Option<u16> {
        self.machines.get(machine).map(|place| place.bucket)
    }

    /// Does a plain `make vm-test` run it on this boot loader?
    #[must_use]
    pub fn runs_by_default(&self, variant: &str) -> bool {
        self.by_default.as_ref().is_none_or(|list| list.iter().any(|v| v == variant))
    }
}

/// All scenarios of a folder, with the file's name without `.toml`, sorted by it.
///
/// # Errors
/// As [`Scenario::load`], or the folder can not be read.
pub fn load_all(folder: &Path) -> Result<Vec<(String, Scenario)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "toml") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            all.push((name, Scenario::load(&path)?));
        }
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(all)
}

#[cfg(test)]
mod tests;
