//! What became of updates: for the operator's `history`, and for reports to a fleet host.

use bundle::approval::ReleaseRef;
use bundle::reason::Reason;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::slot::SlotId;

/// How many outcomes are kept.
pub const HISTORY_LIMIT: usize = 32;

/// What happened, in the words a fleet host counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OutcomeKind {
    /// Writing began.
    Started,
    /// The slot was written and read back.
    Installed,
    /// The new system came up and is being tried.
    Trial,
    /// The new system proved itself and was confirmed.
    Healthy,
    /// The device went back; said by the old system.
    RolledBack,
    /// It ended without touching the running system.
    Failed,
    /// It waits; the reason says for what.
    Deferred,
    /// A kind of a newer Flipside.
    #[serde(other)]
    Unknown,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// When, by the device's clock (which may be wrong; see `clock_trusted`).
    pub at: Timestamp,
    /// Whether that clock was to be trusted.
    #[serde(default)]
    pub clock_trusted: bool,
    /// What.
    pub kind: OutcomeKind,
    /// The release it is about, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseRef>,
    /// The release that ran before, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<ReleaseRef>,
    /// The slot it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<SlotId>,
    /// Why not, where it did not go well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// A sentence: the failed check, an operator's words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Seconds from the offer until now, where known and sane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
    /// `(epoch, version)` of the approval last seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<(u64, u64)>,
}

/// An outcome on its way to the report spool; kept in the journal until the spool has it, so none is lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Rises by one with every report of this device; lets the host drop repeats.
    pub sequence: u64,
    /// What happened.
    pub outcome: Outcome,
}
