//! A device of the gate's scene for tests of the machine: started, and told what became of its orders.

use bundle::reason::Reason;

use super::Machine;
use crate::effect::{Effect, Work};
use crate::event::{Event, Failure, Finished};
use crate::facts::SlotBoot;
use crate::gate::fixture::{Scene, update};
use crate::journal::{Phase, Reversal};
use crate::release::SlotRecord;
use crate::slot::SlotId;

/// A device of the scene with a journal in that phase, the other slot as given, and what it does at its start.
pub(super) fn start(phase: Phase, other: SlotBoot, change: impl FnOnce(&mut Scene)) -> (Scene, Machine, Vec<Effect>) {
    let mut scene = Scene::new();
    scene.journal.phase = phase;
    *scene.facts.slots.get_mut(SlotId::B) = other;
    change(&mut scene);
    let setup = scene.setup();
    let (machine, effects) = Machine::start(setup, scene.journal.clone(), Ok(scene.facts.clone()), &scene.now);
    (scene, machine, effects)
}

/// The last work that was ordered, and its result as the shell would tell it.
pub(super) fn ended(
    scene: &Scene,
    effects: &[Effect],
    wanted: impl Fn(&Work) -> bool,
    b: Result<SlotBoot, Failure>,
) -> Event {
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

pub(super) const ARMED: SlotBoot = SlotBoot::Trying { left: 3, done: 0 };

/// Slot b is being left, in the boot of the scene.
pub(super) fn reversal() -> Reversal {
    Reversal {
        slot: SlotId::B,
        update: Some(update()),
        reason: Reason::HealthFailed,
        detail: String::new(),
        boot: Scene::new().facts.boot_id,
        attempts: 0,
        rejected_in: None,
        hopes: 0,
        hoped_in: None,
    }
}

/// Slot b holds the release of the scene.
pub(super) fn held(scene: &mut Scene) {
    let record = SlotRecord { release: update().release, ..scene.journal.slots.get(SlotId::A).clone().unwrap() };
    *scene.journal.slots.get_mut(SlotId::B) = Some(record);
}

pub(super) fn failure() -> Failure {
    Failure::new(Reason::BootControlError, "read-only file system")
}

/// Time passes until the machine wants to go on.
pub(super) fn later(scene: &mut Scene, machine: &mut Machine) -> Vec<Effect> {
    scene.now.uptime = machine.wake_at().expect("it goes on by itself");
    machine.step(&scene.now, Event::Tick)
}

pub(super) fn answer(effects: &[Effect]) -> Result<(), Reason> {
    let answer = effects.iter().find_map(|effect| match effect {
        Effect::Answer(answer) => Some(answer.as_ref().copied().map_err(|refusal| refusal.reason)),
        _ => None,
    });
    answer.unwrap_or_else(|| panic!("no answer: {effects:?}"))
}

/// Whether that work is ordered.
pub(super) fn orders(effects: &[Effect], wanted: impl Fn(&Work) -> bool) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Run { work, .. } if wanted(work)))
}

/// Whether nothing of the step may be done before the journal is durable; none: it is not written.
pub(super) fn vital(effects: &[Effect]) -> Option<bool> {
    match effects.first() {
        Some(Effect::Persist { vital, .. }) => Some(*vital),
        _ => None,
    }
}
