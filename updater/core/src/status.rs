//! What an operator reads: the one picture that D-Bus, `flipside status` and its JSON output show.

use bundle::approval::ReleaseRef;
use bundle::reason::Reason;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::facts::SlotBoot;
use crate::history::Outcome;
use crate::slot::{PerSlot, SlotId};

/// Version of the JSON form of [`Status`]; raised when a field changes its meaning, not when one is added.
pub const STATUS_FORMAT: u32 = 1;

/// States of `docs/src/state-machine.md`, as shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateName {
    /// Nothing to do.
    Idle,
    /// Looking for a release.
    Checking,
    /// A release is there; the gate has not let it in (yet).
    Offered,
    /// The gate let it in; the download starts.
    Approved,
    /// The other slot is being written.
    Writing,
    /// The other slot is being read back.
    Verifying,
    /// Written and proven; not switched to yet.
    Staged,
    /// The boot loader is switched; the reboot is next.
    Armed,
    /// The running system is new and proves itself.
    Trying,
    /// The running system was just confirmed.
    Good,
    /// The running system failed and is being left.
    Reverting,
    /// The device went back to the system before.
    RolledBack,
    /// Something is wrong that only a person or a later release can mend; the device stays up.
    Degraded,
}

impl StateName {
    /// Every state.
    pub const ALL: [StateName; 13] = [
        StateName::Idle,
        StateName::Checking,
        StateName::Offered,
        StateName::Approved,
        StateName::Writing,
        StateName::Verifying,
        StateName::Staged,
        StateName::Armed,
        StateName::Trying,
        StateName::Good,
        StateName::Reverting,
        StateName::RolledBack,
        StateName::Degraded,
    ];

    /// The name, as in JSON and on D-Bus.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            StateName::Idle => "idle",
            StateName::Checking => "checking",
            StateName::Offered => "offered",
            StateName::Approved => "approved",
            StateName::Writing => "writing",
            StateName::Verifying => "verifying",
            StateName::Staged => "staged",
            StateName::Armed => "armed",
            StateName::Trying => "trying",
            StateName::Good => "good",
            StateName::Reverting => "reverting",
            StateName::RolledBack => "rolled_back",
            StateName::Degraded => "degraded",
        }
    }
}

impl StateName {
    /// What it means, for people.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            StateName::Idle => "Nothing to do.",
            StateName::Checking => "Looking for a release.",
            StateName::Offered => "A release is there; it waits for the gate or for an operator.",
            StateName::Approved => "The gate let it in; the download starts.",
            StateName::Writing => "The other slot is being written.",
            StateName::Verifying => "The other slot is being read back.",
            StateName::Staged => "Written and proven; not switched to yet.",
            StateName::Armed => "The boot loader is switched; the reboot is next.",
            StateName::Trying => "The running system is new and proves itself.",
            StateName::Good => "The running system was just confirmed.",
            StateName::Reverting => "The running system failed, or an operator leaves it.",
            StateName::RolledBack => "The device went back to the system before.",
            StateName::Degraded => "Something needs a person or a later release; the device stays up.",
        }
    }
}

impl std::fmt::Display for StateName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One slot, as shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotStatus {
    /// The boot loader's record.
    pub boot: SlotBoot,
    /// What it holds, where known.
    pub release: Option<ReleaseRef>,
}

/// Why it is not going on, as shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The code.
    pub reason: Reason,
    /// A sentence for a person.
    pub detail: String,
    /// When it came up, by the device's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// When it may change by itself, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// What part of an install is under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProgressPhase {
    /// Reading the head of the bundle.
    #[default]
    Preparing,
    /// Fetching and writing.
    Writing,
    /// Reading back.
    Verifying,
}

/// How far an install is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Which part.
    pub phase: ProgressPhase,
    /// Raw bytes that are right in the target.
    pub bytes_done: u64,
    /// Raw bytes in all.
    pub bytes_total: u64,
    /// Of `bytes_done`, those that were not fetched.
    pub bytes_reused: u64,
    /// Recent speed.
    pub bytes_per_second: u64,
}

/// The picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`STATUS_FORMAT`].
    pub format: u32,
    /// Version of this updater.
    pub version: String,
    /// The state.
    pub state: StateName,
    /// What is being done at this moment, in a word (`fetching`, `writing`); none: nothing.
    pub operation: Option<String>,
    /// How far, during an install.
    pub progress: Option<Progress>,
    /// The running slot, where certain.
    pub booted_slot: Option<SlotId>,
    /// True when the running slot is confirmed.
    pub confirmed: bool,
    /// Both slots.
    pub slots: PerSlot<SlotStatus>,
    /// The release on its way, or being tried.
    pub release: Option<ReleaseRef>,
    /// Where it goes, or is.
    pub target: Option<SlotId>,
    /// The slot that the boot loader is to forget before anything else is done.
    pub letting_go: Option<SlotId>,
    /// Why it is not going on right now.
    pub waiting: Option<Problem>,
    /// The last thing that went wrong; cleared by the next success.
    pub last_error: Option<Problem>,
    /// The newest entry of the history.
    pub last_outcome: Option<Outcome>,
    /// When the daemon looks again by itself, where it does.
    pub next_check: Option<Timestamp>,
    /// Seconds since the approval in use was last seen on a mirror.
    pub approval_age: Option<u64>,
    /// `(epoch, version)` of the newest approval accepted.
    pub approval: Option<(u64, u64)>,
    /// Seconds left until an unconfirmed system counts as failed.
    pub trial_seconds_left: Option<u64>,
}

/// How one question of the gate was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Nothing against it.
    Passed,
    /// Not now.
    Wait,
    /// No.
    Refuse,
}

/// One question of the gate, answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainLine {
    /// What was asked about: `approval`, `bucket`, `window`, ...
    pub subject: String,
    /// The answer.
    pub finding: Finding,
    /// The code of a no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// A sentence that a support engineer can read out, with the numbers.
    pub sentence: String,
    /// When it may change by itself, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// Why this device does or does not update now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The answer in one sentence.
    pub summary: String,
    /// The state.
    pub state: StateName,
    /// The release in question, where there is one.
    pub release: Option<ReleaseRef>,
    /// Every question, in the order asked.
    pub lines: Vec<ExplainLine>,
}
