//! The engine over a device in memory: order of effects, answers during work, faults.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bundle::approval::RolloutState;
use bundle::reason::Reason;
use updater_core::event::Command as Change;
use updater_core::facts::SlotBoot;
use updater_core::history::OutcomeKind;
use updater_core::slot::SlotId;
use updater_core::status::{StateName, Status};

use super::{Command, Handle, Reply, spawn};
use world::World;

mod trust;
mod world;

/// Waits until the status satisfies `wanted`; fails with what was seen last.
async fn until(handle: &Handle, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
    let mut status = handle.status.clone();
    let seen = tokio::time::timeout(Duration::from_secs(20), status.wait_for(|status| wanted(status))).await;
    match seen {
        Ok(Ok(status)) => status.clone(),
        _ => panic!("{what} did not come; last seen: {:#?}", handle.status()),
    }
}

/// Waits until the world noted `what`.
async fn until_did(world: &World, what: &str) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !world.did(what) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what:?} never happened: {:?}", world.story());
}

async fn start(world: &Arc<World>) -> Handle {
    spawn(World::setup(), world.seams()).await.0
}

async fn check(handle: &Handle) -> Reply {
    handle.ask(Command::Change(Change::Check { by_operator: true })).await.unwrap()
}

#[tokio::test]
async fn an_update_persists_each_intent_before_its_effect() {
    let world = World::new();
    let handle = start(&world).await;
    assert_eq!(check(&handle).await, Reply::Done);
    until_did(&world, "reboot").await;
    let story = world.story();
    let place = |what: &str| story.iter().position(|line| line == what).unwrap_or_else(|| panic!("{what}: {story:?}"));
    let order = [
        "save writing",
        "clear b",
        "install b",
        "save verifying",
        "verify b",
        "save staged",
        "save armed",
        "arm b",
        "reboot",
    ];
    for pair in order.windows(2) {
        assert!(place(pair[0]) < place(pair[1]), "{} before {}: {story:?}", pair[0], pair[1]);
    }
}

#[tokio::test]
async fn a_healthy_new_system_is_confirmed_and_remembered() {
    let world = World::new();
    let first = start(&world).await;
    check(&first).await;
    until_did(&world, "reboot").await;
    drop(first);
    world.reboot_into(SlotId::B, "boot-2");
    let second = start(&world).await;
    let status = until(&second, "confirmation", |status| status.confirmed && status.state != StateName::Trying).await;
    assert_eq!(status.booted_slot, Some(SlotId::B));
    assert_eq!(world.facts.lock().unwrap().slots.b, SlotBoot::Confirmed);
    let Reply::History(history) = second.ask(Command::History).await.unwrap() else { panic!("history") };
    assert!(history.iter().any(|outcome| outcome.kind == OutcomeKind::Healthy), "{history:#?}");
}

#[tokio::test]
async fn an_unhealthy_new_system_leaves_evidence_and_goes_back() {
    let world = World::new();
    let first = start(&world).await;
    check(&first).await;
    until_did(&world, "reboot").await;
    drop(first);
    world.reboot_into(SlotId::B, "boot-2");
    world.healthy.store(false, Ordering::SeqCst);
    world.log.lock().unwrap().clear();
    let second = start(&world).await;
    until_did(&world, "reboot").await;
    drop(second);
    let story = world.story();
    let place = |what: &str| story.iter().position(|line| line == what).unwrap_or_else(|| panic!("{what}: {story:?}"));
    assert!(place("save reverting") < place("reject b"), "{story:?}");
    assert!(place("evidence health_failed") < place("reject b"), "{story:?}");
    assert!(place("reject b") < place("reboot"), "{story:?}");

    world.reboot_into(SlotId::A, "boot-3");
    world.healthy.store(true, Ordering::SeqCst);
    let third = start(&world).await;
    until(&third, "rollback", |status| {
        status.last_outcome.as_ref().is_some_and(|outcome| outcome.kind == OutcomeKind::RolledBack)
    })
    .await;
    world.log.lock().unwrap().clear();
    check(&third).await;
    let status = until(&third, "refusal", |status| status.waiting.is_some()).await;
    assert_eq!(status.waiting.unwrap().reason, Reason::BlockedAfterFallback);
    assert!(!world.did("install b"), "a release that fell back is not tried again");
}

/// The lock against a shutdown is held exactly while a slot is written or the boot loader switched.
#[tokio::test]
async fn nobody_shuts_the_device_down_while_it_writes_or_switches() {
    let world = World::new();
    let handle = start(&world).await;
    check(&handle).await;
    until_did(&world, "reboot").await;
    let mut held = None;
    let mut seen = Vec::new();
    for line in world.log.lock().unwrap().clone() {
        match line.split_once(' ') {
            Some(("hold", why)) => held = Some(why.to_owned()),
            _ if line == "let go" => held = None,
            _ => seen.push((line, held.clone())),
        }
    }
    let during = |what: &str| seen.iter().find(|(line, _)| line == what).unwrap_or_else(|| panic!("{what}")).1.clone();
    let (written, switched) = ("a system update is being written", "the boot loader is being switched");
    for (what, why) in [("clear b", switched), ("install b", written), ("verify b", written), ("arm b", switched)] {
        assert_eq!(during(what).as_deref(), Some(why), "{what}");
    }
    assert_eq!(during("reboot"), None, "it would keep our own restart");
}

#[tokio::test]
async fn the_log_says_why_an_update_failed() {
    let caught = crate::system::log::Catch::default();
    let _log = tracing::subscriber::set_default(caught.clone());
    let world = World::new();
    world.updater_broken.store(true, Ordering::SeqCst);
    let handle = start(&world).await;
    check(&handle).await;
    until(&handle, "failure", |status| status.last_error.is_some()).await;
    let lines = caught.lines();
    let why: Vec<_> = lines.iter().filter(|line| line.starts_with("state ") && line.contains("reason=")).collect();
    let [why] = why.as_slice() else { panic!("{lines:#?}") };
    let version = &world.manifest.manifest.version;
    for part in [&format!("version={version}"), "slot=b", "reason=health_failed", "detail=no trust root"] {
        assert!(why.contains(part), "{part}: {why}");
    }
    let started = lines.iter().find(|line| line.contains("to=writing")).unwrap();
    assert!(started.contains(" version=") && started.contains(" slot=b"), "{started}");
    assert!(!started.contains("reason="), "{started}");
}

#[tokio::test]
async fn a_required_network_check_counts_when_it_passed_before_the_reboot() {
    for offline_before in [false, true] {
        let world = World::new();
        let mut setup = World::setup();
        setup.policy.health.network_required = true;
        setup.policy.health.deadline = Duration::from_millis(500);
        world.offline.store(offline_before, Ordering::SeqCst);
        let first = spawn(setup.clone(), world.seams()).await.0;
        check(&first).await;
        until_did(&world, "reboot").await;
        let story = world.story();
        let place = |what: &str| story.iter().position(|line| line == what).unwrap();
        assert!(place("arm b") < place("network") && place("network") < place("reboot"), "{story:?}");
        drop(first);
        world.reboot_into(SlotId::B, "boot-2");
        world.offline.store(true, Ordering::SeqCst);
        world.log.lock().unwrap().clear();
        let second = spawn(setup, world.seams()).await.0;
        until_did(&world, if offline_before { "confirm b" } else { "evidence health_timeout" }).await;
        drop(second);
    }
}

#[tokio::test]
async fn a_release_whose_own_updater_says_no_is_never_armed_and_not_fetched_again() {
    let world = World::new();
    world.updater_broken.store(true, Ordering::SeqCst);
    let handle = start(&world).await;
    check(&handle).await;
    let status = until(&handle, "failure", |status| status.last_error.is_some()).await;
    let error = status.last_error.unwrap();
    assert_eq!((error.reason, error.detail.as_str()), (Reason::HealthFailed, "no trust root"));
    let story = world.story();
    let place = |what: &str| story.iter().position(|line| line == what).unwrap_or_else(|| panic!("{what}: {story:?}"));
    assert!(place("verify b") < place("rehearse b"), "what is run was read back before: {story:?}");
    assert!(!world.did("arm b"), "{story:?}");
    world.log.lock().unwrap().clear();
    world.updater_broken.store(false, Ordering::SeqCst);
    check(&handle).await;
    let status = until(&handle, "refusal", |status| {
        status.waiting.as_ref().is_some_and(|waiting| waiting.reason == Reason::BlockedAfterFallback)
    })
    .await;
    assert!(!world.did("install b"), "{status:?}");
}

#[tokio::test]
async fn a_health_check_that_hangs_does_not_outlast_the_deadline() {
    let world = World::new();
    {
        let mut facts = world.facts.lock().unwrap();
        facts.booted = Some(SlotId::B);
        facts.slots.b = SlotBoot::Trying { left: 2, done: 1 };
    }
    world.health_hangs.store(true, Ordering::SeqCst);
    let handle = start(&world).await;
    until(&handle, "trying", |status| status.state == StateName::Trying).await;
    until_did(&world, "reject b").await;
    until_did(&world, "reboot").await;
}

#[tokio::test]
async fn status_and_commands_are_answered_during_an_install_which_can_be_cancelled() {
    let world = World::new();
    world.installer_waits.store(true, Ordering::SeqCst);
    let handle = start(&world).await;
    check(&handle).await;
    until_did(&world, "install b").await;
    until(&handle, "writing", |status| status.state == StateName::Writing).await;
    assert!(matches!(handle.ask(Command::Explain).await.unwrap(), Reply::Explained(_)));
    assert_eq!(handle.ask(Command::Change(Change::Cancel)).await.unwrap(), Reply::Done);
    until_did(&world, "install cancelled").await;
    until(&handle, "an end", |status| status.state != StateName::Writing).await;
    assert!(!world.did("arm b"));
}

#[tokio::test]
async fn a_cancel_while_room_is_looked_for_costs_no_fallback() {
    let world = World::new();
    world.facts.lock().unwrap().slots.b = SlotBoot::Confirmed;
    world.looks_for_ever.store(true, Ordering::SeqCst);
    let handle = start(&world).await;
    check(&handle).await;
    until_did(&world, "look for room").await;
    assert_eq!(handle.ask(Command::Change(Change::Cancel)).await.unwrap(), Reply::Done);
    until(&handle, "an end", |status| status.state == StateName::Idle && status.operation.is_none()).await;
    assert!(!world.did("clear b"), "{:?}", world.story());
    assert_eq!(world.facts.lock().unwrap().slots.b, SlotBoot::Confirmed);
}

#[tokio::test]
async fn nothing_is_touched_when_the_intent_can_not_be_written_down() {
    let world = World::new();
    let handle = start(&world).await;
    world.journal_broken.store(true, Ordering::SeqCst);
    check(&handle).await;
    let status = until(&handle, "an error", |status| status.last_error.is_some()).await;
    assert_eq!(status.last_error.unwrap().reason, Reason::WriteError);
    assert!(!world.did("clear b") && !world.did("install b"), "{:?}", world.story());
}

#[tokio::test]
async fn what_does_not_fit_costs_no_fallback() {
    let world = World::new();
    world.facts.lock().unwrap().slots.b = SlotBoot::Confirmed;
    world.full.store(true, Ordering::SeqCst);
    let handle = start(&world).await;
    check(&handle).await;
    let status =
        until(&handle, "an end", |status| status.state == StateName::Idle && status.last_error.is_some()).await;
    assert_eq!(status.last_error.unwrap().reason, Reason::NoSpace);
    assert_eq!(world.facts.lock().unwrap().slots.b, SlotBoot::Confirmed, "the other system boots as before");
    assert!(!world.did("clear b") && !world.did("install b"), "{:?}", world.story());
    world.full.store(false, Ordering::SeqCst);
    check(&handle).await;
    until_did(&world, "reboot").await;
}

#[tokio::test]
async fn after_a_fault_of_the_disk_the_next_check_succeeds() {
    // The codes that the install pipeline gives to EIO, ENOSPC, a device that is gone, and one that lies.
    for reason in [Reason::WriteError, Reason::NoSpace, Reason::SlotUnknown, Reason::ImageMismatch] {
        let world = World::new();
        world.disk_faults.lock().unwrap().push(reason);
        let handle = start(&world).await;
        check(&handle).await;
        let status = until(&handle, reason.code(), |status| {
            status.state == StateName::Idle && status.last_error.is_some() && status.operation.is_none()
        })
        .await;
        assert_eq!(status.last_error.unwrap().reason, reason);
        assert_eq!(status.last_outcome.unwrap().kind, OutcomeKind::Failed);
        assert_eq!(world.facts.lock().unwrap().slots.b, SlotBoot::Empty, "a slot that is not whole can not be booted");
        assert!(!world.did("arm b"), "{:?}", world.story());
        check(&handle).await;
        until_did(&world, "reboot").await;
        drop(handle);
        world.reboot_into(SlotId::B, "boot-2");
        let second = start(&world).await;
        until(&second, "confirmation", |status| status.confirmed && status.last_error.is_none()).await;
    }
}

#[tokio::test]
async fn boot_control_is_tested_at_the_start_and_what_is_wrong_is_shown() {
    let world = World::new();
    world.boot_broken.store(true, Ordering::SeqCst);
    let handle = start(&world).await;
    let error = handle.status().last_error.unwrap();
    assert_eq!((error.reason, error.detail.as_str()), (Reason::BootControlError, "read-only file system"));
    assert_eq!(handle.status().state, StateName::Idle, "shown, and nothing else");
    check(&handle).await;
    let failed = |status: &Status| status.last_outcome.as_ref().is_some_and(|last| last.kind == OutcomeKind::Failed);
    until(&handle, "a refusal before the first byte", failed).await;
    assert!(!world.did("clear b") && !world.did("install b"), "{:?}", world.story());
}

#[tokio::test]
async fn nothing_stands_between_a_trial_and_its_end() {
    for healthy in [true, false] {
        let world = World::new();
        {
            let mut facts = world.facts.lock().unwrap();
            facts.booted = Some(SlotId::B);
            facts.slots.b = SlotBoot::Trying { left: 2, done: 1 };
        }
        world.boot_broken.store(true, Ordering::SeqCst);
        world.healthy.store(healthy, Ordering::SeqCst);
        let handle = start(&world).await;
        until_did(&world, if healthy { "confirm b" } else { "reject b" }).await;
        assert!(!world.did("self-test"), "{:?}", world.story());
        drop(handle);
    }
}

#[tokio::test]
async fn a_broken_journal_neither_blocks_a_confirmation_nor_a_fallback() {
    for healthy in [true, false] {
        let world = World::new();
        {
            let mut facts = world.facts.lock().unwrap();
            facts.booted = Some(SlotId::B);
            facts.slots.b = SlotBoot::Trying { left: 2, done: 1 };
        }
        world.journal_broken.store(true, Ordering::SeqCst);
        world.healthy.store(healthy, Ordering::SeqCst);
        let handle = start(&world).await;
        until_did(&world, if healthy { "confirm b" } else { "reject b" }).await;
        drop(handle);
    }
}

#[tokio::test]
async fn forged_halted_and_missing_approvals_are_refused_with_their_reason() {
    let release = || World::new().manifest.release();
    let cases = [
        (Some(world::approval(release(), RolloutState::Rolling, 9)), Reason::KeyUnknown),
        (Some(world::approval(release(), RolloutState::Halted, 3)), Reason::RolloutHalted),
        (None, Reason::ApprovalMissing),
    ];
    for (document, reason) in cases {
        let world = World::new();
        *world.approval.lock().unwrap() = document;
        let handle = start(&world).await;
        check(&handle).await;
        let status = until(&handle, reason.code(), |status| status.waiting.is_some()).await;
        assert_eq!(status.waiting.unwrap().reason, reason);
        assert!(!world.did("clear b"), "{:?}", world.story());
    }
}
