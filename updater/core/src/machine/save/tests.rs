//! A journal that can not be written: what waits for it, what goes on, and what is told.

use std::time::Duration;

use bundle::reason::Reason;

use super::UNCOUNTED;
use crate::effect::{Effect, Work};
use crate::event::{Command, Event, Failure, Finished, Transfer};
use crate::facts::{BootId, SlotBoot};
use crate::gate::fixture::{Scene, update};
use crate::journal::{Phase, Trial};
use crate::machine::Machine;
use crate::machine::fixture::{ARMED, answer, ended, failure, held, later, orders, reversal, start, vital};
use crate::slot::SlotId;
use crate::status::StateName;

fn unwritten() -> Failure {
    Failure::new(Reason::WriteError, "journal: no space left")
}

/// What the shell does with a step's effects where nothing can be written: what is left of them.
fn lost(scene: &Scene, machine: &mut Machine, effects: Vec<Effect>) -> Vec<Effect> {
    let Some(vital) = vital(&effects) else { return effects };
    let orders = machine.step(&scene.now, Event::PersistFailed { vital, failure: unwritten() });
    assert!(orders.is_empty(), "nobody takes orders here: {orders:?}");
    if vital { Vec::new() } else { effects }
}

fn reboots(effects: &[Effect]) -> bool {
    orders(effects, |work| *work == Work::Reboot)
}

fn looks(work: &Work) -> bool {
    *work == Work::ReadFacts
}

/// Until it restarts, however long that takes; none: it does not within three hours.
fn until_restart(
    scene: &mut Scene,
    machine: &mut Machine,
    mut effects: Vec<Effect>,
    (writable, sees): (bool, bool),
) -> Option<Duration> {
    while scene.now.uptime < Duration::from_secs(3 * 3600) {
        if !writable {
            effects = lost(scene, machine, effects);
        }
        if reboots(&effects) {
            return Some(scene.now.uptime);
        }
        let change = |work: &Work| looks(work) || matches!(work, Work::Reject { .. });
        effects = if orders(&effects, looks) && sees {
            machine.step(&scene.now, ended(scene, &effects, looks, Ok(ARMED)))
        } else if orders(&effects, change) {
            machine.step(&scene.now, ended(scene, &effects, change, Err(failure())))
        } else {
            later(scene, machine)
        };
    }
    None
}

/// The restart that was ordered last does not come.
fn refused(scene: &Scene, machine: &mut Machine) -> Vec<Effect> {
    let ticket = machine.order.as_ref().expect("a restart is ordered").ticket;
    machine.step(&scene.now, Event::Done { ticket, result: Err(failure()) })
}

/// A system that sees nothing of the boot loader, where slot b was armed in that boot.
fn in_the_dark(running: Option<SlotId>, armed_in: &str) -> (Scene, Machine, Vec<Effect>) {
    let mut scene = Scene::new();
    scene.facts.booted = running;
    scene.journal.phase = Phase::Armed { update: update(), boot: BootId(armed_in.into()) };
    let (machine, effects) = Machine::start(scene.setup(), scene.journal.clone(), Err(failure()), &scene.now);
    (scene, machine, effects)
}

#[test]
fn a_system_in_the_dark_is_left_soon_when_that_can_be_counted_and_slowly_when_not() {
    let (mut scene, mut machine, effects) = in_the_dark(Some(SlotId::B), "before");
    let deadline = scene.policy.health.deadline;
    let soon = until_restart(&mut scene, &mut machine, effects, (true, false)).expect("it restarts");
    assert!(soon >= deadline && soon < deadline + Duration::from_secs(120), "{soon:?}");
    // It does not come: ordered again, counted once.
    let effects = refused(&scene, &mut machine);
    until_restart(&mut scene, &mut machine, effects, (true, false)).expect("it is ordered again");
    assert_eq!(machine.journal.blind_reboots, 1);
    let (mut scene, mut machine, effects) = in_the_dark(None, "before");
    let late = until_restart(&mut scene, &mut machine, effects, (false, false)).expect("it is left all the same");
    let effects = refused(&scene, &mut machine);
    until_restart(&mut scene, &mut machine, effects, (false, false)).expect("it is ordered again");
    assert!(late >= UNCOUNTED.max(deadline) && late < UNCOUNTED.max(deadline) + Duration::from_secs(120), "{late:?}");
}

#[test]
fn the_old_system_stays_up_in_the_dark() {
    for (running, armed_in) in [(Some(SlotId::A), "before"), (Some(SlotId::A), "boot-1"), (None, "boot-1")] {
        for writable in [true, false] {
            let (mut scene, mut machine, effects) = in_the_dark(running, armed_in);
            assert_eq!(until_restart(&mut scene, &mut machine, effects, (writable, false)), None, "{running:?}");
        }
    }
}

#[test]
fn restarts_that_nothing_can_count_are_far_between() {
    for (writable, sees, soon) in [(true, true, true), (false, true, false), (false, false, false)] {
        let running = |scene: &mut Scene| scene.facts.booted = Some(SlotId::B);
        let (mut scene, mut machine, effects) = start(Phase::Reverting(reversal()), ARMED, running);
        let at = until_restart(&mut scene, &mut machine, effects, (writable, sees)).expect("it restarts");
        assert_eq!(at < UNCOUNTED, soon, "{at:?}");
    }
}

#[test]
fn a_reject_that_failed_and_shows_all_the_same_is_counted_as_a_hope() {
    let trial = Trial { slot: SlotId::B, update: Some(update()), boot: Scene::new().facts.boot_id, since_ms: 0 };
    let running = |scene: &mut Scene| scene.facts.booted = Some(SlotId::B);
    let (mut scene, mut machine, _) = start(Phase::Trying(trial), ARMED, running);
    let reject = Command::Reject { slot: SlotId::B, reason: String::new() };
    let effects = machine.step(&scene.now, Event::Command(reject));
    assert_eq!(vital(&effects), Some(false), "leaving a bad system does not depend on the journal");
    let rejects = |work: &Work| matches!(work, Work::Reject { .. });
    machine.step(&scene.now, ended(&scene, &effects, rejects, Err(failure())));
    let effects = later(&mut scene, &mut machine);
    let effects = machine.step(&scene.now, ended(&scene, &effects, looks, Ok(SlotBoot::Exhausted { done: 1 })));
    assert!(reboots(&effects), "{effects:?}");
    let Phase::Reverting(reversal) = &machine.journal.phase else { panic!("{}", machine.state()) };
    assert_eq!((reversal.hopes, reversal.attempts), (1, 0));
    assert_eq!(vital(&effects), Some(true));
}

#[test]
fn a_confirmed_system_is_given_up_on_a_word_that_is_kept() {
    // The one that runs.
    let (scene, mut machine, _) = start(Phase::Idle, SlotBoot::Confirmed, held);
    let effects = machine.step(&scene.now, Event::Command(Command::Rollback { reason: String::new() }));
    assert_eq!((answer(&effects), vital(&effects)), (Ok(()), Some(true)));
    assert!(lost(&scene, &mut machine, effects).is_empty());
    assert!(machine.journal.blocked.is_empty() && !matches!(machine.journal.phase, Phase::Reverting(_)));
    // The way back of a system that was just confirmed.
    let trial = Trial { slot: SlotId::A, update: None, boot: Scene::new().facts.boot_id, since_ms: 0 };
    let (scene, mut machine, _) = start(Phase::Trying(trial), SlotBoot::Confirmed, held);
    assert_eq!(machine.state(), StateName::Good);
    let reject = Command::Reject { slot: SlotId::B, reason: String::new() };
    let effects = machine.step(&scene.now, Event::Command(reject));
    assert_eq!((answer(&effects), vital(&effects)), (Ok(()), Some(true)));
}

#[test]
fn what_was_refused_is_taken_out_of_the_journal_again() {
    let (mut scene, mut machine, _) = start(Phase::Idle, SlotBoot::Confirmed, held);
    let effects = machine.step(&scene.now, Event::Command(Command::Rollback { reason: String::new() }));
    // It was kept, and said not to be.
    lost(&scene, &mut machine, effects);
    let mut written = None;
    while written.is_none() {
        let effects = later(&mut scene, &mut machine);
        written = effects.iter().find_map(|effect| match effect {
            Effect::Persist { journal, .. } => Some(journal.phase.clone()),
            _ => None,
        });
        if orders(&effects, looks) {
            machine.step(&scene.now, ended(&scene, &effects, looks, Ok(SlotBoot::Confirmed)));
        }
    }
    assert_eq!(written, Some(Phase::Idle));
}

#[test]
fn an_unwritten_journal_is_told_beside_what_it_is_about_and_no_longer_than_it_is() {
    let phase = Phase::Armed { update: update(), boot: Scene::new().facts.boot_id };
    let (mut scene, mut machine, _) = start(phase, ARMED, |_| {});
    let effects = machine.step(&scene.now, Event::Command(Command::Cancel));
    let effects = lost(&scene, &mut machine, effects);
    let clears = |work: &Work| matches!(work, Work::Clear { .. });
    let effects = machine.step(&scene.now, ended(&scene, &effects, clears, Ok(SlotBoot::Empty)));
    lost(&scene, &mut machine, effects);
    let told = machine.status(&scene.now).waiting.expect("it is told");
    assert_eq!((told.reason, told.detail.contains("no space left")), (Reason::WriteError, true), "{told:?}");
    let lines = machine.explain(&scene.now).lines;
    assert!(lines.iter().any(|line| line.subject == "journal"), "{lines:?}");
    // Written.
    while machine.unsaved().is_some() {
        later(&mut scene, &mut machine);
    }
    let status = machine.status(&scene.now);
    let texts = [status.waiting, status.last_error].map(|told| told.map_or_else(String::new, |told| told.detail));
    assert!(!texts.concat().contains("no space left"), "{texts:?}");
}

#[test]
fn the_pause_grows_while_nothing_can_be_written_and_nothing_is_told_that_did_not_happen() {
    let phase = Phase::Armed { update: update(), boot: BootId("before".into()) };
    let (mut scene, mut machine, effects) = start(phase, SlotBoot::Exhausted { done: 3 }, held);
    scene.now.random = u64::MAX / 2;
    assert_eq!(vital(&effects), Some(true));
    lost(&scene, &mut machine, effects);
    machine.take_passages();
    let (mut last, mut pauses) = (scene.now.uptime, Vec::new());
    while scene.now.uptime < Duration::from_secs(1800) {
        let effects = later(&mut scene, &mut machine);
        let effects = lost(&scene, &mut machine, effects);
        if orders(&effects, looks) {
            pauses.push(scene.now.uptime - last);
            last = scene.now.uptime;
            let effects = machine.step(&scene.now, ended(&scene, &effects, looks, Ok(SlotBoot::Exhausted { done: 3 })));
            lost(&scene, &mut machine, effects);
        }
    }
    assert!(pauses.len() < 120, "{}", pauses.len());
    assert_eq!(machine.take_passages(), [], "nobody hears of a fallback that was never written down");
}

#[test]
fn work_goes_on_when_a_command_can_not_be_written_down() {
    let mut writing = update();
    writing.source = crate::release::Source::Path("/x".into());
    let (scene, mut machine, effects) = start(Phase::Writing(writing), SlotBoot::Confirmed, |_| {});
    machine.admitted = true;
    let clears = |work: &Work| matches!(work, Work::Clear { .. });
    let installing = machine.step(&scene.now, ended(&scene, &effects, clears, Ok(SlotBoot::Empty)));
    let effects = machine.step(&scene.now, Event::Command(Command::Cancel));
    assert_eq!(vital(&effects), Some(true));
    assert!(lost(&scene, &mut machine, effects).is_empty(), "it is not stopped");
    assert_eq!(machine.state(), StateName::Writing);
    let ticket = installing.iter().find_map(|effect| match effect {
        Effect::Run { ticket, work: Work::Install { .. } } => Some(*ticket),
        _ => None,
    });
    let result = Ok(Finished::Installed(Transfer::default()));
    machine.step(&scene.now, Event::Done { ticket: ticket.expect("an install"), result });
    assert_eq!(machine.state(), StateName::Verifying, "what it did counts");
}

#[test]
fn what_a_slot_holds_is_known_until_its_record_is_gone() {
    let (scene, mut machine, effects) = start(Phase::Writing(update()), SlotBoot::Confirmed, held);
    let clears = |work: &Work| matches!(work, Work::Clear { .. });
    machine.step(&scene.now, ended(&scene, &effects, clears, Err(failure())));
    assert!(machine.journal.slots.get(SlotId::B).is_some(), "nothing of it was touched");
    let (scene, mut machine, effects) = start(Phase::Writing(update()), SlotBoot::Confirmed, held);
    let effects = machine.step(&scene.now, ended(&scene, &effects, clears, Ok(SlotBoot::Empty)));
    assert!(machine.journal.slots.get(SlotId::B).is_none());
    assert_eq!(vital(&effects), Some(true), "before the first byte: {effects:?}");
}
