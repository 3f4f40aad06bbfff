//! Every row of the table, and a proof that there is no pair without a row.

use bundle::reason::Reason;

use super::*;
use crate::facts::BootId;
use crate::gate::fixture::update;
use crate::journal::{Reversal, Trial};
use crate::machine::fixture::reversal;
use crate::slot::PerSlot;

const A: SlotId = SlotId::A;
const B: SlotId = SlotId::B;
const TRYING: SlotBoot = SlotBoot::Trying { left: 2, done: 1 };
const LAST_TRY: SlotBoot = SlotBoot::Exhausted { done: 3 };

fn then() -> BootId {
    BootId("then".into())
}

fn facts(same_boot: bool, booted: Option<SlotId>, a: SlotBoot, b: SlotBoot) -> BootFacts {
    let boot_id = if same_boot { then() } else { BootId("later".into()) };
    BootFacts { boot_id, booted, slots: PerSlot { a, b } }
}

fn armed() -> Phase {
    Phase::Armed { update: update(), boot: then() }
}

fn trying() -> Phase {
    Phase::Trying(Trial { slot: B, update: Some(update()), boot: then(), since_ms: 0 })
}

fn reverting(attempts: u32) -> Phase {
    Phase::Reverting(Reversal { reason: Reason::HealthTimeout, boot: then(), attempts, ..reversal() })
}

/// A journal in this phase that knows what slot b holds.
fn journal(phase: &Phase) -> Journal {
    let slots = PerSlot { a: None, b: Some(update().record("2026-11-23T12:00:00Z".parse().unwrap())) };
    Journal { phase: phase.clone(), slots, ..Journal::default() }
}

fn rolled_back() -> Phase {
    Phase::RolledBack { slot: B, reason: Reason::DidNotBoot }
}

/// One row: journal, same boot, running slot, records, and what follows.
type Row = (Phase, bool, SlotId, SlotBoot, SlotBoot, Resume);

fn rows() -> Vec<Row> {
    let ok = SlotBoot::Confirmed;
    let empty = SlotBoot::Empty;
    let mut rows = vec![
        // none, unreadable, newer | facts: booted slot unconfirmed -> Trying, else Idle
        (Phase::Idle, false, A, ok, empty, Resume::Facts),
        (Phase::Idle, true, B, ok, TRYING, Resume::Facts),
        // Armed | yes | no | crashed before the reboot: arm again, reboot
        (armed(), true, A, ok, TRYING, Resume::ArmAgain),
        // ... unless it was not armed yet, or is no more: the gate has its word again
        (armed(), true, A, ok, empty, Resume::VerifyAgain),
        // Armed | no | yes | Trying
        (armed(), false, B, ok, TRYING, Resume::BeginTrial),
        (armed(), false, B, ok, LAST_TRY, Resume::BeginTrial),
        (armed(), false, B, ok, ok, Resume::WasConfirmed),
        // Armed | no | no | boot loader fell back
        (armed(), false, A, ok, LAST_TRY, Resume::FellBack(Reason::DidNotBoot)),
        (armed(), false, A, ok, TRYING, Resume::FellBack(Reason::DidNotBoot)),
        // ... unless power was lost before it was switched at all
        (armed(), false, A, ok, empty, Resume::VerifyAgain),
        // ... or it was confirmed, and somebody chose the other slot
        (armed(), false, A, ok, ok, Resume::Facts),
        // one boot can not change its slot
        (armed(), true, B, ok, TRYING, Resume::Facts),
        // Trying | yes | yes, confirmed | Good
        (trying(), true, B, ok, ok, Resume::WasConfirmed),
        (trying(), false, B, ok, ok, Resume::WasConfirmed),
        // Trying | yes / no | yes | go on trying
        (trying(), true, B, ok, TRYING, Resume::GoOnTrying),
        (trying(), false, B, ok, TRYING, Resume::GoOnTrying),
        (trying(), false, B, ok, LAST_TRY, Resume::GoOnTrying),
        // Trying | no | no | RolledBack(lost while trying)
        (trying(), false, A, ok, LAST_TRY, Resume::FellBack(Reason::LostWhileTrying)),
        (trying(), false, A, ok, ok, Resume::Facts),
        (trying(), true, A, ok, TRYING, Resume::Facts),
        // Reverting | yes | yes | reject again, reboot
        (reverting(1), true, B, ok, TRYING, Resume::RejectAgain),
        (reverting(9), true, B, ok, LAST_TRY, Resume::RejectAgain),
        // Reverting | no | no | RolledBack(recorded reason)
        (reverting(1), false, A, ok, LAST_TRY, Resume::FellBack(Reason::HealthTimeout)),
        (reverting(1), true, A, ok, LAST_TRY, Resume::Facts),
        // Reverting | no | yes | reject again, bounded; then stay up
        (reverting(MAX_REJECTS - 1), false, B, ok, LAST_TRY, Resume::RejectAgain),
        (reverting(MAX_REJECTS), false, B, ok, LAST_TRY, Resume::StayUp),
        // the fallback was noted already
        (rolled_back(), true, A, ok, LAST_TRY, Resume::StayRolledBack),
        (rolled_back(), false, A, ok, LAST_TRY, Resume::StayRolledBack),
        (rolled_back(), false, B, ok, TRYING, Resume::Facts),
    ];
    for same_boot in [true, false] {
        // Offered, Approved | any | - | same state, ask again
        for phase in [Phase::Offered(update()), Phase::Approved(update())] {
            rows.push((phase.clone(), same_boot, A, ok, ok, Resume::AskAgain));
            rows.push((phase.clone(), same_boot, B, ok, TRYING, Resume::Facts));
            rows.push((phase, same_boot, A, TRYING, ok, Resume::Facts));
        }
        // Writing, Verifying | any | no | clear the boot record again, resume the write
        for phase in [Phase::Writing(update()), Phase::Verifying(update())] {
            rows.push((phase.clone(), same_boot, A, ok, empty, Resume::Rewrite));
            rows.push((phase.clone(), same_boot, A, ok, ok, Resume::Rewrite));
            // ... but never beside a system that is not confirmed
            rows.push((phase.clone(), same_boot, A, TRYING, empty, Resume::Facts));
            // Writing..Staged | any | yes | somebody booted it by hand: leave it alone, go on from facts
            rows.push((phase.clone(), same_boot, B, ok, TRYING, Resume::Facts));
            rows.push((phase.clone(), same_boot, B, ok, ok, Resume::Facts));
            rows.push((phase, same_boot, B, ok, empty, Resume::LeaveAlone));
        }
        // Staged | any | no | verify again, then Staged
        rows.push((Phase::Staged(update()), same_boot, A, ok, empty, Resume::VerifyAgain));
        rows.push((Phase::Staged(update()), same_boot, A, TRYING, empty, Resume::Facts));
        rows.push((Phase::Staged(update()), same_boot, B, ok, TRYING, Resume::Facts));
        rows.push((Phase::Staged(update()), same_boot, B, ok, empty, Resume::Facts));
    }
    rows
}

#[test]
fn every_row() {
    for (phase, same_boot, booted, a, b, then) in rows() {
        let facts = facts(same_boot, Some(booted), a, b);
        assert_eq!(reconcile(&journal(&phase), &facts), then, "{phase:?}\nsame boot {same_boot}, {facts:?}");
    }
}

#[test]
fn a_newer_updater_that_fell_back_is_told_by_the_boot_loader() {
    let lost = Journal { phase_lost: true, ..journal(&Phase::Idle) };
    let (ok, none) = (SlotBoot::Confirmed, SlotBoot::Empty);
    let fell_back = Resume::FellBack(Reason::DidNotBoot);
    assert_eq!(reconcile(&lost, &facts(false, Some(A), ok, LAST_TRY)), fell_back);
    assert_eq!(reconcile(&lost, &facts(false, Some(A), ok, none)), Resume::Facts);
    assert_eq!(reconcile(&lost, &facts(false, Some(A), TRYING, LAST_TRY)), Resume::Facts);
    assert_eq!(reconcile(&lost, &facts(false, Some(B), ok, ok)), Resume::Facts);
    // Noted before, or nobody knows what it was.
    let entry = crate::journal::Blocked { counter: 6, reason: Reason::DidNotBoot, detail: String::new(), at: None };
    let blocked = [(update().release.manifest_sha256, entry)].into();
    let noted = Journal { blocked, ..lost.clone() };
    assert_eq!(reconcile(&noted, &facts(false, Some(A), ok, LAST_TRY)), Resume::Facts);
    let nothing = Journal { slots: PerSlot::default(), ..lost };
    assert_eq!(reconcile(&nothing, &facts(false, Some(A), ok, LAST_TRY)), Resume::Facts);
}

/// Which of the table's left-hand sides a pair of journal and facts belongs to.
fn pair(phase: &Phase, facts: &BootFacts) -> (usize, bool, bool) {
    let (index, target, boot) = match phase {
        Phase::Idle => (0, None, None),
        Phase::Offered(update) => (1, Some(update.target), None),
        Phase::Approved(update) => (2, Some(update.target), None),
        Phase::Writing(update) => (3, Some(update.target), None),
        Phase::Verifying(update) => (4, Some(update.target), None),
        Phase::Staged(update) => (5, Some(update.target), None),
        Phase::Armed { update, boot } => (6, Some(update.target), Some(boot)),
        Phase::Trying(trial) => (7, Some(trial.slot), Some(&trial.boot)),
        Phase::Reverting(reversal) => (8, Some(reversal.slot), Some(&reversal.boot)),
        Phase::RolledBack { slot, .. } => (9, Some(*slot), None),
    };
    let same_boot = boot.is_some_and(|boot| *boot == facts.boot_id);
    (index, same_boot, target.is_some() && facts.booted == target)
}

#[test]
fn no_pair_is_without_a_row() {
    let covered: std::collections::HashSet<_> = rows()
        .into_iter()
        .map(|(phase, same_boot, booted, a, b, _)| pair(&phase, &facts(same_boot, Some(booted), a, b)))
        .collect();
    let phases = [
        Phase::Idle,
        Phase::Offered(update()),
        Phase::Approved(update()),
        Phase::Writing(update()),
        Phase::Verifying(update()),
        Phase::Staged(update()),
        armed(),
        trying(),
        reverting(1),
        rolled_back(),
    ];
    for phase in phases {
        for same_boot in [true, false] {
            for booted in SlotId::ALL {
                let pair = pair(&phase, &facts(same_boot, Some(booted), SlotBoot::Confirmed, TRYING));
                assert!(covered.contains(&pair), "{phase:?}, same boot {same_boot}, booted {booted}");
            }
        }
    }
}

#[test]
fn nothing_is_touched_while_the_running_slot_is_unknown() {
    for phase in [Phase::Idle, armed(), trying(), reverting(1), Phase::Writing(update())] {
        let facts = facts(false, None, SlotBoot::Confirmed, TRYING);
        assert_eq!(reconcile(&journal(&phase), &facts), Resume::Unknown);
    }
}

/// Whatever the combination: never a write beside an unconfirmed system, never a fallback told while the slot runs.
#[test]
fn no_combination_is_unsafe() {
    let records = [SlotBoot::Empty, SlotBoot::Confirmed, TRYING, SlotBoot::Trying { left: 0, done: 3 }, LAST_TRY];
    for (phase, ..) in rows() {
        for (same_boot, booted) in [(true, A), (false, A), (true, B), (false, B)] {
            for (a, b) in records.iter().flat_map(|a| records.iter().map(move |b| (*a, *b))) {
                let facts = facts(same_boot, Some(booted), a, b);
                match reconcile(&journal(&phase), &facts) {
                    Resume::Rewrite | Resume::ArmAgain | Resume::VerifyAgain => {
                        assert_eq!(facts.confirmed_booted(), Some(A), "{phase:?} {facts:?}");
                    }
                    Resume::FellBack(_) => assert_eq!(booted, A),
                    Resume::BeginTrial | Resume::GoOnTrying => {
                        assert!(booted == B && !facts.slot(B).is_confirmed());
                    }
                    Resume::WasConfirmed => assert!(booted == B && facts.slot(B).is_confirmed()),
                    _ => {}
                }
            }
        }
    }
}
