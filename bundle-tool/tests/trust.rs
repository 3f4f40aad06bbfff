//! Who may say what, and how that changes: rotation with the thresholds of both sides, other people's documents.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may fail loudly")]

mod common;

use bundle::reason::Reason;
use bundle::trust::TrustRoot;
use common::Workshop;

/// A workshop with four more root keys and a trust root that two of the first three must sign.
fn vault() -> Workshop {
    let shop = Workshop::new();
    for name in ["a", "b", "c", "d", "e"] {
        shop.ok(&["keygen", "--out", &format!("keys/{name}")]);
    }
    let base = "trust init --root-key keys/a.pem --root-key keys/b.pem --root keys/c.pub.pem --root-threshold 2";
    let more = "--release keys/release.pub.pem --region eu-west=keys/eu.pub.pem --out t1.json";
    shop.ok(&format!("{base} {more}").split(' ').collect::<Vec<_>>());
    shop
}

fn id(shop: &Workshop, key: &str) -> String {
    let pem = String::from_utf8(shop.read(&format!("keys/{key}.pub.pem"))).unwrap();
    bundle::keys::PublicKey::from_pem(&pem).unwrap().id().to_string()
}

fn accept(shop: &Workshop, old: &str, new: &str) -> Result<u64, Reason> {
    let old = TrustRoot::open(&shop.read(old)).map_err(|error| error.reason())?;
    old.accept_next(&shop.read(new)).map(|next| next.version).map_err(|error| error.reason())
}

#[test]
fn a_rotation_counts_when_the_thresholds_of_both_versions_signed() {
    let shop = vault();
    // From 2 of a, b, c to 3 of c, d, e: with c alone in both.
    let (a, b) = (id(&shop, "a"), id(&shop, "b"));
    let rotate = |out: &str, signers: &[&str]| {
        let mut args = vec!["trust", "rotate", "t1.json", "--out", out, "--root-threshold", "3"];
        args.extend(["--add-root", "keys/d.pub.pem", "--add-root", "keys/e.pub.pem"]);
        args.extend(["--remove-root", &a[..16], "--remove-root", &b[..16]]);
        let paths = signers.iter().map(|key| format!("keys/{key}.pem")).collect::<Vec<_>>();
        paths.iter().for_each(|path| args.extend(["--root-key", path.as_str()]));
        shop.ok(&args)
    };
    // The new threshold without the old one, and the other way round.
    assert!(rotate("new.json", &["c", "d", "e"]).contains("not complete yet"));
    assert_eq!(accept(&shop, "t1.json", "new.json"), Err(Reason::ThresholdNotMet));
    assert!(rotate("old.json", &["a", "b"]).contains("not complete yet"));
    assert_eq!(accept(&shop, "t1.json", "old.json"), Err(Reason::KeyUnknown));
    // One of each short.
    assert!(rotate("short.json", &["a", "c", "d"]).contains("not complete yet"));
    assert_eq!(accept(&shop, "t1.json", "short.json"), Err(Reason::ThresholdNotMet));
    // The signature of the same key twice is one.
    shop.ok(&["sign", "short.json", "--key", "keys/d.pem"]);
    assert_eq!(accept(&shop, "t1.json", "short.json"), Err(Reason::ThresholdNotMet));
    let publish = ["trust", "publish", "short.json", "--previous", "t1.json", "--root", "web"];
    shop.refused(&publish, "threshold_not_met");
    assert!(!shop.path("web").exists());
    // The missing one, made on another day.
    shop.ok(&["sign", "short.json", "--key", "keys/e.pem"]);
    assert_eq!(accept(&shop, "t1.json", "short.json"), Ok(2));
    shop.ok(&publish);
    assert_eq!(shop.read("web/trust/2.dsse.json"), shop.read("short.json"));
    let keys = TrustRoot::open(&shop.read("short.json")).unwrap().keys;
    assert!(!keys.contains_key(&a) && !keys.contains_key(&b) && keys.contains_key(&id(&shop, "c")));

    // On to 3, whose signers the holders of 1 have never heard of: one version after the other, or not at all.
    let all = ["--root-key", "keys/c.pem", "--root-key", "keys/d.pem", "--root-key", "keys/e.pem"];
    shop.ok(&[&["trust", "rotate", "short.json", "--out", "t3.json"], &all[..]].concat());
    assert_eq!(accept(&shop, "short.json", "t3.json"), Ok(3));
    assert_eq!(accept(&shop, "t1.json", "t3.json"), Err(Reason::ThresholdNotMet));
    assert_eq!(accept(&shop, "t3.json", "short.json"), Err(Reason::CounterRollback));
}

#[test]
fn a_rotation_that_contradicts_itself_is_not_written() {
    let shop = vault();
    let rotate = |more: &[&str]| {
        let base = ["trust", "rotate", "t1.json", "--out", "x.json", "--root-key", "keys/a.pem"];
        let args = [&base[..], more].concat();
        let out = shop.run(&args);
        assert!(!out.status.success(), "{more:?}");
        assert!(!shop.path("x.json").exists(), "{more:?}");
        String::from_utf8(out.stderr).unwrap()
    };
    assert!(rotate(&["--root-threshold", "4"]).contains("threshold 4 with 3 keys"));
    assert!(rotate(&["--release-threshold", "0"]).contains("threshold 0"));
    assert!(rotate(&["--remove-release", &id(&shop, "release")]).contains("threshold 1 with 0 keys"));
    assert!(rotate(&["--region-threshold", "mars=1"]).contains("no region"));
    assert!(rotate(&["--remove-root", "abc"]).contains("at least 8 digits"));
}

#[test]
fn a_recall_of_somebody_else_is_not_signed_again() {
    let shop = Workshop::new();
    shop.release("a.bundle", "1.0.0", 1);
    shop.release("b.bundle", "1.1.0", 2);
    shop.publish("a.bundle");
    shop.publish("b.bundle");
    let recall = |key: &'static str, more: &[&'static str]| {
        let base = ["recall", "--root", "web", "--channel", "stable", "--key", key, "--release", "1.1.0"];
        [&base[..], more].concat()
    };
    shop.refused(&recall("keys/stranger.pem", &["--reason", "x"]), "key_unknown");
    assert!(!shop.path("web/channels/stable/recall.dsse.json").exists());
    let why = ["--reason", "loses settings", "--go-back-to", "1.0.0"];
    shop.ok(&recall("keys/release.pem", &why));
    // It rises, names the reason, and is bound to manifests, not to version texts.
    let second = shop.json(&recall("keys/release.pem", &why));
    assert_eq!((&second["version"], second["recalls"].as_array().unwrap().len()), (&2.into(), 1));
    assert_eq!(second["recalls"][0]["go_back_to"]["version"], "1.0.0");
    assert!(shop.fails(&recall("keys/release.pem", &["--reason", "x", "--go-back-to", "9.9.9"])).contains("9.9.9"));
    let document = shop.read("web/channels/stable/recall.dsse.json");
    let trust = TrustRoot::open(&shop.read("trust.dsse.json")).unwrap();
    assert_eq!(
        bundle::open::open_recall(&document, &trust, "beta").unwrap_err().reason(),
        Reason::RegionMismatch,
        "a recall is for one channel"
    );
    // An attacker's file on the web root does not get our signature.
    let mut forged = bundle::dsse::Envelope::parse(&document).unwrap();
    forged.signatures.clear();
    shop.write("web/channels/stable/recall.dsse.json", &forged.to_bytes().unwrap());
    shop.refused(&recall("keys/release.pem", &why), "key_unknown");
}
