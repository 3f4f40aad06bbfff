//! What the guide says to do when a region key is stolen, as it stands there, and the approvals that come of it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may fail loudly")]

mod common;

use std::process::Command;

use bundle::approval::{APPROVAL_TYPE, Approval};
use bundle::dsse::Envelope;
use bundle::keys::PrivateKey;
use bundle::trust::TrustRoot;
use common::Workshop;

const APPROVAL: &str = "web/approvals/eu-west/stable.dsse.json";
const APPROVE: [&str; 7] = ["approve", "--root", "web", "--region", "eu-west", "--channel", "stable"];

/// A region with an approval of release 2.4.1.
fn region() -> Workshop {
    let shop = Workshop::new();
    shop.release("a.bundle", "2.4.1", 1);
    shop.publish("a.bundle");
    shop.ok(&[&APPROVE[..], &["--key", "keys/eu.pem", "--release", "2.4.1", "--threshold", "10%"]].concat());
    shop
}

fn key(shop: &Workshop, name: &str) -> PrivateKey {
    PrivateKey::from_pem(&String::from_utf8(shop.read(name)).unwrap()).unwrap()
}

fn approval(shop: &Workshop) -> Approval {
    Approval::parse(&Envelope::parse(&shop.read(APPROVAL)).unwrap().payload).unwrap()
}

/// What a thief of the region's key puts on the web server.
fn steal(shop: &Workshop, epoch: u64, version: u64) -> Approval {
    let stolen = Approval { epoch, version, ..approval(shop) };
    let mut envelope = Envelope::new(APPROVAL_TYPE, stolen.to_bytes().unwrap());
    envelope.sign(&key(shop, "keys/eu.pem")).unwrap();
    shop.write(APPROVAL, &envelope.to_bytes().unwrap());
    stolen
}

/// The commands below that heading of the guide.
fn runbook(heading: &str) -> String {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/src/rollouts.md");
    let page = std::fs::read_to_string(page).unwrap();
    let section = page.split_once(heading).unwrap().1;
    let (_, commands) = section.split_once("```sh\n").unwrap();
    commands.split_once("```").unwrap().0.to_owned()
}

#[test]
fn the_runbook_for_a_stolen_region_key_works_as_it_stands() {
    let shop = region();
    let stolen = steal(&shop, 1, u64::MAX);
    let id = key(&shop, "keys/eu.pem").public().unwrap().id().to_string();
    let commands = runbook("## When a region key is stolen").replace("/srv/www", "web").replace("3fa1b2c4", &id[..8]);
    assert!(commands.contains("--raise-epoch") && commands.contains(&id[..8]), "{commands}");
    let tools = std::path::Path::new(env!("CARGO_BIN_EXE_bundle-tool")).parent().unwrap();
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
    let out =
        Command::new("sh").args(["-euc", &commands]).current_dir(shop.folder()).env("PATH", path).output().unwrap();
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && stderr.is_empty(), "{stderr}");

    let old = TrustRoot::open(&shop.read("trust.dsse.json")).unwrap();
    let trust = old.accept_next(&shop.read("web/trust/2.dsse.json")).unwrap();
    let opened = bundle::open::open_approval(&shop.read(APPROVAL), &trust, "eu-west", "stable").unwrap();
    assert_eq!(opened.refusal_at(opened.issued, Some(stolen.rank())), None);
    assert_eq!((opened.rank(), opened.entries[0].threshold_bp), ((2, 2), 2500));
}

#[test]
fn the_end_of_the_versions_is_an_error_and_a_new_epoch_begins_again() {
    let shop = region();
    steal(&shop, 3, u64::MAX);
    let renew = [&APPROVE[..], &["--key", "keys/eu.pem"]].concat();
    assert!(shop.fails(&renew).contains("--raise-epoch"));
    assert_eq!(shop.json(&[&renew[..], &["--raise-epoch"]].concat())["version"], 1);
    assert_eq!(approval(&shop).rank(), (4, 1));
    steal(&shop, u64::MAX, 5);
    assert!(shop.fails(&[&renew[..], &["--raise-epoch"]].concat()).contains("highest epoch"));
}

#[test]
fn a_blind_replacement_outranks_what_it_replaces() {
    let shop = region();
    steal(&shop, 3, 411);
    let blind = [&APPROVE[..], &["--key", "keys/stranger.pem", "--blindly-replace-approval"]].concat();
    shop.ok(&blind);
    assert_eq!((approval(&shop).rank(), approval(&shop).entries.len()), ((3, 412), 0));
    steal(&shop, 3, u64::MAX);
    shop.ok(&[&blind[..], &["--raise-epoch"]].concat());
    assert_eq!(approval(&shop).rank(), (4, 1));
    // The end of the numbers is not followed; who knows better says so.
    steal(&shop, u64::MAX, 1);
    assert!(shop.fails(&[&blind[..], &["--raise-epoch"]].concat()).contains("--epoch N"));
    shop.write(APPROVAL, b"no document at all");
    assert!(shop.refused(&blind, "malformed").contains("--epoch N"));
    shop.ok(&[&blind[..], &["--epoch", "9"]].concat());
    assert_eq!(approval(&shop).rank(), (9, 1));
    let lower = [&APPROVE[..], &["--key", "keys/stranger.pem", "--epoch", "9"]].concat();
    assert!(shop.fails(&lower).contains("does not outrank"));
}

#[test]
fn a_key_that_the_trust_root_does_not_name_changes_nothing_that_devices_look_at() {
    let shop = region();
    let renew =
        |key| [&APPROVE[..], &["--blindly-replace-approval", "--trust", "trust.dsse.json", "--key", key]].concat();
    shop.ok(&renew("keys/eu.pem"));
    let live = shop.read(APPROVAL);
    let told = shop.refused(&renew("keys/stranger.pem"), "key_unknown");
    assert!(told.contains("devices would refuse it") && shop.read(APPROVAL) == live, "{told}");
}
