//! Taking a switch back, and what a change of the boot loader's state that was stopped, or failed, did all the same.

use bundle::reason::Reason;

use crate::effect::{Effect, Work};
use crate::event::{Command, Event, Failure};
use crate::facts::SlotBoot;
use crate::gate::fixture::{Scene, update};
use crate::journal::{Blocked, LettingGo, Phase};
use crate::machine::Machine;
use crate::machine::fixture::{ARMED, answer, ended, failure, held, later, orders, reversal, start, vital};
use crate::slot::SlotId;
use crate::status::StateName;

/// The same, and it is refused.
fn blocked(scene: &mut Scene) {
    held(scene);
    let (release, at) = (update().release, Some(scene.now.wall));
    let blocked = Blocked { reason: Reason::Cancelled, detail: String::new(), at, counter: release.counter };
    scene.journal.blocked.insert(release.manifest_sha256, blocked);
}

/// The same, and the boot loader has not let go of it when power is lost: it runs.
fn came_up(scene: &mut Scene) {
    let manifest = scene.journal.slots.get(SlotId::B).as_ref().map(|record| record.release.manifest_sha256);
    scene.journal.letting_go = Some(LettingGo { slot: SlotId::B, manifest });
    scene.facts.booted = Some(SlotId::B);
}

const fn is_reject(work: &Work) -> bool {
    matches!(work, Work::Reject { slot: SlotId::B })
}

fn rejects(effects: &[Effect]) -> bool {
    orders(effects, is_reject)
}

const fn clears(work: &Work) -> bool {
    matches!(work, Work::Clear { slot: SlotId::B, .. })
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
    let phase = Phase::Armed { update: update(), boot: Scene::new().facts.boot_id };
    let (mut scene, mut machine, _) = start(phase, ARMED, |_| {});
    let effects = machine.step(&scene.now, Event::Command(Command::Cancel));
    machine.step(&scene.now, ended(&scene, &effects, clears, Err(failure())));
    assert_eq!(machine.state(), StateName::Staged, "not over yet");
    // Whoever asks for something else meanwhile does not end it.
    let install = Command::Install { source: None, intent: crate::release::Intent::default() };
    assert_eq!(answer(&machine.step(&scene.now, Event::Command(install))), Err(Reason::Busy));
    let told = machine.status(&scene.now).waiting.expect("it is told");
    assert!(told.detail.contains("still to be taken from the boot loader: read-only"), "{told:?}");
    let effects = later(&mut scene, &mut machine);
    machine.step(&scene.now, ended(&scene, &effects, clears, Ok(SlotBoot::Empty)));
    assert_eq!(machine.state(), StateName::Idle);
    assert_eq!(machine.status(&scene.now).waiting.map(|told| told.reason), Some(Reason::Cancelled));
}

#[test]
fn what_was_refused_and_can_still_boot_is_rejected_at_the_next_start() {
    let (.., effects) = start(Phase::Idle, SlotBoot::Trying { left: 1, done: 0 }, blocked);
    assert!(rejects(&effects), "{effects:?}");
    // What is confirmed is the way back, whatever became of its release.
    let (.., effects) = start(Phase::Idle, SlotBoot::Confirmed, |_| {});
    assert!(!rejects(&effects), "{effects:?}");
}

#[test]
fn a_switch_that_failed_and_took_effect_is_taken_back_all_the_same() {
    let phase = Phase::Armed { update: update(), boot: Scene::new().facts.boot_id };
    let (mut scene, mut machine, effects) = start(phase, ARMED, |_| {});
    let arms = |work: &Work| matches!(work, Work::Arm { .. });
    machine.step(&scene.now, ended(&scene, &effects, arms, Err(failure())));
    // As far as anybody knows slot b is empty; clearing it fails as well.
    *machine.facts.as_mut().unwrap().slots.get_mut(SlotId::B) = SlotBoot::Empty;
    let effects = machine.step(&scene.now, Event::Command(Command::Cancel));
    machine.step(&scene.now, ended(&scene, &effects, clears, Err(failure())));
    let effects = later(&mut scene, &mut machine);
    machine.step(&scene.now, ended(&scene, &effects, clears, Ok(SlotBoot::Empty)));
    assert_eq!((machine.state(), &machine.journal.letting_go), (StateName::Idle, &None));
}

#[test]
fn a_switch_is_taken_back_although_nothing_can_be_written_down() {
    let phase = Phase::Armed { update: update(), boot: Scene::new().facts.boot_id };
    let (mut scene, mut machine, _) = start(phase, ARMED, |_| {});
    let effects = machine.step(&scene.now, Event::Command(Command::Cancel));
    let untold = |machine: &mut Machine, scene: &Scene, effects: &[Effect]| {
        assert_eq!(vital(effects), Some(false), "{effects:?}");
        let effects = machine.step(&scene.now, Event::PersistFailed { vital: false, failure: failure() });
        assert!(effects.is_empty(), "nobody takes orders here: {effects:?}");
    };
    untold(&mut machine, &scene, &effects);
    machine.step(&scene.now, ended(&scene, &effects, clears, Err(failure())));
    // A command that is refused in between ends nothing.
    let install = Command::Install { source: None, intent: crate::release::Intent::default() };
    let refused = machine.step(&scene.now, Event::Command(install));
    assert_eq!(vital(&refused), None, "nothing changes: {refused:?}");
    let effects = later(&mut scene, &mut machine);
    untold(&mut machine, &scene, &effects);
    let effects = machine.step(&scene.now, ended(&scene, &effects, clears, Ok(SlotBoot::Empty)));
    // Done once is enough, whether that can be written down or not.
    untold(&mut machine, &scene, &effects);
    assert_eq!(machine.state(), StateName::Idle);
    // Nor is it forgotten: the daemon stays and tries to write it until it can.
    for _ in 0..3 {
        assert!(!machine.is_idle(&scene.now));
        let effects = later(&mut scene, &mut machine);
        assert_eq!(effects.len(), 1, "{effects:?}");
        untold(&mut machine, &scene, &effects);
        assert_eq!(machine.state(), StateName::Idle);
        let told = machine.status(&scene.now).waiting.expect("it is told");
        assert_eq!(told.detail, "what happened can not be written down: read-only file system");
    }
    assert_eq!(later(&mut scene, &mut machine).len(), 1);
    assert!(machine.is_idle(&scene.now) && machine.wake_at().is_none(), "written");
    assert_eq!(machine.status(&scene.now).waiting.map(|told| told.reason), Some(Reason::Cancelled));
}

#[test]
fn a_refused_system_that_came_up_before_it_was_let_go_of_is_left() {
    for phase in [Phase::Staged(update()), Phase::RolledBack { slot: SlotId::B, reason: Reason::HealthFailed }] {
        let refused = |scene: &mut Scene| {
            blocked(scene);
            came_up(scene);
        };
        let (_, machine, effects) = start(phase.clone(), ARMED, refused);
        assert!(machine.state() == StateName::Reverting && rejects(&effects), "{phase:?}: {effects:?}");
        // Only the gate had closed: it was let in when it was armed, and the power did what the reboot would have.
        let unrefused = |scene: &mut Scene| {
            held(scene);
            came_up(scene);
        };
        let (_, machine, _) = start(phase.clone(), ARMED, unrefused);
        assert_eq!((machine.state(), &machine.journal.letting_go), (StateName::Trying, &None));
        // Nothing to go back to.
        let alone = |scene: &mut Scene| {
            blocked(scene);
            came_up(scene);
            *scene.facts.slots.get_mut(SlotId::A) = SlotBoot::Exhausted { done: 3 };
        };
        let (_, machine, _) = start(phase, ARMED, alone);
        assert_eq!(machine.state(), StateName::Trying);
    }
}

#[test]
fn what_was_rejected_goes_before_anything_else_is_begun() {
    let (mut scene, mut machine, effects) = start(Phase::Offered(update()), ARMED, blocked);
    assert!(rejects(&effects), "before the gate is asked: {effects:?}");
    machine.step(&scene.now, ended(&scene, &effects, is_reject, Err(failure())));
    // The timer's check does not end it, and sees to it at once.
    let effects = machine.step(&scene.now, Event::Command(Command::Check { by_operator: false }));
    assert!(rejects(&effects), "{effects:?}");
    machine.step(&scene.now, ended(&scene, &effects, is_reject, Err(failure())));
    // Nor does leave to try the release again: the gate has its say first.
    machine.step(&scene.now, Event::Command(Command::Retry { manifest: None }));
    let effects = later(&mut scene, &mut machine);
    let effects = machine.step(&scene.now, ended(&scene, &effects, is_reject, Ok(SlotBoot::Exhausted { done: 0 })));
    let asks = |effect: &Effect| matches!(effect, Effect::Run { work: Work::Ask { .. }, .. });
    assert!(machine.journal.letting_go.is_none() && effects.iter().any(asks), "{effects:?}");
}

#[test]
fn a_confirmed_system_that_was_rejected_is_no_way_back() {
    let (mut scene, mut machine, _) = start(Phase::Idle, SlotBoot::Confirmed, held);
    let reject = Command::Reject { slot: SlotId::B, reason: String::new() };
    let effects = machine.step(&scene.now, Event::Command(reject));
    assert_eq!(answer(&effects), Ok(()));
    assert_eq!(vital(&effects), Some(true), "{effects:?}");
    machine.step(&scene.now, ended(&scene, &effects, is_reject, Err(failure())));
    let back = Command::Rollback { reason: String::new() };
    assert_eq!(answer(&machine.step(&scene.now, Event::Command(back))), Err(Reason::NoUpdate));
    assert!(rejects(&later(&mut scene, &mut machine)), "until it is done");
    // What an older updater wrote there meanwhile was not meant.
    let (_, machine, effects) = start(Phase::Idle, SlotBoot::Confirmed, |scene| {
        held(scene);
        scene.journal.letting_go = Some(LettingGo { slot: SlotId::B, manifest: None });
    });
    assert!(machine.journal.letting_go.is_none() && !rejects(&effects), "{effects:?}");
}

#[test]
fn going_back_looks_again_after_a_failure() {
    let (mut scene, mut machine, _) = start(Phase::Idle, SlotBoot::Confirmed, |_| {});
    let back = Command::Rollback { reason: String::new() };
    let effects = machine.step(&scene.now, Event::Command(back));
    // Slot b was cleared by a change that was said to have failed: the shell knows better than the machine.
    let rejecting = |work: &Work| matches!(work, Work::Reject { slot: SlotId::A });
    machine.step(&scene.now, ended(&scene, &effects, rejecting, Err(failure())));
    let effects = later(&mut scene, &mut machine);
    let looks = |work: &Work| matches!(work, Work::ReadFacts);
    let effects = machine.step(&scene.now, ended(&scene, &effects, looks, Ok(SlotBoot::Empty)));
    assert!(machine.state() == StateName::Idle, "{} {effects:?}", machine.state());
    let told = machine.journal.history.last().expect("it is told");
    assert!(
        told.reason == Some(Reason::BootControlError) && told.detail.contains("no system to go back to"),
        "{told:?}"
    );
}

#[test]
fn a_check_that_had_to_wait_is_made() {
    let phase = Phase::RolledBack { slot: SlotId::B, reason: Reason::HealthFailed };
    let (scene, mut machine, effects) = start(phase, ARMED, blocked);
    assert_eq!(answer(&machine.step(&scene.now, Event::Command(Command::Check { by_operator: true }))), Ok(()));
    assert!(machine.status(&scene.now).operation.is_some(), "whoever waits sees that it goes on");
    machine.step(&scene.now, ended(&scene, &effects, is_reject, Ok(SlotBoot::Exhausted { done: 0 })));
    assert_eq!(machine.state(), StateName::Checking);
}

#[test]
fn a_check_that_had_to_wait_asks_about_what_is_staged() {
    let phase = Phase::Armed { update: update(), boot: Scene::new().facts.boot_id };
    let (scene, mut machine, effects) = start(phase, ARMED, |_| {});
    let arms = |work: &Work| matches!(work, Work::Arm { .. });
    machine.step(&scene.now, ended(&scene, &effects, arms, Ok(ARMED)));
    // The gate closed.
    let mut out = Vec::new();
    machine.wait_for(&scene.now, Reason::RolloutPaused, "", None);
    machine.disarm(&mut out);
    machine.step(&scene.now, Event::Command(Command::Check { by_operator: true }));
    let effects = machine.step(&scene.now, ended(&scene, &out, clears, Ok(SlotBoot::Empty)));
    let asks = |effect: &Effect| matches!(effect, Effect::Run { work: Work::Ask { fetch: true, .. }, .. });
    assert!(effects.iter().any(asks), "{effects:?}");
}

#[test]
fn what_was_proven_and_not_written_down_is_kept_when_another_slot_is_chosen() {
    let mut proven = update();
    proven.rollback_floor = 6;
    let boot = crate::facts::BootId("before".into());
    let trial = crate::journal::Trial { slot: SlotId::B, update: Some(proven), boot, since_ms: 0 };
    let (_, machine, effects) = start(Phase::Trying(trial), SlotBoot::Confirmed, held);
    assert!(machine.state() == StateName::Idle && !rejects(&effects), "{effects:?}");
    assert_eq!(machine.journal.floor.counter, 6);
    let last = machine.journal.history.last().map(|outcome| outcome.kind);
    assert_eq!(last, Some(crate::history::OutcomeKind::Healthy));
}

#[test]
fn what_is_only_offered_is_not_blamed_for_what_the_slot_holds() {
    let mut offered = update();
    offered.release.counter += 1;
    offered.release.manifest_sha256 = bundle::digest::Digest([9; 32]);
    let (.., machine, _) = start(Phase::Offered(offered.clone()), ARMED, |scene| {
        blocked(scene);
        came_up(scene);
    });
    assert_eq!(machine.state(), StateName::Reverting);
    assert!(!machine.journal.blocked.contains_key(&offered.release.manifest_sha256));
    // Booted by hand: it proves itself, not what would have come.
    let (.., machine, _) = start(Phase::Offered(offered), ARMED, |scene| {
        held(scene);
        scene.facts.booted = Some(SlotId::B);
    });
    let Phase::Trying(trial) = &machine.journal.phase else { panic!("{:?}", machine.journal.phase) };
    assert!(trial.update.is_none());
}

#[test]
fn a_boot_loader_that_neither_obeys_nor_counts_is_not_asked_for_ever() {
    let running = |scene: &mut Scene| scene.facts.booted = Some(SlotId::B);
    let mut phase = Phase::Reverting(reversal());
    let mut reboots = 0;
    while reboots < 50 {
        let boot = |scene: &mut Scene| {
            running(scene);
            scene.facts.boot_id = crate::facts::BootId(format!("boot {reboots}"));
        };
        let (mut scene, mut machine, mut effects) = start(phase.clone(), ARMED, boot);
        let rebooting = |effect: &Effect| matches!(effect, Effect::Run { work: Work::Reboot, .. });
        while machine.state() == StateName::Reverting && !effects.iter().any(rebooting) {
            let asked = |work: &Work| is_reject(work) || matches!(work, Work::ReadFacts);
            machine.step(&scene.now, ended(&scene, &effects, asked, Err(failure())));
            effects = later(&mut scene, &mut machine);
            let looks = |work: &Work| matches!(work, Work::ReadFacts);
            effects = machine.step(&scene.now, ended(&scene, &effects, looks, Ok(ARMED)));
        }
        phase = machine.journal.phase.clone();
        if machine.state() == StateName::Degraded {
            break;
        }
        reboots += 1;
    }
    assert!((3..20).contains(&reboots), "{reboots}");
}

#[test]
fn what_was_never_written_is_still_owed_after_another_failure() {
    let phase = Phase::Armed { update: update(), boot: Scene::new().facts.boot_id };
    let (mut scene, mut machine, _) = start(phase, ARMED, |_| {});
    let lost = |machine: &mut Machine, scene: &Scene, vital| {
        machine.step(&scene.now, Event::PersistFailed { vital, failure: failure() });
    };
    let effects = machine.step(&scene.now, Event::Command(Command::Cancel));
    lost(&mut machine, &scene, false);
    machine.step(&scene.now, ended(&scene, &effects, clears, Ok(SlotBoot::Empty)));
    lost(&mut machine, &scene, false);
    let effects = machine.step(&scene.now, Event::Command(Command::Retry { manifest: None }));
    assert_eq!(vital(&effects), Some(true), "{effects:?}");
    lost(&mut machine, &scene, true);
    let looking = later(&mut scene, &mut machine);
    let looks = |work: &Work| matches!(work, Work::ReadFacts);
    let mut effects = machine.step(&scene.now, ended(&scene, &looking, looks, Ok(SlotBoot::Empty)));
    effects.extend(looking);
    if !effects.iter().any(|effect| matches!(effect, Effect::Persist { .. })) {
        effects = later(&mut scene, &mut machine);
    }
    let written = effects.iter().find_map(|effect| match effect {
        Effect::Persist { journal, .. } => Some(journal.blocked.contains_key(&update().release.manifest_sha256)),
        _ => None,
    });
    assert_eq!(written, Some(true), "the cancel: {effects:?}");
}

#[test]
fn a_check_of_the_timer_that_had_to_wait_asks_no_server_sooner_than_it_said() {
    for patient in [true, false] {
        let (mut scene, mut machine, effects) = start(Phase::Staged(update()), ARMED, held);
        machine.step(&scene.now, ended(&scene, &effects, clears, Err(failure())));
        let effects = machine.step(&scene.now, Event::Command(Command::Check { by_operator: false }));
        if patient {
            machine.journal.retry.not_before = scene.now.wall.checked_add(jiff::SignedDuration::from_hours(2)).ok();
        }
        let clearing = if orders(&effects, clears) { effects } else { later(&mut scene, &mut machine) };
        let effects = machine.step(&scene.now, ended(&scene, &clearing, clears, Ok(SlotBoot::Empty)));
        let asks = orders(&effects, |work| matches!(work, Work::Ask { fetch: true, .. }));
        assert_eq!(asks, !patient, "{effects:?}");
    }
}
