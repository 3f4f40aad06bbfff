//! Other people's tools agree: openssl on keys and signatures, tar and zstd on bundles, securesystemslib on envelopes.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may fail loudly")]

mod common;

use common::{Workshop, skipped};

#[test]
fn openssl_verifies_our_signatures_and_we_use_its_keys() {
    let shop = Workshop::new();
    shop.release("a.bundle", "1.0.0", 1);
    let openssl = |args: &[&str]| shop.other("openssl", args);
    if openssl(&["version"]).is_none() {
        return skipped("openssl is not installed");
    }
    shop.write("pae", &shop.run(&["sign", "a.bundle", "--print-pae"]).stdout);
    let envelope: serde_json::Value = {
        let tar = shop.other("tar", &["xOf", "a.bundle", "manifest.dsse.json"]).unwrap();
        serde_json::from_slice(&tar.stdout).unwrap()
    };
    let signature = envelope["signatures"][0]["sig"].as_str().unwrap();
    let raw = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, signature).unwrap();
    shop.write("sig", &raw);
    let key = "keys/release.pub.pem";
    let verified =
        openssl(&["pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", key, "-in", "pae", "-sigfile", "sig"]).unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));

    // The other way round: its key, its signature, attached as from a hardware module.
    assert!(openssl(&["genpkey", "-algorithm", "ed25519", "-out", "hsm.pem"]).unwrap().status.success());
    assert!(openssl(&["pkey", "-in", "hsm.pem", "-pubout", "-out", "hsm.pub.pem"]).unwrap().status.success());
    assert!(
        openssl(&["pkeyutl", "-sign", "-rawin", "-inkey", "hsm.pem", "-in", "pae", "-out", "sig"])
            .unwrap()
            .status
            .success()
    );
    shop.ok(&["sign", "a.bundle", "--attach", "sig", "--public-key", "hsm.pub.pem"]);
    let verified = shop.json(&["verify", "a.bundle", "--key", key, "--key", "hsm.pub.pem", "--quiet"]);
    assert_eq!(verified["signers"].as_array().unwrap().len(), 2);
    shop.ok(&["sign", "a.bundle", "--key", "hsm.pem"]);

    // And openssl reads the private keys we write.
    let read = openssl(&["pkey", "-in", "keys/release.pem", "-pubout"]).unwrap();
    assert_eq!(read.stdout, shop.read(key));
}

#[test]
fn a_wrong_attached_signature_is_not_attached() {
    let shop = Workshop::new();
    shop.release("a.bundle", "1.0.0", 1);
    let before = shop.read("a.bundle");
    shop.write("sig", &[7; 64]);
    shop.fails(&["sign", "a.bundle", "--attach", "sig", "--public-key", "keys/release.pub.pem"]);
    assert!(shop.read("a.bundle") == before);
}

#[test]
fn tar_lists_a_bundle_and_zstd_gives_the_image() {
    let shop = Workshop::new();
    shop.release("a.bundle", "1.0.0", 1);
    let listed = shop.other("tar", &["tf", "a.bundle"]).unwrap();
    let expected =
        "manifest.dsse.json\nrootfs.index\nkernel.index\nrootfs.chunks\nkernel.chunks\nrootfs.zst\nkernel.zst\n";
    assert_eq!(String::from_utf8(listed.stdout).unwrap(), expected);
    assert!(shop.other("tar", &["xf", "a.bundle"]).unwrap().status.success());
    let Some(raw) = shop.other("zstd", &["-dcq", "rootfs.zst"]) else {
        return skipped("zstd is not installed");
    };
    assert!(raw.stdout == shop.read("rootfs.img"));
}

/// Also used on a whole Debian image by `make bench`.
const VERIFY_DSSE: &str = include_str!("../../bench/verify-dsse.py");

/// A Python that has the library: the one named, else one of our own below `target`, filled from PyPI once.
fn python() -> Result<String, String> {
    if let Ok(python) = std::env::var("FLIPSIDE_PYTHON") {
        return Ok(python);
    }
    let venv = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("securesystemslib");
    let python = venv.join("bin/python").to_string_lossy().into_owned();
    let run = |program: &str, args: &[&str]| match std::process::Command::new(program).args(args).output() {
        Ok(out) if out.status.success() => Ok(()),
        Ok(out) => Err(format!("{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr))),
        Err(error) => Err(format!("{program}: {error}")),
    };
    let usable = ["-c", "import securesystemslib.dsse, cryptography"];
    if run(&python, &usable).is_err() {
        run("python3", &["-m", "venv", "--clear", &venv.to_string_lossy()])?;
        run(&python, &["-m", "pip", "install", "--quiet", "securesystemslib[crypto]>=1.0,<2"])?;
        run(&python, &usable)?;
    }
    Ok(python)
}

#[test]
fn securesystemslib_verifies_our_envelopes() {
    let shop = Workshop::new();
    shop.release("a.bundle", "1.0.0", 1);
    shop.publish("a.bundle");
    shop.write("verify.py", VERIFY_DSSE.as_bytes());
    let python = match python() {
        Ok(python) => python,
        Err(why) => return skipped(&format!("securesystemslib from PyPI can not be had: {why}")),
    };
    let manifest = shop.other("tar", &["xOf", "a.bundle", "manifest.dsse.json"]).unwrap();
    shop.write("manifest.dsse.json", &manifest.stdout);
    shop.ok(&["approve", "--root", "web", "--region", "eu-west", "--channel", "stable", "--key", "keys/eu.pem"]);
    for (document, key) in [
        ("manifest.dsse.json", "keys/release.pub.pem"),
        ("web/channels/stable/channel.dsse.json", "keys/release.pub.pem"),
        ("web/approvals/eu-west/stable.dsse.json", "keys/eu.pub.pem"),
        ("trust.dsse.json", "keys/root.pub.pem"),
    ] {
        let verify = |key: &str| shop.other(&python, &["verify.py", document, key]).unwrap();
        let out = verify(key);
        assert!(out.status.success(), "{document}: {}", String::from_utf8_lossy(&out.stderr));
        assert!(!verify("keys/stranger.pub.pem").status.success(), "{document}");
    }
}
