//! What is written down: the state that must survive a power cut, and what must never be forgotten.
//!
//! One JSON document. The store (a seam) keeps two checksummed copies of it; this module only knows its bytes. The
//! boot loader is the truth and the journal a hint, so damage or a format of the future is never fatal.

use std::collections::BTreeMap;

use bundle::digest::Digest;
use bundle::reason::Reason;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::facts::BootId;
use crate::history::{Outcome, Report};
use crate::release::{SlotRecord, Update};
use crate::slot::{PerSlot, SlotId};

mod codec;

pub use codec::{Decoded, EncodeError, Loss, decode, encode};

/// The format this version writes. Raised only when an older reader would *misread* it; fields are added freely.
pub const JOURNAL_FORMAT: u32 = 1;

/// The journal. Written by [`encode`], read field by field by [`decode`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Journal {
    /// [`JOURNAL_FORMAT`] of the writer.
    pub format: u32,
    /// Where an update stands.
    pub phase: Phase,
    /// What the slots hold.
    pub slots: PerSlot<Option<SlotRecord>>,
    /// What never goes down.
    pub floor: Floor,
    /// Releases not to be tried again, by manifest digest.
    pub blocked: BTreeMap<Digest, Blocked>,
    /// Releases that the release keys took back, as far as this device could come to run them.
    pub recalls: Recalls,
    /// A slot that the boot loader must not choose any more, until it shows that it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub letting_go: Option<LettingGo>,
    /// State changes per release, for the loop breaker.
    pub changes: BTreeMap<Digest, u32>,
    /// Failures in a row and when to try again.
    pub retry: Retry,
    /// The last outcomes, oldest first.
    pub history: Vec<Outcome>,
    /// Reports the spool has not taken yet, oldest first.
    pub outbox: Vec<Report>,
    /// Number of the next report.
    pub next_report: u64,
    /// Reboots made because the boot loader's state could not be read in the middle of a switch; bounded.
    pub blind_reboots: u32,
    /// A phase was written down that this version can not read: something was under way, nobody knows what.
    #[serde(skip)]
    pub phase_lost: bool,
    /// Top-level fields of a newer Flipside, kept as they are.
    #[serde(skip)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            format: JOURNAL_FORMAT,
            phase: Phase::Idle,
            slots: PerSlot::default(),
            floor: Floor::default(),
            blocked: BTreeMap::new(),
            recalls: Recalls::default(),
            letting_go: None,
            changes: BTreeMap::new(),
            retry: Retry::default(),
            history: Vec::new(),
            outbox: Vec::new(),
            next_report: 0,
            blind_reboots: 0,
            phase_lost: false,
            extra: serde_json::Map::new(),
        }
    }
}

impl Journal {
    /// Forgets what release keys had set that may not sign any more; `now`: those that may, empty when the shell could
    /// not say.
    ///
    /// A stolen release key can date an index at the end of time, number it as high as numbers go, and take back every
    /// good release. Replacing the key in the trust root is the cure, so it also lifts what that key had set (the
    /// recovery from fast-forward attacks of The Update Framework, section 5.3.11). Counters of installed releases
    /// are facts and stay.
    pub fn lift_replaced(&mut self, now: &[String]) {
        if now.is_empty() {
            return;
        }
        if !all_may_sign(&self.floor.release_keys, now) {
            self.floor.channels.clear();
            self.floor.signed_time = None;
            self.recalls = Recalls::default();
        }
        self.floor.release_keys = now.to_vec();
    }
}

/// Whether every key that could sign then still may; `now` empty: the shell could not say.
#[must_use]
pub fn all_may_sign(then: &[String], now: &[String]) -> bool {
    now.is_empty() || then.iter().all(|key| now.contains(key))
}

/// Where an update stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nowhere.
    #[default]
    Idle,
    /// Known; the gate has not let it in.
    Offered(Update),
    /// Let in.
    Approved(Update),
    /// The boot record of the target is being cleared and the target written.
    Writing(Update),
    /// Written; being read back.
    Verifying(Update),
    /// Read back and right.
    Staged(Update),
    /// The boot loader is being switched to the target.
    Armed {
        /// What.
        update: Update,
        /// The boot in which it was armed.
        boot: BootId,
    },
    /// The target runs and proves itself.
    Trying(Trial),
    /// The running slot is being rejected.
    Reverting(Reversal),
    /// The device went back.
    RolledBack {
        /// The slot that was left.
        slot: SlotId,
        /// Why.
        reason: Reason,
    },
}

/// A slot on trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Which.
    pub slot: SlotId,
    /// What it holds; none when the journal was lost and only the boot loader knows about the trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<Update>,
    /// The boot it was last seen in.
    pub boot: BootId,
    /// Uptime in milliseconds at which the trial began in that boot: the deadline runs from here, so that a restart
    /// of the daemon does not extend it.
    pub since_ms: u64,
}

/// A slot being left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reversal {
    /// Which.
    pub slot: SlotId,
    /// What it holds, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<Update>,
    /// Why.
    pub reason: Reason,
    /// A sentence: the failed check, an operator's words.
    #[serde(default)]
    pub detail: String,
    /// The boot in which it was rejected last.
    pub boot: BootId,
    /// Boots that ended with it rejected; bounded, or a boot loader that ignores us makes the device reboot for ever.
    #[serde(default)]
    pub attempts: u32,
    /// The last of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected_in: Option<BootId>,
    /// Reboots in the hope that the boot loader leaves it by its own counting, because it could not be told; bounded.
    #[serde(default)]
    pub hopes: u32,
    /// The last of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hoped_in: Option<BootId>,
}

/// What never goes down on this device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    /// The lowest counter that may be installed or gone back to.
    #[serde(default)]
    pub counter: u64,
    /// The data format the confirmed systems have written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_schema: Option<u32>,
    /// The newest approval accepted, by `region/channel`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub approvals: BTreeMap<String, ApprovalFloor>,
    /// The newest channel index accepted, by channel.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub channels: BTreeMap<String, u64>,
    /// The newest time signed by release keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_time: Option<Timestamp>,
    /// Key ids that could sign for the two above, and recalls, when they were set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub release_keys: Vec<String>,
}

/// The newest approval accepted for a region and channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalFloor {
    /// Raised after a stolen key.
    pub epoch: u64,
    /// Raised with every change.
    pub version: u64,
    /// SHA-256 of the document.
    pub digest: Digest,
    /// When it was signed.
    pub issued: Timestamp,
    /// When a mirror last gave it, by trusted time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Timestamp>,
    /// Key ids that could approve then.
    #[serde(default)]
    pub keys: Vec<String>,
}

/// A slot to be taken from the boot loader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LettingGo {
    /// Which.
    pub slot: SlotId,
    /// What it held, where known: an older updater may fill the slot and leave this here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
}

/// A release not to be tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    /// Its counter; a higher one may come.
    pub counter: u64,
    /// Why.
    pub reason: Reason,
    /// A sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Since when, by the device's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
}

/// The newest recall accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recalls {
    /// The channel it speaks for; empty: none was seen.
    #[serde(default)]
    pub channel: String,
    /// Never goes down for a channel.
    #[serde(default)]
    pub version: u64,
    /// By manifest digest.
    #[serde(default)]
    pub releases: BTreeMap<Digest, RecalledHere>,
}

/// A release that was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecalledHere {
    /// Its counter.
    pub counter: u64,
    /// Manifest of the release to go back to, where the other slot still holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub go_back_to: Option<Digest>,
    /// The vendor's words.
    #[serde(default)]
    pub words: String,
}

/// Waiting after failures.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// In a row: with less than a day between the end of one's waiting and the next.
    #[serde(default)]
    pub failures: u32,
    /// Not before this, by the device's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// When that was written, by the same clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

impl Retry {
    /// Until when nobody is to be asked, if that is still ahead at `wall`. A date further away than any backoff, or one
    /// that was written later than now, came from a clock that was wrong.
    #[must_use]
    pub fn still(&self, wall: Timestamp) -> Option<Timestamp> {
        let ahead = |at: &Timestamp| *at > wall && at.duration_since(wall).as_secs() <= 24 * 3600;
        self.not_before.filter(ahead).filter(|_| self.since.is_none_or(|since| since <= wall))
    }

    /// Whether the last wait ended so long ago that a failure now is the first of others.
    #[must_use]
    pub fn is_over(&self, wall: Timestamp) -> bool {
        self.not_before.is_some_and(|until| wall.duration_since(until).as_secs() > 24 * 3600)
    }
}
