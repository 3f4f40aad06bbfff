//! What can happen to the machine.

use std::time::Duration;

use bundle::approval::Approval;
use bundle::channel::Channel;
use bundle::digest::Digest;
use bundle::reason::Reason;
use bundle::recall::Recall;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::effect::Ticket;
use crate::facts::BootFacts;
use crate::policy::Policy;
use crate::release::{Intent, Source, VerifiedManifest};
use crate::slot::SlotId;

/// Something happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// A timer ([`crate::machine::Machine::wake_at`]) ran out: look again. May come at any time; nobody watches the
    /// surroundings in between, so what changes there is seen at the next look.
    Tick,
    /// Somebody asked for something. Answered by exactly one [`crate::effect::Effect::Answer`].
    Command(Command),
    /// Work that the machine ordered has ended. A ticket that is no longer current is ignored.
    Done {
        /// The order's number.
        ticket: Ticket,
        /// What came of it.
        result: Result<Finished, Failure>,
    },
    /// The configuration was read again.
    Policy(Box<Policy>),
    /// The journal could not be written.
    PersistFailed {
        /// As in the `Persist`: nothing of that step was done; otherwise all the rest of it was.
        vital: bool,
        /// Why.
        failure: Failure,
    },
    /// The report spool has this report durably.
    Reported {
        /// Its number.
        sequence: u64,
    },
}

/// What an operator, a timer or another program asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Look for a release and go on as far as the mode allows.
    Check {
        /// A person asked: do not wait out a backoff.
        by_operator: bool,
    },
    /// Install the offered release (no source) or the one in this bundle.
    Install {
        /// A bundle; none: what is offered.
        source: Option<Source>,
        /// How far to go, and over which local hindrances.
        intent: Intent,
    },
    /// Arm the staged slot.
    Activate {
        /// Which; must be the staged one.
        slot: SlotId,
    },
    /// Reboot into the armed slot.
    Reboot,
    /// Check the health of the running, unconfirmed slot now. Confirms only when it passes.
    Confirm,
    /// Go back to the other slot.
    Rollback {
        /// The operator's words.
        reason: String,
    },
    /// Make a slot unbootable and remember its release as bad. The running one: same as `Rollback`.
    Reject {
        /// Which.
        slot: SlotId,
        /// The operator's words.
        reason: String,
    },
    /// Forget that a release failed here; none: all of them.
    Retry {
        /// Manifest digest.
        manifest: Option<Digest>,
    },
    /// Stop what is under way, as far as it can be stopped.
    Cancel,
}

/// Successful end of work.
#[derive(Debug, Clone)]
pub enum Finished {
    /// `ReadFacts`, `Clear`, `Arm`, `Confirm`, `Reject`: the boot loader's state, read back after the change.
    Facts(BootFacts),
    /// `Ask`: documents and surroundings.
    Answers(Box<Answers>),
    /// `ReadManifest`: the verified head of the bundle.
    Manifest(Box<VerifiedManifest>),
    /// `Install`: everything written and flushed (not read back yet).
    Installed(Transfer),
    /// `Verify`: the whole target was read back from the device and matched.
    Verified,
    /// `CheckHealth`, `CheckNetwork`.
    Health(HealthReport),
    /// `Reboot`: the reboot was accepted; this process ends soon.
    Rebooting,
}

/// Unsuccessful end of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The code.
    pub reason: Reason,
    /// What happened, for people; the error chain, printed once.
    pub detail: String,
    /// The server's `Retry-After`.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure without `Retry-After`.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), retry_after: None }
    }
}

/// What an install moved, for the history and reports; bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// Over the network, or read from the bundle.
    pub fetched: u64,
    /// Already there: in the target or built from the running slot.
    pub reused: u64,
    /// Written to the target.
    pub written: u64,
}

/// What the gate needs, as gathered by the shell.
#[derive(Debug, Clone)]
pub struct Answers {
    /// Documents and why there are no more of them.
    pub documents: Documents,
    /// What is around the device.
    pub surroundings: Surroundings,
}

/// Signed documents, verified by the shell against the trust root before they got here.
#[derive(Debug, Clone, Default)]
pub struct Documents {
    /// Valid approvals from all mirrors and the stored copy; the machine picks the newest.
    pub approvals: Vec<SeenApproval>,
    /// The channel index.
    pub channel: Option<Channel>,
    /// What the release keys took back.
    pub recall: Option<Recall>,
    /// When the trust root in use expires.
    pub trust_expires: Option<Timestamp>,
    /// Key ids that may approve for this region now. When one that counted before is gone (a stolen key was
    /// replaced), the floor that documents of the old keys had set is forgotten.
    pub region_keys: Vec<String>,
    /// Key ids that may sign releases, channel indexes and recalls now; the same holds for what those had set.
    pub release_keys: Vec<String>,
    /// What went wrong on the way, most telling first: shown when there is nothing valid.
    pub approval_failures: Vec<Failure>,
    /// Why there is no channel index.
    pub channel_failure: Option<Failure>,
}

/// A valid approval and where it was seen.
#[derive(Debug, Clone)]
pub struct SeenApproval {
    /// The document.
    pub approval: Approval,
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// True when a mirror gave it just now, false for the stored copy.
    pub live: bool,
}

/// What is around the device right now.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Who asked not to be interrupted (name and words), shutdown inhibitors of logind for instance.
    pub inhibitors: Vec<String>,
    /// The link is metered.
    pub metered: bool,
    /// Battery charge in percent; none on mains power or without a battery.
    pub battery: Option<u8>,
    /// The device's time zone, for windows.
    pub zone: TimeZone,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self { inhibitors: Vec::new(), metered: false, battery: None, zone: TimeZone::UTC }
    }
}

/// One look at the health of the running system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthReport {
    /// Every check, required and advisory.
    pub checks: Vec<HealthCheck>,
}

/// One health check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// `unit:demo-app.service`, `script:10-disk`.
    pub name: String,
    /// Decides about the slot; otherwise it is only reported.
    pub required: bool,
    /// What it said.
    pub verdict: Verdict,
    /// Output or explanation, cut to a few lines.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Restarts of the unit so far in this boot; a rise breaks the soak.
    #[serde(default)]
    pub restarts: u32,
}

/// What a health check said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Good.
    Passed,
    /// Still starting; only the deadline makes it a failure.
    Pending,
    /// Bad.
    Failed,
}
