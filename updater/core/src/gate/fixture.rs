//! A device, an approval and a channel on which everything says yes; tests spoil one thing at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use bundle::approval::{Approval, Entry, ReleaseRef, RolloutState};
use bundle::channel::{Channel, ChannelRelease};
use bundle::digest::Digest;
use bundle::manifest::Manifest;
use jiff::{SignedDuration, Timestamp};

use super::Inputs;
use crate::event::{Documents, SeenApproval, Surroundings};
use crate::facts::{Boot, BootFacts, BootId, SlotBoot};
use crate::journal::Journal;
use crate::machine::Setup;
use crate::now::Now;
use crate::policy::{Device, Mode, Policy};
use crate::release::{Intent, SlotRecord, Source, Update, VerifiedManifest};
use crate::slot::{PerSlot, SlotId};

/// Monday noon.
pub(crate) const NOON: &str = "2026-11-23T12:00:00Z";

/// An update to slot b; of it, only which release it is.
pub(crate) fn update() -> Update {
    Update {
        release: release(6),
        target: SlotId::B,
        source: Source::Urls(Vec::new()),
        delta: None,
        rollout: None,
        intent: Intent::default(),
        by_operator: false,
        state_schema: None,
        rollback_floor: 0,
        size: 0,
        offered_at: None,
        network: Vec::new(),
    }
}

pub(crate) fn release(counter: u64) -> ReleaseRef {
    ReleaseRef {
        version: semver::Version::new(2, counter, 0),
        counter,
        manifest_sha256: Digest::of(&counter.to_le_bytes()),
    }
}

pub(crate) fn manifest(counter: u64) -> VerifiedManifest {
    let manifest = Manifest {
        compatible: "demo".into(),
        hardware: vec!["rev-*".into()],
        version: release(counter).version,
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
    VerifiedManifest { manifest, digest: release(counter).manifest_sha256 }
}

pub(crate) fn entry(counter: u64) -> Entry {
    Entry {
        rollout: format!("rollout-{counter}"),
        state: RolloutState::Rolling,
        priority: 0,
        release: release(counter),
        // Bytes 00..1f: "dev-0001" has bucket 4643.
        salt: "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".into(),
        threshold_bp: 10_000,
        rules: Vec::new(),
        holds: Vec::new(),
        window: None,
        urls: vec!["a.bundle".into()],
    }
}

pub(crate) fn approval(version: u64, entries: Vec<Entry>) -> SeenApproval {
    let issued: Timestamp = NOON.parse().unwrap();
    let approval = Approval {
        kind: "approval/v1".into(),
        region: "eu".into(),
        channel: "stable".into(),
        epoch: 1,
        version,
        issued: issued - SignedDuration::from_hours(1),
        expires: issued + SignedDuration::from_hours(24 * 7),
        max_stale_seconds: 21_600,
        entries,
        crit: Vec::new(),
    };
    let digest = Digest::of(serde_json::to_string(&approval).unwrap().as_bytes());
    SeenApproval { approval, digest, live: true }
}

pub(crate) fn channel(counters: &[u64]) -> Channel {
    let releases = counters.iter().map(|counter| ChannelRelease {
        release: release(*counter),
        size: 1000,
        urls: vec![format!("bundles/{counter}.bundle")],
        deltas: Vec::new(),
    });
    Channel {
        channel: "stable".into(),
        version: 7,
        issued: NOON.parse().unwrap(),
        releases: releases.collect(),
        crit: Vec::new(),
    }
}

/// Owns what [`Inputs`] borrows.
pub(crate) struct Scene {
    pub now: Now,
    pub device: Device,
    pub policy: Policy,
    pub journal: Journal,
    pub facts: BootFacts,
    pub documents: Documents,
    pub surroundings: Surroundings,
}

impl Scene {
    /// Runs release 5 in slot a, confirmed; release 6 is approved for everybody.
    pub(crate) fn new() -> Self {
        let record = SlotRecord { release: release(5), state_schema: None, rollback_floor: 0, verified_at: None };
        Self {
            now: Now { wall: NOON.parse().unwrap(), wall_trusted: true, uptime: Duration::from_secs(100), random: 0 },
            device: Device {
                compatible: "demo".into(),
                hardware: "rev-a".into(),
                id: "dev-0001".into(),
                ring: Some("general".into()),
                labels: BTreeMap::from([("site".into(), "north".into())]),
                build_time: "2026-01-01T00:00:00Z".parse().unwrap(),
                image_counter: None,
            },
            policy: Policy { mode: Mode::Apply, region: "eu".into(), ..Policy::default() },
            journal: Journal { slots: PerSlot { a: Some(record), b: None }, ..Journal::default() },
            facts: BootFacts {
                boot_id: BootId("boot-1".into()),
                booted: Some(SlotId::A),
                slots: PerSlot { a: SlotBoot::Confirmed, b: SlotBoot::Empty },
            },
            documents: Documents {
                approvals: vec![approval(10, vec![entry(6)])],
                channel: Some(channel(&[6, 5])),
                region_keys: vec!["key-1".into()],
                ..Documents::default()
            },
            surroundings: Surroundings::default(),
        }
    }

    pub(crate) fn setup(&self) -> Setup {
        let boot = Boot { id: self.facts.boot_id.clone(), slot: self.facts.booted };
        Setup { device: self.device.clone(), policy: self.policy.clone(), version: "0".into(), boot }
    }

    pub(crate) fn inputs(&self) -> Inputs<'_> {
        Inputs {
            now: &self.now,
            device: &self.device,
            policy: &self.policy,
            journal: &self.journal,
            facts: &self.facts,
            documents: &self.documents,
            surroundings: &self.surroundings,
        }
    }

    /// The first entry of the first approval.
    pub(crate) fn entry(&mut self) -> &mut Entry {
        &mut self.documents.approvals[0].approval.entries[0]
    }

    /// The first approval.
    pub(crate) fn approval(&mut self) -> &mut Approval {
        &mut self.documents.approvals[0].approval
    }
}
