//! The region's approval: which genuine release, for whom, now.
//!
//! One document per region and channel, signed by the region's online keys and cacheable by any web server. It
//! carries thresholds, not schedules: when the host vanishes, a rollout stays where it is.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::document::{self, DocumentError, all_different, are_urls, is_label, is_name, rule};
use crate::reason::Reason;

/// DSSE payload type of an approval.
pub const APPROVAL_TYPE: &str = "application/vnd.flipside.approval.v1+json";

/// The value of `type`.
pub const APPROVAL_KIND: &str = "approval/v1";

/// Bytes of a rollout's salt.
pub const SALT_LEN: usize = 32;

/// Fields that `crit` may name for this version.
const KNOWN: &[&str] = &[
    "type",
    "region",
    "channel",
    "epoch",
    "version",
    "issued",
    "expires",
    "max_stale_seconds",
    "entries",
    "rollout",
    "state",
    "priority",
    "release",
    "salt",
    "threshold_bp",
    "rules",
    "holds",
    "window",
    "urls",
    "match",
    "ring",
    "hardware",
    "labels",
    "ids",
];

/// What a region approves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Approval {
    /// Always `approval/v1`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The region it speaks for.
    pub region: String,
    /// The channel it speaks for.
    pub channel: String,
    /// Raised after a stolen region key; outranks `version`.
    pub epoch: u64,
    /// Raised with every change.
    pub version: u64,
    /// When it was signed.
    pub issued: Timestamp,
    /// After this it is a no.
    pub expires: Timestamp,
    /// How long a stored copy may be used when the host can not be reached, seconds.
    pub max_stale_seconds: u64,
    /// The rollouts.
    pub entries: Vec<Entry>,
    /// Names of fields a reader must understand or refuse.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub crit: Vec<String>,
}

/// One rollout of one release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name, for people and reports.
    pub rollout: String,
    /// Rolling, paused or halted.
    pub state: RolloutState,
    /// Among several entries that would let the device in, the highest wins.
    #[serde(default)]
    pub priority: i64,
    /// The release.
    pub release: ReleaseRef,
    /// 32 bytes, base64: makes the order of devices differ between rollouts.
    pub salt: String,
    /// Share of devices let in, in basis points (0 to 10000).
    pub threshold_bp: u16,
    /// Thresholds for some devices; the first rule that matches counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// Devices that must not take it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holds: Vec<Hold>,
    /// Hours in which it may be activated, device time zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// Where the bundle is, first choice first; empty: as the channel index says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
}

/// State of a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RolloutState {
    /// Devices below the threshold may go.
    Rolling,
    /// Nobody starts; may go on later.
    Paused,
    /// Nobody starts, for good.
    Halted,
}

/// A release, named so that it can not be confused with another.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReleaseRef {
    /// For people.
    pub version: semver::Version,
    /// For machines.
    pub counter: u64,
    /// SHA-256 of the manifest's bytes: the identity.
    pub manifest_sha256: Digest,
}

/// A threshold for the devices that match.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// Which devices.
    #[serde(rename = "match")]
    pub matches: Match,
    /// Their threshold in basis points.
    pub threshold_bp: u16,
}

/// A hold for the devices that match.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hold {
    /// Which devices.
    #[serde(rename = "match")]
    pub matches: Match,
    /// Why, for people.
    pub reason: String,
}

/// Which devices a rule or hold means: all named conditions must hold; an empty one matches every device.
///
/// An unknown condition must never match *less carefully* than meant, so unknown fields are an error here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// The device's ring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ring: Option<String>,
    /// Pattern with `*` for the hardware revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<String>,
    /// Labels that must all be equal.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Device ids, any of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<String>,
}

/// Weekly hours in the device's time zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Days on which it opens.
    pub days: Vec<Weekday>,
    /// `HH:MM`, local time at which it opens.
    pub start: String,
    /// Minutes it stays open (1 to 10080); may cross midnight.
    pub minutes: u32,
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Weekday {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Approval {
    /// Reads an approval that was verified, and checks that it keeps its own rules.
    ///
    /// # Errors
    /// When it is malformed, contradicts itself, or needs a newer reader. Expiry is not checked: there is no clock.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        document::check(bytes, KNOWN)?;
        let approval: Self = document::typed(bytes)?;
        approval.validate()?;
        Ok(approval)
    }

    /// The bytes to sign.
    ///
    /// # Errors
    /// When it breaks a rule that [`Approval::parse`] would refuse.
    pub fn to_bytes(&self) -> Result<Vec<u8>, DocumentError> {
        self.validate()?;
        document::to_bytes(self)
    }

    /// What orders documents: a higher epoch outranks every version.
    #[must_use]
    pub const fn rank(&self) -> (u64, u64) {
        (self.epoch, self.version)
    }

    /// Why a device must not follow it; none when it may. `seen` is the highest rank it followed before.
    #[must_use]
    pub fn refusal_at(&self, now: Timestamp, seen: Option<(u64, u64)>) -> Option<Reason> {
        if seen.is_some_and(|seen| self.rank() < seen) {
            return Some(Reason::ApprovalRollback);
        }
        (self.expires <= now).then_some(Reason::ApprovalExpired)
    }

    fn validate(&self) -> Result<(), DocumentError> {
        if self.kind != APPROVAL_KIND && self.kind.starts_with("approval/v") {
            return Err(DocumentError::TooNew(format!("type {:?}", self.kind)));
        }
        rule(self.kind == APPROVAL_KIND, || format!("type {:?}", self.kind))?;
        rule(is_name(&self.region), || format!("region {:?}", self.region))?;
        rule(is_name(&self.channel), || format!("channel {:?}", self.channel))?;
        rule(self.issued < self.expires, || "expires before it is issued".to_owned())?;
        rule(self.entries.len() <= 256, || "more than 256 entries".to_owned())?;
        rule(all_different(self.entries.iter().map(|entry| &entry.rollout)), || "two rollouts of one name".to_owned())?;
        self.entries.iter().try_for_each(Entry::validate)
    }
}

impl Entry {
    /// The salt's 32 bytes; none when the text is not that.
    #[must_use]
    pub fn salt_bytes(&self) -> Option<[u8; SALT_LEN]> {
        STANDARD.decode(&self.salt).ok()?.try_into().ok()
    }

    fn validate(&self) -> Result<(), DocumentError> {
        let name = &self.rollout;
        rule(is_label(name), || "a rollout without a printable name".to_owned())?;
        rule(self.salt_bytes().is_some(), || format!("{name}: salt is not 32 bytes of base64"))?;
        rule(self.threshold_bp <= crate::bucket::BUCKETS, || format!("{name}: threshold above 10000"))?;
        rule(self.rules.iter().all(|rule| rule.threshold_bp <= crate::bucket::BUCKETS), || {
            format!("{name}: threshold of a rule above 10000")
        })?;
        rule(self.rules.len() <= 256 && self.holds.len() <= 256, || format!("{name}: more than 256 rules or holds"))?;
        rule(self.holds.iter().all(|hold| is_label(&hold.reason)), || {
            format!("{name}: a hold without a printable reason")
        })?;
        rule(are_urls(&self.urls), || format!("{name}: urls"))?;
        self.window.as_ref().map_or(Ok(()), |window| {
            rule(window.start_minute().is_some(), || format!("{name}: window start is not HH:MM"))?;
            rule((1..=10_080).contains(&window.minutes), || format!("{name}: window minutes not in 1..=10080"))?;
            rule(!window.days.is_empty() && all_different(window.days.iter().map(|day| *day as u8)), || {
                format!("{name}: window days")
            })
        })
    }
}

impl Window {
    /// Minutes after midnight at which it opens; none when `start` is not `HH:MM`.
    #[must_use]
    pub fn start_minute(&self) -> Option<u32> {
        let (hours, minutes) = self.start.split_once(':')?;
        let number = |text: &str, below: u32| {
            let digits = text.len() == 2 && text.bytes().all(|c| c.is_ascii_digit());
            text.parse::<u32>().ok().filter(|value| digits && *value < below)
        };
        Some(number(hours, 24)? * 60 + number(minutes, 60)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A document with every field, and a real digest and salt.
    fn example() -> String {
        let salt = STANDARD.encode([7u8; 32]);
        let digest = Digest::of(b"manifest");
        format!(
            r#"{{"type":"approval/v1","region":"eu-west","channel":"stable","epoch":3,"version":412,
 "issued":"2026-11-20T19:55:00Z","expires":"2026-11-27T19:55:00Z","max_stale_seconds":21600,
 "entries":[{{"rollout":"spring","state":"rolling","priority":100,
   "release":{{"version":"2.4.1","counter":57,"manifest_sha256":"{digest}"}},
   "salt":"{salt}","threshold_bp":150,
   "rules":[{{"match":{{"ring":"canary"}},"threshold_bp":10000}},{{"match":{{"hardware":"rev-b"}},"threshold_bp":2000}}],
   "holds":[{{"match":{{"hardware":"rev-a"}},"reason":"known-bad-nic"}}],
   "window":{{"days":["mon","tue"],"start":"01:00","minutes":180}},
   "urls":["https://cdn.example/b/2.4.1.bundle"]}}],
 "crit":["holds"]}}"#
        )
    }

    fn refused(from: &str, to: &str) -> Reason {
        let text = example();
        assert!(text.contains(from), "{from}");
        Approval::parse(text.replace(from, to).as_bytes()).unwrap_err().reason()
    }

    #[test]
    fn the_example_is_read_and_written() {
        let approval = Approval::parse(example().as_bytes()).unwrap();
        assert_eq!(approval.entries[0].window.as_ref().unwrap().start_minute(), Some(60));
        assert_eq!(Approval::parse(&approval.to_bytes().unwrap()).unwrap(), approval);
    }

    #[test]
    fn old_documents_and_expired_ones_are_not_followed() {
        let approval = Approval::parse(example().as_bytes()).unwrap();
        let (before, after) = ("2026-11-27T19:54:59Z".parse().unwrap(), "2026-11-27T19:55:00Z".parse().unwrap());
        assert_eq!(approval.refusal_at(before, None), None);
        assert_eq!(approval.refusal_at(before, Some((3, 412))), None);
        assert_eq!(approval.refusal_at(before, Some((3, 413))), Some(Reason::ApprovalRollback));
        assert_eq!(approval.refusal_at(before, Some((2, u64::MAX))), None);
        assert_eq!(approval.refusal_at(before, Some((4, 0))), Some(Reason::ApprovalRollback));
        assert_eq!(approval.refusal_at(after, None), Some(Reason::ApprovalExpired));
    }

    #[test]
    fn what_is_newer_is_called_newer() {
        assert_eq!(refused("approval/v1", "approval/v2"), Reason::FormatTooNew);
        assert_eq!(refused("[\"holds\"]", "[\"holds\",\"quorum\"]"), Reason::FormatTooNew);
    }

    #[test]
    fn what_breaks_a_rule_is_malformed() {
        for (from, to) in [
            ("approval/v1", "recall/v1"),
            ("eu-west", "../eu"),
            ("2026-11-27", "2026-11-19"),
            (":150", ":10001"),
            (":2000", ":20000"),
            ("rolling", "strolling"),
            ("BwcH", "BwcHBw"),
            ("01:00", "1:00"),
            ("01:00", "24:00"),
            ("01:00", "+1:00"),
            (":180", ":0"),
            ("\"tue\"", "\"mon\""),
            ("{\"hardware\":\"rev-a\"}", "{\"colour\":\"red\"}"),
            ("https://cdn.example/b/2.4.1.bundle", "https://cdn.example/\\n"),
            ("\"epoch\":3", "\"epoch\":-3"),
            ("\"epoch\":3", "\"epoch\":3,\"epoch\":4"),
        ] {
            assert_eq!(refused(from, to), Reason::Malformed, "{from} -> {to}");
        }
    }
}
