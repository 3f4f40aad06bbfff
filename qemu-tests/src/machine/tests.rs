//! Machines that have no system: started, reset, kept, lost.

use std::fs::File;

use tempfile::TempDir;

use super::*;

/// What a machine with an empty disk is made of, in a folder that goes with the first value; none, loudly, without QEMU.
fn empty(name: &str) -> Option<(TempDir, Spec)> {
    if !crate::tools::present(&["qemu-system-x86_64", "qemu-img"]) {
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("base.img");
    File::create(&disk).unwrap().set_len(8 << 20).unwrap();
    let spec = Spec::new(name, &dir.path().join("m"), &disk);
    Some((dir, spec))
}

#[test]
fn an_empty_machine_starts_resets_and_loses_power() {
    let Some((_dir, spec)) = empty("empty") else { return };
    let mut machine = Machine::start(spec).unwrap();
    machine.alive().unwrap();
    let seen = machine.resets();
    machine.qmp().command("system_reset", json!({})).unwrap();
    assert!(machine.wait_reset(seen, Duration::from_secs(60)).unwrap() > seen);
    let proc = PathBuf::from(format!("/proc/{}", machine.pid()));
    assert!(proc.exists());
    let spec = machine.power_cut().unwrap();
    assert!(!proc.exists());
    assert!(spec.overlay().exists());
}

#[test]
fn a_firmware_that_says_nothing_is_started_again_at_most_twice_and_its_registers_are_kept() {
    let Some((dir, spec)) = empty("hung") else { return };
    let mut machine = Machine::start(spec).unwrap();
    let first = machine.pid();
    // It has said nothing yet.
    machine.watchdog.silence = Duration::ZERO;
    machine.alive().unwrap();
    assert_ne!(machine.pid(), first);
    assert_eq!((machine.resets(), machine.watchdog.bites), (1, 1));
    // The time begins anew, and so does the patience.
    let second = machine.pid();
    machine.alive().unwrap();
    assert_eq!(machine.pid(), second);
    for _ in 0..2 {
        machine.watchdog.silence = Duration::ZERO;
        machine.alive().unwrap();
    }
    assert_eq!((machine.resets(), machine.watchdog.bites), (2, 2));
    assert!(machine.events().iter().any(|event| event["event"] == "SHUTDOWN"), "{:?}", machine.events());
    let registers = fs::read_to_string(dir.path().join("m").join(crate::firmware::HUNG)).unwrap();
    assert_eq!(registers.matches("CPU#0").count(), 2, "{registers}");
}

#[test]
fn a_reset_after_a_long_silence_is_no_hang() {
    let Some((_dir, spec)) = empty("quiet") else { return };
    let mut machine = Machine::start(spec).unwrap();
    let first = machine.pid();
    // Stopped, it says nothing, however long.
    machine.qmp().command("stop", json!({})).unwrap();
    machine.watchdog.silence = Duration::from_secs(30);
    machine.watchdog.look(&machine.spec, &machine.qmp).unwrap();
    machine.watchdog.since -= machine.watchdog.silence;
    machine.qmp().command("system_reset", json!({})).unwrap();
    until("the reset", Duration::from_secs(60), || match machine.resets() {
        0 => Look::NotYet("no reset".into()),
        _ => Look::Done(()),
    })
    .unwrap();
    machine.alive().unwrap();
    assert_eq!((machine.pid(), machine.watchdog.bites), (first, 0));
}

#[test]
fn a_recorded_machine_whose_firmware_says_nothing_is_reset() {
    let Some((dir, mut spec)) = empty("hung") else { return };
    spec.record = Some(dir.path().join("record"));
    let mut machine = Machine::start(spec).unwrap();
    let first = machine.pid();
    machine.watchdog.silence = Duration::ZERO;
    machine.alive().unwrap();
    machine.watchdog.silence = Duration::from_secs(3600);
    assert_eq!(machine.wait_reset(0, Duration::from_secs(60)).unwrap(), 1);
    assert_eq!(machine.pid(), first);
}

#[test]
fn a_kept_machine_goes_on_where_it_was() {
    let Some((dir, spec)) = empty("one") else { return };
    let kept = dir.path().join("kept");
    Machine::start(spec).unwrap().keep(&kept).unwrap();
    let mut spec = Spec::new("two", &dir.path().join("m2"), &kept.join("disk.qcow2"));
    spec.resume = Some(kept);
    let mut machine = Machine::start(spec).unwrap();
    machine.alive().unwrap();
    let status = machine.qmp().command("query-status", json!({})).unwrap();
    assert_eq!(status["running"], true);
}

#[test]
fn a_machine_that_goes_out_of_scope_is_gone() {
    let Some((_dir, spec)) = empty("scope") else { return };
    let machine = Machine::start(spec).unwrap();
    let proc = PathBuf::from(format!("/proc/{}", machine.pid()));
    drop(machine);
    assert!(!proc.exists());
}

#[test]
fn a_missing_disk_is_named() {
    if !crate::tools::present(&["qemu-system-x86_64", "qemu-img"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let spec = Spec::new("x", &dir.path().join("m"), Path::new("/nonexistent/disk.img"));
    assert!(format!("{:#}", Machine::start(spec).unwrap_err()).contains("/nonexistent/disk.img"));
}
