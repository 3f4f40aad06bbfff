//! The manifest: what a release is, for whom, and the digests of everything in its bundle.
//!
//! Parsing is strict (see [`crate::json`]); [`Manifest::parse`] also refuses a manifest that breaks its own rules,
//! so whoever holds a `Manifest` may rely on them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::document::{self, DocumentError};
use crate::reason::Reason;

mod rules;

/// DSSE payload type of a manifest.
pub const MANIFEST_TYPE: &str = "application/vnd.flipside.manifest.v1+json";

/// Images a release may have.
pub const MAX_IMAGES: usize = 32;

/// Largest image, bytes (16 TiB): keeps every sum of sizes far from the end of 64 bits.
pub const MAX_IMAGE_SIZE: u64 = 1 << 44;

/// Largest index or chunks member, bytes: what a device is ready to store of it.
pub const MAX_INDEX_SIZE: u64 = 64 << 20;

/// Fields that `crit` may name for this version.
const KNOWN: &[&str] = &[
    "compatible",
    "hardware",
    "version",
    "counter",
    "rollback_floor",
    "from",
    "state_schema",
    "created",
    "images",
    "hooks",
    "attestations",
    "chunks",
];

/// What a release is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The product; must equal the device's own `compatible`.
    pub compatible: String,
    /// Hardware revisions it runs on, as patterns with `*`; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hardware: Vec<String>,
    /// For people.
    pub version: semver::Version,
    /// For machines: strictly rising from release to release.
    pub counter: u64,
    /// The lowest counter a device that ran this release may go back to.
    #[serde(default)]
    pub rollback_floor: u64,
    /// Releases it can be installed from; none: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<FromRange>,
    /// Data formats this system reads and writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_schema: Option<SchemaRange>,
    /// When it was built.
    pub created: Timestamp,
    /// Its images, in the order of their payloads in the bundle.
    pub images: Vec<Image>,
    /// Names for whatever the integrator runs from the new slot; Flipside itself runs none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<String>,
    /// Signed facts of the build.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attestations: BTreeMap<String, serde_json::Value>,
    /// Names of fields a reader must understand or refuse.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub crit: Vec<String>,
}

/// Stepping stones: the counters a release can be installed from, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FromRange {
    /// Lowest.
    #[serde(default)]
    pub min_counter: u64,
    /// Highest; none: no upper end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_counter: Option<u64>,
}

/// Data formats a system can read, both ends included; it writes `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaRange {
    /// Lowest.
    pub min: u32,
    /// Highest.
    pub max: u32,
}

/// One image of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its name, `[a-z0-9][a-z0-9._-]{0,63}`; also the stem of its members in the bundle.
    pub name: String,
    /// How it is written.
    pub kind: ImageKind,
    /// Raw size in bytes.
    pub size: u64,
    /// SHA-256 of the raw image.
    pub sha256: Digest,
    /// The frame index.
    pub index: Blob,
    /// Content addresses inside the frames, where the bundle has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunks: Option<Chunks>,
    /// The compressed frames.
    pub payload: Blob,
    /// Raw bytes of a frame it was built with; the index says it to readers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame_size: Option<u32>,
    /// zstd level it was built with; no reader needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<i32>,
}

/// How an image is written on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ImageKind {
    /// A raw file system image for a partition.
    Block,
    /// One file, for instance a kernel on the ESP.
    File,
    /// A tar of a folder.
    Tree,
}

/// Size and digest of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// Bytes.
    pub size: u64,
    /// SHA-256.
    pub sha256: Digest,
}

/// The chunks member and how it was cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunks {
    /// Bytes.
    pub size: u64,
    /// SHA-256.
    pub sha256: Digest,
    /// `fastcdc` or `blocks`.
    pub method: String,
    /// Average (fastcdc) or exact (blocks) size in bytes.
    pub target: u32,
}

impl Manifest {
    /// Modification time, seconds since 1970, of everything that is made of this release: headers of the bundle, files
    /// of a tree. The release's own, so that the same release is the same bytes.
    #[must_use]
    pub fn mtime(&self) -> u64 {
        u64::try_from(self.created.as_second()).unwrap_or(0)
    }

    /// Reads a manifest that was verified, and checks that it keeps its own rules.
    ///
    /// # Errors
    /// When it is malformed, contradicts itself, or needs a newer reader (an unknown critical field or image kind).
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        document::check(bytes, KNOWN)?;
        rules::known_kinds(bytes)?;
        let manifest: Self = document::typed(bytes)?;
        rules::validate(&manifest)?;
        Ok(manifest)
    }

    /// The bytes to sign; their SHA-256 is the release's identity.
    ///
    /// # Errors
    /// When it breaks a rule that [`Manifest::parse`] would refuse.
    pub fn to_bytes(&self) -> Result<Vec<u8>, DocumentError> {
        rules::validate(self)?;
        let bytes = document::to_bytes(self)?;
        document::check(&bytes, KNOWN)?;
        Ok(bytes)
    }

    /// Checks a release whose images are not built yet: what is wrong is better known before hours of work than after.
    ///
    /// # Errors
    /// When it breaks a rule that [`Manifest::to_bytes`] would refuse, whatever the images turn out to be.
    pub fn check_plan<'a>(&self, images: impl Iterator<Item = &'a str> + Clone) -> Result<(), DocumentError> {
        rules::planned(self, images)?;
        document::check(&document::to_bytes(self)?, KNOWN)
    }

    /// The image of that name.
    #[must_use]
    pub fn image(&self, name: &str) -> Option<&Image> {
        self.images.iter().find(|image| image.name == name)
    }

    /// Whether it is made for that product.
    #[must_use]
    pub fn is_for(&self, compatible: &str) -> bool {
        self.compatible == compatible
    }

    /// Whether it is made for that hardware revision; a release that names none is for all.
    #[must_use]
    pub fn supports(&self, hardware: &str) -> bool {
        self.hardware.is_empty() || self.hardware.iter().any(|pattern| crate::pattern::matches(pattern, hardware))
    }

    /// Whether it may be installed over a release with that counter (stepping stones).
    #[must_use]
    pub fn accepts_from(&self, counter: u64) -> bool {
        self.from
            .is_none_or(|from| counter >= from.min_counter && from.max_counter.is_none_or(|highest| counter <= highest))
    }

    /// Why a device must not install it; none when it may.
    ///
    /// `counter` is that of the release it runs, or none when that is not known (a factory image): then nothing is
    /// older. Rollback by recall is the caller's to allow.
    #[must_use]
    pub fn refusal_for(&self, compatible: &str, hardware: Option<&str>, counter: Option<u64>) -> Option<Reason> {
        if !self.is_for(compatible) {
            return Some(Reason::Incompatible);
        }
        // A device that does not know its revision takes only what is for all.
        if !self.hardware.is_empty() && !hardware.is_some_and(|hardware| self.supports(hardware)) {
            return Some(Reason::HardwareMismatch);
        }
        let counter = counter?;
        if self.counter <= counter {
            return Some(Reason::CounterRollback);
        }
        (!self.accepts_from(counter)).then_some(Reason::SteppingStoneRequired)
    }
}
