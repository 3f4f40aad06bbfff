//! With `--json` every command prints one JSON object on standard output, and nothing else.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may fail loudly")]

mod common;

use common::Workshop;

/// Runs a line of words with `--json`; the object must have these fields.
fn facts(shop: &Workshop, line: &str, fields: &[&str]) -> serde_json::Value {
    let said = shop.json(&line.split(' ').collect::<Vec<_>>());
    for field in fields {
        assert!(!said[field].is_null(), "{line}: no {field} in {said}");
    }
    said
}

#[test]
fn every_command_prints_its_facts_as_json() {
    let shop = Workshop::new();
    let facts = |line: &str, fields: &[&str]| facts(&shop, line, fields);
    let id = facts("keygen --out keys/release-2", &["key_id", "private", "public"])["key_id"].clone();
    let init = "trust init --root-key keys/root.pem --release keys/release.pub.pem --out first.json";
    assert_eq!(facts(init, &["file", "version", "expires"])["complete"], true);
    let rotate = "trust rotate trust.dsse.json --out next.json --add-release keys/release-2.pub.pem";
    assert_eq!(facts(&format!("{rotate} --root-key keys/root.pem"), &["file", "expires"])["complete"], true);
    let unsigned = facts(&rotate.replace("next.json", "unsigned.json"), &["version"]);
    assert_eq!((&unsigned["complete"], &unsigned["version"]), (&false.into(), &2.into()));
    facts("trust publish next.json --previous trust.dsse.json --root web", &["file", "version"]);
    facts("trust show next.json", &["version", "keys", "roles"]);

    facts("build --out a.bundle --level 1 --quiet", &["bundle", "size", "manifest_sha256"]);
    let signed = facts("sign a.bundle --key keys/release.pem --key keys/release-2.pem", &["file"]);
    assert_eq!(signed["signed_by"][1], id);
    facts("verify a.bundle --trust trust.dsse.json --quiet", &["genuine", "signers"]);
    facts("inspect a.bundle", &["manifest", "images"]);
    let extract = "extract a.bundle --image rootfs --out old.img --trust trust.dsse.json --quiet";
    assert_eq!(facts(extract, &["out", "image", "size"])["kind"], "block");
    let to = "--root web --channel stable --key keys/release.pem";
    facts(&format!("publish a.bundle {to}"), &["url", "dropped"]);

    let mut image = shop.read("rootfs.img");
    image[1_000_000..1_000_100].fill(7);
    shop.write("rootfs.img", &image);
    let newer = "--release-version 1.1.0 --counter 2 --level 1";
    facts(&format!("release --out b.bundle {newer} --quiet --deltas 1 {to}"), &["published", "steps"]);
    facts("delta a.bundle b.bundle --out x.delta --level 1 --quiet", &["size", "stats"]);
    facts("diff a.bundle b.bundle --level 1 --quiet", &["delta", "full"]);
    let apply = "apply x.delta --image rootfs --old old.img --out new.img --trust trust.dsse.json --quiet";
    assert_eq!(facts(apply, &["out", "size", "version"])["counter"], 2);
    let approve = "approve --root web --region eu-west --channel stable --key keys/eu.pem --release 1.1.0";
    facts(approve, &["epoch", "version", "entries"]);
    facts(&format!("recall {to} --release 1.1.0 --go-back-to 1.0.0 --reason slow"), &["version", "recalls"]);
}
