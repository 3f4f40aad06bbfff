//! A recall: releases that must not be run any more, said by those who said they were genuine.
//!
//! The only way back: a device whose other slot still holds the named release may return to it although its counter
//! is lower. A region can not do this (it can only stop), and a recall never names a release that was not signed.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::approval::ReleaseRef;
use crate::digest::Digest;
use crate::document::{self, DocumentError, all_different, is_label, is_name, rule};

/// DSSE payload type of a recall.
pub const RECALL_TYPE: &str = "application/vnd.flipside.recall.v1+json";

/// Fields that `crit` may name for this version.
const KNOWN: &[&str] = &["channel", "version", "issued", "recalls", "release", "go_back_to", "reason"];

/// The recalled releases of a channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recall {
    /// The channel it speaks for.
    pub channel: String,
    /// Raised with every change; never goes down on a device.
    pub version: u64,
    /// When it was signed.
    pub issued: Timestamp,
    /// The recalled releases.
    pub recalls: Vec<Recalled>,
    /// Names of fields a reader must understand or refuse.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub crit: Vec<String>,
}

/// One recalled release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recalled {
    /// It is not installed any more.
    pub release: ReleaseRef,
    /// Devices that run it go back to this one when their other slot still holds it; none: they stay and wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub go_back_to: Option<ReleaseRef>,
    /// Why, for people.
    pub reason: String,
}

impl Recall {
    /// Reads a recall that was verified, and checks that it keeps its own rules.
    ///
    /// # Errors
    /// When it is malformed, contradicts itself, or needs a newer reader.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let recall: Self = document::parse(bytes, KNOWN)?;
        recall.validate()?;
        Ok(recall)
    }

    /// The bytes to sign.
    ///
    /// # Errors
    /// When it breaks a rule that [`Recall::parse`] would refuse.
    pub fn to_bytes(&self) -> Result<Vec<u8>, DocumentError> {
        self.validate()?;
        document::to_bytes(self)
    }

    /// What it says of a release, if it is recalled.
    #[must_use]
    pub fn find(&self, manifest: &Digest) -> Option<&Recalled> {
        self.recalls.iter().find(|each| each.release.manifest_sha256 == *manifest)
    }

    fn validate(&self) -> Result<(), DocumentError> {
        rule(is_name(&self.channel), || format!("channel {:?}", self.channel))?;
        rule(self.recalls.len() <= 1024, || "more than 1024 recalls".to_owned())?;
        rule(all_different(self.recalls.iter().map(|each| each.release.manifest_sha256)), || {
            "one release twice".to_owned()
        })?;
        self.recalls.iter().try_for_each(|each| {
            let name = &each.release.version;
            rule(is_label(&each.reason), || format!("{name}: no printable reason"))?;
            let Some(target) = &each.go_back_to else { return Ok(()) };
            // A target that is recalled itself would send devices back and forth.
            rule(self.find(&target.manifest_sha256).is_none(), || format!("{name}: goes back to a recalled release"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(counter: u64) -> ReleaseRef {
        let manifest_sha256 = Digest::of(&counter.to_le_bytes());
        ReleaseRef { version: semver::Version::new(1, counter, 0), counter, manifest_sha256 }
    }

    fn example() -> Recall {
        let recalled = |n, to: Option<u64>| Recalled {
            release: release(n),
            go_back_to: to.map(release),
            reason: "eats data".to_owned(),
        };
        let recalls = vec![recalled(3, Some(2)), recalled(4, None)];
        let issued = "2026-11-20T19:55:00Z".parse().unwrap();
        Recall { channel: "stable".to_owned(), version: 1, issued, recalls, crit: Vec::new() }
    }

    #[test]
    fn round_trip_and_find() {
        let recall = example();
        assert_eq!(Recall::parse(&recall.to_bytes().unwrap()).unwrap(), recall);
        assert_eq!(recall.find(&release(3).manifest_sha256).unwrap().go_back_to, Some(release(2)));
        assert!(recall.find(&release(2).manifest_sha256).is_none());
    }

    #[test]
    fn contradictions_are_refused() {
        let refused = |change: fn(&mut Recall)| {
            let mut recall = example();
            change(&mut recall);
            assert!(recall.to_bytes().is_err());
        };
        refused(|recall| recall.recalls[1].go_back_to = Some(release(3)));
        refused(|recall| recall.recalls[0].go_back_to = Some(release(3)));
        refused(|recall| recall.recalls[1].release = release(3));
        refused(|recall| recall.recalls[0].reason.clear());
    }
}
