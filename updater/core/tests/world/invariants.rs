//! The invariants of `docs/src/invariants.md`, as far as the core decides them, and liveness.

use updater_core::effect::{Effect, Work};
use updater_core::facts::SlotBoot;
use updater_core::history::OutcomeKind;
use updater_core::journal::Phase;
use updater_core::policy::Mode;
use updater_core::slot::SlotId;
use updater_core::status::StateName;

use super::Violation;
use super::action::{Quality, Weather};
use super::device::{Content, World, phase_name};

type Check = Result<(), Violation>;

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(what()) }
}

/// After every action.
pub fn all(world: &World) -> Check {
    invariant_3_only_whole_slots_can_be_chosen(world)?;
    invariant_4_a_confirmed_system_boots_by_default(world)?;
    invariant_7_what_is_refused_is_let_go(world)?;
    invariant_11_every_no_has_a_reason(world)?;
    state_agrees_with_facts(world)
}

/// Before each piece of work.
pub fn before_work(world: &World, work: &Work) -> Check {
    invariant_1_never_beside_an_unconfirmed_system(world, work)?;
    invariant_3_cleared_before_the_first_byte(world, work)?;
    invariant_4_a_confirmed_system_is_rejected_for_good(world, work)?;
    invariant_5_confirmed_only_when_well(world, work)?;
    invariant_6_intent_before_effect(world, work)?;
    invariant_7_what_fell_back_is_not_tried_again(world, work)?;
    invariant_8_counters_never_go_down(world, work)?;
    only_what_the_release_keys_signed(world, work)?;
    invariant_9_no_install_without_approval(world, work)
}

pub fn persist_first(effects: &[Effect]) -> Check {
    let late = effects.iter().skip(1).any(|effect| matches!(effect, Effect::Persist { .. }));
    ensure(!late, || "invariant_6_persist_first: Persist is not the first effect".into())
}

fn invariant_1_never_beside_an_unconfirmed_system(world: &World, work: &Work) -> Check {
    let target = match work {
        Work::Install { update } => update.target,
        Work::Clear { slot, .. } => *slot,
        _ => return Ok(()),
    };
    let name = "invariant_1_never_beside_an_unconfirmed_system";
    ensure(target != world.booted, || format!("{name}: the running slot would be written"))?;
    let confirmed = world.loader.slots.get(world.booted).boot == SlotBoot::Confirmed;
    ensure(confirmed, || format!("{name}: slot {} is not confirmed", world.booted))
}

fn invariant_3_cleared_before_the_first_byte(world: &World, work: &Work) -> Check {
    let Work::Install { update } = work else { return Ok(()) };
    let record = world.loader.slots.get(update.target).boot;
    ensure(record == SlotBoot::Empty, || format!("invariant_3_cleared_before_the_first_byte: {record:?}"))
}

fn invariant_3_only_whole_slots_can_be_chosen(world: &World) -> Check {
    SlotId::ALL.into_iter().try_for_each(|slot| {
        let choosable = world.loader.slots.get(slot).boot.is_choosable();
        let whole = matches!(world.disk.get(slot), Content::Whole(_)) && *world.read_back.get(slot);
        ensure(!choosable || whole, || format!("invariant_3_only_whole_slots_can_be_chosen: slot {slot}"))
    })
}

fn invariant_4_a_confirmed_system_boots_by_default(world: &World) -> Check {
    let good = SlotId::ALL.into_iter().any(|slot| {
        world.loader.slots.get(slot).boot == SlotBoot::Confirmed && world.quality(slot) == Some(Quality::Good)
    });
    ensure(good, || "invariant_4_a_confirmed_system_boots_by_default: there is none".into())?;
    // With all tries used up, whatever they are, the boot loader ends at a confirmed slot.
    let mut loader = world.loader.clone();
    let end = (0..50).filter_map(|_| loader.boot()).last();
    let confirmed = end.is_some_and(|slot| loader.slots.get(slot).boot == SlotBoot::Confirmed);
    ensure(confirmed, || format!("invariant_4_a_confirmed_system_boots_by_default: ends at {end:?}"))
}

fn invariant_5_confirmed_only_when_well(world: &World, work: &Work) -> Check {
    let Work::Confirm { slot } = work else { return Ok(()) };
    ensure(*slot == world.booted && world.well, || "invariant_5_confirmed_only_when_well".into())
}

/// A confirmed system is given up on a word that is kept, or not at all.
fn invariant_4_a_confirmed_system_is_rejected_for_good(world: &World, work: &Work) -> Check {
    let Work::Reject { slot } = work else { return Ok(()) };
    let owed = world.stored().letting_go.as_ref().is_some_and(|owed| owed.slot == *slot);
    let left = matches!(&world.stored().phase, Phase::Reverting(reversal) if reversal.slot == *slot);
    let confirmed = world.loader.slots.get(*slot).boot == SlotBoot::Confirmed;
    ensure(owed || left || !confirmed, || format!("invariant_4_a_confirmed_system_is_rejected_for_good: {slot}"))
}

fn invariant_6_intent_before_effect(world: &World, work: &Work) -> Check {
    if world.untold {
        return Ok(());
    }
    let phase = &world.stored().phase;
    let written = match work {
        Work::Install { update } => matches!(phase, Phase::Writing(durable) if durable.target == update.target),
        Work::Clear { slot, .. } => match phase {
            Phase::Writing(durable) | Phase::Staged(durable) => durable.target == *slot,
            _ => false,
        },
        Work::Arm { slot, .. } => matches!(phase, Phase::Armed { update, .. } if update.target == *slot),
        Work::Reject { slot } if *slot == world.booted => {
            matches!(phase, Phase::Reverting(reversal) if reversal.slot == *slot)
        }
        Work::Reject { slot } => world.stored().letting_go.as_ref().is_some_and(|owed| owed.slot == *slot),
        // In the dark too, once that is counted.
        Work::Reboot => match phase {
            Phase::Trying(trial) => world.stored().blind_reboots > 0 && trial.slot == world.booted,
            Phase::Reverting(reversal) => reversal.slot == world.booted,
            phase => matches!(phase, Phase::Armed { .. }),
        },
        _ => true,
    };
    ensure(written, || format!("invariant_6_intent_before_effect: {work:?} while {} is durable", phase_name(phase)))
}

fn invariant_7_what_fell_back_is_not_tried_again(world: &World, work: &Work) -> Check {
    let Work::Install { update } = work else { return Ok(()) };
    let again = world.given_up.contains(&update.release.counter);
    ensure(!again, || format!("invariant_7_what_fell_back_is_not_tried_again: {}", update.release.counter))
}

/// The other slot, when the next power cut would bring it up although nothing says that it may: it was cancelled, taken
/// back, fell back, or its switch was taken back.
fn armed_without_leave(world: &World) -> Option<SlotId> {
    let (journal, other) = (world.machine.journal(), world.booted.other());
    let counted = matches!(world.loader.slots.get(other).boot, SlotBoot::Trying { left: 1.., .. });
    let manifest = journal.slots.get(other).as_ref().map(|record| record.release.manifest_sha256);
    let refused = manifest.is_some_and(|manifest| {
        journal.blocked.contains_key(&manifest) || journal.recalls.releases.contains_key(&manifest)
    });
    let staged = matches!(journal.phase, Phase::Staged(_));
    (counted && (refused || staged)).then_some(other)
}

/// While nothing is under way, such a slot is on its way out, and the machine comes back to it by itself.
fn invariant_7_what_is_refused_is_let_go(world: &World) -> Check {
    let state = world.machine.state();
    let quiet = matches!(
        state,
        StateName::Idle | StateName::Good | StateName::Offered | StateName::Staged | StateName::RolledBack
    );
    let confirmed = world.loader.slots.get(world.booted).boot == SlotBoot::Confirmed;
    if !quiet || !confirmed || !world.effects.is_empty() || !world.jobs.is_empty() {
        return Ok(());
    }
    let Some(slot) = armed_without_leave(world) else { return Ok(()) };
    let owed = world.machine.journal().letting_go.as_ref().is_some_and(|owed| owed.slot == slot);
    let tries = world.machine.wake_at().is_some();
    ensure(owed && tries, || format!("invariant_7_what_is_refused_is_let_go: {slot} in {state}, owed {owed}"))
}

/// Left alone, nothing of the kind is left.
fn invariant_7_nothing_refused_is_left_armed(world: &World) -> Check {
    let left = armed_without_leave(world);
    ensure(left.is_none(), || format!("invariant_7_nothing_refused_is_left_armed: {left:?}"))
}

fn invariant_8_counters_never_go_down(world: &World, work: &Work) -> Check {
    let Work::Install { update } = work else { return Ok(()) };
    let (new, running) = (update.release.counter, world.running());
    ensure(new > running, || format!("invariant_8_counters_never_go_down: {new} over {running}"))
}

/// Two hands: a region, or whoever has its key, can only choose among what the release keys signed.
fn only_what_the_release_keys_signed(world: &World, work: &Work) -> Check {
    let Work::Install { update } = work else { return Ok(()) };
    let counter = update.release.counter;
    let genuine = world.region.releases.contains_key(&counter) && update.release == super::region::release(counter);
    ensure(genuine, || format!("only_what_the_release_keys_signed: {:?}", update.release))
}

fn invariant_9_no_install_without_approval(world: &World, work: &Work) -> Check {
    let counter = match (work, &world.stored().phase) {
        (Work::Install { update }, _) => update.release.counter,
        // From within the armed slot it is a way back.
        (Work::Reboot, Phase::Armed { update, .. }) if update.target != world.booted => update.release.counter,
        (Work::Arm { .. }, Phase::Armed { update, .. }) if !world.found_armed => update.release.counter,
        _ => return Ok(()),
    };
    let approved = world.let_in.contains(&counter);
    ensure(approved, || format!("invariant_9_no_install_without_approval: {counter} of {:?}", world.let_in))
}

fn invariant_11_every_no_has_a_reason(world: &World) -> Check {
    let bad = world.machine.journal().history.iter().find(|outcome| {
        matches!(outcome.kind, OutcomeKind::Failed | OutcomeKind::RolledBack | OutcomeKind::Deferred)
            && outcome.reason.is_none()
    });
    ensure(bad.is_none(), || format!("invariant_11_every_no_has_a_reason: {bad:?}"))
}

fn state_agrees_with_facts(world: &World) -> Check {
    if !world.effects.is_empty() || !world.jobs.is_empty() {
        return Ok(());
    }
    let confirmed = world.loader.slots.get(world.booted).boot == SlotBoot::Confirmed;
    let state = world.machine.state();
    let settled = matches!(state, StateName::Idle | StateName::Good | StateName::Offered | StateName::Staged);
    ensure(confirmed || !settled, || format!("an unconfirmed system is called {state}"))
}

/// Left alone, the region rolling and the clock right, a device ends on a good release and stays off a bad one.
pub fn liveness(world: &mut World, quality: Quality) -> Check {
    (world.disk_broken, world.disk_lies, world.boot_broken, world.blind) = (false, false, false, false);
    (world.clock_hours, world.clock_trusted) = (0, true);
    world.around = updater_core::event::Surroundings::default();
    world.policy.mode = Mode::Apply;
    world.event(updater_core::event::Event::Policy(Box::new(world.policy.clone())));
    world.region.set(Weather::Rolling, world.time);
    settle(world)?;
    let before = world.running();
    world.region.offer(quality, world.time);
    let new = world.region.newest();
    settle(world)?;
    let state = world.machine.state();
    let confirmed = world.loader.slots.get(world.booted).boot == SlotBoot::Confirmed;
    ensure(confirmed, || format!("ends unconfirmed in {state}"))?;
    if quality == Quality::Good {
        return ensure(world.running() == new, || format!("ends on {} instead of {new}, {state}", world.running()));
    }
    ensure(world.running() == before, || format!("ends on {} instead of {before}", world.running()))?;
    // What its own updater refuses never runs: nothing to come back from.
    let ends = if quality == Quality::Unfit { OutcomeKind::Failed } else { OutcomeKind::RolledBack };
    let told = world.machine.journal().history.iter().rev().find(|outcome| outcome.kind == ends);
    let told = told.and_then(|outcome| outcome.release.as_ref()).map(|release| release.counter);
    ensure(told == Some(new), || format!("the end of {new} is not told, but that of {told:?}"))
}

/// Left alone with a disk that takes no writes at all, of which the boot loader can not count either: whatever runs then,
/// the device does not restart for ever without a pause.
pub fn worn_out(world: &mut World, blind: bool) -> Check {
    world.blind |= blind;
    (world.disk_broken, world.boot_broken, world.uncounted, world.reboots) = (true, true, true, 0);
    for _ in 0..1500 {
        world.go();
        all(world)?;
        world.violation.take().map_or(Ok(()), Err)?;
    }
    world.uncounted = false;
    Ok(())
}

/// Lets the device run until nothing new happens for a dozen checks in a row.
fn settle(world: &mut World) -> Check {
    world.reboots = 0;
    let mut quiet = 0;
    for _ in 0..4000 {
        let before = (world.boots, world.machine.state());
        world.go();
        all(world)?;
        if let Some(violation) = world.violation.take() {
            return Err(violation);
        }
        let still = matches!(
            world.machine.state(),
            StateName::Idle | StateName::Good | StateName::RolledBack | StateName::Checking
        );
        quiet = if still && before.0 == world.boots { quiet + 1 } else { 0 };
        if quiet > 80 {
            return invariant_7_nothing_refused_is_left_armed(world);
        }
    }
    Err(format!("never settles: {}", world.machine.state()))
}
