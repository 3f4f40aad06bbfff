//! A release engineer's day, with the command as it is installed.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may fail loudly")]

mod common;

use common::Workshop;
use serde_json::json;

#[test]
fn from_keys_to_an_approved_release() {
    let shop = Workshop::new();
    shop.release("a.bundle", "1.0.0", 1);
    let published = shop.publish("a.bundle");
    assert_eq!(published["channel_version"], 1);
    let verified = shop.json(&["verify", "a.bundle", "--trust", "trust.dsse.json", "--quiet"]);
    assert_eq!(verified["manifest_sha256"], published["manifest_sha256"]);
    // What it was built with, for whoever builds it again.
    let image = shop.json(&["inspect", "a.bundle"])["manifest"]["images"][0].clone();
    assert_eq!((&image["frame_size"], &image["level"]), (&json!(256 << 10), &json!(3)));
    let stored = format!("web/{}", published["url"].as_str().unwrap());
    assert_eq!(shop.read(&stored), shop.read("a.bundle"));

    let approval = shop.json(&[
        "approve",
        "--root",
        "web",
        "--region",
        "eu-west",
        "--channel",
        "stable",
        "--release",
        "1.0.0",
        "--key",
        "keys/eu.pem",
        "--threshold",
        "1%",
        "--rule",
        "ring=canary:100%",
        "--hold",
        "hardware=rev-a:bad nic",
    ]);
    assert_eq!(approval["entries"][0]["release"]["manifest_sha256"], published["manifest_sha256"]);
    assert_eq!(approval["crit"], json!(["rules", "holds"]));

    let trust = bundle::trust::TrustRoot::open(&shop.read("trust.dsse.json")).unwrap();
    let envelope = shop.read("web/approvals/eu-west/stable.dsse.json");
    bundle::open::open_approval(&envelope, &trust, "eu-west", "stable").unwrap();
    let envelope = shop.read("web/channels/stable/channel.dsse.json");
    assert_eq!(bundle::open::open_channel(&envelope, &trust, "stable").unwrap().releases.len(), 1);
}

#[test]
fn private_keys_are_private_and_never_overwritten() {
    use std::os::unix::fs::PermissionsExt as _;
    let shop = Workshop::new();
    let mode = std::fs::metadata(shop.path("keys/release.pem")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let before = shop.read("keys/release.pem");
    shop.fails(&["keygen", "--out", "keys/release"]);
    std::fs::remove_file(shop.path("keys/release.pub.pem")).unwrap();
    shop.fails(&["keygen", "--out", "keys/release"]);
    assert_eq!(shop.read("keys/release.pem"), before);
}

#[test]
fn the_same_inputs_are_the_same_bytes_at_any_number_of_threads() {
    let shop = Workshop::new();
    for (out, threads) in [("one", "1"), ("three", "3")] {
        shop.ok(&["build", "--out", out, "--threads", threads, "--level", "3", "--quiet"]);
    }
    assert_eq!(shop.read("one"), shop.read("three"));
}

#[test]
fn an_image_comes_back_bit_for_bit() {
    let shop = Workshop::new();
    shop.release("a.bundle", "1.0.0", 1);
    for (image, original) in [("rootfs", "rootfs.img"), ("kernel", "kernel")] {
        shop.ok(&["extract", "a.bundle", "--image", image, "--out", "x", "--trust", "trust.dsse.json", "--quiet"]);
        assert!(shop.read("x") == shop.read(original), "{image}");
    }
    let error = shop.fails(&["extract", "a.bundle", "--image", "initrd", "--out", "y", "--blindly-trust"]);
    assert!(error.contains("rootfs, kernel"), "{error}");
    assert!(!shop.path("y").exists());
}

#[test]
fn what_is_zeros_takes_no_room_when_it_comes_back() {
    use std::os::unix::fs::MetadataExt as _;
    let shop = Workshop::new();
    // 16 MiB, of which the first and the last kilobyte hold something.
    let mut image = vec![0; 16 << 20];
    image[..1000].fill(1);
    let end = image.len();
    image[end - 1000..].fill(2);
    shop.write("rootfs.img", &image);
    shop.release("a.bundle", "1.0.0", 1);
    shop.ok(&["extract", "a.bundle", "--image", "rootfs", "--out", "x", "--trust", "trust.dsse.json", "--quiet"]);
    assert!(shop.read("x") == image);
    let stored = |name: &str| std::fs::metadata(shop.path(name)).unwrap().blocks() * 512;
    assert!(stored("rootfs.img") >= 16 << 20, "the scratch folder stores zeros as holes by itself");
    // Two frames of 256 KiB.
    assert!(stored("x") <= 1 << 20, "{} bytes on disk", stored("x"));
    // The same when all of it ends in zeros.
    image[end - 1000..].fill(0);
    shop.write("rootfs.img", &image);
    shop.release("b.bundle", "1.1.0", 2);
    shop.ok(&["extract", "b.bundle", "--image", "rootfs", "--out", "y", "--trust", "trust.dsse.json", "--quiet"]);
    assert!(shop.read("y") == image && stored("y") <= 1 << 19, "{} bytes on disk", stored("y"));
}

#[test]
fn tampering_is_refused_with_its_reason() {
    let shop = Workshop::new();
    shop.release("a.bundle", "1.0.0", 1);
    let good = shop.read("a.bundle");
    let verify = ["verify", "bad.bundle", "--trust", "trust.dsse.json", "--quiet"];
    let find = |what: &[u8]| good.windows(what.len()).position(|window| window == what).unwrap();
    let flip = |at: usize| {
        let mut bad = good.clone();
        bad[at] ^= 1;
        shop.write("bad.bundle", &bad);
    };
    flip(find(b"FSIX") + 100);
    shop.refused(&verify, "frame_mismatch");
    flip(find(b"\x28\xb5\x2f\xfd") + 5000);
    shop.refused(&verify, "frame_mismatch");
    flip(find(b"rootfs.zst"));
    shop.refused(&verify, "malformed");
    shop.write("bad.bundle", &good[..good.len() / 2]);
    shop.refused(&verify, "truncated");
    shop.refused(&["verify", "a.bundle", "--key", "keys/stranger.pub.pem"], "key_unknown");
    let error = shop.refused(
        &["verify", "a.bundle", "--key", "keys/stranger.pub.pem", "--key", "keys/release.pub.pem"],
        "threshold_not_met",
    );
    assert!(error.contains("did not sign"), "{error}");
}

#[test]
fn publish_takes_only_what_its_keys_vouch_for() {
    let shop = Workshop::new();
    let publish = |bundle: &'static str, key: &'static str| {
        ["publish", bundle, "--root", "web", "--channel", "stable", "--key", key]
    };
    shop.ok(&["build", "--out", "unsigned.bundle", "--level", "1", "--quiet"]);
    shop.refused(&publish("unsigned.bundle", "keys/release.pem"), "key_unknown");
    shop.release("a.bundle", "1.0.0", 1);
    shop.refused(&publish("a.bundle", "keys/stranger.pem"), "key_unknown");
    assert!(!shop.path("web/bundles").exists());
    shop.publish("a.bundle");

    // A counter is used once; the same release again says nothing new.
    shop.release("b.bundle", "1.0.1", 1);
    shop.refused(&publish("b.bundle", "keys/release.pem"), "counter_rollback");
    assert_eq!(shop.publish("a.bundle")["channel_version"], 1);

    // Whoever can write to the web root must not get our signature.
    shop.ok(&["sign", "a.bundle", "--key", "keys/stranger.pem"]);
    shop.ok(&["publish", "a.bundle", "--root", "theirs", "--channel", "stable", "--key", "keys/stranger.pem"]);
    std::fs::copy(
        shop.path("theirs/channels/stable/channel.dsse.json"),
        shop.path("web/channels/stable/channel.dsse.json"),
    )
    .unwrap();
    shop.refused(&publish("a.bundle", "keys/release.pem"), "key_unknown");
}

#[test]
fn approvals_rise_keep_their_salt_and_never_come_back_from_a_halt() {
    let shop = Workshop::new();
    shop.release("a.bundle", "1.0.0", 1);
    shop.publish("a.bundle");
    let change = |more: &[&str]| {
        let base = ["approve", "--root", "web", "--region", "eu-west", "--channel", "stable", "--key", "keys/eu.pem"];
        shop.json(&[&base, more].concat())
    };
    let first = change(&["--release", "1.0.0"]);
    assert_eq!((&first["version"], &first["entries"][0]["threshold_bp"]), (&json!(1), &json!(0)));
    let raised = change(&["--release", "1.0.0", "--threshold", "25%", "--window", "mon@01:00+60"]);
    assert_eq!((&raised["version"], &raised["entries"][0]["threshold_bp"]), (&json!(2), &json!(2500)));
    assert_eq!(raised["entries"][0]["salt"], first["entries"][0]["salt"]);
    assert_eq!(change(&["--raise-epoch"])["epoch"], 2);
    assert_eq!(change(&["--release", "1.0.0", "--halt"])["entries"][0]["state"], "halted");
    let base = ["approve", "--root", "web", "--region", "eu-west", "--channel", "stable", "--key"];
    let error = shop.fails(&[&base[..], &["keys/eu.pem", "--release", "1.0.0", "--resume"]].concat());
    assert!(error.contains("halted for good"), "{error}");
    shop.fails(&[&base[..], &["keys/eu.pem", "--release", "9.9.9"]].concat());
    shop.refused(&[&base[..], &["keys/stranger.pem", "--expires", "1d"]].concat(), "key_unknown");
    assert_eq!(change(&["--release", "1.0.0", "--remove"])["entries"], json!([]));
}

#[test]
fn usage_errors_have_their_own_exit_code() {
    let shop = Workshop::new();
    assert_eq!(shop.run(&["build"]).status.code(), Some(2));
    assert_eq!(shop.run(&["approve", "--threshold", "120%"]).status.code(), Some(2));
    assert_eq!(shop.run(&["--help"]).status.code(), Some(0));
}

#[test]
fn deltas_are_published_and_make_the_image() {
    let shop = Workshop::new();
    shop.release("a.bundle", "1.0.0", 1);
    shop.publish("a.bundle");
    let old = shop.read("rootfs.img");
    let mut new = old.clone();
    new[1_000_000..1_000_100].fill(7);
    shop.write("old.img", &old);
    shop.write("rootfs.img", &new);
    shop.release("b.bundle", "1.1.0", 2);
    let published = shop.json(&[
        "publish",
        "b.bundle",
        "--root",
        "web",
        "--channel",
        "stable",
        "--key",
        "keys/release.pem",
        "--deltas",
        "3",
        "--level",
        "3",
    ]);
    let delta = format!("web/{}", published["deltas"][0]["urls"][0].as_str().unwrap());
    assert!(shop.read(&delta).len() < 12_000, "{}", shop.read(&delta).len());
    let apply = ["apply", &delta, "--image", "rootfs", "--out", "made.img", "--trust", "trust.dsse.json", "--quiet"];
    shop.ok(&[&apply[..], &["--old", "old.img"]].concat());
    assert!(shop.read("made.img") == new);

    // From another image it makes nothing at all.
    shop.write("other.img", &common::image(3_000_000, 99));
    std::fs::remove_file(shop.path("made.img")).unwrap();
    shop.refused(&[&apply[..], &["--old", "other.img"]].concat(), "frame_mismatch");
    assert!(!shop.path("made.img").exists());

    let diff = shop.json(&["diff", "a.bundle", "b.bundle", "--quiet", "--level", "3"]);
    assert_eq!(diff["delta"], published["deltas"][0]["size"]);
    assert_eq!(diff["chunks"]["frames_fetched"], 1);
}

#[test]
fn a_stolen_release_key_is_rotated_out() {
    let shop = Workshop::new();
    shop.release("a.bundle", "1.0.0", 1);
    let id = shop.json(&["keygen", "--out", "keys/release-2"])["key_id"].as_str().unwrap().to_owned();
    let stolen = bundle::keys::PublicKey::from_pem(&String::from_utf8(shop.read("keys/release.pub.pem")).unwrap());
    let stolen = stolen.unwrap().id().to_string();
    shop.ok(&[
        "trust",
        "rotate",
        "trust.dsse.json",
        "--out",
        "trust-2.dsse.json",
        "--root-key",
        "keys/root.pem",
        "--add-release",
        "keys/release-2.pub.pem",
        "--remove-release",
        &stolen[..12],
    ]);
    let old = bundle::trust::TrustRoot::open(&shop.read("trust.dsse.json")).unwrap();
    let new = old.accept_next(&shop.read("trust-2.dsse.json")).unwrap();
    assert_eq!((new.version, new.roles.release.keys.as_slice()), (2, [id].as_slice()));
    assert!(!new.keys.contains_key(&stolen));
    shop.refused(&["verify", "a.bundle", "--trust", "trust-2.dsse.json"], "key_unknown");
    let shown = shop.json(&["trust", "show", "trust-2.dsse.json"]);
    assert_eq!(shown["version"], 2);
    // Signed by a stranger it is written, but said to be incomplete.
    let said = shop.ok(&["trust", "rotate", "trust.dsse.json", "--out", "x.json", "--root-key", "keys/stranger.pem"]);
    assert!(said.contains("not complete yet"), "{said}");
    shop.fails(&["trust", "rotate", "trust.dsse.json", "--out", "y.json", "--remove-release", "0000000000"]);
}

#[test]
fn a_release_is_recalled_and_the_recall_lifted() {
    let shop = Workshop::new();
    for (bundle, version, counter) in [("a.bundle", "1.0.0", 1), ("b.bundle", "1.1.0", 2)] {
        shop.release(bundle, version, counter);
        shop.publish(bundle);
    }
    let recall = |more: &[&str]| {
        let base = ["recall", "--root", "web", "--channel", "stable", "--key", "keys/release.pem"];
        shop.json(&[&base, more].concat())
    };
    let said = recall(&["--release", "1.1.0", "--go-back-to", "1.0.0", "--reason", "loses settings"]);
    assert_eq!(said["recalls"][0]["go_back_to"]["counter"], 1);
    let trust = bundle::trust::TrustRoot::open(&shop.read("trust.dsse.json")).unwrap();
    let envelope = shop.read("web/channels/stable/recall.dsse.json");
    assert_eq!(bundle::open::open_recall(&envelope, &trust, "stable").unwrap().recalls.len(), 1);
    let lifted = recall(&["--release", "1.1.0", "--lift"]);
    assert_eq!((&lifted["version"], &lifted["recalls"]), (&json!(2), &json!([])));
}

#[test]
fn completions_and_man_pages_come_from_the_command_line() {
    let shop = Workshop::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = shop.ok(&["completions", shell]);
        assert!(script.contains("approve") && script.contains("release") && script.contains("skip-gate"), "{shell}");
    }
    shop.ok(&["man", "--out", "man1"]);
    for (page, word) in [
        ("bundle-tool", "publish"),
        ("bundle-tool-approve", "threshold"),
        ("bundle-tool-release", "skip"),
        ("bundle-tool-trust-rotate", "add"),
    ] {
        let text = String::from_utf8(shop.read(&format!("man1/{page}.1"))).unwrap();
        assert!(text.contains(word) && text.contains("EXIT STATUS"), "{page}\n{text}");
    }
}
