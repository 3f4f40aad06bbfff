//! What a stranger wrote is shown, and does nothing to the terminal that shows it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may fail loudly")]

mod common;

use bundle::dsse::{Envelope, EnvelopeSignature};
use bundle::random::read_envelope;
use common::Workshop;
use serde_json::json;

/// Clears the screen, begins another line, turns the rest around.
const EVIL: &str = "x\u{1b}[2Jy\r\u{9b}31m\u{202e}z";

/// A bundle with that text wherever a stranger may put one: in names and values, and as the name of a key.
fn evil() -> Workshop {
    let shop = Workshop::new();
    let facts = json!({EVIL: EVIL, "gates": {EVIL: {"outcome": EVIL, "why": EVIL, "run": EVIL, "stage": EVIL}}});
    let attestations = toml(&facts).replace("gates", "later");
    shop.write("bundle.toml", format!("{}\n[attestations]\n{attestations}", common::RECIPE).as_bytes());
    shop.ok(&["build", "--out", "plain.bundle", "--level", "1", "--quiet"]);
    let mut from = std::fs::File::open(shop.path("plain.bundle")).unwrap();
    let old = read_envelope(&mut from).unwrap();
    let mut envelope = Envelope::parse(&old).unwrap();
    // The name that a recipe may not use.
    envelope.payload = String::from_utf8(envelope.payload).unwrap().replace("\"later\"", "\"gates\"").into_bytes();
    envelope.signatures.push(EnvelopeSignature { key_id: EVIL.to_owned(), signature: vec![7; 64] });
    let manifest = bundle::manifest::Manifest::parse(&envelope.payload).unwrap();
    let mut to = std::fs::File::create(shop.path("evil.bundle")).unwrap();
    let bytes = envelope.to_bytes().unwrap();
    bundle::build::replace_envelope(&mut from, old.len() as u64, &bytes, &manifest, &mut to).unwrap();
    shop
}

/// As a table of TOML: the strings of JSON are strings there, but for the escapes that only TOML wants.
fn toml(facts: &serde_json::Value) -> String {
    let text =
        |value: &serde_json::Value| value.to_string().replace('\u{9b}', "\\u009b").replace('\u{202e}', "\\u202e");
    let inline = |value: &serde_json::Value| match value.as_object() {
        None => text(value),
        Some(gates) => {
            let gates = gates.iter().map(|(name, gate)| {
                let facts = gate.as_object().unwrap().iter().map(|(name, fact)| format!("{name} = {}", text(fact)));
                format!("{} = {{ {} }}", text(&json!(name)), facts.collect::<Vec<_>>().join(", "))
            });
            format!("{{ {} }}", gates.collect::<Vec<_>>().join(", "))
        }
    };
    let lines =
        facts.as_object().unwrap().iter().map(|(name, value)| format!("{} = {}\n", text(&json!(name)), inline(value)));
    lines.collect()
}

fn plain(text: &str) {
    let bad = text.chars().find(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}');
    assert!(bad.is_none(), "{bad:?} in {text:?}");
    assert!(text.contains(r"\u{1b}[2J"), "{text}");
}

#[test]
fn inspecting_and_verifying_what_strangers_made_is_harmless() {
    let shop = evil();
    let inspected = shop.ok(&["inspect", "evil.bundle"]);
    plain(&inspected);
    assert!(inspected.contains("gate        x") && inspected.contains("attested    x"), "{inspected}");
    let said = shop.refused(&["verify", "evil.bundle", "--trust", "trust.dsse.json"], "key_unknown");
    plain(&said);
    // Nobody knows who made that signature.
    assert!(said.contains("names itself") && !said.contains(" signed, but"), "{said}");
    // A trust root whose list of keys has such a name.
    let root = Envelope::parse(&shop.read("trust.dsse.json")).unwrap();
    let mut body: serde_json::Value = serde_json::from_slice(&root.payload).unwrap();
    body["keys"][EVIL] = json!("no key");
    let evil = Envelope::new(&root.payload_type, body.to_string().into_bytes());
    shop.write("evil.dsse.json", &evil.to_bytes().unwrap());
    plain(&shop.refused(&["trust", "show", "evil.dsse.json"], "malformed"));
}
