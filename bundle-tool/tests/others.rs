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

/// Both names the library has given its envelope; Ed25519 keys are read from SPKI PEM.
const VERIFY_DSSE: &str = r#"
import json, sys
try:
    from securesystemslib.dsse import Envelope
except ImportError:
    from securesystemslib.metadata import Envelope
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from securesystemslib.signer import SSlibKey
envelope = Envelope.from_dict(json.load(open(sys.argv[1])))
key = load_pem_public_key(open(sys.argv[2], "rb").read())
raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
keyid = json.load(open(sys.argv[1]))["signatures"][0]["keyid"]
key = SSlibKey(keyid, "ed25519", "ed25519", {"public": raw.hex()})
envelope.verify([key], 1)
print("verified", envelope.payload_type)
"#;

#[test]
fn securesystemslib_verifies_our_envelopes() {
    let shop = Workshop::new();
    shop.release("a.bundle", "1.0.0", 1);
    shop.publish("a.bundle");
    shop.write("verify.py", VERIFY_DSSE.as_bytes());
    let python = std::env::var("FLIPSIDE_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    if !shop.other(&python, &["-c", "import securesystemslib, cryptography"]).is_some_and(|out| out.status.success()) {
        return skipped("python with securesystemslib and cryptography is not installed (FLIPSIDE_PYTHON names one)");
    }
    let verify = |key: &str| shop.other(&python, &["verify.py", "web/channels/stable/channel.dsse.json", key]).unwrap();
    let out = verify("keys/release.pub.pem");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(!verify("keys/stranger.pub.pem").status.success());
}
