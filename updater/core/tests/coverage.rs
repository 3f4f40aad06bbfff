//! Nothing is missing: every arrow of the table of transitions is gone, no other is, and every state takes every event.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code outside of test functions; it may fail loudly")]

mod world;

use std::collections::BTreeSet;

use updater_core::effect::{Effect, Ticket, Work};
use updater_core::event::{Command, Event, Failure, Finished, HealthReport, Transfer};
use updater_core::facts::SlotBoot;
use updater_core::machine::transitions::{TRANSITIONS, guide_page, is_known};
use updater_core::release::Intent;
use updater_core::slot::SlotId;
use updater_core::status::StateName::{self, *};
use world::World;
use world::action::{Action, Fate, Fault, Op, Quality, Weather};

const UNCONFIRMED: SlotBoot = SlotBoot::Trying { left: 2, done: 1 };

/// Plays until the machine is in `state`.
fn until(world: &mut World, state: StateName) {
    for _ in 0..600 {
        if world.machine.state() == state {
            return;
        }
        world.go();
    }
    panic!("{state} never comes: {}", world.line());
}

fn act(world: &mut World, actions: &[Action]) {
    for action in actions {
        world.act(action).unwrap();
    }
}

/// A device with that release on offer.
fn offered(quality: Quality) -> World {
    let mut world = World::new();
    act(&mut world, &[Action::Offer(quality)]);
    world
}

/// On its way to a good release, in that state, and staying there where that is possible.
fn at(state: StateName) -> World {
    let mut world = offered(Quality::Good);
    match state {
        Idle => {}
        Offered => act(&mut world, &[Action::Metered(true)]),
        Staged => act(&mut world, &[Action::Inhibit(true)]),
        Reverting | RolledBack => world = offered(Quality::Sick),
        Degraded => {
            world = at(Trying);
            world.loader.reject(SlotId::A);
            world.region.releases.insert(2, Quality::Sick);
            act(&mut world, &[Action::Restart]);
        }
        _ => {}
    }
    until(&mut world, state);
    drain(&mut world);
    if matches!(state, Offered | Staged) {
        // Until its question is answered and it only waits.
        (0..6).for_each(|_| world.go());
        assert_eq!(world.machine.state(), state);
    }
    world
}

/// Runs release 2 in slot b; slot a still holds a confirmed release 1.
fn both_good() -> World {
    at(Good)
}

/// Runs the effects of the last step, so that it is durable.
fn drain(world: &mut World) {
    while !world.effects.is_empty() {
        world.go();
    }
}

fn rollback() -> Action {
    Action::Operator(Op::Rollback)
}

/// Somebody or something made the running slot unconfirmed.
fn running_unconfirmed(mut world: World) -> World {
    let booted = world.booted;
    world.loader.slots.get_mut(booted).boot = UNCONFIRMED;
    world.start_daemon();
    world
}

/// Histories that together go every arrow.
fn histories() -> Vec<World> {
    let mut all = Vec::new();
    let mut keep = |world: World| all.push(world);

    // The way of an update, and the three ways back.
    let mut world = both_good();
    until(&mut world, Checking);
    until(&mut world, Idle);
    keep(world);
    for quality in [Quality::Sick, Quality::Slow, Quality::NoBoot] {
        let mut world = offered(quality);
        until(&mut world, RolledBack);
        until(&mut world, Checking);
        keep(world);
    }
    let mut world = at(Trying);
    let cut = Action::PowerCut { landed: false, journal: Fate::Kept };
    act(&mut world, &[cut.clone(), cut.clone(), cut.clone()]);
    assert_eq!(world.machine.state(), RolledBack);
    keep(world);

    // Cancelled at each step.
    for state in [Offered, Approved, Writing, Verifying, Staged, Armed] {
        let mut world = at(state);
        act(&mut world, &[Action::Operator(Op::Cancel)]);
        until(&mut world, Idle);
        keep(world);
    }
    // Pushed aside by a better release.
    let mut world = at(Offered);
    act(&mut world, &[Action::Sleep { minutes: 5 }, Action::Offer(Quality::Good)]);
    until(&mut world, Checking);
    keep(world);
    let mut world = at(Approved);
    act(&mut world, &[Action::Offer(Quality::Good), Action::Restart]);
    until(&mut world, Checking);
    keep(world);
    let mut world = at(Writing);
    act(&mut world, &[Action::Go(4), Action::Fail(Fault::Network), Action::Offer(Quality::Good)]);
    act(&mut world, &[Action::Sleep { minutes: 5 }]);
    until(&mut world, Checking);
    keep(world);
    let mut world = at(Staged);
    act(&mut world, &[Action::Sleep { minutes: 5 }, Action::Offer(Quality::Good)]);
    until(&mut world, Checking);
    keep(world);

    // The gate closes on an armed slot.
    let mut world = at(Armed);
    act(&mut world, &[Action::Go(2), Action::Region(Weather::Halted), Action::Restart]);
    until(&mut world, Staged);
    keep(world);

    // Cancelled, and power is lost before the boot loader has let go.
    let mut world = at(Armed);
    while !world.loader.slots.get(SlotId::B).boot.is_choosable() {
        world.go();
    }
    act(
        &mut world,
        &[Action::BootBroken(true), Action::Operator(Op::Cancel), Action::Go(4), Action::BootBroken(false)],
    );
    assert_eq!(world.machine.state(), Staged);
    act(&mut world, &[Action::PowerCut { landed: false, journal: Fate::Kept }]);
    assert_eq!((world.booted, world.machine.state()), (SlotId::B, Reverting));
    until(&mut world, RolledBack);
    keep(world);

    all.extend(restarts());
    all.extend(stuck());
    all.extend(operator_goes_back());
    all
}

/// What a restart finds when facts and journal differ.
fn restarts() -> Vec<World> {
    let mut all: Vec<World> =
        [Idle, Offered, Approved, Writing, Verifying, Staged, RolledBack].map(at).map(running_unconfirmed).into();
    let mut world = at(Verifying);
    world.start_daemon();
    all.push(world);

    let mut world = at(Armed);
    act(&mut world, &[Action::Go(2)]);
    world.loader.confirm(SlotId::B);
    world.boot(None);
    assert_eq!(world.machine.state(), Good);
    all.push(world);

    // Back from a newer updater whose words mean nothing here.
    let mut world = at(Armed);
    act(&mut world, &[Action::Go(2)]);
    world.loader.slots.get_mut(SlotId::B).boot = SlotBoot::Exhausted { done: 3 };
    world.power_cut(false, Fate::Future, None);
    assert_eq!(world.machine.state(), RolledBack);
    all.push(world);

    // One boot that seems to have changed its slot.
    for (state, record, then) in [
        (Armed, SlotBoot::Confirmed, Idle),
        (Trying, SlotBoot::Confirmed, Idle),
        (Reverting, SlotBoot::Confirmed, Idle),
        (Reverting, UNCONFIRMED, Trying),
    ] {
        let mut world = at(state);
        drain(&mut world);
        world.booted = world.booted.other();
        let booted = world.booted;
        world.loader.slots.get_mut(booted).boot = record;
        world.start_daemon();
        assert_eq!(world.machine.state(), then);
        all.push(world);
    }
    all
}

/// Degraded, and out of it.
fn stuck() -> Vec<World> {
    // Nothing to fall back to; later it becomes healthy.
    let mut healed = at(Degraded);
    healed.region.releases.insert(2, Quality::Good);
    until(&mut healed, Good);

    // The boot loader does not listen.
    let deaf = || {
        let mut world = at(Reverting);
        for _ in 0..3 {
            let rebooting = |world: &World| world.jobs.front().is_some_and(|job| matches!(job.work, Work::Reboot));
            while !rebooting(&world) {
                world.go();
            }
            world.boot(Some(SlotId::B));
        }
        assert_eq!(world.machine.state(), Degraded);
        world
    };
    let mut confirm = deaf();
    act(&mut confirm, &[Action::Operator(Op::Confirm)]);
    assert_eq!(confirm.machine.state(), Trying);
    let mut back = deaf();
    act(&mut back, &[rollback()]);
    assert_eq!(back.machine.state(), Reverting);
    until(&mut back, RolledBack);
    vec![healed, confirm, back]
}

fn operator_goes_back() -> Vec<World> {
    let mut idle = both_good();
    idle.start_daemon();
    assert_eq!(idle.machine.state(), Idle);
    let mut checking = both_good();
    until(&mut checking, Checking);
    let mut waiting = both_good();
    act(&mut waiting, &[Action::Offer(Quality::Good), Action::Metered(true)]);
    until(&mut waiting, Offered);
    let mut approved = both_good();
    act(&mut approved, &[Action::Offer(Quality::Good)]);
    until(&mut approved, Approved);
    let mut rolled_back = at(RolledBack);
    rolled_back.loader.confirm(SlotId::B);
    rolled_back.start_daemon();

    [idle, both_good(), checking, waiting, approved, rolled_back]
        .into_iter()
        .map(|mut world| {
            act(&mut world, &[rollback()]);
            assert_eq!(world.machine.state(), Reverting);
            until(&mut world, RolledBack);
            world
        })
        .collect()
}

#[test]
fn every_transition_of_the_table_happens_and_no_other() {
    let gone: BTreeSet<_> = histories().iter().flat_map(|world| world.passages.keys().copied()).collect();
    let missing: Vec<_> = TRANSITIONS.iter().filter(|arrow| !gone.contains(&(arrow.from, arrow.to))).collect();
    assert!(missing.is_empty(), "never gone: {missing:#?}");
    for (from, to) in gone {
        assert!(is_known(from, to), "{from} -> {to} is not in the table");
    }
}

#[test]
fn the_diagram_in_the_guide_is_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/src/state-machine.md");
    let drawn = std::fs::read_to_string(path).unwrap_or_default();
    assert!(drawn == guide_page(), "run: cargo run -p updater-core --example state_machine");
}

/// Names every kind of a value, and makes the list of those names. There is no wildcard: a kind that is added does not
/// compile before it stands here, and once it does, it is missed where it is not tried.
macro_rules! kinds {
    ($name:ident, $list:ident, $of:ty { $($kind:literal: $pattern:pat),+ $(,)? }) => {
        const $list: &[&str] = &[$($kind),+];

        fn $name(value: &$of) -> &'static str {
            match value {
                $($pattern => $kind),+
            }
        }
    };
}

kinds!(command_kind, COMMANDS, Command {
    "check by an operator": Command::Check { by_operator: true },
    "check by a timer": Command::Check { by_operator: false },
    "install the offered": Command::Install { source: None, intent: _ },
    "install a bundle": Command::Install { source: Some(_), intent: _ },
    "activate a": Command::Activate { slot: SlotId::A },
    "activate b": Command::Activate { slot: SlotId::B },
    "reboot": Command::Reboot,
    "confirm": Command::Confirm,
    "rollback": Command::Rollback { reason: _ },
    "reject a": Command::Reject { slot: SlotId::A, reason: _ },
    "reject b": Command::Reject { slot: SlotId::B, reason: _ },
    "retry one": Command::Retry { manifest: Some(_) },
    "retry all": Command::Retry { manifest: None },
    "cancel": Command::Cancel,
});

kinds!(event_kind, EVENTS, Event {
    "tick": Event::Tick,
    "command": Event::Command(_),
    "facts": Event::Done { ticket: _, result: Ok(Finished::Facts(_)) },
    "answers": Event::Done { ticket: _, result: Ok(Finished::Answers(_)) },
    "manifest": Event::Done { ticket: _, result: Ok(Finished::Manifest(_)) },
    "installed": Event::Done { ticket: _, result: Ok(Finished::Installed(_)) },
    "verified": Event::Done { ticket: _, result: Ok(Finished::Verified) },
    "health": Event::Done { ticket: _, result: Ok(Finished::Health(_)) },
    "rebooting": Event::Done { ticket: _, result: Ok(Finished::Rebooting) },
    "failure": Event::Done { ticket: _, result: Err(_) },
    "policy": Event::Policy(_),
    "vital journal": Event::PersistFailed { vital: true, failure: _ },
    "journal": Event::PersistFailed { vital: false, failure: _ },
    "reported": Event::Reported { sequence: _ },
});

#[test]
fn no_kind_of_event_is_left_out() {
    let mut world = World::new();
    let events = events(&mut world, Ticket(1));
    let commands = events.iter().filter_map(|event| match event {
        Event::Command(command) => Some(command_kind(command)),
        _ => None,
    });
    assert_eq!(commands.collect::<BTreeSet<_>>(), COMMANDS.iter().copied().collect());
    assert_eq!(events.iter().map(event_kind).collect::<BTreeSet<_>>(), EVENTS.iter().copied().collect());
}

fn commands() -> Vec<Command> {
    let intent = Intent { activate: true, reboot: true, ..Intent::default() };
    let source = updater_core::release::Source::Path("/dev/stdin".into());
    vec![
        Command::Check { by_operator: true },
        Command::Check { by_operator: false },
        Command::Install { source: None, intent },
        Command::Install { source: Some(source), intent },
        Command::Activate { slot: SlotId::A },
        Command::Activate { slot: SlotId::B },
        Command::Reboot,
        Command::Confirm,
        Command::Rollback { reason: "words".into() },
        Command::Reject { slot: SlotId::A, reason: "words".into() },
        Command::Reject { slot: SlotId::B, reason: "words".into() },
        Command::Retry { manifest: None },
        Command::Retry { manifest: Some(world::region::release(2).manifest_sha256) },
        Command::Cancel,
    ]
}

/// Every kind of event, those that make no sense included.
fn events(world: &mut World, ticket: Ticket) -> Vec<Event> {
    let failure = Failure::new(bundle::reason::Reason::Network, "no route");
    let documents = world.region.documents(world.time);
    let answers = updater_core::event::Answers { documents, surroundings: world.around.clone() };
    let finished = [
        Finished::Facts(world.facts()),
        Finished::Answers(Box::new(answers)),
        Finished::Manifest(Box::new(world::region::manifest(2))),
        Finished::Installed(Transfer::default()),
        Finished::Verified,
        Finished::Health(HealthReport::default()),
        Finished::Rebooting,
    ];
    let mut events: Vec<Event> = commands().into_iter().map(Event::Command).collect();
    for ticket in [ticket, Ticket(u64::MAX)] {
        let results = finished.iter().cloned().map(Ok).chain([Err(failure.clone())]);
        events.extend(results.map(|result| Event::Done { ticket, result }));
    }
    events.push(Event::Tick);
    events.push(Event::Policy(Box::new(world.policy.clone())));
    events.extend([true, false].map(|vital| Event::PersistFailed { vital, failure: failure.clone() }));
    events.push(Event::Reported { sequence: 0 });
    events
}

#[test]
fn every_state_takes_every_event() {
    for state in StateName::ALL {
        let mut world = at(state);
        // The order that is open, if there is one.
        let waiting = world.effects.iter().filter_map(|effect| match effect {
            Effect::Run { ticket, .. } => Some(*ticket),
            _ => None,
        });
        let ticket = waiting.chain(world.jobs.iter().map(|job| job.ticket)).last().unwrap_or(Ticket(0));
        for event in events(&mut world, ticket) {
            let (mut machine, now) = (world.machine.clone(), world.now());
            let effects = machine.step(&now, event.clone());
            let context = || format!("{state}, {event:?}: {effects:#?}");
            world::invariants::persist_first(&effects).unwrap_or_else(|violation| panic!("{violation} {}", context()));
            let answers = effects.iter().filter(|effect| matches!(effect, Effect::Answer(_))).count();
            assert_eq!(answers, usize::from(matches!(event, Event::Command(_))), "{}", context());
            if matches!(event, Event::Done { ticket: Ticket(u64::MAX), .. }) {
                assert!(effects.is_empty() && machine.journal() == world.machine.journal(), "{}", context());
            }
            for passage in machine.take_passages() {
                assert!(is_known(passage.from, passage.to), "{passage:?} {}", context());
            }
            // It can be shown and explained wherever it went.
            let status = machine.status(&now);
            assert_eq!(status.state, machine.state());
            assert!(!machine.explain(&now).summary.is_empty());
        }
    }
}
