//! Old and new readers, old and new writers, damage.

use super::*;
use crate::facts::BootId;
use crate::gate::fixture::release;
use crate::history::{Outcome, OutcomeKind};
use crate::journal::{Blocked, Trial};
use crate::release::{Intent, Source, Update};
use crate::slot::SlotId;

/// The first format ever written; kept for ever.
const V1: &str = include_str!("../../../tests/fixtures/journal-v1.json");

fn update() -> Update {
    Update {
        release: release(6),
        target: SlotId::B,
        source: Source::Urls(vec!["bundles/6.bundle".into()]),
        delta: None,
        rollout: Some("spring".into()),
        intent: Intent { force: true, ..Intent::default() },
        by_operator: true,
        state_schema: None,
        rollback_floor: 4,
        size: 1 << 30,
        offered_at: Some("2026-11-23T12:00:00Z".parse().unwrap()),
        network: Vec::new(),
    }
}

fn full() -> Journal {
    let at = "2026-11-23T12:00:00Z".parse().unwrap();
    let mut journal = Journal {
        phase: Phase::Trying(Trial {
            slot: SlotId::B,
            update: Some(update()),
            boot: BootId("boot-2".into()),
            since_ms: 4_000,
        }),
        next_report: 7,
        ..Journal::default()
    };
    journal.slots.b = Some(update().record(at));
    journal.floor.counter = 3;
    let blocked = Blocked { counter: 4, reason: Reason::HealthFailed, detail: "demo-app".into(), at: None };
    journal.blocked.insert(release(4).manifest_sha256, blocked);
    journal.changes.insert(release(6).manifest_sha256, 6);
    journal.history.push(Outcome {
        at,
        clock_trusted: true,
        kind: OutcomeKind::RolledBack,
        release: Some(release(4)),
        from: None,
        slot: Some(SlotId::B),
        reason: Some(Reason::HealthFailed),
        detail: String::new(),
        seconds: Some(90),
        approval: Some((1, 10)),
    });
    journal
}

fn phases() -> Vec<Phase> {
    let boot = BootId("x".into());
    let reversal = crate::journal::Reversal {
        slot: SlotId::A,
        update: None,
        reason: Reason::HealthTimeout,
        detail: String::new(),
        boot: boot.clone(),
        attempts: 1,
        rejected_in: Some(boot.clone()),
        hopes: 1,
        hoped_in: None,
    };
    vec![
        Phase::Idle,
        Phase::Offered(update()),
        Phase::Approved(update()),
        Phase::Writing(update()),
        Phase::Verifying(update()),
        Phase::Staged(update()),
        Phase::Armed { update: update(), boot: boot.clone() },
        Phase::Trying(Trial { slot: SlotId::B, update: None, boot, since_ms: 0 }),
        Phase::Reverting(reversal),
        Phase::RolledBack { slot: SlotId::B, reason: Reason::DidNotBoot },
    ]
}

#[test]
fn every_phase_survives() {
    for phase in phases() {
        let journal = Journal { phase, ..full() };
        let read = decode(&encode(&journal).unwrap());
        assert_eq!(read, Decoded { journal, lost: Vec::new() });
    }
}

#[test]
fn the_first_format_is_still_read() {
    let read = decode(V1.as_bytes());
    assert_eq!(read.lost, Vec::new());
    assert_eq!(read.journal, full());
}

#[test]
fn fields_of_the_future_are_kept_and_written_back() {
    let mut fields: Map<String, Value> = serde_json::from_slice(&encode(&full()).unwrap()).unwrap();
    fields.insert("quorum".into(), Value::from(3));
    fields["phase"]["trying"]["mood"] = Value::from("hopeful");
    let read = decode(&serde_json::to_vec(&fields).unwrap());
    assert_eq!(read.lost, Vec::new());
    assert_eq!(read.journal.phase, full().phase);
    let again: Map<String, Value> = serde_json::from_slice(&encode(&read.journal).unwrap()).unwrap();
    assert_eq!(again["quorum"], Value::from(3));
}

#[test]
fn a_state_of_the_future_costs_only_the_state() {
    let mut fields: Map<String, Value> = serde_json::from_slice(&encode(&full()).unwrap()).unwrap();
    fields.insert("phase".into(), serde_json::json!({"pondering": {"slot": "b"}}));
    let read = decode(&serde_json::to_vec(&fields).unwrap());
    assert_eq!(read.journal, Journal { phase: Phase::Idle, phase_lost: true, ..full() });
    assert_eq!(read.lost.len(), 1);
}

#[test]
fn a_newer_format_is_not_believed_about_the_state() {
    let mut fields: Map<String, Value> = serde_json::from_slice(&encode(&full()).unwrap()).unwrap();
    fields.insert("format".into(), Value::from(JOURNAL_FORMAT + 1));
    let read = decode(&serde_json::to_vec(&fields).unwrap());
    assert_eq!(
        read.journal,
        Journal { phase: Phase::Idle, phase_lost: true, ..full() },
        "block list and floors are kept"
    );
    assert_eq!(read.lost[0].reason, Reason::FormatTooNew);
}

#[test]
fn a_bad_entry_costs_only_itself() {
    let mut fields: Map<String, Value> = serde_json::from_slice(&encode(&full()).unwrap()).unwrap();
    fields["history"].as_array_mut().unwrap().insert(0, Value::from("nonsense"));
    let read = decode(&serde_json::to_vec(&fields).unwrap());
    assert_eq!(read.journal, full());
    assert_eq!(read.lost.len(), 1);
}

#[test]
fn damage_is_never_fatal() {
    let bytes = encode(&full()).unwrap();
    for cut in 0..bytes.len() {
        let read = decode(&bytes[..cut]);
        assert_eq!(read.journal, Journal::default());
        assert_eq!(read.lost.len(), 1);
    }
    for at in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x15;
        let _ = decode(&bytes);
    }
}

#[test]
fn network_checks_travel_with_the_update_and_old_readers_pass_them_over() {
    let mut update = update();
    update.network = vec!["program:network/gateway".into()];
    for phase in [
        Phase::Armed { update: update.clone(), boot: BootId("x".into()) },
        Phase::Trying(Trial { slot: SlotId::B, update: Some(update.clone()), boot: BootId("x".into()), since_ms: 0 }),
    ] {
        let journal = Journal { phase, ..full() };
        assert_eq!(decode(&encode(&journal).unwrap()), Decoded { journal, lost: Vec::new() });
    }
    // Without any there is nothing that the first readers did not know.
    assert!(!String::from_utf8(encode(&full()).unwrap()).unwrap().contains("network"));
}
