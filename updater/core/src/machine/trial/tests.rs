//! What counts as proof of health.

use std::time::Duration;

use super::*;
use crate::effect::Effect;
use crate::event::{Event, HealthCheck};
use crate::facts::SlotBoot;
use crate::gate::fixture::{self, Scene};
use crate::status::StateName;

/// Slot b runs on trial, after the old slot wrote that down about the update.
struct Device {
    scene: Scene,
    machine: Machine,
    effects: Vec<Effect>,
}

/// One before whose restart the gateway could be reached.
fn update() -> Update {
    Update { network: vec!["program:network/gateway".into()], ..fixture::update() }
}

fn check(name: &str, required: bool, verdict: Verdict) -> HealthCheck {
    HealthCheck { name: name.into(), required, verdict, detail: String::new(), restarts: 0 }
}

impl Device {
    fn new(mut scene: Scene, update: Option<Update>) -> Self {
        scene.facts.booted = Some(SlotId::B);
        scene.facts.slots.b = SlotBoot::Trying { left: 2, done: 1 };
        scene.policy.health.soak = Duration::from_secs(2);
        let boot = scene.facts.boot_id.clone();
        scene.journal.phase = Phase::Trying(Trial { slot: SlotId::B, update, boot, since_ms: 100_000 });
        let setup = scene.setup();
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

/// The application is well; the network check of that name says that.
fn report(name: &str, verdict: Verdict) -> Result<Finished, Failure> {
    let checks = vec![check("unit:app", true, Verdict::Passed), check(name, false, verdict)];
    Ok(Finished::Health(HealthReport { checks }))
}

#[test]
fn a_network_check_is_required_only_when_it_passed_before_the_reboot() {
    const PASSED: &str = "program:network/gateway";
    const OTHER: &str = "program:network/cloud";
    let with = Some(update());
    let none_passed = Some(Update { network: Vec::new(), ..update() });
    let rows = [
        // required by the configuration, what the old slot wrote down, check, what it says now: is the slot kept?
        (true, &with, PASSED, Verdict::Passed, true),
        (true, &with, PASSED, Verdict::Failed, false),
        (true, &with, PASSED, Verdict::Pending, false),
        (true, &with, OTHER, Verdict::Failed, true),
        (true, &none_passed, PASSED, Verdict::Failed, true),
        // The journal was lost: nobody knows.
        (true, &None, PASSED, Verdict::Failed, true),
        (false, &with, PASSED, Verdict::Failed, true),
    ];
    for (required, update, name, verdict, kept) in rows {
        let mut scene = Scene::new();
        scene.policy.health.network_required = required;
        let mut device = Device::new(scene, update.clone());
        let seen = device.look(500, &report(name, verdict));
        assert_eq!(seen, Some(kept), "{required} {update:?} {name} {verdict:?}");
    }
}

#[test]
fn a_network_that_comes_up_late_costs_nothing_before_the_deadline() {
    let mut scene = Scene::new();
    scene.policy.health.network_required = true;
    let mut device = Device::new(scene, Some(update()));
    let failed = report("program:network/gateway", Verdict::Failed);
    assert_eq!(device.look(200, &failed), None);
    assert_eq!(device.look(40, &report("program:network/gateway", Verdict::Passed)), Some(true));
}

/// Slot b is armed, and the gate has just let the reboot in.
fn before_the_reboot(required: bool) -> Device {
    let mut scene = Scene::new();
    scene.policy.health.network_required = required;
    scene.facts.slots.b = SlotBoot::Trying { left: 3, done: 0 };
    scene.journal.phase = Phase::Armed { update: update(), boot: scene.facts.boot_id.clone() };
    let setup = scene.setup();
    let (mut machine, _) = Machine::start(setup, scene.journal.clone(), Ok(scene.facts.clone()), &scene.now);
    let answers =
        crate::event::Answers { documents: scene.documents.clone(), surroundings: scene.surroundings.clone() };
    let mut effects = Vec::new();
    for result in [Finished::Facts(scene.facts.clone()), Finished::Answers(Box::new(answers))] {
        let ticket = machine.order.as_ref().unwrap().ticket;
        effects = machine.step(&scene.now, Event::Done { ticket, result: Ok(result) });
    }
    Device { scene, machine, effects }
}

#[test]
fn what_works_before_the_reboot_is_written_down_first() {
    assert!(before_the_reboot(false).wants(&Work::Reboot));
    let looked = HealthReport {
        checks: vec![
            check("program:network/a", false, Verdict::Passed),
            check("program:network/b", false, Verdict::Failed),
        ],
    };
    let rows = [
        (Ok(Finished::Health(looked)), vec!["program:network/a"]),
        (Err(Failure::new(Reason::Internal, "no look")), Vec::new()),
    ];
    for (result, names) in rows {
        let mut device = before_the_reboot(true);
        assert!(device.wants(&Work::CheckNetwork) && !device.wants(&Work::Reboot));
        let ticket = device.machine.order.as_ref().unwrap().ticket;
        device.effects = device.machine.step(&device.scene.now, Event::Done { ticket, result });
        let Some(Effect::Persist { journal, vital: true }) = device.effects.first() else {
            panic!("{:?}", device.effects);
        };
        assert_eq!(journal.phase.update().unwrap().network, names);
        assert!(device.wants(&Work::Reboot), "a network that is down holds no update up");
    }
}
