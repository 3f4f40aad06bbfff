//! The channel index: the releases of a channel and where to get them, signed by release keys.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::approval::ReleaseRef;
use crate::document::{self, DocumentError, all_different, are_urls, is_name, rule};

/// DSSE payload type of a channel index.
pub const CHANNEL_TYPE: &str = "application/vnd.flipside.channel.v1+json";

/// Fields that `crit` may name for this version.
const KNOWN: &[&str] =
    &["channel", "version", "issued", "releases", "release", "size", "urls", "deltas", "from", "recipes_sha256"];

/// The releases of a channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Channel {
    /// Its name.
    pub channel: String,
    /// Raised with every change; never goes down on a device.
    pub version: u64,
    /// When it was signed.
    pub issued: Timestamp,
    /// The releases, newest first.
    pub releases: Vec<ChannelRelease>,
    /// Names of fields a reader must understand or refuse.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub crit: Vec<String>,
}

/// One release of a channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChannelRelease {
    /// Which.
    pub release: ReleaseRef,
    /// Size of the bundle, bytes.
    pub size: u64,
    /// Where, relative to the web root or absolute; first choice first.
    pub urls: Vec<String>,
    /// Deltas offered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deltas: Vec<ChannelDelta>,
}

/// A delta to a release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChannelDelta {
    /// The release a device must be running, by manifest digest.
    pub from: crate::digest::Digest,
    /// Size in bytes.
    pub size: u64,
    /// Where.
    pub urls: Vec<String>,
    /// SHA-256 of its `delta.recipes`, which names the digest of every patch: with it, nothing unsigned reaches zstd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipes_sha256: Option<crate::digest::Digest>,
}

impl Channel {
    /// Reads a channel index that was verified, and checks that it keeps its own rules.
    ///
    /// # Errors
    /// When it is malformed, contradicts itself, or needs a newer reader.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let channel: Self = document::parse(bytes, KNOWN)?;
        channel.validate()?;
        Ok(channel)
    }

    /// The bytes to sign.
    ///
    /// # Errors
    /// When it breaks a rule that [`Channel::parse`] would refuse.
    pub fn to_bytes(&self) -> Result<Vec<u8>, DocumentError> {
        self.validate()?;
        document::to_bytes(self)
    }

    /// The release with that identity.
    #[must_use]
    pub fn find(&self, manifest: &crate::digest::Digest) -> Option<&ChannelRelease> {
        self.releases.iter().find(|each| each.release.manifest_sha256 == *manifest)
    }

    fn validate(&self) -> Result<(), DocumentError> {
        rule(is_name(&self.channel), || format!("channel {:?}", self.channel))?;
        rule(self.releases.len() <= 1024, || "more than 1024 releases".to_owned())?;
        let counters = self.releases.iter().map(|each| each.release.counter);
        rule(counters.is_sorted_by(|newer, older| newer > older), || "releases not in falling order".to_owned())?;
        rule(all_different(self.releases.iter().map(|each| each.release.manifest_sha256)), || {
            "one release twice".to_owned()
        })?;
        self.releases.iter().try_for_each(|each| {
            let name = &each.release.version;
            rule(are_urls(&each.urls), || format!("{name}: urls"))?;
            rule(each.deltas.len() <= 64, || format!("{name}: more than 64 deltas"))?;
            rule(each.deltas.iter().all(|delta| are_urls(&delta.urls)), || format!("{name}: urls of a delta"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn example() -> Channel {
        let release = |counter: u64| ChannelRelease {
            release: ReleaseRef {
                version: semver::Version::new(2, counter, 0),
                counter,
                manifest_sha256: Digest::of(&counter.to_le_bytes()),
            },
            size: 1000,
            urls: vec!["bundles/x.bundle".to_owned()],
            deltas: Vec::new(),
        };
        let releases = vec![release(3), release(2)];
        let issued = "2026-11-20T19:55:00Z".parse().unwrap();
        Channel { channel: "stable".to_owned(), version: 7, issued, releases, crit: Vec::new() }
    }

    #[test]
    fn round_trip_and_find() {
        let channel = example();
        assert_eq!(Channel::parse(&channel.to_bytes().unwrap()).unwrap(), channel);
        assert_eq!(channel.find(&Digest::of(&2u64.to_le_bytes())).unwrap().release.counter, 2);
        assert!(channel.find(&Digest::of(b"")).is_none());
    }

    #[test]
    fn contradictions_are_refused() {
        let refused = |change: fn(&mut Channel)| {
            let mut channel = example();
            change(&mut channel);
            assert!(channel.to_bytes().is_err());
            assert!(Channel::parse(&document::to_bytes(&channel).unwrap()).is_err());
        };
        refused(|channel| channel.releases.reverse());
        refused(|channel| channel.releases[1].release = channel.releases[0].release.clone());
        refused(|channel| channel.releases[1].release.manifest_sha256 = channel.releases[0].release.manifest_sha256);
        refused(|channel| channel.channel = "a/b".to_owned());
        refused(|channel| channel.releases[0].urls = vec!["a b".to_owned()]);
    }
}
