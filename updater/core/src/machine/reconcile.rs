//! Decides what a start means.
//!
//! Input: what was written down before, and what kernel and boot loader say now. Output: how to go on. The journal may
//! be missing, damaged, or newer than this binary (after a fallback), so wherever the two disagree the boot loader is
//! right. One function, one table (docs/src/state-machine.md); every row is a test.

use bundle::reason::Reason;

use super::MAX_REJECTS;
use crate::facts::{BootFacts, SlotBoot};
use crate::journal::{Journal, Phase};
use crate::slot::SlotId;

/// How to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// As the boot loader says: an unconfirmed running slot is on trial, otherwise there is nothing to do.
    Facts,
    /// Same state; the gate is asked again.
    AskAgain,
    /// Clear the boot record again and go on writing.
    Rewrite,
    /// Read the slot back again before it is used.
    VerifyAgain,
    /// Arm again, and reboot when the gate says so.
    ArmAgain,
    /// The armed slot came up.
    BeginTrial,
    /// The trial goes on.
    GoOnTrying,
    /// The trial had succeeded; only writing that down was missed.
    WasConfirmed,
    /// The boot loader gave up on the new slot.
    FellBack(Reason),
    /// The slot that is being left still runs.
    RejectAgain,
    /// The boot loader does not listen: stay up and say so.
    StayUp,
    /// Somebody runs a slot that was never fully written: leave it alone and say so.
    LeaveAlone,
    /// Nothing new since the fallback was noted.
    StayRolledBack,
    /// The running slot is not certain: touch nothing, not even the journal.
    Unknown,
}

/// The table.
#[must_use]
pub fn reconcile(journal: &Journal, facts: &BootFacts) -> Resume {
    let Some(booted) = facts.booted else { return Resume::Unknown };
    let runs = |target: SlotId| booted == target;
    match &journal.phase {
        // A newer updater's state, and the boot loader has given up on the other slot: that was its trial.
        Phase::Idle if journal.phase_lost && gave_up(journal, booted.other(), facts) => {
            Resume::FellBack(Reason::DidNotBoot)
        }
        Phase::Idle => Resume::Facts,
        Phase::RolledBack { .. } if facts.confirmed_booted().is_some() => Resume::StayRolledBack,
        Phase::RolledBack { .. } => Resume::Facts,
        // Nothing has been touched yet. The target may have become the running slot by hand: facts, then.
        Phase::Offered(update) | Phase::Approved(update) if runs(update.target) => Resume::Facts,
        Phase::Offered(_) | Phase::Approved(_) if facts.confirmed_booted().is_some() => Resume::AskAgain,
        Phase::Offered(_) | Phase::Approved(_) => Resume::Facts,
        Phase::Writing(update) | Phase::Verifying(update) if runs(update.target) => match facts.slot(update.target) {
            // Confirming would make a half-written system the default; the boot loader could not have chosen it.
            SlotBoot::Empty => Resume::LeaveAlone,
            _ => Resume::Facts,
        },
        Phase::Writing(_) | Phase::Verifying(_) if facts.confirmed_booted().is_some() => Resume::Rewrite,
        Phase::Staged(update) if !runs(update.target) && facts.confirmed_booted().is_some() => Resume::VerifyAgain,
        // The running slot is itself unconfirmed: it is the one on trial, and nothing may be written.
        Phase::Writing(_) | Phase::Verifying(_) | Phase::Staged(_) => Resume::Facts,
        Phase::Armed { update, boot } => armed(update.target, *boot == facts.boot_id, booted, facts),
        Phase::Trying(trial) => match (runs(trial.slot), trial.boot == facts.boot_id) {
            // In a later boot too: confirmed, then power was lost before that was written down.
            (true, _) if facts.slot(trial.slot).is_confirmed() => Resume::WasConfirmed,
            (true, _) => Resume::GoOnTrying,
            // Confirmed, that was not written down, and somebody chose the other slot.
            (false, false) if facts.slot(trial.slot).is_confirmed() => Resume::Facts,
            (false, false) => Resume::FellBack(Reason::LostWhileTrying),
            // One boot can not change its slot.
            (false, true) => Resume::Facts,
        },
        Phase::Reverting(reversal) => match (runs(reversal.slot), reversal.boot == facts.boot_id) {
            (false, false) => Resume::FellBack(reversal.reason),
            (false, true) => Resume::Facts,
            (true, true) => Resume::RejectAgain,
            (true, false) if reversal.attempts < MAX_REJECTS => Resume::RejectAgain,
            (true, false) => Resume::StayUp,
        },
    }
}

/// The boot loader gave up on what `slot` holds, and nobody has taken note yet.
fn gave_up(journal: &Journal, slot: SlotId, facts: &BootFacts) -> bool {
    let record = journal.slots.get(slot).as_ref();
    let news = record.is_some_and(|record| !journal.blocked.contains_key(&record.release.manifest_sha256));
    news && facts.confirmed_booted().is_some() && matches!(facts.slot(slot), SlotBoot::Exhausted { .. })
}

fn armed(target: SlotId, same_boot: bool, booted: SlotId, facts: &BootFacts) -> Resume {
    match (same_boot, booted == target) {
        (false, true) if facts.slot(target).is_confirmed() => Resume::WasConfirmed,
        (false, true) => Resume::BeginTrial,
        // Power was lost before the boot loader was switched: the target never had its chance.
        (false, false) if facts.slot(target) == SlotBoot::Empty && facts.confirmed_booted().is_some() => {
            Resume::VerifyAgain
        }
        (false, false) if facts.slot(target) == SlotBoot::Empty => Resume::Facts,
        (false, false) if facts.slot(target).is_confirmed() => Resume::Facts,
        (false, false) => Resume::FellBack(Reason::DidNotBoot),
        // Not armed yet, or no more and nobody could write that down: it needs the gate's word again.
        (true, false) if facts.slot(target) == SlotBoot::Empty && facts.confirmed_booted().is_some() => {
            Resume::VerifyAgain
        }
        (true, false) if facts.confirmed_booted().is_some() => Resume::ArmAgain,
        // One boot can not change its slot, and nothing is armed beside an unconfirmed system.
        (true, false | true) => Resume::Facts,
    }
}

#[cfg(test)]
mod tests;
