//! Documents without a bundle: looked at, verified, and signed only when they are what they should be.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may fail loudly")]

mod common;

use std::process::Command;

use bundle::dsse::Envelope;
use bundle::random::read_envelope;
use common::Workshop;

const CHANNEL: &str = "web/channels/stable/channel.dsse.json";

/// Two releases, an approval and a recall.
fn region() -> Workshop {
    let shop = Workshop::new();
    for (bundle, version, counter) in [("a.bundle", "1.1.0", 1), ("b.bundle", "1.2.0", 2)] {
        shop.release(bundle, version, counter);
        shop.publish(bundle);
    }
    let approve = ["approve", "--root", "web", "--region", "eu-west", "--channel", "stable", "--key", "keys/eu.pem"];
    shop.ok(&[&approve[..], &["--release", "1.2.0", "--threshold", "25%"]].concat());
    let recall = ["recall", "--root", "web", "--channel", "stable", "--key", "keys/release.pem", "--release", "1.2.0"];
    shop.ok(&[&recall[..], &["--reason", "loses settings"]].concat());
    let manifest = read_envelope(&mut std::io::Cursor::new(shop.read("a.bundle"))).unwrap();
    shop.write("manifest.dsse.json", &manifest);
    shop
}

#[test]
fn every_kind_of_document_is_shown_and_verified() {
    let shop = region();
    for (file, says, detail) in [
        ("manifest.dsse.json", "release 1.1.0 (counter 1) for demo-appliance", "image rootfs"),
        (CHANNEL, "index 2 of channel stable, 2 releases", "release 1.2.0 (counter 2"),
        ("web/approvals/eu-west/stable.dsse.json", "approval 1 (epoch 1) of eu-west/stable", "up to 25 %"),
        ("web/channels/stable/recall.dsse.json", "recall 1 of channel stable", "loses settings"),
        ("trust.dsse.json", "trust root 1", "region eu-west: 1 of"),
    ] {
        let told = shop.ok(&["verify", file, "--trust", "trust.dsse.json"]);
        assert!(told.contains(says) && told.contains("1 of 1 required"), "{file}: {told}");
        let told = shop.ok(&["inspect", file]);
        assert!(told.contains(says) && told.contains(detail) && told.contains("names itself"), "{file}: {told}");
        let facts = shop.json(&["inspect", file]);
        assert!(facts["type"].as_str().unwrap().contains("flipside") && facts["document"].is_object(), "{facts}");
        assert_eq!(shop.json(&["verify", file, "--trust", "trust.dsse.json"])["genuine"], true);
        let told = shop.refused(&["verify", file, "--key", "keys/stranger.pub.pem"], "key_unknown");
        assert!(told.contains("did not sign"), "{told}");
    }
    // One changed byte of what it says.
    let text = String::from_utf8(shop.read(CHANNEL)).unwrap();
    let payload = text.find("\"payload\":\"").unwrap() + 20;
    let changed = format!(
        "{}{}{}",
        &text[..payload],
        if &text[payload..=payload] == "A" { "B" } else { "A" },
        &text[payload + 1..]
    );
    shop.write("changed.dsse.json", changed.as_bytes());
    assert_eq!(shop.run(&["verify", "changed.dsse.json", "--trust", "trust.dsse.json"]).status.code(), Some(3));
}

#[test]
fn a_delta_is_called_a_delta() {
    let shop = region();
    shop.ok(&["delta", "a.bundle", "b.bundle", "--out", "x.delta", "--level", "3", "--quiet"]);
    for command in ["inspect", "verify"] {
        let told = shop.fails(&[command, "x.delta"]);
        assert!(told.contains("a delta") && told.contains("bundle-tool apply"), "{told}");
    }
}

#[test]
fn nothing_is_signed_that_is_not_what_was_expected() {
    let shop = region();
    let genuine = shop.read(CHANNEL);
    let sign = ["sign", CHANNEL, "--expect", "channel", "--trust", "trust.dsse.json", "--key", "keys/release.pem"];
    // Whoever can write to the web root wants a signature over a release of his own.
    let manifest = Envelope::parse(&shop.read("manifest.dsse.json")).unwrap();
    shop.write(CHANNEL, &shop.read("manifest.dsse.json"));
    let told = shop.refused(&sign, "malformed");
    assert!(told.contains("no channel: release 1.1.0"), "{told}");
    // An index of his own.
    let own = Envelope { signatures: Vec::new(), ..Envelope::parse(&genuine).unwrap() };
    shop.write(CHANNEL, &own.to_bytes().unwrap());
    let told = shop.refused(&sign, "key_unknown");
    assert!(told.contains("so it is not signed"), "{told}");
    assert_eq!(Envelope::parse(&shop.read(CHANNEL)).unwrap(), own, "it is as it was");
    // Something that is no document at all.
    let other = Envelope::new("application/x-other", manifest.payload);
    shop.write("other.dsse.json", &other.to_bytes().unwrap());
    assert!(shop.fails(&["sign", "other.dsse.json", "--key", "keys/release.pem"]).contains("no document of Flipside"));
    // The genuine one; it is said what was signed.
    shop.write(CHANNEL, &genuine);
    assert!(shop.ok(&sign).contains("index 2 of channel stable, 2 releases"));
}

#[test]
fn the_runbook_for_new_keys_works_as_it_stands() {
    let shop = region();
    for name in ["root-b", "release-2"] {
        shop.ok(&["keygen", "--out", &format!("keys/{name}")]);
    }
    let trust = shop.json(&["trust", "show", "trust.dsse.json"]);
    let old = trust["roles"]["release"]["keys"][0].as_str().unwrap();
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/src/releases.md")).unwrap();
    let section = page.split_once("## Keys change").unwrap().1.split_once("```sh\n").unwrap().1;
    let commands = section.split_once("```").unwrap().0.replace("/srv/www", "web").replace("3fa1b2c4", &old[..8]);
    let tools = std::path::Path::new(env!("CARGO_BIN_EXE_bundle-tool")).parent().unwrap();
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
    let run =
        Command::new("sh").args(["-ec", &commands]).current_dir(shop.folder()).env("PATH", path).output().unwrap();
    assert!(run.status.success(), "{commands}{}", String::from_utf8_lossy(&run.stderr));
    // Devices that followed and devices that did not both believe the index.
    for trust in ["trust.dsse.json", "trust-2.dsse.json"] {
        shop.ok(&["verify", CHANNEL, "--trust", trust]);
    }
    let (sign, publish) = (commands.find("channel.dsse.json").unwrap(), commands.find("trust publish").unwrap());
    assert!(sign < publish, "a device that follows in between must not refuse the index");
}
