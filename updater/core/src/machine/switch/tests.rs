//! Taking a switch back, and what a change of the boot loader's state that was stopped did all the same.

use bundle::reason::Reason;

use crate::effect::{Effect, Work};
use crate::event::{Command, Event, Failure, Finished};
use crate::facts::SlotBoot;
use crate::gate::fixture::{Scene, update};
use crate::journal::{Blocked, Phase};
use crate::machine::{Machine, Setup};
use crate::release::SlotRecord;
use crate::slot::SlotId;
use crate::status::StateName;

/// A device of the scene with a journal in that phase, the other slot as given, and what it does at its start.
fn start(phase: Phase, other: SlotBoot, change: impl FnOnce(&mut Scene)) -> (Scene, Machine, Vec<Effect>) {
    let mut scene = Scene::new();
    scene.journal.phase = phase;
    *scene.facts.slots.get_mut(SlotId::B) = other;
    change(&mut scene);
    let setup = Setup { device: scene.device.clone(), policy: scene.policy.clone(), version: "0".into() };
    let (machine, effects) = Machine::start(setup, scene.journal.clone(), Ok(scene.facts.clone()), &scene.now);
    (scene, machine, effects)
}

/// The last work that was ordered, and its result as the shell would tell it.
fn ended(scene: &Scene, effects: &[Effect], wanted: impl Fn(&Work) -> bool, b: Result<SlotBoot, Failure>) -> Event {
    let ordered = effects.iter().rev().find_map(|effect| match effect {
        Effect::Run { ticket, work } if wanted(work) => Some(*ticket),
        _ => None,
    });
    let ticket = ordered.unwrap_or_else(|| panic!("not ordered: {effects:?}"));
    let mut facts = scene.facts.clone();
    let result = b.map(|b| {
        *facts.slots.get_mut(SlotId::B) = b;
        Finished::Facts(facts)
    });
    Event::Done { ticket, result }
}

const fn clears(work: &Work) -> bool {
    matches!(work, Work::Clear { slot: SlotId::B, .. })
}

fn answer(effects: &[Effect]) -> Result<(), Reason> {
    let answer = effects.iter().find_map(|effect| match effect {
        Effect::Answer(answer) => Some(answer.as_ref().copied().map_err(|refusal| refusal.reason)),
        _ => None,
    });
    answer.unwrap_or_else(|| panic!("no answer: {effects:?}"))
}

#[test]
fn nobody_goes_back_to_a_slot_whose_record_was_just_cleared() {
    let (scene, mut machine, effects) = start(Phase::Writing(update()), SlotBoot::Confirmed, |_| {});
    let cleared = ended(&scene, &effects, clears, Ok(SlotBoot::Empty));
    assert_eq!(answer(&machine.step(&scene.now, Event::Command(Command::Cancel))), Ok(()));
    // It was stopped, and had done its work by then.
    machine.step(&scene.now, cleared);
    let effects = machine.step(&scene.now, Event::Command(Command::Rollback { reason: String::new() }));
    assert_eq!(answer(&effects), Err(Reason::NoUpdate));
}

#[test]
fn going_back_that_has_begun_stays_up_when_the_other_slot_is_gone() {
    let (scene, mut machine, effects) = start(Phase::Writing(update()), SlotBoot::Confirmed, |_| {});
    let cleared = ended(&scene, &effects, clears, Ok(SlotBoot::Empty));
    machine.step(&scene.now, Event::Command(Command::Cancel));
    let effects = machine.step(&scene.now, Event::Command(Command::Rollback { reason: String::new() }));
    let refused = Failure::new(Reason::BootControlError, "nothing would be left");
    let rejected = ended(&scene, &effects, |work| matches!(work, Work::Reject { .. }), Err(refused));
    machine.step(&scene.now, cleared);
    let effects = machine.step(&scene.now, rejected);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Run { .. })), "no restart into nothing: {effects:?}");
    // It was good before, and goes on.
    assert_eq!(machine.state(), StateName::Idle);
    let running = &scene.journal.slots.get(SlotId::A).as_ref().unwrap().release.manifest_sha256;
    assert!(!machine.journal.blocked.contains_key(running), "{:?}", machine.journal.blocked);
}

#[test]
fn a_switch_is_taken_back_until_the_boot_loader_has_let_go() {
    let armed = SlotBoot::Trying { left: 3, done: 0 };
    let phase = Phase::Armed { update: update(), boot: Scene::new().facts.boot_id };
    let (scene, mut machine, _) = start(phase, armed, |_| {});
    let effects = machine.step(&scene.now, Event::Command(Command::Cancel));
    let failure = || Failure::new(Reason::BootControlError, "read-only");
    machine.step(&scene.now, ended(&scene, &effects, clears, Err(failure())));
    assert_eq!(machine.state(), StateName::Staged, "not over yet");
    // Whoever asks for something else meanwhile does not end it.
    let install = Command::Install { source: None, intent: crate::release::Intent::default() };
    assert_eq!(answer(&machine.step(&scene.now, Event::Command(install))), Err(Reason::Busy));
    let mut now = scene.now;
    now.uptime = machine.wake_at().expect("it tries again by itself");
    let effects = machine.step(&now, Event::Tick);
    machine.step(&now, ended(&scene, &effects, clears, Ok(SlotBoot::Empty)));
    assert_eq!(machine.state(), StateName::Idle);
}

#[test]
fn what_was_refused_and_can_still_boot_is_rejected_at_the_next_start() {
    let release = update().release;
    let blocked = |scene: &mut Scene| {
        let at = scene.now.wall;
        let record = SlotRecord { release: update().release, ..scene.journal.slots.get(SlotId::A).clone().unwrap() };
        *scene.journal.slots.get_mut(SlotId::B) = Some(record);
        let blocked =
            Blocked { reason: Reason::Cancelled, detail: String::new(), at: Some(at), counter: release.counter };
        scene.journal.blocked.insert(release.manifest_sha256, blocked);
    };
    let rejects = |effects: &[Effect]| {
        effects.iter().any(|effect| matches!(effect, Effect::Run { work: Work::Reject { slot: SlotId::B }, .. }))
    };
    let (.., effects) = start(Phase::Idle, SlotBoot::Trying { left: 1, done: 0 }, blocked);
    assert!(rejects(&effects), "{effects:?}");
    // What is confirmed is the way back, whatever became of its release.
    let (.., effects) = start(Phase::Idle, SlotBoot::Confirmed, |_| {});
    assert!(!rejects(&effects), "{effects:?}");
}
