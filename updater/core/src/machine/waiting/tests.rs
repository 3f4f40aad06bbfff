//! Whom a device asks while it waits, and when it starts.

use std::time::Duration;

use jiff::SignedDuration;

use super::super::Machine;
use super::*;
use crate::effect::Effect;
use crate::event::{Answers, Command, Documents, Event, Failure, Finished};
use crate::facts::SlotBoot;
use crate::gate::fixture::{Scene, update};
use crate::journal::Retry;
use crate::policy::Mode;
use crate::release::{Source, Update};
use crate::slot::SlotId;
use crate::status::StateName;

/// A device of the scene with a journal in that phase, and everything it has been told so far.
struct Shell {
    scene: Scene,
    machine: Machine,
    effects: Vec<Effect>,
    /// Times it asked a server.
    asked: u32,
}

impl Shell {
    fn start(mut scene: Scene, phase: Phase) -> Self {
        scene.journal.phase = phase;
        let setup = scene.setup();
        let facts = Ok(scene.facts.clone());
        let (machine, effects) = Machine::start(setup, scene.journal.clone(), facts, &scene.now);
        let mut shell = Self { scene, machine, effects, asked: 0 };
        shell.work();
        shell
    }

    fn event(&mut self, event: Event) {
        let now = self.scene.now;
        let effects = self.machine.step(&now, event);
        self.effects.extend(effects);
        self.work();
    }

    /// Does the work that only asks and looks, until other work is wanted or none.
    fn work(&mut self) {
        loop {
            let asks = |effect: &Effect| match effect {
                Effect::Run { ticket, work: Work::Ask { fetch, .. } } => Some((*ticket, *fetch)),
                _ => None,
            };
            let Some((ticket, fetch)) = self.effects.iter().rev().find_map(asks) else { return };
            self.effects.clear();
            self.asked += u32::from(fetch);
            let mut documents = self.scene.documents.clone();
            if !fetch {
                documents.channel = None;
                documents.approvals.iter_mut().for_each(|seen| seen.live = false);
            }
            let answers = Box::new(Answers { documents, surroundings: self.scene.surroundings.clone() });
            let event = Event::Done { ticket, result: Ok(Finished::Answers(answers)) };
            let now = self.scene.now;
            self.effects.extend(self.machine.step(&now, event));
        }
    }

    /// Sleeps until the machine wants to be woken.
    fn sleep(&mut self) -> Duration {
        let delay = self.machine.wake_at().unwrap().saturating_sub(self.scene.now.uptime);
        self.pass(delay);
        self.event(Event::Tick);
        delay
    }

    fn pass(&mut self, time: Duration) {
        self.scene.now.uptime += time;
        self.scene.now.wall += SignedDuration::try_from(time).unwrap();
        self.scene.now.random = self.scene.now.random.wrapping_add(12_345);
    }

    fn wanted(&self) -> Option<&Work> {
        self.effects.iter().rev().find_map(|effect| match effect {
            Effect::Run { work, .. } => Some(work),
            _ => None,
        })
    }

    /// Today at that time.
    fn waited_for(&self, time: &str) -> jiff::Timestamp {
        format!("2026-11-23T{time}:00Z").parse().unwrap()
    }

    fn waiting(&self) -> Reason {
        self.machine.status(&self.scene.now).waiting.unwrap().reason
    }
}

/// A server asked for two hours of patience a minute ago.
fn told_to_wait() -> Scene {
    let mut scene = Scene::new();
    let since = scene.now.wall - SignedDuration::from_secs(60);
    let not_before = Some(since + SignedDuration::from_hours(2));
    scene.journal.retry = Retry { failures: 1, not_before, since: Some(since) };
    scene
}

/// The approval in the scene was seen on a mirror before the daemon started.
fn seen_before(mut scene: Scene) -> Scene {
    let setup = scene.setup();
    let (mut machine, _) = Machine::start(setup, scene.journal.clone(), Ok(scene.facts.clone()), &scene.now);
    let answers = Answers { documents: scene.documents.clone(), surroundings: scene.surroundings.clone() };
    machine.answers = Some((Box::new(answers), None));
    machine.accept_documents(&scene.now);
    scene.journal = machine.journal;
    scene
}

#[test]
fn a_restart_does_not_forget_what_a_server_asked_for() {
    let phases = [
        Phase::Idle,
        Phase::Offered(update()),
        Phase::Approved(update()),
        Phase::Writing(update()),
        Phase::Verifying(update()),
        Phase::Staged(update()),
    ];
    for phase in phases {
        let mut shell = Shell::start(seen_before(told_to_wait()), phase.clone());
        let state = shell.machine.state();
        // The timer comes round in the meantime.
        for _ in 0..3 {
            assert_eq!((shell.asked, shell.wanted()), (0, None), "{phase:?}");
            assert_eq!(shell.machine.state(), state, "{phase:?}");
            shell.pass(Duration::from_secs(1800));
            shell.event(Event::Command(Command::Check { by_operator: false }));
        }
        assert_eq!(shell.machine.status(&shell.scene.now).waiting.unwrap().detail, "waiting before the next try");
        shell.pass(Duration::from_secs(1800));
        shell.event(Event::Tick);
        assert!(shell.asked > 0 || shell.wanted().is_some(), "{phase:?}: it goes on in the end");
    }
}

#[test]
fn an_operator_does_not_wait_out_what_a_server_asked_for() {
    for phase in [Phase::Idle, Phase::Offered(update()), Phase::Staged(update())] {
        let mut shell = Shell::start(seen_before(told_to_wait()), phase.clone());
        shell.event(Event::Command(Command::Check { by_operator: true }));
        assert_eq!(shell.asked, 1, "{phase:?}");
    }
}

#[test]
fn patience_of_a_wrong_clock_is_not_obeyed() {
    for hours in [-30, 20] {
        let mut scene = told_to_wait();
        scene.now.wall += SignedDuration::from_hours(hours);
        assert_eq!(scene.journal.retry.still(scene.now.wall), None, "{hours}");
    }
    // Written twenty hours ahead of what the clock says now.
    let mut scene = told_to_wait();
    scene.now.wall -= SignedDuration::from_hours(20);
    let mut shell = Shell::start(scene, Phase::Idle);
    shell.event(Event::Command(Command::Check { by_operator: false }));
    assert_eq!(shell.asked, 1);
}

#[test]
fn a_start_alone_asks_nobody() {
    type Spoil = (Reason, fn(&mut Scene));
    let spoils: [Spoil; 6] = [
        (Reason::NotifyOnly, |scene| scene.policy.mode = Mode::Notify),
        (Reason::Disabled, |scene| scene.policy.mode = Mode::Off),
        (Reason::RolloutPaused, |scene| scene.entry().state = bundle::approval::RolloutState::Paused),
        (Reason::RolloutHalted, |scene| scene.entry().state = bundle::approval::RolloutState::Halted),
        (Reason::ApprovalMissing, |scene| scene.documents.approvals.clear()),
        (Reason::ClockUntrusted, |scene| scene.now.wall_trusted = false),
    ];
    for (reason, spoil) in spoils {
        for phase in [Phase::Offered(update()), Phase::Staged(update())] {
            let mut scene = Scene::new();
            spoil(&mut scene);
            let mut shell = Shell::start(seen_before(scene), phase.clone());
            assert_eq!((shell.asked, shell.wanted(), shell.waiting()), (0, None, reason), "{phase:?}");
            assert_eq!(shell.machine.journal().phase, phase);
            // The timer does ask: it has started the daemon for that.
            if reason != Reason::Disabled {
                shell.event(Event::Command(Command::Check { by_operator: false }));
                assert_eq!(shell.asked, 1, "{reason} {phase:?}");
            }
        }
    }
}

#[test]
fn a_check_that_starts_the_daemon_is_not_lost() {
    let mut scene = seen_before(Scene::new());
    scene.policy.mode = Mode::Notify;
    scene.journal.phase = Phase::Offered(update());
    let setup = scene.setup();
    let (mut machine, effects) = Machine::start(setup, scene.journal.clone(), Ok(scene.facts.clone()), &scene.now);
    assert!(matches!(effects.last(), Some(Effect::Run { work: Work::Ask { fetch: false, .. }, .. })), "{effects:?}");
    let effects = machine.step(&scene.now, Event::Command(Command::Check { by_operator: false }));
    assert!(matches!(effects.last(), Some(Effect::Run { work: Work::Ask { fetch: true, .. }, .. })), "{effects:?}");
}

#[test]
fn an_update_that_a_power_cut_stopped_goes_on_by_itself() {
    let shell = Shell::start(seen_before(Scene::new()), Phase::Offered(update()));
    assert_eq!((shell.asked, shell.machine.state()), (1, StateName::Approved));
    let shell = Shell::start(seen_before(Scene::new()), Phase::Staged(update()));
    assert_eq!(shell.asked, 1);
    assert!(matches!(shell.wanted(), Some(Work::Verify { .. })), "{:?}", shell.effects);
}

#[test]
fn a_wait_polls_nobody_and_asks_once_when_it_is_over() {
    let armed = || Phase::Armed { update: update(), boot: Scene::new().facts.boot_id };
    for phase in [Phase::Staged(update()), armed()] {
        let mut scene = Scene::new();
        scene.facts.slots.b = if phase == armed() { SlotBoot::Trying { left: 3, done: 0 } } else { SlotBoot::Empty };
        scene.surroundings.inhibitors.push("surgery under way".into());
        let mut shell = Shell::start(seen_before(scene), phase.clone());
        if phase == armed() {
            // Armed again; then the gate is asked about the reboot.
            let facts = shell.scene.facts.clone();
            let ticket = shell.machine.order.as_ref().unwrap().ticket;
            shell.event(Event::Done { ticket, result: Ok(Finished::Facts(facts)) });
        }
        let before = shell.asked;
        let delays: Vec<_> = (0..200).map(|_| shell.sleep()).collect();
        assert_eq!((shell.asked, shell.waiting()), (before, Reason::Inhibited), "{phase:?}");
        assert!(delays.iter().all(|delay| (LOOK_AGAIN..=LOOK_AGAIN + SPREAD).contains(delay)));
        assert!(delays.iter().collect::<std::collections::BTreeSet<_>>().len() > 20, "a fleet is not in step");
        shell.scene.surroundings.inhibitors.clear();
        shell.sleep();
        assert_eq!(shell.asked, before + 1);
        assert!(matches!(shell.wanted(), Some(Work::Verify { .. } | Work::Reboot)), "{phase:?} {:?}", shell.effects);
    }
}

#[test]
fn a_download_that_waits_for_the_clock_clears_nothing_each_minute() {
    let mut scene = seen_before(Scene::new());
    scene.now.wall_trusted = false;
    let mut shell = Shell::start(scene, Phase::Writing(update()));
    // The first look after a start clears, and asks.
    let ticket = shell.machine.order.as_ref().unwrap().ticket;
    let facts = shell.scene.facts.clone();
    shell.event(Event::Done { ticket, result: Ok(Finished::Facts(facts)) });
    assert_eq!((shell.asked, shell.waiting()), (1, Reason::ClockUntrusted));
    for _ in 0..50 {
        shell.sleep();
    }
    assert_eq!((shell.asked, shell.wanted()), (1, None));
    shell.scene.now.wall_trusted = true;
    shell.sleep();
    assert!(matches!(shell.wanted(), Some(Work::Clear { slot: SlotId::B, to_write: Some(_) })));
}

#[test]
fn a_fleet_that_waits_for_its_hours_does_not_come_at_one_instant() {
    let noon_plus = |minutes| Scene::new().now.wall + SignedDuration::from_mins(minutes);
    let days = vec![bundle::approval::Weekday::Mon];
    let looks = (0..40u64).map(|dice| {
        let mut scene = Scene::new();
        scene.now.random = dice * 7919;
        scene.policy.reboot_window =
            vec![bundle::approval::Window { days: days.clone(), start: "12:30".into(), minutes: 30 }];
        let mut shell = Shell::start(seen_before(scene), Phase::Staged(update()));
        assert_eq!((shell.asked, shell.waiting()), (0, Reason::WindowClosed));
        shell.sleep();
        assert_eq!(shell.asked, 1);
        shell.scene.now.wall
    });
    let looks: std::collections::BTreeSet<_> = looks.collect();
    assert!(looks.len() > 30 && looks.iter().all(|at| (noon_plus(30)..=noon_plus(31)).contains(at)), "{looks:?}");
}

#[test]
fn a_server_that_asks_for_patience_gets_it_at_every_question() {
    for phase in [Phase::Offered(update()), Phase::Staged(update())] {
        let mut scene = Scene::new();
        let failure =
            Failure { retry_after: Some(Duration::from_secs(7200)), ..Failure::new(Reason::ServerError, "429") };
        scene.documents = Documents { approval_failures: vec![failure], ..Documents::default() };
        let mut shell = Shell::start(scene, phase.clone());
        shell.event(Event::Command(Command::Check { by_operator: false }));
        assert_eq!(shell.asked, 1, "{phase:?}");
        shell.pass(Duration::from_secs(7100));
        shell.event(Event::Command(Command::Check { by_operator: false }));
        assert_eq!(shell.asked, 1, "{phase:?}");
    }
}

#[test]
fn hours_that_open_before_the_timer_comes_are_waited_for() {
    // It is noon.
    for (opens, stays) in [("12:05", true), ("13:10", true), ("13:55", true), ("14:05", false), ("11:00", false)] {
        let mut scene = Scene::new();
        let days = vec![bundle::approval::Weekday::Mon];
        scene.policy.reboot_window = vec![bundle::approval::Window { days, start: opens.into(), minutes: 30 }];
        let mut shell = Shell::start(seen_before(scene), Phase::Staged(update()));
        assert_eq!((shell.asked, shell.waiting()), (0, Reason::WindowClosed));
        assert_eq!(shell.machine.is_idle(&shell.scene.now), !stays, "{opens}");
        if stays {
            // And it is there when they open.
            while shell.wanted().is_none() {
                shell.sleep();
            }
            let late = shell.scene.now.wall.duration_since(shell.waited_for(opens));
            assert!((0..=60).contains(&late.as_secs()), "{opens} {late}");
        }
    }
    // Nothing else that takes long keeps it in memory.
    let shell = Shell::start(seen_before(told_to_wait()), Phase::Staged(update()));
    assert!(shell.machine.is_idle(&shell.scene.now));
}

#[test]
fn a_server_may_bring_the_rest_and_a_file_that_is_too_short_is_told() {
    let ends = |source: Source| {
        let mut shell = Shell::start(seen_before(Scene::new()), Phase::Writing(Update { source, ..update() }));
        let failure = Failure::new(Reason::Truncated, "it ends after 20 bytes");
        let ticket = shell.machine.order.as_ref().unwrap().ticket;
        shell.event(Event::Done { ticket, result: Err(failure) });
        let told = shell.machine.status(&shell.scene.now).last_error.unwrap().reason;
        assert_eq!(told, Reason::Truncated);
        shell.machine.state()
    };
    assert_eq!(ends(Source::Urls(vec!["https://x/b".into()])), StateName::Writing);
    assert_eq!(ends(Source::Path("/stick/b.bundle".into())), StateName::Idle);
}

#[test]
fn failures_with_days_between_them_are_not_failures_in_a_row() {
    for (apart, in_a_row) in [(Duration::from_secs(3600), 3), (Duration::from_secs(40 * 24 * 3600), 1)] {
        let mut scene = Scene::new();
        let failure = Failure::new(Reason::Network, "no route to host");
        scene.documents = Documents { approval_failures: vec![failure], ..Documents::default() };
        let mut shell = Shell::start(scene, Phase::Staged(update()));
        for _ in 0..3 {
            shell.event(Event::Command(Command::Check { by_operator: false }));
            shell.pass(apart);
        }
        assert_eq!((shell.asked, shell.machine.journal.retry.failures), (3, in_a_row));
    }
}
