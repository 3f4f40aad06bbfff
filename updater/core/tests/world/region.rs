//! Releases and the documents about them.

use std::collections::BTreeMap;

use bundle::approval::{Approval, Entry, ReleaseRef, RolloutState};
use bundle::channel::{Channel, ChannelRelease};
use bundle::digest::Digest;
use bundle::manifest::Manifest;
use bundle::recall::{Recall, Recalled};
use jiff::{SignedDuration, Timestamp};
use updater_core::event::{Documents, SeenApproval};
use updater_core::release::VerifiedManifest;

use super::action::{Quality, Weather};

/// The region and the release keys.
pub struct Region {
    /// Every release there is, by counter.
    pub releases: BTreeMap<u64, Quality>,
    pub weather: Weather,
    /// Rises with every change.
    version: u64,
    /// A copy of an older document.
    old: Option<SeenApproval>,
    /// Which key may approve: another one after each theft.
    pub key: u32,
    /// What the vendor took back.
    recall: Option<Recall>,
}

impl Region {
    pub fn new() -> Self {
        let releases = BTreeMap::from([(1, Quality::Good)]);
        Self { releases, weather: Weather::Rolling, version: 1, old: None, key: 1, recall: None }
    }

    pub fn newest(&self) -> u64 {
        self.releases.keys().next_back().copied().unwrap_or(1)
    }

    pub fn offer(&mut self, quality: Quality, at: Timestamp) {
        self.old = Some(self.approval(at));
        self.releases.insert(self.newest() + 1, quality);
        self.version += 1;
    }

    pub fn set(&mut self, weather: Weather, at: Timestamp) {
        if weather == Weather::Replay {
            self.old.get_or_insert(self.approval(at));
        }
        if matches!(self.weather, Weather::Thief(_)) {
            // Only a new key ends it: the thief may have signed the highest version there is.
            self.key += 1;
            self.old = None;
        }
        self.weather = weather;
        self.version += 1;
    }

    /// Takes the newest release back.
    pub fn recall(&mut self, back: bool, at: Timestamp) {
        let newest = self.newest();
        let go_back_to = (back && newest > 1).then(|| release(newest - 1));
        let recalled = Recalled { release: release(newest), go_back_to, reason: "loses settings".into() };
        let version = self.recall.as_ref().map_or(0, |recall| recall.version) + 1;
        let (channel, crit) = ("stable".into(), Vec::new());
        self.recall = Some(Recall { channel, version, issued: at, recalls: vec![recalled], crit });
    }

    /// What a device can fetch at that true time.
    pub fn documents(&self, at: Timestamp) -> Documents {
        let none = Documents {
            region_keys: vec![format!("key-{}", self.key)],
            release_keys: vec!["release-1".into()],
            ..Documents::default()
        };
        if self.weather == Weather::Silent {
            return none;
        }
        let approval = match (self.weather, &self.old) {
            (Weather::Replay, Some(old)) => old.clone(),
            (Weather::Thief(seed), _) => super::thief::approval(seed, &self.releases, at),
            _ => self.approval(at),
        };
        Documents { approvals: vec![approval], channel: Some(self.channel(at)), recall: self.recall.clone(), ..none }
    }

    fn approval(&self, at: Timestamp) -> SeenApproval {
        let state = match self.weather {
            Weather::Paused => RolloutState::Paused,
            Weather::Halted => RolloutState::Halted,
            _ => RolloutState::Rolling,
        };
        let mut release = release(self.newest());
        if self.weather == Weather::Liar {
            release = ReleaseRef { counter: self.newest() + 100, ..self::release(1) };
        }
        let entry = Entry {
            rollout: format!("rollout-{}", release.counter),
            state,
            priority: 0,
            release,
            salt: "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".into(),
            threshold_bp: 10_000,
            rules: Vec::new(),
            holds: Vec::new(),
            window: None,
            urls: vec!["x.bundle".into()],
        };
        let lifetime = if self.weather == Weather::Expired { 1 } else { 24 * 7 };
        let approval = Approval {
            kind: "approval/v1".into(),
            region: "eu".into(),
            channel: "stable".into(),
            epoch: 1,
            version: self.version,
            issued: at - SignedDuration::from_hours(2),
            expires: at - SignedDuration::from_hours(2) + SignedDuration::from_hours(lifetime),
            max_stale_seconds: 21_600,
            entries: vec![entry],
            crit: Vec::new(),
        };
        let digest = Digest::of(format!("{}", self.version).as_bytes());
        SeenApproval { approval, digest, live: true }
    }

    fn channel(&self, at: Timestamp) -> Channel {
        let releases = self.releases.keys().rev().map(|counter| ChannelRelease {
            release: release(*counter),
            size: 1,
            urls: vec![format!("{counter}.bundle")],
            deltas: Vec::new(),
        });
        Channel {
            channel: "stable".into(),
            version: self.newest(),
            issued: at - SignedDuration::from_hours(2),
            releases: releases.collect(),
            crit: Vec::new(),
        }
    }
}

pub fn release(counter: u64) -> ReleaseRef {
    ReleaseRef {
        version: semver::Version::new(1, counter, 0),
        counter,
        manifest_sha256: Digest::of(format!("release {counter}").as_bytes()),
    }
}

pub fn manifest(counter: u64) -> VerifiedManifest {
    let release = release(counter);
    let manifest = Manifest {
        compatible: "demo".into(),
        hardware: Vec::new(),
        version: release.version,
        counter,
        rollback_floor: 0,
        from: None,
        state_schema: None,
        created: Timestamp::UNIX_EPOCH,
        images: Vec::new(),
        hooks: Vec::new(),
        attestations: BTreeMap::new(),
        crit: Vec::new(),
    };
    VerifiedManifest { manifest, digest: release.manifest_sha256 }
}
