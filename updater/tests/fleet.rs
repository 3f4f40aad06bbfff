//! Two appliances of one region as processes: a rollout in steps, a canary that breaks and reports, an operator who halts,
//! documents that are gone, expired or replayed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail loudly"
)]

mod common;
mod sim;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use bundle::dsse::Envelope;
use serde_json::Value;
use sim::{FAILED, OK, REFUSED, Said, World, until};

/// Buckets 4643 and 6419 under the salt of these tests.
const CANARY: &str = "dev-0001";
const LATER: &str = "3f1b6c1e-6d7d-4b53-9a6e-0d5f7f0a1c22";

/// Takes reports; only the first is refused, to see it come again.
fn fleet_host() -> (String, Arc<Mutex<Vec<Value>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/reports", listener.local_addr().unwrap());
    let reports = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&reports);
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut reader = BufReader::new(stream.unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                reader.read_line(&mut head).unwrap();
            }
            let head = head.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:")).unwrap();
            let mut body = vec![0; length.trim().parse().unwrap()];
            reader.read_exact(&mut body).unwrap();
            let status = if number == 0 { 503 } else { 200 };
            if status == 200 {
                let batch: Value = serde_json::from_slice(&Envelope::parse(&body).unwrap().payload).unwrap();
                kept.lock().unwrap().push(batch);
            }
            let answer =
                format!("HTTP/1.1 {status} x\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            reader.get_mut().write_all(answer.as_bytes()).unwrap();
        }
    });
    (url, reports)
}

fn reason(said: &Said) -> String {
    let last: Value = serde_json::from_str(said.out.lines().last().unwrap_or("null")).unwrap();
    last["reason"].as_str().unwrap_or_default().to_owned()
}

fn assert_refused(device: &World, wanted: &str) {
    let said = device.flipside(&["--json", "check", "--wait"]);
    assert_eq!((said.code, reason(&said).as_str()), (REFUSED, wanted), "{said:?}");
}

#[test]
fn a_canary_breaks_and_the_rest_of_the_fleet_never_meets_it() {
    let (url, reports) = fleet_host();
    let mut canary = World::new();
    let mut later = World::served_by(Rc::clone(&canary.tree));
    for (device, id) in [(&canary, CANARY), (&later, LATER)] {
        device.config("id.toml", &format!("[device]\nid = \"{id}\"\n[report]\nurl = \"{url}\"\n"));
    }
    canary.health_check(
        "10-app",
        "grep -q '\"booted\":\"b\"' \"$(dirname \"$0\")/../../../boot/sim.json\" && echo dead && exit 1; exit 0",
    );
    canary.publish(2);
    canary.approve(2, 4_000, "rolling");
    canary.start();
    later.start();
    assert_refused(&canary, "bucket_closed");
    assert_refused(&later, "bucket_closed");

    // Raised: the canary's turn.
    canary.approve(2, 5_000, "rolling");
    assert_refused(&later, "bucket_closed");
    assert_eq!(canary.flipside(&["install", "--activate"]).code, OK);
    canary.wait_for("state", "armed");
    canary.restart_into("b");
    assert_eq!(canary.flipside(&["confirm", "--boot"]).code, FAILED);
    canary.wait_for_end();
    canary.boot("a");
    assert!(canary.has_outcome("rolled_back", Some("health_failed")));
    // Its owner is told which check it was, and where the rest is.
    let history: Value = serde_json::from_str(&canary.flipside(&["--json", "history"]).out).unwrap();
    let fallback = history["outcomes"].as_array().unwrap().iter().find(|o| o["kind"] == "rolled_back").unwrap();
    let evidence = &fallback["evidence"];
    assert_eq!(evidence["checks"][0]["name"], "program:10-app", "{history}");
    assert!(std::path::Path::new(evidence["folder"].as_str().unwrap()).join("request.json").is_file(), "{history}");
    let page = canary.flipside(&["history"]).out;
    assert!(page.contains("program:10-app: exit code 1: dead") && page.contains("evidence: "), "{page}");

    // The host hears of it, from the old system, with the reason.
    let told = |kind: &str| {
        let reports = reports.lock().unwrap();
        let mut all = reports.iter().filter(|b| b["device"] == CANARY).flat_map(|b| b["reports"].as_array().unwrap());
        all.find(|report| report["outcome"]["kind"] == kind).map(|report| report["outcome"].clone())
    };
    until("the fallback is reported", || told("rolled_back").is_some());
    let outcome = told("rolled_back").unwrap();
    assert_eq!((&outcome["reason"], &outcome["release"]["counter"]), (&"health_failed".into(), &2.into()), "{outcome}");
    assert!(told("started").is_some() && told("trial").is_some() && told("healthy").is_none());

    // The operator halts before the others' turn.
    canary.approve(2, 10_000, "halted");
    assert_refused(&later, "rollout_halted");
    let explained = later.flipside(&["explain"]);
    assert!(explained.out.contains("rollout_halted"), "{explained:?}");
    assert!(!later.slot_b("rootfs.img").exists());
}

#[test]
fn a_server_that_dies_at_any_step_stops_only_what_has_not_begun() {
    let mut device = World::new();
    device.publish(2);
    device.approve(2, 10_000, "rolling");
    device.start();
    assert_eq!(device.flipside(&["check", "--wait"]).code, OK);
    assert_eq!(device.status()["state"], "staged");
    // Gone before activation: the stored approval is young enough.
    for gone in ["approvals", "channels", "bundles"] {
        device.unpublish(gone);
    }
    assert_eq!(device.flipside(&["activate"]).code, OK);
    device.wait_for("state", "armed");
    device.restart_into("b");
    // Gone during the trial: nobody is asked.
    assert_eq!(device.flipside(&["confirm", "--boot"]).code, OK);
    assert_eq!(device.status()["confirmed"], true);
    // Gone afterwards: it stays where it is (the stored approval names what runs), and can still go back.
    assert_eq!(device.flipside(&["check", "--wait"]).code, OK);
    assert_eq!(device.status()["booted_slot"], "b");
    assert_eq!(device.flipside(&["rollback"]).code, OK);
    device.wait_for_end();
    device.boot("a");
    assert_eq!(device.status()["booted_slot"], "a");
}

#[test]
fn expired_and_replayed_approvals_are_refused() {
    let mut device = World::new();
    device.publish(2);
    device.approve_as(7, 24, 2, 0, "rolling");
    device.start();
    assert_refused(&device, "bucket_closed");
    // An older document, in which the device would have been let in.
    device.approve_as(6, 24, 2, 10_000, "rolling");
    let said = device.flipside(&["--json", "check", "--wait"]);
    assert_eq!(said.code, REFUSED, "{said:?}");
    assert!(["approval_rollback", "bucket_closed"].contains(&reason(&said).as_str()), "{said:?}");
    device.approve_as(8, -1, 2, 10_000, "rolling");
    assert_refused(&device, "approval_expired");
    assert!(!device.slot_b("rootfs.img").exists());
    device.approve_as(9, 1, 2, 10_000, "rolling");
    assert_eq!(device.flipside(&["check", "--wait"]).code, OK);
}
