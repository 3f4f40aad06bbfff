//! The whole product as processes: the real binary as daemon and command line on a private bus, a simulated device in a
//! folder, releases in a served tree read from disk. What an operator types, and what he sees.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail loudly"
)]

mod common;
mod sim;

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use common::folder::{facts, system};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde_json::Value;
use sim::{FAILED, NO_DAEMON, OK, REFUSED, USAGE, World, until};

#[test]
fn a_release_is_staged_switched_to_and_confirmed() {
    let mut world = World::offered();
    world.start();

    let checked = world.flipside(&["check", "--wait"]);
    assert_eq!(checked.code, OK, "{checked:?}");
    assert!(checked.out.contains("1.2.0 is written to slot b"), "{checked:?}");
    assert_eq!(world.status()["state"], "staged");
    world.assert_slot_b_holds(2);

    assert_eq!(world.flipside(&["activate"]).code, OK);
    world.wait_for("state", "armed");
    world.restart_into("b");
    let confirmed = world.flipside(&["confirm", "--boot"]);
    assert_eq!(confirmed.code, OK, "{confirmed:?}");
    let status = world.status();
    assert_eq!((&status["booted_slot"], &status["confirmed"]), (&"b".into(), &true.into()), "{status}");
    assert!(world.has_outcome("healthy", None));
    // What runs is not offered again.
    let again = world.flipside(&["check", "--wait"]);
    assert_eq!(again.code, OK, "{again:?}");
    assert!(again.out.contains("Up to date"), "{again:?}");
}

#[test]
fn a_switch_that_the_region_stops_is_refused_to_whoever_ordered_it() {
    let mut world = World::offered();
    world.start();
    assert_eq!(world.flipside(&["check", "--wait"]).code, OK);
    world.approve(2, 10_000, "paused");
    assert_eq!(world.flipside(&["check", "--wait"]).code, OK, "staged is as far as it goes by itself");
    let refused = world.flipside(&["activate"]);
    assert_eq!(refused.code, REFUSED, "{refused:?}");
    assert!(refused.err.contains("rollout_paused"), "{refused:?}");
    assert_eq!(world.status()["state"], "staged");
    world.approve(2, 10_000, "rolling");
    assert_eq!(world.flipside(&["check", "--wait"]).code, OK);
    assert_eq!(world.status()["state"], "armed", "what was ordered happens when it may");
    assert_eq!(world.flipside(&["reboot"]).code, OK);
    world.wait_for_end();
}

#[test]
fn a_bundle_comes_by_a_pipe_or_from_where_only_the_caller_sees_it() {
    let mut world = World::offered();
    world.start();
    let bundle = fs::read_dir(world.tree().join("bundles")).unwrap().next().unwrap().unwrap().path();
    // What is left of a refused pipe does not answer for the next one.
    world.publish(3);
    let bundles = fs::read_dir(world.tree().join("bundles")).unwrap();
    let unapproved = bundles.map(|entry| entry.unwrap().path()).find(|path| *path != bundle).unwrap();
    let refused = world.flipside_piped(&unapproved, &["install", "-"]);
    assert_eq!(refused.code, REFUSED, "{refused:?}");
    let piped = world.flipside_piped(&bundle, &["install", "-"]);
    assert_eq!(piped.code, OK, "{piped:?}");
    assert_eq!(world.status()["state"], "staged");
    // The daemon can not open this name: it has another process's view.
    let open = File::open(&bundle).unwrap();
    let own = format!("/proc/self/fd/{}", open.as_raw_fd());
    fcntl(&open, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let again = world.flipside(&["install", &own]);
    assert_eq!(again.code, OK, "{again:?}");
    for (source, said) in [("/nowhere/x.bundle", "No such file"), ("/tmp", "is a folder")] {
        let wrong = world.flipside(&["install", source]);
        assert_eq!(wrong.code, USAGE, "{wrong:?}");
        assert!(wrong.err.contains(said), "{wrong:?}");
    }
}

#[test]
fn a_folder_is_a_slot_too() {
    let mut world = World::new();
    let slot = |s: &str| format!("[slots.{s}]\nrootfs = {{ kind = \"tree\", path = \"/slots/{s}/rootfs\" }}\n");
    world.config("tree.toml", &(slot("a") + &slot("b")));
    let source = world.folder.path().join("source");
    system(&source, 300_000, 2);
    world.publish_tree(2, &source);
    world.approve(2, 10_000, "rolling");
    world.start();
    let tested = world.flipside(&["self-test"]);
    assert!(tested.out.contains("rootfs: ") && !tested.out.contains("not supported"), "{tested:?}");
    let checked = world.flipside(&["check", "--wait"]);
    assert_eq!(checked.code, OK, "{checked:?}");
    assert_eq!(world.status()["state"], "staged");
    assert_eq!(facts(&world.slot_b("rootfs")), facts(&source));
}

#[test]
fn a_piped_bundle_is_not_lost_while_its_update_waits_for_its_hour() {
    let mut world = World::new();
    world.publish(2);
    world.approve(2, 10_000, "paused");
    world.start_with(&["--idle-exit", "1"]);
    let bundle = fs::read_dir(world.tree().join("bundles")).unwrap().next().unwrap().unwrap().path();
    let waiting = world.flipside_piped(&bundle, &["install", "-"]);
    assert!(waiting.err.contains("rollout_paused"), "{waiting:?}");
    assert_eq!(world.status()["state"], "offered");
    // Longer than an idle daemon stays; then the region goes on.
    std::thread::sleep(std::time::Duration::from_secs(3));
    world.approve(2, 10_000, "rolling");
    let checked = world.flipside(&["check", "--wait"]);
    assert_eq!(checked.code, OK, "{checked:?}");
    assert_eq!(world.status()["state"], "staged");
    world.wait_for_end();
}

#[test]
fn an_unhealthy_release_falls_back_and_is_not_tried_again() {
    let mut world = World::offered();
    // The application of slot b is dead.
    world.health_check(
        "10-app",
        "grep -q '\"booted\":\"b\"' \"$(dirname \"$0\")/../../../boot/sim.json\" && echo dead && exit 1; exit 0",
    );
    world.start();
    let install = world.flipside(&["install", "--activate"]);
    assert_eq!(install.code, OK, "{install:?}");
    world.wait_for("state", "armed");
    world.restart_into("b");
    // It restarts by itself once the check has failed often enough.
    let confirmed = world.flipside(&["confirm", "--boot"]);
    assert_eq!(confirmed.code, FAILED, "{confirmed:?}");
    world.wait_for_end();
    world.boot("a");
    let status = world.status();
    assert_eq!((&status["booted_slot"], &status["confirmed"]), (&"a".into(), &true.into()), "{status}");
    assert!(world.has_outcome("rolled_back", Some("health_failed")));
    let again = world.flipside(&["check", "--wait"]);
    assert_eq!(again.code, REFUSED, "{again:?}");
    assert!(again.err.contains("blocked_after_fallback"), "{again:?}");
    assert!(world.folder.path().join("var/lib/flipside/evidence").read_dir().unwrap().count() == 1);
    // An operator may try again.
    assert_eq!(world.flipside(&["retry"]).code, OK);
    assert_eq!(world.flipside(&["check", "--wait"]).code, OK);
    assert_eq!(world.status()["state"], "staged");
}

#[test]
fn what_the_region_does_not_approve_is_refused_with_its_reason() {
    let mut world = World::new();
    world.publish(2);
    world.start();
    for (state, threshold, reason) in [("halted", 10_000, "rollout_halted"), ("rolling", 0, "bucket_closed")] {
        let missing = world.flipside(&["check", "--wait"]);
        assert_eq!(missing.code, REFUSED, "{missing:?}");
        world.approve(2, threshold, state);
        let checked = world.flipside(&["--json", "check", "--wait"]);
        assert_eq!(checked.code, REFUSED, "{checked:?}");
        let last: Value = serde_json::from_str(checked.out.lines().last().unwrap()).unwrap();
        assert_eq!(last["reason"], reason, "{checked:?}");
        assert_eq!(world.status()["waiting"]["reason"], reason);
    }
    assert!(world.flipside(&["explain"]).out.contains("bucket"));
    assert!(!world.slot_b("rootfs.img").exists());
}

#[test]
fn the_daemon_leaves_when_idle_and_is_alone() {
    let mut world = World::new();
    world.start();
    let second = world.flipside(&["daemon"]);
    assert_eq!(second.code, FAILED, "{second:?}");
    assert!(second.err.contains("another updater"), "{second:?}");
    world.stop();
    world.start_with(&["--idle-exit", "1"]);
    world.wait_for_end();
}

#[test]
fn without_a_bus_an_operator_still_reads() {
    let mut world = World::new();
    world.no_bus();
    let status = world.flipside(&["--json", "status"]);
    assert_eq!(status.code, OK, "{status:?}");
    let status: Value = serde_json::from_str(&status.out).unwrap();
    assert_eq!(status["booted_slot"], "a");
    assert_eq!(world.flipside(&["history"]).out, "Nothing happened yet.\n");
    assert_eq!(world.flipside(&["explain"]).code, OK);
    assert_eq!(world.flipside(&["check"]).code, NO_DAEMON);
    // The boot loader says that slot a is confirmed: the boot sequence may go on.
    assert_eq!(world.flipside(&["confirm", "--boot"]).code, OK);
}

/// Up to the power-on that tries slot b for the first time.
fn about_to_try(world: &mut World) {
    world.publish(2);
    world.approve(2, 10_000, "rolling");
    world.start();
    assert_eq!(world.flipside(&["install", "--activate"]).code, OK);
    world.wait_for("state", "armed");
    assert_eq!(world.flipside(&["reboot"]).code, OK);
    world.wait_for_end();
    world.play_boot_loader("b");
}

#[test]
fn the_engine_confirms_without_a_bus() {
    let mut world = World::new();
    about_to_try(&mut world);
    world.no_bus();
    world.spawn(&["--idle-exit", "0"]);
    let confirmed = world.flipside(&["confirm", "--boot"]);
    assert_eq!(confirmed.code, OK, "{confirmed:?}");
}

#[test]
fn the_engine_confirms_on_a_bus_that_refuses_its_name() {
    let mut world = World::new();
    about_to_try(&mut world);
    world.refusing_bus();
    world.spawn(&["--idle-exit", "0"]);
    // Read from the boot loader.
    until("slot b is confirmed", || world.status()["confirmed"] == true);
    assert_eq!(world.status()["booted_slot"], "b");
    // It is still alone, and there.
    let second = world.flipside(&["daemon"]);
    assert!(second.err.contains("another updater"), "{second:?}");
}

#[test]
fn the_engine_confirms_on_a_bus_that_never_answers() {
    let mut world = World::new();
    about_to_try(&mut world);
    world.no_bus();
    let socket = world.folder.path().join("mute");
    let _mute = UnixListener::bind(&socket).unwrap();
    world.spawn_on(&format!("unix:path={}", socket.display()));
    until("slot b is confirmed", || world.status()["confirmed"] == true);
}

/// Starts slot b for the first time, with the data partition read-only; false when this machine can not show that.
fn tried_on_read_only_state(world: &mut World) -> bool {
    about_to_try(world);
    // Not even the file of the lock is there.
    fs::remove_file(world.folder.path().join("var/lib/flipside/lock")).unwrap();
    world.spawn_on_read_only_state()
}

#[test]
fn a_read_only_data_partition_keeps_no_system_from_its_confirmation() {
    let mut world = World::new();
    if !tried_on_read_only_state(&mut world) {
        return;
    }
    until("slot b is confirmed", || world.flipside(&["confirm", "--boot"]).code == OK);
    world.stop();
    world.boot("b");
}

#[test]
fn a_read_only_data_partition_keeps_no_bad_system() {
    let mut world = World::new();
    world.health_check(
        "10-app",
        "grep -q '\"booted\":\"b\"' \"$(dirname \"$0\")/../../../boot/sim.json\" && exit 1; exit 0",
    );
    if !tried_on_read_only_state(&mut world) {
        return;
    }
    world.wait_for_end();
    world.boot("a");
    assert_eq!(world.status()["confirmed"], true);
}

#[test]
fn a_broken_fragment_does_not_keep_the_daemon_from_working() {
    let mut world = World::new();
    world.config("broken.toml", "mode = \n");
    world.publish(2);
    world.approve(2, 10_000, "rolling");
    world.start();
    assert_eq!(world.flipside(&["config", "check"]).code, FAILED);
    assert_eq!(world.flipside(&["check", "--wait"]).code, OK);
}

#[test]
fn a_refused_bundle_is_told_its_own_reason() {
    let mut world = World::new();
    world.publish(2);
    world.approve(2, 10_000, "halted");
    world.start();
    let held = world.flipside(&["check", "--wait"]);
    assert!(held.err.contains("rollout_halted"), "{held:?}");
    let junk = world.folder.path().join("junk.bundle");
    fs::write(&junk, vec![7; 5000]).unwrap();
    let refused = world.flipside(&["install", junk.to_str().unwrap()]);
    assert!(refused.err.contains("malformed"), "{refused:?}");
    // What holds the offered release is told again with the next check.
    assert_eq!(world.flipside(&["check", "--wait"]).code, REFUSED);
    assert_eq!(world.status()["waiting"]["reason"], "rollout_halted");
}

#[test]
fn the_service_manager_hears_that_it_is_ready_and_then_that_it_lives() {
    let mut world = World::new();
    let manager = world.spawn_watched(Duration::from_millis(400));
    let hear = || {
        let mut buffer = [0; 256];
        let n = manager.recv(&mut buffer).expect("the daemon says something in time");
        String::from_utf8(buffer[..n].to_vec()).unwrap()
    };
    assert_eq!(hear(), "READY=1");
    let (mut fed, mut said) = (0, Vec::new());
    while fed < 5 {
        match hear().as_str() {
            "WATCHDOG=1" => fed += 1,
            other => said.push(other.to_owned()),
        }
    }
    assert_eq!(said, ["STATUS=idle"], "one line for `systemctl status`");
}
