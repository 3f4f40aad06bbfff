//! The channel index stays within what readers accept, and nothing is written that they would refuse.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may fail loudly")]

mod common;

use bundle::approval::ReleaseRef;
use bundle::channel::{CHANNEL_TYPE, Channel, ChannelDelta, ChannelRelease};
use bundle::digest::Digest;
use bundle::dsse::{DsseError, Envelope};
use bundle::keys::PrivateKey;
use common::Workshop;

const INDEX: &str = "web/channels/stable/channel.dsse.json";
const PUBLISH: [&str; 8] =
    ["publish", "new.bundle", "--root", "web", "--channel", "stable", "--key", "keys/release.pem"];

fn release(counter: u64) -> ChannelRelease {
    let manifest_sha256 = Digest::of(&counter.to_le_bytes());
    let release = ReleaseRef { version: semver::Version::new(1, counter, 0), counter, manifest_sha256 };
    let delta = |n: u64| {
        let from = Digest::of(&(counter - n).to_le_bytes());
        let urls = vec![format!("deltas/{from}-{manifest_sha256}.delta")];
        ChannelDelta { from, size: 1_000_000, urls, recipes_sha256: Some(from) }
    };
    let deltas = (1..=3).filter(|n| *n < counter).map(delta).collect();
    ChannelRelease { release, size: 100_000_000, urls: vec![format!("bundles/{manifest_sha256}.bundle")], deltas }
}

fn sealed(shop: &Workshop, releases: u64, version: u64) -> Result<Vec<u8>, DsseError> {
    padded(shop, releases, version, 1)
}

/// With that many bytes more.
fn padded(shop: &Workshop, releases: u64, version: u64, more: u64) -> Result<Vec<u8>, DsseError> {
    let mut releases = (1..=releases).rev().map(release).collect::<Vec<_>>();
    releases[0].urls.push("x".repeat(more as usize));
    let issued = "2026-11-20T00:00:00Z".parse().unwrap();
    let channel = Channel { channel: "stable".to_owned(), version, issued, releases, crit: Vec::new() };
    let mut envelope = Envelope::new(CHANNEL_TYPE, channel.to_bytes().unwrap());
    envelope.sign(&key(shop)).unwrap();
    envelope.to_bytes()
}

/// The largest number below 2048 for which it is so.
fn largest(is_so: impl Fn(u64) -> bool) -> u64 {
    let (mut yes, mut no) = (1, 2048);
    while no - yes > 1 {
        let middle = (yes + no) / 2;
        if is_so(middle) { yes = middle } else { no = middle }
    }
    yes
}

fn key(shop: &Workshop) -> PrivateKey {
    PrivateKey::from_pem(&String::from_utf8(shop.read("keys/release.pem")).unwrap()).unwrap()
}

fn write_index(shop: &Workshop, bytes: &[u8]) {
    std::fs::create_dir_all(shop.path("web/channels/stable")).unwrap();
    shop.write(INDEX, bytes);
}

fn index(shop: &Workshop) -> Channel {
    let trust = bundle::trust::TrustRoot::open(&shop.read("trust.dsse.json")).unwrap();
    bundle::open::open_channel(&shop.read(INDEX), &trust, "stable").unwrap()
}

#[test]
fn a_full_index_is_refused_until_somebody_says_what_to_keep() {
    let shop = Workshop::new();
    shop.release("new.bundle", "2.0.0", 10_000);
    // As large as it can be.
    let most = largest(|n| n <= 1024 && sealed(&shop, n, 9).is_ok());
    let more = largest(|n| padded(&shop, most, 9, n).is_ok());
    write_index(&shop, &padded(&shop, most, 9, more).unwrap());
    let before = shop.read(INDEX);
    let said = shop.refused(&PUBLISH, "malformed");
    assert!(said.contains("--keep N") && said.contains("1048576"), "{said}");
    assert_eq!(shop.read(INDEX), before);

    let published = shop.json(&[&PUBLISH[..], &["--keep", "100"]].concat());
    assert_eq!(published["dropped"].as_array().unwrap().len() as u64, most - 99);
    let counters = index(&shop).releases.iter().map(|each| each.release.counter).collect::<Vec<_>>();
    assert_eq!((counters.len(), counters[0], counters[1], counters[99]), (100, 10_000, most, most - 98));
}

#[test]
fn what_an_approval_names_stays_in_the_index() {
    let shop = Workshop::new();
    write_index(&shop, &sealed(&shop, 10, 9).unwrap());
    shop.release("new.bundle", "2.0.0", 10_000);
    let approve = ["approve", "--root", "web", "--region", "eu-west", "--channel", "stable", "--key", "keys/eu.pem"];
    shop.ok(&[&approve[..], &["--release", "1.3.0"]].concat());
    let said = shop.ok(&[&PUBLISH[..], &["--keep", "2"]].concat());
    assert!(said.contains("dropped 1.9.0 (counter 9)") && !said.contains("dropped 1.3.0"), "{said}");
    let kept = index(&shop).releases.iter().map(|each| each.release.counter).collect::<Vec<_>>();
    assert_eq!(kept, [10_000, 10, 3]);

    // An approval that waits for signatures is about to name what it names.
    write_index(&shop, &sealed(&shop, 10, 9).unwrap());
    let keyless = ["approve", "--root", "web", "--region", "eu-west", "--channel", "stable", "--trust"];
    shop.refused(&[&keyless[..], &["trust.dsse.json", "--release", "1.5.0"]].concat(), "threshold_not_met");
    shop.ok(&[&PUBLISH[..], &["--keep", "2"]].concat());
    let kept = index(&shop).releases.iter().map(|each| each.release.counter).collect::<Vec<_>>();
    assert_eq!(kept, [10_000, 10, 5, 3]);

    // An approval that can not be read may name anything.
    shop.write("web/approvals/eu-west/stable.dsse.json", b"{}");
    shop.refused(&[&PUBLISH[..], &["--keep", "2"]].concat(), "malformed");
}

#[test]
fn the_highest_version_there_is_is_an_error_and_no_crash() {
    let shop = Workshop::new();
    shop.release("new.bundle", "2.0.0", 10_000);
    write_index(&shop, &sealed(&shop, 1, u64::MAX).unwrap());
    let said = shop.fails(&PUBLISH);
    assert!(said.contains("highest version"), "{said}");
}

#[test]
fn a_signature_that_would_make_a_document_too_large_is_not_written() {
    let shop = Workshop::new();
    let releases = largest(|n| sealed(&shop, n, 1).is_ok());
    let more = largest(|more| padded(&shop, releases, 1, more).is_ok());
    shop.write("full.dsse.json", &padded(&shop, releases, 1, more).unwrap());
    let before = shop.read("full.dsse.json");
    let said = shop.refused(&["sign", "full.dsse.json", "--key", "keys/stranger.pem"], "malformed");
    assert!(said.contains("1048576"), "{said}");
    assert_eq!(shop.read("full.dsse.json"), before);
}

#[test]
fn attestations_too_large_to_be_signed_are_refused_by_build() {
    let shop = Workshop::new();
    let recipe = format!("{}\n[attestations]\nlog = {:?}\n", common::RECIPE, "x".repeat(900_000));
    shop.write("bundle.toml", recipe.as_bytes());
    let said = shop.fails(&["build", "--out", "a.bundle", "--quiet"]);
    assert!(said.contains("the manifest is too large"), "{said}");
    assert!(!shop.path("a.bundle").exists());
}

#[test]
fn a_recall_knows_the_releases_it_names_when_the_index_does_not_any_more() {
    let shop = Workshop::new();
    write_index(&shop, &sealed(&shop, 3, 9).unwrap());
    let recall = ["recall", "--root", "web", "--channel", "stable", "--key", "keys/release.pem", "--release", "1.2.0"];
    let again = [&recall[..], &["--go-back-to", "1.1.0", "--reason", "loses settings"]].concat();
    let first = shop.json(&again);
    shop.release("new.bundle", "2.0.0", 10_000);
    shop.ok(&[&PUBLISH[..], &["--keep", "1"]].concat());
    let second = shop.json(&again);
    assert_eq!((&second["version"], &second["recalls"]), (&2.into(), &first["recalls"]));
}
