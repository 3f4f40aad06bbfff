//! What the machine wants done.
//!
//! A step's effects run in order. When `Persist` is among them it is the first, and the shell runs nothing else until
//! it is durable. Every effect may run again after a crash.

use serde::{Deserialize, Serialize};

use crate::event::HealthReport;
use crate::facts::BootId;
use crate::gate::Point;
use crate::history::Report;
use crate::journal::Journal;
use crate::policy::HealthPolicy;
use crate::release::{Source, Update};
use crate::slot::SlotId;
use bundle::approval::ReleaseRef;
use bundle::reason::Reason;

/// Number of an order for work; results carry it back, so that a late result of cancelled work changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Something to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Make the journal durable (both the file and its folder) before anything else of this step.
    Persist {
        /// The whole journal.
        journal: Box<Journal>,
        /// When it can not be written: true means nothing else of this step may be done; false means go on
        /// after a few tries, because the boot loader alone tells the story (confirming a healthy slot and leaving a bad
        /// one must not depend on the data partition). The machine is told either way, by `PersistFailed`.
        vital: bool,
    },
    /// Begin work. One at a time: the shell starts it when the work before has ended.
    Run {
        /// Comes back with the result.
        ticket: Ticket,
        /// What.
        work: Work,
    },
    /// Ask the work with this ticket to stop soon. It still ends with a result.
    Stop(Ticket),
    /// Answer the command of this step.
    Answer(Result<(), Refusal>),
    /// Save what tells why the boot failed: check output, journal lines. Best effort, bounded in time.
    KeepEvidence(Box<EvidenceRequest>),
    /// Append to the report spool, then send `Reported`.
    Report(Box<Report>),
}

impl Effect {
    /// Whether it leaves boot loader, slots and journal as they are.
    #[must_use]
    pub const fn changes_nothing(&self) -> bool {
        match self {
            Self::Persist { .. } => false,
            Self::Run { work, .. } => work.only_looks(),
            Self::Stop(_) | Self::Answer(_) | Self::KeepEvidence(_) | Self::Report(_) => true,
        }
    }
}

/// Why a command was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Refusal {
    /// The code.
    pub reason: Reason,
    /// A sentence.
    pub detail: String,
}

/// Work with a result.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// Read the boot loader's state.
    ReadFacts,
    /// Gather documents and surroundings for the gate.
    Ask {
        /// For which question; none: a plain check.
        point: Option<Point>,
        /// Fetch documents; otherwise only look around and at the stored copy.
        fetch: bool,
    },
    /// Read and verify the head of a bundle.
    ReadManifest {
        /// Where it is.
        source: Source,
        /// Which release it must be, where one was approved.
        expected: Option<ReleaseRef>,
    },
    /// Remove the slot's boot record, durably.
    Clear {
        /// Which; never the running one.
        slot: SlotId,
        /// This is about to overwrite it: nothing of it may be lost unless boot control works (self-test) and the release
        /// finds its places and fits there. None: a switch is taken back, which must not depend on that.
        to_write: Option<Box<Update>>,
    },
    /// Fetch, verify and write; resumes what is already right in the target.
    Install {
        /// What and where.
        update: Box<Update>,
    },
    /// Read the whole target back from the device and compare; then let the new system's own updater prove that it
    /// can read today's configuration and journal.
    Verify {
        /// What and where.
        update: Box<Update>,
    },
    /// Let the boot loader choose the slot, counted, and before the other.
    Arm {
        /// Which.
        slot: SlotId,
        /// Boots it gets.
        tries: u8,
    },
    /// Boot the slot from now on without counting.
    Confirm {
        /// Which; the running one.
        slot: SlotId,
    },
    /// Make the boot loader choose the other slot.
    Reject {
        /// Which.
        slot: SlotId,
    },
    /// Look at the health of the running system once.
    CheckHealth {
        /// Limits.
        policy: HealthPolicy,
    },
    /// Run the network checks in the running system, which is about to be left.
    CheckNetwork,
    /// Reboot.
    Reboot,
}

impl Work {
    /// Whether it only reads.
    const fn only_looks(&self) -> bool {
        match self {
            Self::ReadFacts
            | Self::Ask { .. }
            | Self::ReadManifest { .. }
            | Self::Verify { .. }
            | Self::CheckHealth { .. }
            | Self::CheckNetwork => true,
            Self::Clear { .. }
            | Self::Install { .. }
            | Self::Arm { .. }
            | Self::Confirm { .. }
            | Self::Reject { .. }
            | Self::Reboot => false,
        }
    }
}

/// What the saved evidence is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvidenceRequest {
    /// The slot that failed.
    pub slot: SlotId,
    /// What it holds, where known.
    pub release: Option<ReleaseRef>,
    /// Why it failed.
    pub reason: Reason,
    /// The last look at its health, where there was one.
    pub health: Option<HealthReport>,
    /// The boot before the one that failed, where the failed one never said anything: its log is another's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub armed_in: Option<BootId>,
}
