//! The trust root: which keys a device believes, for what, and how that may change.
//!
//! In the image, and replaceable by a newer one: version N+1 is accepted when the root thresholds of N and of N+1
//! both signed it, one version at a time (the rotation rule of The Update Framework, section 5.3).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::document::{self, DocumentError, all_different, is_name, rule};
use crate::dsse::{DsseError, Envelope};
use crate::keys::{KeySet, PublicKey};
use crate::reason::Reason;

/// DSSE payload type of a trust root.
pub const TRUST_TYPE: &str = "application/vnd.flipside.trust.v1+json";

/// Fields that `crit` may name for this version.
const KNOWN: &[&str] = &["version", "expires", "keys", "roles", "regions", "root", "release", "approve", "threshold"];

/// Why a trust root is refused.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The envelope, or its signatures.
    #[error("the trust root is not signed as it must be")]
    Dsse(#[from] DsseError),
    /// What it says.
    #[error("the trust root can not be used")]
    Document(#[from] DocumentError),
    /// Not the next version.
    #[error("trust root version {offered} can not follow version {current}: one version at a time")]
    NotNext {
        /// The version in force.
        current: u64,
        /// The version offered.
        offered: u64,
    },
}

impl TrustError {
    /// The reason code of this refusal.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Dsse(error) => error.reason(),
            Self::Document(error) => error.reason(),
            Self::NotNext { current, offered } if offered <= current => Reason::CounterRollback,
            Self::NotNext { .. } => Reason::Malformed,
        }
    }
}

/// Keys and what they may sign.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrustRoot {
    /// Rises by one with every change.
    pub version: u64,
    /// After this, a newer root should have come; blocks starting, never undoes.
    pub expires: Timestamp,
    /// Public keys by key id (SHA-256 of the SPKI DER, hex): SPKI PEM.
    pub keys: BTreeMap<String, String>,
    /// `root` and `release`.
    pub roles: Roles,
    /// Region name to who may approve there.
    #[serde(default)]
    pub regions: BTreeMap<String, Region>,
    /// Names of fields a reader must understand or refuse.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub crit: Vec<String>,
}

/// The offline roles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roles {
    /// May replace this document.
    pub root: Role,
    /// May say what is genuine.
    pub release: Role,
}

/// Keys of which a number must sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// Key ids.
    pub keys: Vec<String>,
    /// How many different ones must sign, at least 1.
    pub threshold: u32,
}

/// What a region's keys may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// May sign approvals.
    pub approve: Role,
}

impl TrustRoot {
    /// Reads a trust root that was verified, and checks that it keeps its own rules.
    ///
    /// # Errors
    /// When it is malformed, a key does not match its id, a role can never reach its threshold, or it needs a newer
    /// reader. Expiry is not checked: there is no clock.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let trust: Self = document::parse(bytes, KNOWN)?;
        trust.validate()?;
        Ok(trust)
    }

    /// The bytes to sign.
    ///
    /// # Errors
    /// When it breaks a rule that [`TrustRoot::parse`] would refuse.
    pub fn to_bytes(&self) -> Result<Vec<u8>, DocumentError> {
        self.validate()?;
        document::to_bytes(self)
    }

    /// Opens a root that signs itself.
    ///
    /// This proves that it was made by the holders of its own root keys, not that they are ours: the caller must have
    /// it from a trusted place (the image).
    ///
    /// # Errors
    /// When its own root threshold did not sign it, or as [`TrustRoot::parse`].
    pub fn open(envelope: &[u8]) -> Result<Self, TrustError> {
        let envelope = Envelope::parse(envelope)?;
        // A newer kind of trust root may have any shape, and must be called newer, not damaged.
        envelope.check_type(TRUST_TYPE)?;
        // The keys stand inside what they sign, so here alone parsing comes before verifying.
        let trust = Self::parse(&envelope.payload)?;
        let (keys, threshold) = trust.root_keys();
        envelope.verify(TRUST_TYPE, &keys, threshold)?;
        Ok(trust)
    }

    /// Accepts the version after this one: signed by the root thresholds of both.
    ///
    /// # Errors
    /// When either threshold is missing, or it is not the very next version.
    pub fn accept_next(&self, envelope: &[u8]) -> Result<Self, TrustError> {
        let parsed = Envelope::parse(envelope)?;
        let (keys, threshold) = self.root_keys();
        parsed.verify(TRUST_TYPE, &keys, threshold)?;
        let next = Self::open(envelope)?;
        if Some(next.version) != self.version.checked_add(1) {
            return Err(TrustError::NotNext { current: self.version, offered: next.version });
        }
        Ok(next)
    }

    /// Keys that may replace this document, and how many must sign.
    #[must_use]
    pub fn root_keys(&self) -> (KeySet, usize) {
        self.keys_of(&self.roles.root)
    }

    /// Keys that say what is genuine, and how many must sign.
    #[must_use]
    pub fn release_keys(&self) -> (KeySet, usize) {
        self.keys_of(&self.roles.release)
    }

    /// Keys that approve for that region, and how many must sign; no keys when the region is not listed.
    #[must_use]
    pub fn region_keys(&self, name: &str) -> (KeySet, usize) {
        self.regions.get(name).map_or_else(|| (KeySet::default(), 1), |region| self.keys_of(&region.approve))
    }

    /// A key that can not be read is left out: then a threshold is missed, never lowered.
    fn keys_of(&self, role: &Role) -> (KeySet, usize) {
        let keys = role.keys.iter().filter_map(|id| PublicKey::from_pem(self.keys.get(id)?).ok());
        (keys.collect(), usize::try_from(role.threshold).unwrap_or(usize::MAX).max(1))
    }

    fn validate(&self) -> Result<(), DocumentError> {
        rule(self.version >= 1, || "version 0".to_owned())?;
        rule(self.keys.len() <= 256 && self.regions.len() <= 256, || "more than 256 keys or regions".to_owned())?;
        for (id, pem) in &self.keys {
            let key =
                PublicKey::from_pem(pem).map_err(|error| DocumentError::Invalid(format!("key {id:?}: {error}")))?;
            rule(key.id().to_string() == *id, || format!("key {id:?} is really {}", key.id()))?;
        }
        self.role("root", &self.roles.root)?;
        self.role("release", &self.roles.release)?;
        self.regions.iter().try_for_each(|(name, region)| {
            rule(is_name(name), || format!("region name {name:?}"))?;
            self.role(name, &region.approve)
        })
    }

    fn role(&self, name: &str, role: &Role) -> Result<(), DocumentError> {
        rule(all_different(&role.keys), || format!("{name}: one key twice"))?;
        rule(role.keys.iter().all(|id| self.keys.contains_key(id)), || format!("{name}: a key that is not listed"))?;
        let reachable = usize::try_from(role.threshold).is_ok_and(|n| (1..=role.keys.len()).contains(&n));
        rule(reachable, || format!("{name}: threshold {} with {} keys", role.threshold, role.keys.len()))
    }
}

#[cfg(test)]
#[path = "trust/tests.rs"]
mod tests;
