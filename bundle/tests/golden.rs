//! Fixtures of every signed document and of a small bundle, of every version of the format, kept for ever.
//!
//! A reader of today must read what was signed years ago, and a writer of today must not quietly write it differently.
//! Files are only ever added (`FLIPSIDE_MAKE_FIXTURES=1 cargo test -p bundle --test golden`), never changed.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may fail loudly")]

mod kit;

use std::path::PathBuf;

use base64::Engine as _;
use bundle::approval::*;
use bundle::channel::*;
use bundle::digest::Digest;
use bundle::open::{open_approval, open_channel, open_manifest, open_recall};
use bundle::recall::{RECALL_TYPE, Recall, Recalled};
use bundle::trust::TrustRoot;
use kit::{REGION, RELEASE, ROOT, parts, sign, signed_trust, trust};

fn release() -> ReleaseRef {
    let manifest_sha256 = Digest::of(&serde_json::to_vec(&parts("golden").manifest).unwrap());
    ReleaseRef { version: semver::Version::new(2, 4, 1), counter: 57, manifest_sha256 }
}

fn approval() -> Approval {
    let matches = |ring: Option<&str>, hardware: Option<&str>| Match {
        ring: ring.map(str::to_owned),
        hardware: hardware.map(str::to_owned),
        ..Match::default()
    };
    let entry = Entry {
        rollout: "spring".to_owned(),
        state: RolloutState::Rolling,
        priority: 100,
        release: release(),
        salt: base64::engine::general_purpose::STANDARD.encode([7; 32]),
        threshold_bp: 150,
        rules: vec![Rule { matches: matches(Some("canary"), None), threshold_bp: 10_000 }],
        holds: vec![Hold { matches: matches(None, Some("rev-a")), reason: "known-bad-nic".to_owned() }],
        window: Some(Window { days: vec![Weekday::Mon, Weekday::Tue], start: "01:00".to_owned(), minutes: 180 }),
        urls: vec!["https://cdn.example/b/2.4.1.bundle".to_owned()],
    };
    Approval {
        kind: APPROVAL_KIND.to_owned(),
        region: "eu-west".to_owned(),
        channel: "stable".to_owned(),
        epoch: 3,
        version: 412,
        issued: "2026-11-20T19:55:00Z".parse().unwrap(),
        expires: "2026-11-27T19:55:00Z".parse().unwrap(),
        max_stale_seconds: 21_600,
        entries: vec![entry],
        crit: vec!["rules".to_owned(), "holds".to_owned(), "window".to_owned()],
    }
}

fn channel() -> Channel {
    let delta = ChannelDelta {
        from: Digest::of(b"old"),
        size: 99,
        urls: vec!["deltas/x.delta".to_owned()],
        recipes_sha256: None,
    };
    let release = ChannelRelease {
        release: release(),
        size: 5632,
        urls: vec!["bundles/x.bundle".to_owned()],
        deltas: vec![delta],
    };
    Channel {
        channel: "stable".to_owned(),
        version: 12,
        issued: "2026-11-20T19:55:00Z".parse().unwrap(),
        releases: vec![release],
        crit: Vec::new(),
    }
}

/// The fixture of that name; written first when it is new and fixtures are being made.
fn fixture(name: &str, make: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1").join(name);
    if kit::making() && !path.exists() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, make()).unwrap();
    }
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn root() -> TrustRoot {
    TrustRoot::open(&fixture("trust.dsse.json", || signed_trust(&trust(1, &[RELEASE], 1), &[ROOT]))).unwrap()
}

#[test]
fn trust_root() {
    assert_eq!(root(), trust(1, &[RELEASE], 1));
    let bytes = fixture("trust.dsse.json", Vec::new);
    assert_eq!(signed_trust(&root(), &[ROOT]), bytes, "written as it was");
}

#[test]
fn manifest() {
    let make = || parts("golden").envelope(&[RELEASE]);
    let bytes = fixture("manifest.dsse.json", make);
    let (manifest, digest) = open_manifest(&bytes, &root()).unwrap();
    assert_eq!((manifest.counter, manifest.images.len()), (57, 1));
    assert_eq!(digest, release().manifest_sha256);
    assert_eq!(make(), bytes, "written as it was");
}

#[test]
fn approval_of_a_region() {
    let make = || sign(APPROVAL_TYPE, approval().to_bytes().unwrap(), &[REGION]);
    let bytes = fixture("approval.dsse.json", make);
    assert_eq!(open_approval(&bytes, &root(), "eu-west", "stable").unwrap(), approval());
    assert_eq!(make(), bytes, "written as it was");
}

#[test]
fn channel_index() {
    let make = || sign(CHANNEL_TYPE, channel().to_bytes().unwrap(), &[RELEASE]);
    let bytes = fixture("channel.dsse.json", make);
    assert_eq!(open_channel(&bytes, &root(), "stable").unwrap(), channel());
    assert_eq!(make(), bytes, "written as it was");
}

#[test]
fn recall() {
    let recalled = Recalled {
        release: release(),
        go_back_to: Some(ReleaseRef {
            version: semver::Version::new(2, 4, 0),
            counter: 56,
            manifest_sha256: Digest::of(b"old"),
        }),
        reason: "loses settings".to_owned(),
    };
    let recall = Recall {
        channel: "stable".to_owned(),
        version: 2,
        issued: "2026-11-20T19:55:00Z".parse().unwrap(),
        recalls: vec![recalled],
        crit: Vec::new(),
    };
    let make = || sign(RECALL_TYPE, recall.to_bytes().unwrap(), &[RELEASE]);
    let bytes = fixture("recall.dsse.json", make);
    assert_eq!(open_recall(&bytes, &root(), "stable").unwrap(), recall);
    assert_eq!(make(), bytes, "written as it was");
}

#[test]
fn bundle() {
    // Read only: another zstd may write another, equally good bundle.
    let bytes = fixture("small.bundle", || parts("golden").bundle(&[RELEASE]));
    let images = kit::read_bundle(&bytes, &root()).unwrap();
    assert_eq!(images.len(), 1);
    assert_eq!(images[0].len(), 2 * kit::FRAME as usize + 7);
    assert!(images[0].starts_with(b"goldengolden") && images[0].ends_with(b"the end"));
}
