//! The command line while it waits: for an install, a switch, a change, on a simulated device.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail loudly"
)]

mod common;
mod sim;

use std::io::{BufRead as _, BufReader};
use std::process::Child;
use std::time::Duration;

use common::server::{Fault, Server};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sim::{FAILED, OK, REFUSED, World, until};

/// Ctrl-C.
fn interrupt(process: &Child) {
    kill(Pid::from_raw(process.id().try_into().unwrap()), Signal::SIGINT).unwrap();
}

#[test]
fn an_install_that_was_to_switch_goes_on_until_that_is_done_or_refused() {
    let mut world = World::offered();
    // Hours that are never open while this runs: they begin and end half a day from now.
    let hour = (jiff::Timestamp::now().as_second() / 3600 + 12) % 24;
    let closed = format!("start = \"{hour:02}:00\"\nminutes = 60\n");
    world.config("hours.toml", &format!("[[windows.reboot]]\n{closed}"));
    world.start();
    for options in [["install", "--activate"], ["install", "--reboot"]] {
        let held = world.flipside(&options);
        assert_eq!(held.code, REFUSED, "{held:?}");
        assert!(held.err.contains("window_closed"), "{held:?}");
    }
    let ordered = world.flipside(&["reboot", "--no-wait"]);
    assert!(ordered.code == OK && !ordered.out.contains("Restarting"), "{ordered:?}");
    let status = world.status();
    assert_eq!(status["slots"]["b"]["release"]["counter"], 2, "it is installed all the same: {status}");
    let forced = world.flipside(&["install", "--reboot", "--force"]);
    assert_eq!(forced.code, OK, "{forced:?}");
    world.wait_for_end();
}

#[test]
fn what_runs_already_is_news_only_to_whoever_named_it() {
    let mut world = World::offered();
    world.start();
    assert_eq!(world.flipside(&["install", "--reboot"]).code, OK);
    world.wait_for_end();
    world.boot("b");
    assert_eq!(world.flipside(&["confirm"]).code, OK);
    let nothing = world.flipside(&["--json", "install", "--reboot"]);
    assert_eq!(nothing.code, OK, "{nothing:?}");
    let last: Value = serde_json::from_str(nothing.out.lines().last().unwrap()).unwrap();
    assert_eq!((&last["state"], &last["result"]), (&"idle".into(), &Value::Null), "{nothing:?}");
    assert_eq!(world.flipside(&["install"]).out, "Up to date.\n");
    let bundle = world.tree().join("bundles").read_dir().unwrap().next().unwrap().unwrap().path();
    let named = world.flipside(&["--json", "install", bundle.to_str().unwrap()]);
    assert_eq!(named.code, REFUSED, "{named:?}");
    let last: Value = serde_json::from_str(named.out.lines().last().unwrap()).unwrap();
    assert_eq!(last["reason"], "no_update", "{named:?}");
}

#[test]
fn following_prints_what_changes_and_ends_with_its_reader() {
    let mut world = World::offered();
    world.start();
    assert_eq!(world.flipside(&["check", "--wait"]).code, OK);
    let mut following = world.begin(&["--json", "status", "--follow"]);
    let mut read = BufReader::new(following.stdout.take().unwrap());
    let mut pages = String::new();
    read.read_line(&mut pages).unwrap();
    // The approval grows older meanwhile.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(world.flipside(&["cancel"]).code, OK);
    read.read_line(&mut pages).unwrap();
    let states = pages.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["state"].clone());
    assert_eq!(states.collect::<Vec<_>>(), ["staged", "idle"], "{pages}");
    drop(read);
    until("it ends with its reader", || following.try_wait().unwrap().is_some());
}

#[test]
fn a_first_interrupt_cancels_and_a_second_one_leaves() {
    let mut world = World::offered();
    let server = Server::new(world.tree());
    world.fetch_slowly(&server, 500);
    world.start();
    let waiting = world.begin(&["install"]);
    world.wait_for("state", "writing");
    // A daemon that hangs answers no cancel.
    world.halt();
    for _ in 0..2 {
        interrupt(&waiting);
        std::thread::sleep(Duration::from_millis(300));
    }
    let left = sim::said(&waiting.wait_with_output().unwrap());
    assert_eq!(left.code, FAILED, "{left:?}");
    assert!(left.err.contains("flipside status"), "{left:?}");
    world.stop();
    world.start();
    assert_eq!(world.status()["state"], "writing");
}

#[test]
fn a_cancel_outlives_the_daemon() {
    let mut world = World::offered();
    let server = Server::new(world.tree());
    world.fetch_slowly(&server, 1000);
    world.start();
    let waiting = world.begin(&["install"]);
    world.wait_for("state", "writing");
    world.stop();
    interrupt(&waiting);
    std::thread::sleep(Duration::from_millis(300));
    world.start();
    let ended = sim::said(&waiting.wait_with_output().unwrap());
    assert_eq!(ended.code, REFUSED, "{ended:?}");
    assert!(ended.err.contains("cancelled"), "{ended:?}");
}

#[test]
fn a_daemon_that_is_told_to_end_does_so_in_the_middle_of_a_job() {
    let mut world = World::offered();
    let server = Server::new(world.tree());
    // The manifest is read, the rest never comes.
    let mut reads = 0;
    server.plan(move |request, _| {
        reads += u32::from(request.path.ends_with(".bundle"));
        if reads > 1 { Fault::StallHalfway } else { Fault::None }
    });
    world.config("url.toml", &format!("[source]\nurl = \"{}\"\n", server.url("")));
    world.start();
    assert_eq!(world.flipside(&["install", "--no-wait"]).code, OK);
    world.wait_for("state", "writing");
    world.stop_in_order();
}

#[test]
fn who_waits_for_an_install_outlives_the_daemon() {
    let mut world = World::offered();
    let server = Server::new(world.tree());
    // Ten seconds or so.
    world.fetch_slowly(&server, 5000);
    world.start();
    let waiting = world.begin(&["install"]);
    world.wait_for("state", "writing");
    world.stop();
    world.start();
    assert_eq!(world.status()["state"], "writing", "it goes on by itself");
    let ended = sim::said(&waiting.wait_with_output().unwrap());
    assert_eq!(ended.code, OK, "{ended:?}");
    assert_eq!(world.status()["state"], "staged");
    world.assert_slot_b_holds(2);
}
