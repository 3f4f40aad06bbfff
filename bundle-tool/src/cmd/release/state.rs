//! What a release has done so far, on disk after every step, so that an interrupted one goes on where it stopped.
//!
//! A hint and no more: it is thrown away when the recipe, the sources or the release's number are others than when it
//! was written, and what can be looked at (the bundle, its signatures, the channel) is looked at instead.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use bundle::digest::Digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::files;
use crate::gate::verdict::Shown;

/// Raised when a field changes its meaning; a state of another format is not continued.
const FORMAT: u32 = 1;

/// What a release is made of; with anything of it changed, old results say nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// SHA-256 of the recipe.
    pub recipe: Digest,
    /// For people.
    pub version: semver::Version,
    /// For machines.
    pub counter: u64,
    /// The commit, and what differs from it; none outside version control.
    pub source: Option<String>,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should.
    Passed,
    /// Not so.
    Failed,
    /// It was left out, by `--skip-gate`.
    Skipped,
}

/// A step of the release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// `build`, `test`, `audit`, `benchmark`, `package`, `sign`, `publish`.
    pub stage: String,
    /// The gate, or empty.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// When it began.
    pub started: Timestamp,
    /// How long it took.
    pub seconds: f64,
    /// What it worked on; with another one it is done again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Digest>,
    /// What came of it: the manifest digest of the bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Digest>,
    /// What a gate showed.
    #[serde(default)]
    pub shown: Shown,
    /// Why it failed or was skipped.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Document {
    format: u32,
    identity: Identity,
    created: Timestamp,
    steps: Vec<Step>,
}

/// The state file, ours alone while this lives.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    document: Document,
    _lock: File,
}

impl State {
    /// Goes on with what is there when it is of the same release, or begins.
    ///
    /// # Errors
    /// When another release is under way here, or the folder can not be written.
    pub fn open(path: &Path, identity: Identity, now: Timestamp, fresh: bool) -> Result<Self> {
        let lock_path = path.with_extension("lock");
        let lock = File::create(&lock_path).with_context(|| format!("writing {}", lock_path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("another release is under way here ({})", lock_path.display()),
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| lock_path.display().to_string()),
        }
        let begin = || Document { format: FORMAT, identity: identity.clone(), created: now, steps: Vec::new() };
        let document = match read(path) {
            _ if fresh => begin(),
            None => begin(),
            Some(document) if document.format == FORMAT && document.identity == identity => document,
            Some(_) => {
                eprintln!(
                    "note: recipe, sources or counter changed since {} was written; starting again",
                    path.display()
                );
                begin()
            }
        };
        Ok(Self { path: path.to_owned(), document, _lock: lock })
    }

    /// When this release was begun: the manifest's `created`, the same however often it is interrupted.
    pub const fn created(&self) -> Timestamp {
        self.document.created
    }

    /// All steps that have ended.
    pub fn steps(&self) -> &[Step] {
        &self.document.steps
    }

    /// What came of that step, if anything did.
    pub fn output(&self, stage: &str) -> Option<Digest> {
        self.document.steps.iter().find(|step| step.stage == stage).and_then(|step| step.output)
    }

    /// The step of that name when it passed on the same input.
    pub fn passed(&self, stage: &str, name: &str, input: Option<Digest>) -> Option<&Step> {
        let same = |step: &&Step| step.stage == stage && step.name == name && step.input == input;
        self.document.steps.iter().find(same).filter(|step| step.outcome == Outcome::Passed)
    }

    /// Writes down how a step ended, durably, in place of what was known of it.
    pub fn record(&mut self, step: Step) -> Result<()> {
        self.document.steps.retain(|each| (&each.stage, &each.name) != (&step.stage, &step.name));
        self.document.steps.push(step);
        let mut bytes = serde_json::to_vec_pretty(&self.document)?;
        bytes.push(b'\n');
        files::replace(&self.path, &bytes)
    }
}

/// What is there; damage means nothing is known.
fn read(path: &Path) -> Option<Document> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn identity(counter: u64) -> Identity {
        let version = semver::Version::new(1, 0, 0);
        Identity { recipe: Digest::of(b"recipe"), version, counter, source: None }
    }

    fn step(outcome: Outcome) -> Step {
        Step {
            stage: "test".to_owned(),
            name: "unit".to_owned(),
            outcome,
            started: Timestamp::UNIX_EPOCH,
            seconds: 1.5,
            input: Some(Digest::of(b"images")),
            output: None,
            shown: Shown::default(),
            why: String::new(),
        }
    }

    fn open(path: &Path, counter: u64, fresh: bool) -> State {
        let open = || State::open(path, identity(counter), Timestamp::UNIX_EPOCH, fresh);
        for _ in 0..500 {
            // A process that another test is just beginning has a copy of the lock until it runs its program.
            match open() {
                Err(error) if error.to_string().contains("under way") => std::thread::sleep(Duration::from_millis(10)),
                opened => return opened.unwrap(),
            }
        }
        open().unwrap()
    }

    #[test]
    fn what_passed_is_remembered_for_the_same_release_and_input_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        open(&path, 1, false).record(step(Outcome::Passed)).unwrap();
        let input = Some(Digest::of(b"images"));
        assert!(open(&path, 1, false).passed("test", "unit", input).is_some());
        assert!(open(&path, 1, false).passed("test", "unit", Some(Digest::of(b"others"))).is_none());
        assert!(open(&path, 1, false).passed("audit", "unit", input).is_none());
        assert!(open(&path, 2, false).passed("test", "unit", input).is_none());
        assert!(open(&path, 1, true).passed("test", "unit", input).is_none());
        open(&path, 1, false).record(step(Outcome::Failed)).unwrap();
        let state = open(&path, 1, false);
        assert!(state.passed("test", "unit", input).is_none() && state.steps().len() == 1);
    }

    #[test]
    fn damage_means_nothing_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        open(&path, 1, false).record(step(Outcome::Passed)).unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(open(&path, 1, false).steps().is_empty());
        let newer = String::from_utf8(whole).unwrap().replace("\"format\": 1", "\"format\": 2");
        std::fs::write(&path, newer).unwrap();
        assert!(open(&path, 1, false).steps().is_empty());
    }

    #[test]
    fn two_releases_at_once_are_one_too_many() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let first = open(&path, 1, false);
        let second = State::open(&path, identity(1), Timestamp::UNIX_EPOCH, false);
        assert!(second.unwrap_err().to_string().contains("under way"));
        drop(first);
        open(&path, 1, false);
    }
}
