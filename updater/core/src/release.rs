//! A release on its way into a slot, and what a slot holds.

use bundle::approval::ReleaseRef;
use bundle::manifest::{Manifest, SchemaRange};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::slot::SlotId;

/// What a slot was last fully written, read back and found to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRecord {
    /// The release.
    pub release: ReleaseRef,
    /// Data formats it reads; it writes the highest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_schema: Option<SchemaRange>,
    /// The lowest counter a device that ran it may go back to.
    #[serde(default)]
    pub rollback_floor: u64,
    /// When it was found to be right, by the device's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_at: Option<Timestamp>,
}

/// Where a bundle comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Web addresses, first choice first; relative ones are meant from the configured base.
    Urls(Vec<String>),
    /// A file or pipe on the device, as the operator named it.
    Path(String),
}

/// A delta the channel offers towards a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeltaOffer {
    /// Manifest digest of the release it starts from; always that of the running slot.
    pub from: bundle::digest::Digest,
    /// Bytes.
    pub size: u64,
    /// Web addresses, first choice first.
    pub urls: Vec<String>,
    /// SHA-256 of its recipes, as the signed channel names it; without it the delta is not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipes_sha256: Option<bundle::digest::Digest>,
}

/// What an operator asked for beyond what the configured mode does by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Download and stage although the mode only announces.
    #[serde(default)]
    pub stage: bool,
    /// Activate although the mode only stages.
    #[serde(default)]
    pub activate: bool,
    /// Reboot although the mode only stages.
    #[serde(default)]
    pub reboot: bool,
    /// Do not wait for windows, inhibitors or an unmetered link. Never overrides the region.
    #[serde(default)]
    pub force: bool,
}

/// A release on its way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Update {
    /// Which.
    pub release: ReleaseRef,
    /// Where it goes.
    pub target: SlotId,
    /// Where it comes from.
    pub source: Source,
    /// A delta from the running release, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<DeltaOffer>,
    /// The rollout that let it in; none when standalone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<String>,
    /// What an operator added.
    #[serde(default)]
    pub intent: Intent,
    /// Whether an operator chose it by hand (then a newer offer does not push it aside).
    #[serde(default)]
    pub by_operator: bool,
    /// From the manifest: data formats it reads and writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_schema: Option<SchemaRange>,
    /// From the manifest: the lowest counter a device that ran it may go back to.
    #[serde(default)]
    pub rollback_floor: u64,
    /// From the manifest: raw size of all images in bytes.
    #[serde(default)]
    pub size: u64,
    /// When it was offered, by the device's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered_at: Option<Timestamp>,
    /// Network checks that passed in the old slot just before the reboot, where the configuration requires them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub network: Vec<String>,
}

impl Update {
    /// What the target holds once this update was written and read back.
    #[must_use]
    pub fn record(&self, verified_at: Timestamp) -> SlotRecord {
        SlotRecord {
            release: self.release.clone(),
            state_schema: self.state_schema,
            rollback_floor: self.rollback_floor,
            verified_at: Some(verified_at),
        }
    }
}

/// A manifest whose envelope the release keys signed, as read from the head of a bundle.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifiedManifest {
    /// The manifest.
    pub manifest: Manifest,
    /// SHA-256 of its bytes: the identity of the release.
    pub digest: bundle::digest::Digest,
}

impl VerifiedManifest {
    /// The release it describes.
    #[must_use]
    pub fn release(&self) -> ReleaseRef {
        ReleaseRef {
            version: self.manifest.version.clone(),
            counter: self.manifest.counter,
            manifest_sha256: self.digest,
        }
    }

    /// Raw size of all images in bytes.
    #[must_use]
    pub fn raw_size(&self) -> u64 {
        self.manifest.images.iter().fold(0u64, |sum, image| sum.saturating_add(image.size))
    }
}
