//! The version of the channel index never goes down: devices take no index with a lower one than they saw.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may fail loudly")]

mod common;

use bundle::channel::{CHANNEL_TYPE, Channel};
use bundle::dsse::Envelope;
use bundle::keys::PrivateKey;
use common::Workshop;

const INDEX: &str = "web/channels/stable/channel.dsse.json";
const PUBLISH: [&str; 6] = ["publish", "a.bundle", "--root", "web", "--channel", "stable"];

/// A channel with one release.
fn shop() -> Workshop {
    let shop = Workshop::new();
    shop.release("a.bundle", "1.1.0", 1);
    shop.publish("a.bundle");
    shop
}

fn publish<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&PUBLISH[..], &["--key", "keys/release.pem"], more].concat()
}

fn channel(shop: &Workshop, file: &str) -> Channel {
    Channel::parse(&Envelope::parse(&shop.read(file)).unwrap().payload).unwrap()
}

/// Puts the index there with another version, signed by that key.
fn set(shop: &Workshop, key: &str, version: u64) {
    let key = String::from_utf8(shop.read(&format!("keys/{key}.pem"))).unwrap();
    let channel = Channel { version, ..channel(shop, INDEX) };
    let mut envelope = Envelope::new(CHANNEL_TYPE, channel.to_bytes().unwrap());
    envelope.sign(&PrivateKey::from_pem(&key).unwrap()).unwrap();
    shop.write(INDEX, &envelope.to_bytes().unwrap());
}

#[test]
fn a_blind_replacement_comes_above_what_it_replaces() {
    let shop = shop();
    set(&shop, "stranger", 57);
    shop.refused(&publish(&[]), "key_unknown");
    let blind = publish(&["--blindly-replace-channel"]);
    assert_eq!(shop.json(&blind)["channel_version"], 58);
    assert_eq!(channel(&shop, INDEX).version, 58);
    // The end of the numbers is not followed; who knows better says so.
    set(&shop, "stranger", u64::MAX - 1);
    assert!(shop.fails(&blind).contains("--channel-version N"));
    assert_eq!(shop.json(&publish(&["--blindly-replace-channel", "--channel-version", "59"]))["channel_version"], 59);
    shop.write(INDEX, b"no document at all");
    assert!(shop.refused(&blind, "malformed").contains("--channel-version N"));
    assert_eq!(shop.json(&publish(&["--blindly-replace-channel", "--channel-version", "60"]))["channel_version"], 60);
    // Another channel's index does not tell how far this one had come.
    shop.ok(&["publish", "a.bundle", "--root", "web", "--channel", "beta", "--key", "keys/release.pem"]);
    shop.write(INDEX, &shop.read("web/channels/beta/channel.dsse.json"));
    assert!(shop.refused(&blind, "region_mismatch").contains("--channel-version N"));
}

#[test]
fn an_index_that_was_lost_does_not_begin_again() {
    let shop = shop();
    let approve = ["approve", "--root", "web", "--region", "eu-west", "--channel", "stable", "--key", "keys/eu.pem"];
    shop.ok(&[&approve[..], &["--release", "1.1.0"]].concat());
    let lost = || std::fs::remove_file(shop.path(INDEX)).unwrap();
    lost();
    for args in [publish(&[]), publish(&["--blindly-replace-channel"])] {
        let told = shop.fails(&args);
        assert!(told.contains("is lost") && told.contains("--channel-version N"), "{told}");
        assert!(!shop.path(INDEX).exists());
    }
    assert_eq!(shop.json(&publish(&["--channel-version", "58"]))["channel_version"], 58);
    // One that did begin again is raised, although it says nothing else.
    set(&shop, "release", 1);
    assert_eq!(shop.json(&publish(&["--channel-version", "58"]))["channel_version"], 58);
    assert!(shop.fails(&publish(&["--channel-version", "58"])).contains("not above version 58"));
    // A recall tells it as well.
    let recall = ["recall", "--root", "web", "--channel", "stable", "--key", "keys/release.pem", "--release", "1.1.0"];
    shop.ok(&[&recall[..], &["--reason", "loses settings"]].concat());
    std::fs::remove_dir_all(shop.path("web/approvals")).unwrap();
    lost();
    assert!(shop.fails(&publish(&[])).contains("is lost"));
}
