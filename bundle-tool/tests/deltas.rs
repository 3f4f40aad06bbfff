//! Deltas on the web root: which are made, which are not, and that a failure leaves what was there.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may fail loudly")]

mod common;

use common::{Workshop, image};
use serde_json::Value;

/// Releases 1 to `n`, each with a little changed; the last is built but not published.
fn history(n: u64) -> Workshop {
    let shop = Workshop::new();
    for counter in 1..=n {
        let mut root = image(3_000_000, 1);
        root[500_000 * counter as usize..][..50].fill(counter as u8);
        shop.write("rootfs.img", &root);
        shop.write(&format!("{counter}.img"), &root);
        shop.release(&format!("{counter}.bundle"), &format!("1.{counter}.0"), counter);
        if counter < n {
            shop.publish(&format!("{counter}.bundle"));
        }
    }
    shop
}

fn publish<'a>(bundle: &'a str, deltas: &'a str) -> Vec<&'a str> {
    let base = ["publish", bundle, "--root", "web", "--channel", "stable", "--key", "keys/release.pem"];
    base.into_iter().chain(["--deltas", deltas, "--level", "3", "--quiet"]).collect()
}

fn files(shop: &Workshop, folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(shop.path(folder)).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names = entries.map(|name| name.into_string().unwrap()).collect::<Vec<_>>();
    names.sort();
    names
}

#[test]
fn deltas_come_from_the_newest_releases_and_each_makes_the_image() {
    let shop = history(4);
    let published = shop.json(&publish("4.bundle", "2"));
    let deltas = published["deltas"].as_array().unwrap();
    assert_eq!(deltas.len(), 2, "{published}");
    for (delta, from) in deltas.iter().zip(["3", "2"]) {
        let path = format!("web/{}", delta["urls"][0].as_str().unwrap());
        assert_eq!(shop.read(&path).len() as u64, delta["size"].as_u64().unwrap());
        let (out, old) = (format!("from-{from}.img"), format!("{from}.img"));
        let apply = ["apply", &path, "--image", "rootfs", "--old", &old, "--trust", "trust.dsse.json", "--quiet"];
        shop.ok(&[&apply[..], &["--out", &out]].concat());
        assert!(shop.read(&out) == shop.read("4.img"), "from {from}");
        // Both carry the new manifest and so no authority of their own: the wrong start makes nothing.
        let wrong = ["apply", &path, "--image", "rootfs", "--old", "1.img", "--trust", "trust.dsse.json", "--quiet"];
        shop.refused(&[&wrong[..], &["--out", "wrong.img"]].concat(), "frame_mismatch");
        assert!(!shop.path("wrong.img").exists());
    }
    assert_eq!(files(&shop, "web/deltas").len(), 2, "nothing else is left there");
    assert_eq!(files(&shop, "web/bundles").len(), 4);
    // Once more with another number: those that are there stay named.
    let again = shop.json(&publish("4.bundle", "1"));
    assert_eq!(again["deltas"].as_array().unwrap().len(), 1);
    let channel = shop.read("web/channels/stable/channel.dsse.json");
    let payload = bundle::dsse::Envelope::parse(&channel).unwrap().payload;
    let channel: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(channel["releases"][0]["deltas"].as_array().unwrap().len(), 2);
}

#[test]
fn what_stands_under_a_name_stays_for_whoever_named_it() {
    let shop = history(2);
    let url = |published: &Value| published["deltas"][0]["urls"][0].as_str().unwrap().to_owned();
    let other = |level: &str| -> Value {
        let base =
            ["publish", "--root", "web", "--channel", "beta", "--key", "keys/release.pem", "--quiet", "--level", level];
        shop.json(&[&base[..], &["--deltas", "1", "2.bundle"]].concat())
    };
    let stable = url(&shop.json(&publish("2.bundle", "1")));
    let bytes = shop.read(&format!("web/{stable}"));
    // Another channel names the same pair, made in the same way: one file serves both.
    shop.ok(&["publish", "1.bundle", "--root", "web", "--channel", "beta", "--key", "keys/release.pem"]);
    assert_eq!(url(&other("3")), stable);
    assert_eq!(files(&shop, "web/deltas").len(), 1);
    // Made differently it is another file.
    std::fs::remove_dir_all(shop.path("web/channels/beta")).unwrap();
    shop.ok(&["publish", "1.bundle", "--root", "web", "--channel", "beta", "--key", "keys/release.pem"]);
    let own = url(&other("1"));
    assert_ne!(own, stable);
    assert!(shop.read(&format!("web/{stable}")) == bytes && shop.path(&format!("web/{own}")).exists());
    // One that was cut short is made again, and named anew.
    shop.write(&format!("web/{stable}"), &bytes[..bytes.len() / 2]);
    let again = url(&shop.json(&publish("2.bundle", "1")));
    assert!(again != stable && shop.read(&format!("web/{again}")) == bytes);
}

#[test]
fn a_delta_that_does_not_pay_is_not_published() {
    let shop = history(2);
    shop.write("rootfs.img", &image(3_000_000, 77));
    shop.release("other.bundle", "2.0.0", 9);
    let out = shop.run(&publish("other.bundle", "3"));
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.success() && said.contains("no delta from 1.1.0"), "{said}");
    assert!(files(&shop, "web/deltas").is_empty());
}

#[test]
fn a_damaged_old_bundle_stops_the_publishing_and_changes_nothing() {
    let shop = history(2);
    let before = shop.read("web/channels/stable/channel.dsse.json");
    let name = files(&shop, "web/bundles").remove(0);
    let path = format!("web/bundles/{name}");
    let mut damaged = shop.read(&path);
    let at = damaged.len() - 5000;
    damaged[at] ^= 1;
    shop.write(&path, &damaged);
    shop.refused(&publish("2.bundle", "1"), "frame_mismatch");
    assert!(shop.read("web/channels/stable/channel.dsse.json") == before);
    assert!(!shop.path("web/deltas").exists() || files(&shop, "web/deltas").is_empty());
    // Another genuine bundle under that name is noticed, too.
    std::fs::copy(shop.path("2.bundle"), shop.path(&path)).unwrap();
    assert!(shop.fails(&publish("2.bundle", "1")).contains("is not the bundle its name says"));
}

#[test]
fn an_unsigned_release_gets_no_delta_and_a_damaged_delta_makes_nothing() {
    let shop = history(2);
    shop.ok(&["build", "--out", "unsigned.bundle", "--level", "1", "--quiet"]);
    let error = shop.fails(&["delta", "1.bundle", "unsigned.bundle", "--out", "x.delta", "--quiet"]);
    assert!(error.contains("not signed"), "{error}");
    let facts = shop.json(&["delta", "1.bundle", "2.bundle", "--out", "x.delta", "--level", "3", "--quiet"]);
    let good = shop.read("x.delta");
    assert_eq!(facts["size"].as_u64().unwrap(), good.len() as u64);
    let apply = ["apply", "x.delta", "--image", "rootfs", "--old", "1.img", "--out", "x.img", "--quiet"];
    let trusting = [&apply[..], &["--trust", "trust.dsse.json"]].concat();
    // Its own envelope is checked as that of a bundle is.
    shop.refused(&[&apply[..], &["--key", "keys/stranger.pub.pem"]].concat(), "key_unknown");
    shop.write("x.delta", &good[..good.len() / 2]);
    assert_eq!(shop.run(&trusting).status.code(), Some(3));
    let magic = good.windows(4).position(|window| window == b"FSDL").unwrap();
    for (at, reason) in [(magic + 8, "format_too_new"), (magic + 70, "malformed")] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        shop.write("x.delta", &bad);
        shop.refused(&trusting, reason);
    }
    assert!(!shop.path("x.img").exists());
    shop.write("x.delta", &good);
    shop.ok(&trusting);
    assert!(shop.read("x.img") == shop.read("2.img"));
}

#[test]
fn diff_says_what_the_same_and_a_foreign_release_would_cost() {
    let shop = history(2);
    let diff = |old: &str| shop.json(&["diff", old, "2.bundle", "--level", "3", "--quiet"]);
    let same = diff("2.bundle");
    assert_eq!((&same["chunks"]["frames_fetched"], &same["stats"]["patch"]), (&0.into(), &0.into()), "{same}");
    let near = diff("1.bundle");
    assert!(near["delta"].as_u64().unwrap() < near["by_chunks"].as_u64().unwrap(), "{near}");
    assert!(near["by_chunks"].as_u64().unwrap() < near["full"].as_u64().unwrap(), "{near}");
}

#[test]
fn a_delta_from_the_old_image_is_the_one_from_its_bundle() {
    let shop = history(2);
    let envelope = bundle::random::read_envelope(&mut std::io::Cursor::new(shop.read("1.bundle"))).unwrap();
    shop.write("manifest.dsse.json", &envelope);
    let delta = |old: &str, out: &'static str, more: &[&str]| {
        let base = ["delta", old, "2.bundle", "--level", "3", "--quiet", "--out", out];
        base.into_iter().chain(more.iter().copied()).map(str::to_owned).collect::<Vec<_>>()
    };
    let run = |args: Vec<String>| shop.run(&args.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(run(delta("1.bundle", "bundles.delta", &[])).status.success());
    for old in ["manifest.dsse.json", "1.bundle"] {
        let out = run(delta(old, "image.delta", &["--old-image", "rootfs=1.img", "--old-image", "kernel=kernel"]));
        assert!(out.status.success(), "from {old}: {}", String::from_utf8_lossy(&out.stderr));
        assert!(shop.read("image.delta") == shop.read("bundles.delta"), "from {old}");
    }
    shop.write("short.img", &shop.read("1.img")[..1_000_000]);
    for (image, says) in [
        ("rootfs=2.img", "it is another image"),
        ("rootfs=short.img", "it has 1000000 bytes, the image has 3000000"),
        ("rootfs=none.img", "none.img as \"rootfs\" of release 1.1.0"),
        ("rootfs=1.img", "image \"kernel\" of release 1.1.0 is not given"),
        ("initrd=1.img", "has no image \"initrd\""),
        ("1.img", "NAME=FILE"),
    ] {
        let out = run(delta("manifest.dsse.json", "wrong.delta", &["--old-image", image]));
        let said = String::from_utf8(out.stderr).unwrap();
        assert!(!out.status.success() && said.contains(says), "{image}: {said}");
        assert!(!shop.path("wrong.delta").exists());
    }
    // The manifest alone holds no images.
    assert!(!run(delta("manifest.dsse.json", "wrong.delta", &[])).status.success());
}
