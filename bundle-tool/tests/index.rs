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

/// The same, and from then on two keys must sign: `two.json`.
fn two_must_sign() -> Workshop {
    let shop = shop();
    shop.ok(&["keygen", "--out", "keys/second"]);
    let more = ["--add-release", "keys/second.pub.pem", "--release-threshold", "2"];
    let rotate = ["trust", "rotate", "trust.dsse.json", "--out", "two.json", "--root-key", "keys/root.pem"];
    shop.ok(&[&rotate[..], &more].concat());
    shop.ok(&["sign", "a.bundle", "--key", "keys/second.pem"]);
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
fn a_genuine_index_is_never_replaced_blindly() {
    let shop = shop();
    shop.release("b.bundle", "1.2.0", 2);
    let blind = ["--blindly-replace-channel", "--channel-version", "60"];
    let b = |more: &[&'static str]| -> Vec<&'static str> {
        publish(more).iter().map(|arg| if *arg == "a.bundle" { "b.bundle" } else { arg }).collect()
    };
    assert_eq!(shop.json(&b(&blind))["channel_version"], 60);
    assert_eq!(channel(&shop, INDEX).releases.len(), 2, "what was there stays");
    assert!(shop.fails(&b(&blind)).contains("not above version 60"));
    let most = ["--channel-version", "18446744073709551615"];
    assert!(shop.fails(&publish(&most)).contains("no room"));
}

#[test]
fn who_approves_what_the_index_does_not_name_any_more_is_told() {
    let shop = shop();
    let approve = ["approve", "--root", "web", "--region", "eu-west", "--channel", "stable", "--key", "keys/eu.pem"];
    let told = |more: &[&str]| {
        let run = shop.run(&[&approve[..], more].concat());
        assert!(run.status.success());
        String::from_utf8(run.stderr).unwrap()
    };
    assert_eq!(told(&["--release", "1.1.0"]), "");
    assert_eq!(told(&["--release", "1.1.0", "--threshold", "1%"]), "");
    // Another bundle of that version takes its place.
    set(&shop, "stranger", 57);
    shop.release("a.bundle", "1.1.0", 2);
    shop.ok(&publish(&["--blindly-replace-channel"]));
    let gone = told(&["--release", "1.1.0", "--threshold", "2%"]);
    assert!(gone.contains("does not name this 1.1.0") && gone.contains("--remove"), "{gone}");
    assert_eq!(told(&["--release", "1.1.0", "--remove"]), "");
    assert_eq!(told(&["--release", "1.1.0"]), "");
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

#[test]
fn after_a_change_of_keys_the_missing_signature_is_asked_for_and_helps() {
    let shop = two_must_sign();
    let both = publish(&["--key", "keys/second.pem", "--trust", "two.json"]);
    let told = shop.refused(&both, "threshold_not_met");
    let sign = format!("bundle-tool sign {INDEX} --expect channel --trust TRUST --key KEY.pem");
    assert!(told.contains(&sign) && !told.contains("blindly"), "{told}");
    let sign = sign.replace("TRUST", "trust.dsse.json").replace("KEY.pem", "keys/second.pem");
    shop.ok(&sign.split(' ').skip(1).collect::<Vec<_>>());
    shop.release("b.bundle", "1.2.0", 2);
    shop.ok(&["sign", "b.bundle", "--key", "keys/second.pem"]);
    let next = both.iter().map(|arg| if *arg == "a.bundle" { "b.bundle" } else { arg }).collect::<Vec<_>>();
    assert_eq!(shop.json(&next)["channel_version"], 2);
    assert_eq!(channel(&shop, INDEX).releases.len(), 2);
    // Nobody knows yet whether a stranger signed it, or a key of ours that was replaced.
    set(&shop, "stranger", 3);
    let told = shop.refused(&both, "key_unknown");
    assert!(told.contains("bundle-tool sign") && told.contains("--blindly-replace-channel"), "{told}");
}

#[test]
fn what_waits_for_signatures_is_not_lost_to_an_index_that_does_not_count() {
    let shop = two_must_sign();
    set(&shop, "stranger", 57);
    let next = INDEX.replace("channel.dsse", "channel.next.dsse");
    // The keys are in hardware modules.
    let keyless = [&PUBLISH[..], &["--trust", "two.json", "--blindly-replace-channel"]].concat();
    for (args, version) in [(keyless.clone(), 58), ([&keyless[..], &["--channel-version", "9"]].concat(), 9)] {
        shop.refused(&args, "threshold_not_met");
        assert_eq!(channel(&shop, &next).version, version);
        shop.ok(&["sign", &next, "--key", "keys/second.pem"]);
        let pending = shop.read(&next);
        let told = shop.refused(&args, "threshold_not_met");
        assert!(told.contains("waits for signatures already") && shop.read(&next) == pending, "{told}");
        std::fs::remove_file(shop.path(&next)).unwrap();
    }
}
