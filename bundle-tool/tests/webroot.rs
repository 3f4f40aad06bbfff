//! What stands on the web root: only what devices accept, each byte looked at, and nothing that changes under its name.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may fail loudly")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use bundle::approval::Approval;
use bundle::channel::Channel;
use bundle::dsse::Envelope;
use bundle::keys::PrivateKey;
use common::{Workshop, image};

const CHANNEL: &str = "web/channels/stable/channel.dsse.json";
const APPROVAL: &str = "web/approvals/eu-west/stable.dsse.json";

fn payload(shop: &Workshop, file: &str) -> Vec<u8> {
    Envelope::parse(&shop.read(file)).unwrap().payload
}

fn channel(shop: &Workshop) -> Channel {
    Channel::parse(&payload(shop, CHANNEL)).unwrap()
}

/// Every file below a folder; locks are nothing that is served.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_dir() {
            all.extend(files(&entry.path()).into_iter().map(|(below, bytes)| (format!("{name}/{below}"), bytes)));
        } else if !name.starts_with('.') {
            all.insert(name, std::fs::read(entry.path()).unwrap());
        }
    }
    all
}

fn publish<'a>(bundle: &'a str, channel: &'a str) -> Vec<&'a str> {
    vec!["publish", bundle, "--root", "web", "--channel", channel, "--key", "keys/release.pem"]
}

fn approve<'a>(channel: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let base = ["approve", "--root", "web", "--region", "eu-west", "--channel", channel, "--key", "keys/eu.pem"];
    [&base[..], more].concat()
}

#[test]
fn a_document_of_another_channel_is_not_signed_for_this_one() {
    let shop = Workshop::new();
    shop.release("a.bundle", "1.1.0", 1);
    for channel in ["stable", "beta"] {
        shop.ok(&publish("a.bundle", channel));
        shop.ok(&approve(channel, &["--release", "1.1.0"]));
        let recall =
            ["recall", "--root", "web", "--channel", channel, "--key", "keys/release.pem", "--release", "1.1.0"];
        shop.ok(&[&recall[..], &["--reason", "test"]].concat());
    }
    shop.release("b.bundle", "1.2.0", 2);
    let swap = |name: &str| {
        let (stable, beta) = (name.replace('*', "stable"), name.replace('*', "beta"));
        shop.write(&stable, &shop.read(&beta));
    };
    swap("web/approvals/eu-west/*.dsse.json");
    let told = shop.refused(&approve("stable", &["--release", "1.1.0", "--threshold", "25%"]), "region_mismatch");
    assert!(told.contains("is of channel beta, not stable"), "{told}");
    swap("web/channels/*/recall.dsse.json");
    let recall = ["recall", "--root", "web", "--channel", "stable", "--key", "keys/release.pem", "--release", "1.1.0"];
    shop.refused(&[&recall[..], &["--reason", "again"]].concat(), "region_mismatch");
    swap("web/channels/*/channel.dsse.json");
    shop.refused(&publish("b.bundle", "stable"), "region_mismatch");
}

#[test]
fn a_bundle_that_is_unsigned_or_damaged_is_not_published() {
    let shop = Workshop::new();
    shop.ok(&["build", "bundle.toml", "--out", "a.bundle", "--level", "3", "--quiet"]);
    let told = shop.refused(&publish("a.bundle", "stable"), "key_unknown");
    assert!(told.contains("not signed yet") && told.contains("bundle-tool sign a.bundle"), "{told}");
    shop.ok(&["sign", "a.bundle", "--key", "keys/stranger.pem"]);
    let told = shop.refused(&publish("a.bundle", "stable"), "key_unknown");
    assert!(told.contains("did not sign") && told.contains("not trusted here"), "{told}");
    shop.ok(&["sign", "a.bundle", "--key", "keys/release.pem"]);
    let mut bytes = shop.read("a.bundle");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    shop.write("damaged.bundle", &bytes);
    shop.refused(&publish("damaged.bundle", "stable"), "frame_mismatch");
    assert_eq!(files(&shop.path("web")), BTreeMap::new());
    shop.ok(&publish("a.bundle", "stable"));
}

#[test]
fn of_two_who_publish_at_once_none_is_lost() {
    let shop = Workshop::new();
    shop.release("0.bundle", "1.0.0", 1);
    shop.publish("0.bundle");
    for counter in 2..=5 {
        shop.release(&format!("{counter}.bundle"), &format!("1.{counter}.0"), counter);
    }
    let run = |counter: u64| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bundle-tool"));
        let bundle = format!("{counter}.bundle");
        command.args(publish(&bundle, "stable")).args(["--quiet", "--deltas", "1", "--level", "3"]);
        command.current_dir(shop.folder()).spawn().unwrap()
    };
    let running: Vec<_> = (2..=5).map(run).collect();
    assert!(running.into_iter().all(|mut child| child.wait().unwrap().success()));
    let channel = channel(&shop);
    assert_eq!((channel.version, channel.releases.len()), (5, 5));
}

#[test]
fn a_change_of_an_approval_keeps_how_long_it_is_valid() {
    let shop = Workshop::new();
    shop.release("a.bundle", "1.1.0", 1);
    shop.publish("a.bundle");
    let days = |more: &[&str]| {
        shop.ok(&approve("stable", more));
        let approval = Approval::parse(&payload(&shop, APPROVAL)).unwrap();
        approval.expires.duration_since(approval.issued).as_hours() / 24
    };
    assert_eq!(days(&["--release", "1.1.0"]), 7);
    assert_eq!(days(&["--expires", "30d"]), 30);
    assert_eq!(days(&["--release", "1.1.0", "--halt"]), 30);
    // A trust root keeps its date.
    let expires = |file: &str| shop.json(&["trust", "show", file])["expires"].clone();
    shop.ok(&["trust", "rotate", "trust.dsse.json", "--out", "2.json", "--root-key", "keys/root.pem"]);
    assert_eq!(expires("2.json"), expires("trust.dsse.json"));
    let sooner = ["trust", "rotate", "2.json", "--out", "3.json", "--root-key", "keys/root.pem", "--expires", "1y"];
    assert!(shop.ok(&sooner).contains("expires"));
    assert_ne!(expires("3.json"), expires("trust.dsse.json"));
}

#[test]
fn what_is_named_by_a_digest_or_a_number_does_not_change() {
    let shop = Workshop::new();
    shop.release("a.bundle", "1.1.0", 1);
    shop.publish("a.bundle");
    let mut changed = image(3_000_000, 1);
    changed[..50].fill(7);
    shop.write("rootfs.img", &changed);
    shop.release("b.bundle", "1.2.0", 2);
    let with_deltas = |level: &'static str| {
        let more = ["--deltas", "1", "--quiet", "--level", level];
        shop.ok(&[&publish("b.bundle", "stable")[..], &more].concat());
    };
    with_deltas("3");
    let before = files(&shop.path("web"));
    assert!(before.keys().any(|name| name.starts_with("deltas/")), "{:?}", before.keys());
    // Another level makes another delta.
    with_deltas("19");
    let after = files(&shop.path("web"));
    assert!(before == after, "{:?} {:?}", before.keys(), after.keys());
    let path = format!("web/bundles/{}.bundle", channel(&shop).releases[0].release.manifest_sha256);
    let served = || (channel(&shop).releases[0].size, shop.read(&path).len() as u64);
    // But a signature that came later, before a key goes for instance, is served.
    shop.ok(&["keygen", "--out", "keys/second"]);
    shop.ok(&["sign", "b.bundle", "--key", "keys/second.pem"]);
    with_deltas("3");
    shop.ok(&["verify", &path, "--key", "keys/second.pub.pem", "--quiet"]);
    assert_eq!(served().0, served().1, "the index tells its size");
    // And what is another release, however genuine, is not taken for it.
    shop.write(&path, &shop.read("a.bundle"));
    with_deltas("3");
    assert!(shop.read(&path) == shop.read("b.bundle"));
    // And what was damaged where it lies is mended.
    let whole = shop.read(&path);
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    shop.write(&path, &damaged);
    with_deltas("3");
    shop.ok(&["verify", &path, "--trust", "trust.dsse.json", "--quiet"]);
    // Two trust roots of one number would part the fleet.
    let rotate = |out: &'static str, expires: &'static str| {
        shop.ok(&[
            "trust",
            "rotate",
            "trust.dsse.json",
            "--out",
            out,
            "--root-key",
            "keys/root.pem",
            "--expires",
            expires,
        ]);
        shop.run(&["trust", "publish", out, "--previous", "trust.dsse.json", "--root", "web"])
    };
    assert!(rotate("2.json", "1y").status.success());
    let other = rotate("other-2.json", "2y");
    let told = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(!other.status.success() && told.contains("says something else"), "{told}");
    assert!(shop.read("web/trust/2.dsse.json") == shop.read("2.json"));
}

#[test]
fn where_two_must_sign_the_channel_goes_on_until_both_have() {
    let shop = Workshop::new();
    shop.ok(&["keygen", "--out", "keys/second"]);
    let more = ["--add-release", "keys/second.pub.pem", "--release-threshold", "2"];
    let rotate = ["trust", "rotate", "trust.dsse.json", "--out", "two.json", "--root-key", "keys/root.pem"];
    shop.ok(&[&rotate[..], &more].concat());
    let both = ["--key", "keys/second.pem", "--trust", "two.json"];
    for (bundle, version, counter) in [("a.bundle", "1.1.0", 1), ("b.bundle", "1.2.0", 2)] {
        shop.release(bundle, version, counter);
        shop.ok(&["sign", bundle, "--key", "keys/second.pem"]);
    }
    shop.ok(&[&publish("a.bundle", "stable")[..], &both].concat());
    let live = shop.read(CHANNEL);
    // One of the two publishes; the other one's key is elsewhere.
    let alone = [&publish("b.bundle", "stable")[..], &["--trust", "two.json"]].concat();
    let told = shop.refused(&alone, "threshold_not_met");
    let next = "web/channels/stable/channel.next.dsse.json";
    assert!(told.contains(next) && told.contains("bundle-tool sign") && shop.read(CHANNEL) == live, "{told}");
    shop.refused(&["verify", next, "--trust", "two.json"], "threshold_not_met");
    shop.ok(&["sign", next, "--expect", "channel", "--key", "keys/second.pem"]);
    shop.ok(&["verify", next, "--trust", "two.json"]);
    // Nobody else's work is overwritten meanwhile.
    let pending = shop.read(next);
    let told = shop.refused(&alone, "threshold_not_met");
    assert!(told.contains("waits for signatures already") && shop.read(next) == pending, "{told}");
    std::fs::rename(shop.path(next), shop.path(CHANNEL)).unwrap();
    assert_eq!(channel(&shop).releases.len(), 2);
    // Who began it may run the same again: it is done.
    shop.ok(&alone);
    assert_eq!(channel(&shop).version, 2);
    // One who does not say whom to believe takes nobody's signature away.
    shop.release("c.bundle", "1.3.0", 3);
    let live = shop.read(CHANNEL);
    let told = shop.refused(&publish("c.bundle", "stable"), "threshold_not_met");
    assert!(told.contains("the present one 2") && shop.read(CHANNEL) == live, "{told}");
    // The same for what a region says, and what the vendor takes back.
    let recall = ["recall", "--root", "web", "--channel", "stable", "--key", "keys/release.pem", "--release", "1.2.0"];
    shop.refused(&[&recall[..], &["--reason", "x", "--trust", "two.json"]].concat(), "threshold_not_met");
    assert!(!shop.path("web/channels/stable/recall.dsse.json").exists());
}

/// Puts a document in place that waits for a signature of a key that only its hardware module has.
fn sign_elsewhere(shop: &Workshop, next: &str, live: &str, key: &str) {
    shop.write("pae", &shop.run(&["sign", next, "--print-pae"]).stdout);
    let secret = String::from_utf8(shop.read(&format!("keys/{key}.pem"))).unwrap();
    let signature = PrivateKey::from_pem(&secret).unwrap().sign(&shop.read("pae"));
    shop.write("signature", &signature);
    let public = format!("keys/{key}.pub.pem");
    shop.ok(&["sign", next, "--attach", "signature", "--public-key", &public]);
    shop.ok(&["verify", next, "--trust", "trust.dsse.json"]);
    std::fs::rename(shop.path(next), shop.path(live)).unwrap();
}

#[test]
fn who_has_no_key_as_a_file_publishes_approves_and_recalls() {
    let shop = Workshop::new();
    let next = |live: &str| live.replace(".dsse.json", ".next.dsse.json");
    for (bundle, version, counter) in [("a.bundle", "1.1.0", 1), ("b.bundle", "1.2.0", 2)] {
        shop.release(bundle, version, counter);
        let publish = ["publish", bundle, "--root", "web", "--channel", "stable", "--trust", "trust.dsse.json"];
        shop.refused(&publish, "threshold_not_met");
        sign_elsewhere(&shop, &next(CHANNEL), CHANNEL, "release");
        assert_eq!(channel(&shop).version, counter);
    }
    let base = ["approve", "--root", "web", "--region", "eu-west", "--channel", "stable", "--trust", "trust.dsse.json"];
    for (version, change) in [(1, ["--release", "1.2.0"]), (2, ["--expires", "3d"])] {
        shop.refused(&[&base[..], &change].concat(), "threshold_not_met");
        sign_elsewhere(&shop, &next(APPROVAL), APPROVAL, "eu");
        let approval = Approval::parse(&payload(&shop, APPROVAL)).unwrap();
        assert_eq!((approval.version, approval.entries.len()), (version, 1));
    }
    let recall = ["recall", "--root", "web", "--channel", "stable", "--trust", "trust.dsse.json", "--release", "1.2.0"];
    shop.refused(&[&recall[..], &["--reason", "x"]].concat(), "threshold_not_met");
    let live = "web/channels/stable/recall.dsse.json";
    sign_elsewhere(&shop, &next(live), live, "release");
    // Of a region that the trust root does not list nobody could complete one.
    let told = shop.fails(&base.map(|arg| if arg == "eu-west" { "mars" } else { arg }));
    assert!(told.contains("no region \"mars\"; it lists: eu-west"), "{told}");
    assert!(!shop.path("web/approvals/mars").exists());
    // Without a trust root nobody would know whom to believe.
    let usage = shop.run(&["publish", "b.bundle", "--root", "web", "--channel", "stable"]);
    assert_eq!(usage.status.code(), Some(2));
}

#[test]
fn no_channel_has_the_name_of_what_waits_for_signatures() {
    let shop = Workshop::new();
    shop.release("a.bundle", "1.1.0", 1);
    let recall = ["recall", "--root", "web", "--channel", "stable.next", "--key", "keys/release.pem"];
    let release = ["release", "--key", "keys/release.pem", "--root", "web", "--channel", "stable.next", "--out", "x"];
    for args in [
        publish("a.bundle", "stable.next"),
        approve("stable.next", &["--release", "1.1.0"]),
        [&recall[..], &["--release", "1.1.0", "--reason", "test"]].concat(),
        release.to_vec(),
    ] {
        let told = shop.fails(&args);
        assert!(told.contains("must not end in .next") && told.contains("of stable that waits"), "{told}");
    }
    assert!(!shop.path("web").exists());
}
