//! What counts as proof of health.

use std::time::Duration;

use super::super::Setup;
use super::*;
use crate::effect::Effect;
use crate::event::Event;
use crate::facts::SlotBoot;
use crate::gate::fixture::{Scene, release};
use crate::release::{Intent, Source};
use crate::status::StateName;

/// Slot b runs on trial, after the old slot wrote that down about the update.
struct Device {
    scene: Scene,
    machine: Machine,
    effects: Vec<Effect>,
}

fn update() -> Update {
    Update {
        release: release(6),
        target: SlotId::B,
        source: Source::Urls(Vec::new()),
        delta: None,
        rollout: None,
        intent: Intent::default(),
        by_operator: false,
        state_schema: None,
        rollback_floor: 0,
        size: 0,
        offered_at: None,
    }
}

impl Device {
    fn new(mut scene: Scene, update: Option<Update>) -> Self {
        scene.facts.booted = Some(SlotId::B);
        scene.facts.slots.b = SlotBoot::Trying { left: 2, done: 1 };
        scene.policy.health.soak = Duration::from_secs(2);
        let boot = scene.facts.boot_id.clone();
        scene.journal.phase = Phase::Trying(Trial { slot: SlotId::B, update, boot, since_ms: 100_000 });
        let setup = Setup { device: scene.device.clone(), policy: scene.policy.clone(), version: "0".into() };
        let (machine, effects) = Machine::start(setup, scene.journal.clone(), Ok(scene.facts.clone()), &scene.now);
        Self { scene, machine, effects }
    }

    fn wants(&self, wanted: &Work) -> bool {
        self.effects.iter().any(|effect| matches!(effect, Effect::Run { work, .. } if work == wanted))
    }

    /// Looks every two seconds, for at most that long, until it is known what becomes of the slot. True: confirmed.
    fn look(&mut self, seconds: u64, result: &Result<Finished, Failure>) -> Option<bool> {
        for _ in 0..seconds / 2 {
            if self.wants(&Work::Confirm { slot: SlotId::B }) {
                return Some(true);
            }
            if self.wants(&Work::Reject { slot: SlotId::B }) {
                return Some(false);
            }
            let looking = self.effects.iter().find_map(|effect| match effect {
                Effect::Run { ticket, work: Work::CheckHealth { .. } } => Some(*ticket),
                _ => None,
            });
            let event = looking.map_or(Event::Tick, |ticket| Event::Done { ticket, result: result.clone() });
            self.effects = self.machine.step(&self.scene.now, event);
            if looking.is_some() {
                self.scene.now.uptime += Duration::from_secs(2);
            }
        }
        None
    }
}

#[test]
fn an_answer_to_another_question_is_no_proof_of_health() {
    let mut device = Device::new(Scene::new(), Some(update()));
    assert_eq!(device.look(60, &Ok(Finished::Verified)), None);
    assert_eq!(device.machine.state(), StateName::Trying);
    assert_eq!(device.look(500, &Ok(Finished::Verified)), Some(false), "the deadline ends it");
}
