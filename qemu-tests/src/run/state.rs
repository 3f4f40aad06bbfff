//! Kept states: a running appliance as one scenario leaves it, for others to go on from within a second.
//!
//! "v2 runs, confirmed, on b" takes two boots and an install; most scenarios begin there. It is made once, by the
//! scenario that claims it works, and kept beside the images under the digest of everything that shaped it.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::start;
use crate::disk::{run, sha256};
use crate::qemu::{arguments, firmware_code};
use crate::scenario::{FACTORY, Scenario, load_all};
use crate::site::{RELEASE_FILES, Site};

/// GPT and boot entries stand in the first bytes of the factory disk; the slots are covered by the releases' digests.
const HEAD: u64 = 64 << 20;

/// Folder of what was published when the state was kept.
pub(super) const SERVED: &str = "www";

/// Longest chain of states, each made from the one before.
const CHAIN: usize = 8;

/// Folder of the scenario files; `FLIPSIDE_SCENARIOS` names another one, for trying things out.
#[must_use]
pub fn scenario_folder() -> PathBuf {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    std::env::var_os("FLIPSIDE_SCENARIOS").map_or(shipped, PathBuf::from)
}

/// Puts a kept state into the folder `into`; makes it first, by the scenario that leaves it, when it is not there yet.
///
/// Links or copies, so that a run goes on undisturbed when the state is made anew meanwhile.
///
/// # Errors
/// No scenario leaves it, or that scenario fails.
pub(super) fn borrow(site: &Site, state: &str, into: &Path) -> Result<()> {
    let all = load_all(&scenario_folder())?;
    let (name, scenario) = maker(&all, state)?;
    let kept = place(site, &all, state)?;
    let _lock = lock(site, state)?;
    if !kept.join(SERVED).is_dir() {
        make(site, name, scenario, &kept)?;
    }
    fs::create_dir_all(into)?;
    for entry in fs::read_dir(&kept)? {
        let from = entry?.path();
        if from.is_dir() {
            continue;
        }
        let to = into.join(from.file_name().unwrap_or_default());
        if fs::hard_link(&from, &to).is_err() {
            fs::copy(&from, &to).with_context(|| format!("copy {}", from.display()))?;
        }
    }
    super::copy_tree(&kept.join(SERVED), &into.join(SERVED))
}

/// Runs the scenario that leaves a state, and keeps it; another that wants it waits meanwhile.
pub(super) fn produce(site: &Site, name: &str, scenario: &Scenario, state: &str) -> Result<()> {
    let kept = place(site, &load_all(&scenario_folder())?, state)?;
    let _lock = lock(site, state)?;
    make(site, name, scenario, &kept)
}

fn make(site: &Site, name: &str, scenario: &Scenario, kept: &Path) -> Result<()> {
    // Under another name first: a half-written state must never be found.
    let unfinished = kept.with_extension("new");
    for folder in [&unfinished, kept] {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
    }
    start(site, name, scenario)?.finish(Some(&unfinished))?;
    fs::rename(&unfinished, kept)?;
    Ok(())
}

type Named = (String, Scenario);

fn maker<'s>(all: &'s [Named], state: &str) -> Result<(&'s str, &'s Scenario)> {
    let found = all.iter().find(|(_, s)| s.leaves.as_deref() == Some(state));
    found.map(|(n, s)| (n.as_str(), s)).with_context(|| format!("no scenario leaves the state {state}"))
}

fn states(site: &Site) -> Result<PathBuf> {
    let folder = site.images.join("states");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn lock(site: &Site, state: &str) -> Result<File> {
    let file = File::create(states(site)?.join(format!("{state}.lock")))?;
    file.lock().context("lock the kept states")?;
    Ok(file)
}

/// Where a state is kept: its name says by what it was shaped.
fn place(site: &Site, all: &[Named], state: &str) -> Result<PathBuf> {
    let mut shaped = plan(all, state)?;
    // QEMU can read its own state only into the same machine, and the firmware's is in it.
    shaped += &format!("{:?}", arguments(&site.spec("x", Path::new("/"), Path::new("/")))?);
    shaped += &String::from_utf8_lossy(&run(Command::new("qemu-system-x86_64").arg("--version"))?);
    shaped += &sha256(&mut File::open(firmware_code(site.firmware())?)?)?;
    shaped += &sha256(&mut File::open(site.factory_disk())?.take(HEAD))?;
    for release in site.releases() {
        for file in RELEASE_FILES {
            shaped += &release.sha256(file)?;
        }
    }
    shaped += &sha256(&mut File::open(&site.bundle_tool)?)?;
    let digest = sha256(&mut shaped.as_bytes())?;
    Ok(states(site)?.join(format!("{state}-{}", digest.get(..16).unwrap_or(&digest))))
}

/// Everything that is done to an appliance until it is in this state, as text.
fn plan(all: &[Named], state: &str) -> Result<String> {
    let (mut text, mut state) = (String::new(), state.to_owned());
    for _ in 0..CHAIN {
        if state == FACTORY {
            return Ok(text);
        }
        let (_, scenario) = maker(all, &state)?;
        let steps: Vec<_> = scenario.steps.iter().map(|line| &line.step).collect();
        text += &format!("{:?} {steps:?}\n", scenario.settings);
        state.clone_from(&scenario.from);
    }
    bail!("the states before {state} form a circle")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(from: &str, leaves: &str, command: &str) -> Named {
        let text = format!(
            "title = 't'\nwhy = 'w'\nvariants = ['x']\nfrom = '{from}'\nleaves = '{leaves}'\n\
             steps = [{{ boot = {{}} }}, {{ run = {{ command = '{command}' }} }}]"
        );
        (leaves.to_owned(), Scenario::parse(&text).unwrap())
    }

    #[test]
    fn a_change_in_an_earlier_state_changes_the_later_ones() {
        let before = [scenario(FACTORY, "one", "true"), scenario("one", "two", "ls")];
        let after = [scenario(FACTORY, "one", "false"), scenario("one", "two", "ls")];
        assert_ne!(plan(&before, "two").unwrap(), plan(&after, "two").unwrap());
        assert_eq!(plan(&before, "two").unwrap(), plan(&before.clone(), "two").unwrap());
    }

    #[test]
    fn circles_and_unknown_states_are_errors() {
        let circle = [scenario("two", "one", "true"), scenario("one", "two", "true")];
        assert!(plan(&circle, "two").unwrap_err().to_string().contains("circle"));
        assert!(plan(&circle, "three").unwrap_err().to_string().contains("no scenario leaves"));
    }
}
