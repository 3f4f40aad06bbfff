//! A recall, from the document to the way back.

use bundle::recall::{Recall, Recalled};

use super::super::Machine;
use crate::effect::{Effect, Work};
use crate::event::{Answers, Command, Event, Finished};
use crate::facts::SlotBoot;
use crate::gate::fixture::{Scene, release};
use crate::gate::{Candidate, Decision, Point, ask};
use crate::journal::Phase;
use crate::policy::Mode;
use crate::release::{Intent, SlotRecord};
use crate::slot::SlotId;
use crate::status::{Finding, StateName};
use bundle::reason::Reason;

fn recall(version: u64, counter: u64, go_back_to: Option<u64>) -> Recall {
    Recall {
        channel: "stable".into(),
        version,
        issued: "2026-11-23T12:00:00Z".parse().unwrap(),
        recalls: vec![Recalled {
            release: release(counter),
            go_back_to: go_back_to.map(release),
            reason: "loses settings".into(),
        }],
        crit: Vec::new(),
    }
}

/// Runs release 6 in slot b, confirmed; slot a still holds release 5, confirmed. The region approves release 6.
fn scene() -> Scene {
    let mut scene = Scene::new();
    let record = SlotRecord { release: release(6), state_schema: None, rollback_floor: 0, verified_at: None };
    scene.journal.slots.b = Some(record);
    scene.facts.booted = Some(SlotId::B);
    scene.facts.slots.b = SlotBoot::Confirmed;
    scene
}

/// What a check does with the scene's documents.
fn check(scene: &Scene) -> (Machine, Vec<Effect>) {
    let setup = scene.setup();
    let (mut machine, _) = Machine::start(setup, scene.journal.clone(), Ok(scene.facts.clone()), &scene.now);
    let effects = machine.step(&scene.now, Event::Command(Command::Check { by_operator: true }));
    let ticket = effects.iter().find_map(|effect| match effect {
        Effect::Run { ticket, work: Work::Ask { .. } } => Some(*ticket),
        _ => None,
    });
    let answers = Answers { documents: scene.documents.clone(), surroundings: scene.surroundings.clone() };
    let result = Ok(Finished::Answers(Box::new(answers)));
    let effects = machine.step(&scene.now, Event::Done { ticket: ticket.unwrap(), result });
    (machine, effects)
}

fn leaves(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Run { work: Work::Reject { slot: SlotId::B }, .. }))
}

#[test]
fn a_recalled_release_is_left_for_the_named_one() {
    let mut scene = scene();
    scene.documents.recall = Some(recall(1, 6, Some(5)));
    let (machine, effects) = check(&scene);
    assert!(leaves(&effects), "{effects:?}");
    assert!(matches!(&effects[0], Effect::Persist { journal, .. }
        if matches!(&journal.phase, Phase::Reverting(reversal) if reversal.reason == Reason::Recalled)));
    assert_eq!(machine.state(), StateName::Reverting);
}

#[test]
fn the_region_is_not_needed_but_the_device_decides_when() {
    let mut scene = scene();
    scene.documents.recall = Some(recall(1, 6, Some(5)));
    scene.documents.approvals.clear();
    assert!(leaves(&check(&scene).1));

    scene.surroundings.inhibitors.push("surgery under way".into());
    let (machine, effects) = check(&scene);
    assert!(!leaves(&effects));
    let waiting = machine.status(&scene.now).waiting.unwrap();
    // No approval is said first; the recall is in the explanation.
    assert_eq!(waiting.reason, Reason::ApprovalMissing);
    let explanation = machine.explain(&scene.now);
    let line = explanation.lines.iter().find(|line| line.reason == Some(Reason::Recalled)).unwrap();
    assert_eq!(line.finding, Finding::Wait);
    assert!(line.sentence.contains("loses settings") && line.sentence.contains("surgery"), "{}", line.sentence);

    scene.surroundings.inhibitors.clear();
    scene.policy.mode = Mode::Notify;
    assert!(!leaves(&check(&scene).1));
}

#[test]
fn without_the_named_release_it_stays_and_says_so() {
    for go_back_to in [None, Some(4)] {
        let mut scene = scene();
        scene.documents.recall = Some(recall(1, 6, go_back_to));
        let (machine, effects) = check(&scene);
        assert!(!leaves(&effects));
        let waiting = machine.status(&scene.now).waiting.unwrap();
        assert_eq!(waiting.reason, Reason::Recalled);
        assert!(waiting.detail.contains("does not hold"), "{}", waiting.detail);
    }
}

#[test]
fn below_its_floor_it_does_not_go_back() {
    let mut scene = scene();
    scene.journal.floor.counter = 6;
    scene.documents.recall = Some(recall(1, 6, Some(5)));
    assert!(!leaves(&check(&scene).1));
}

#[test]
fn a_recalled_release_is_not_installed_while_the_recall_stands() {
    let mut scene = Scene::new();
    scene.documents.recall = Some(recall(2, 6, None));
    let (machine, effects) = check(&scene);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Run { work: Work::ReadManifest { .. }, .. })));
    assert_eq!(machine.status(&scene.now).waiting.unwrap().reason, Reason::Recalled);

    // A mirror that withholds the document, or serves an older one, changes nothing.
    scene.journal = machine.journal().clone();
    for served in [None, Some(recall(1, 7, None))] {
        scene.documents.recall = served;
        scene.journal = check(&scene).0.journal().clone();
        let candidate = Candidate { release: &release(6), intent: Intent::default(), over_network: true };
        let verdict = ask(&scene.inputs(), Point::Download, &candidate);
        assert_eq!(verdict.decision, Decision::Refuse { reason: Reason::Recalled });
    }

    // Lifted.
    scene.documents.recall = Some(Recall { recalls: Vec::new(), ..recall(3, 6, None) });
    let (_, effects) = check(&scene);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Run { work: Work::ReadManifest { .. }, .. })));
}

#[test]
fn a_recall_of_another_channel_is_nothing_to_us() {
    let mut scene = scene();
    scene.documents.recall = Some(Recall { channel: "beta".into(), ..recall(1, 6, Some(5)) });
    assert!(!leaves(&check(&scene).1));
}
