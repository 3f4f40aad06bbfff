//! The suite every backend passes: what the operations mean, that repeating them changes nothing, what the boot
//! loader makes of it, and that the power may go at any instant.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use updater_core::facts::SlotBoot;
use updater_core::slot::{PerSlot, SlotId};

use super::custom::Custom;
use super::entry::{EntryName, version_of};
use super::error::BootError;
use super::files::{Files as _, Rooted};
use super::grub::Grub;
use super::grubenv::GrubEnv;
use super::loader::Loader;
use super::powerloss::{Disk, Recorder};
use super::scripted::{Scripted, boot_custom};
use super::sim::Sim;
use super::systemd_boot::SystemdBoot;
use super::uboot::UBoot;
use super::uboot_env;

/// A backend over a recorded disk, and the boot loader as we understand its source.
struct Kind {
    name: &'static str,
    open: fn(Recorder) -> Box<dyn Loader>,
    /// Chooses, counts down, boots.
    boot: fn(Recorder) -> Option<SlotId>,
}

const KINDS: [Kind; 5] = [
    Kind { name: "systemd-boot", open: |files| Box::new(systemd_boot(files)), boot: boot_systemd },
    Kind { name: "custom", open: |files| Box::new(Scripted::new(files)), boot: boot_custom },
    Kind { name: "grub", open: |files| Box::new(Grub::new(files, "grub/grubenv")), boot: boot_grub },
    Kind { name: "uboot", open: |files| Box::new(UBoot::new(files, "env", "env2")), boot: boot_uboot },
    Kind {
        name: "sim",
        open: |files| Box::new(Sim::new(files, "sim")),
        boot: |files| Sim::new(files, "sim").boot().unwrap(),
    },
];

/// Those whose state can be damaged as a whole and made anew.
const MENDED: std::ops::RangeFrom<usize> = 2..;

fn systemd_boot(files: Recorder) -> SystemdBoot<Recorder> {
    SystemdBoot::new(files, "root=PARTLABEL=root-%s", "/nowhere")
}

/// systemd-boot: entries with tries left or without counter before those without tries; then the highest version.
/// A torn entry without a `linux` line is no entry.
fn boot_systemd(mut files: Recorder) -> Option<SlotId> {
    let mut entries: Vec<_> = files
        .list("loader/entries")
        .unwrap()
        .into_iter()
        .filter_map(|file| {
            let content = files.read(&format!("loader/entries/{file}")).unwrap().unwrap();
            let name = EntryName::parse(&file)?;
            String::from_utf8_lossy(&content).contains("\nlinux ").then_some((name, version_of(&content), file))
        })
        .collect();
    entries.sort_by_key(|(name, version, _)| (matches!(name.count, Some((0, _))), std::cmp::Reverse(*version)));
    let (name, _, file) = entries.into_iter().next()?;
    if let Some((left @ 1.., done)) = name.count {
        let next = EntryName { slot: name.slot, count: Some((left - 1, done + 1)) }.file_name();
        files.rename(&format!("loader/entries/{file}"), &format!("loader/entries/{next}")).unwrap();
    }
    Some(name.slot)
}

fn letters(order: &str) -> Vec<(SlotId, &'static str)> {
    order
        .split(' ')
        .filter_map(|name| match name {
            "A" => Some((SlotId::A, "A")),
            "B" => Some((SlotId::B, "B")),
            _ => None,
        })
        .collect()
}

/// The shipped `grub.cfg`.
fn boot_grub(mut files: Recorder) -> Option<SlotId> {
    let mut env = GrubEnv::parse(&files.read("grub/grubenv").unwrap()?).ok()?;
    let value = |env: &GrubEnv, name: String| env.variables.get(&name).cloned().unwrap_or_default();
    let order = value(&env, "ORDER".into());
    for (slot, letter) in letters(&order) {
        if value(&env, format!("{letter}_OK")) == "1" && value(&env, format!("{letter}_TRY")) == "0" {
            return Some(slot);
        }
        let left: u8 = value(&env, format!("{letter}_LEFT")).parse().unwrap();
        if value(&env, format!("{letter}_TRY")) == "1" && left > 0 {
            env.variables.insert(format!("{letter}_LEFT"), (left - 1).to_string());
            files.overwrite("grub/grubenv", &env.render(&["ORDER"]).unwrap()).unwrap();
            return Some(slot);
        }
    }
    letters(&order).first().map(|(slot, _)| *slot)
}

/// The shipped `boot.scr`.
fn boot_uboot(mut files: Recorder) -> Option<SlotId> {
    let copies = ["env", "env2"];
    let mut env = copies.iter().find_map(|path| uboot_env::parse(&files.read(path).unwrap()?).ok())?;
    let value = |env: &Disk2, name: String| env.get(&name).cloned().unwrap_or_default();
    let order = value(&env, "BOOT_ORDER".into());
    for (slot, letter) in letters(&order) {
        if value(&env, format!("BOOT_{letter}_OK")) == "1" {
            return Some(slot);
        }
        let left: u8 = value(&env, format!("BOOT_{letter}_LEFT")).parse().unwrap();
        if left > 0 {
            env.insert(format!("BOOT_{letter}_LEFT"), (left - 1).to_string());
            for path in copies {
                files.create(path, &uboot_env::render(&env).unwrap()).unwrap();
            }
            return Some(slot);
        }
    }
    letters(&order).first().map(|(slot, _)| *slot)
}

type Disk2 = std::collections::BTreeMap<String, String>;

/// A factory-fresh disk: `a` confirmed, `b` empty.
fn fresh(kind: &Kind) -> Recorder {
    let files = Recorder::default();
    match kind.name {
        "sim" => Sim::new(files.clone(), "sim").provision(SlotId::A).unwrap(),
        "systemd-boot" | "custom" => (kind.open)(files.clone()).confirm(SlotId::A).unwrap(),
        _ => {
            (kind.open)(files.clone()).repair(SlotId::A, 1).unwrap();
            (kind.open)(files.clone()).confirm(SlotId::A).unwrap();
            (kind.open)(files.clone()).clear(SlotId::B).unwrap();
        }
    }
    Recorder::new(files.disk())
}

const TRYING: SlotBoot = SlotBoot::Trying { left: 3, done: 0 };

#[test]
fn operations_mean_what_they_say_and_repeating_changes_nothing() {
    for kind in KINDS {
        let files = fresh(&kind);
        let mut loader = (kind.open)(files.clone());
        let twice = |operation: &dyn Fn(&mut dyn Loader), want: [SlotBoot; 2]| {
            let mut loader = (kind.open)(files.clone());
            operation(loader.as_mut());
            let once = files.disk();
            operation(loader.as_mut());
            assert_eq!(files.disk(), once, "{}: repeated", kind.name);
            let PerSlot { a, b } = loader.records().unwrap();
            assert_eq!([a, b], want, "{}", kind.name);
        };
        assert_eq!(loader.records().unwrap(), PerSlot { a: SlotBoot::Confirmed, b: SlotBoot::Empty }, "{}", kind.name);
        loader.self_test().unwrap();
        twice(&|l| l.clear(SlotId::B).unwrap(), [SlotBoot::Confirmed, SlotBoot::Empty]);
        twice(&|l| l.reject(SlotId::B).unwrap(), [SlotBoot::Confirmed, SlotBoot::Empty]);
        twice(&|l| l.arm(SlotId::B, 3).unwrap(), [SlotBoot::Confirmed, TRYING]);
        twice(&|l| l.confirm(SlotId::B).unwrap(), [SlotBoot::Confirmed, SlotBoot::Confirmed]);
        twice(&|l| l.reject(SlotId::B).unwrap(), [SlotBoot::Confirmed, SlotBoot::Exhausted { done: 0 }]);
        twice(&|l| l.self_test().unwrap(), [SlotBoot::Confirmed, SlotBoot::Exhausted { done: 0 }]);
        for tries in [0, 8] {
            assert!(matches!(loader.arm(SlotId::B, tries), Err(BootError::Refused(_))), "{}", kind.name);
        }
    }
}

#[test]
fn the_loader_boots_what_was_armed_counts_and_falls_back_by_itself() {
    for kind in KINDS {
        let files = fresh(&kind);
        let mut loader = (kind.open)(files.clone());
        let boots = |count: usize| (0..count).map(|_| (kind.boot)(files.clone()).unwrap()).collect::<Vec<_>>();
        assert_eq!(boots(5), [SlotId::A; 5], "{}: a confirmed slot is never counted", kind.name);
        loader.arm(SlotId::B, 2).unwrap();
        assert_eq!(boots(4), [SlotId::B, SlotId::B, SlotId::A, SlotId::A], "{}", kind.name);
        assert!(matches!(loader.records().unwrap().b, SlotBoot::Exhausted { done: 1.. }), "{}", kind.name);
        loader.arm(SlotId::B, 2).unwrap();
        assert_eq!(boots(1), [SlotId::B]);
        loader.confirm(SlotId::B).unwrap();
        assert_eq!(boots(5), [SlotId::B; 5], "{}", kind.name);
        // The other way round, and a rollback by hand.
        loader.clear(SlotId::A).unwrap();
        assert_eq!(boots(1), [SlotId::B]);
        loader.arm(SlotId::A, 3).unwrap();
        assert_eq!(boots(1), [SlotId::A]);
        loader.reject(SlotId::A).unwrap();
        assert_eq!(boots(2), [SlotId::B; 2], "{}", kind.name);
        loader.arm(SlotId::A, 3).unwrap();
        assert_eq!(boots(1), [SlotId::A]);
        loader.confirm(SlotId::A).unwrap();
        loader.reject(SlotId::A).unwrap();
        assert_eq!(boots(2), [SlotId::B; 2], "{}: back to a confirmed slot", kind.name);
    }
}

/// Runs `operation` on `disk` and looks at every disk a power loss may leave: the loader must boot one of `allowed`,
/// and doing the operation again must end as if nothing had happened.
fn cut_anywhere(kind: &Kind, disk: &Disk, allowed: &[SlotId], operation: fn(&mut dyn Loader)) -> Disk {
    let files = Recorder::new(disk.clone());
    let mut loader = (kind.open)(files.clone());
    operation(loader.as_mut());
    let (after, records) = (files.disk(), loader.records().unwrap());
    // Many ways lead to the same disk.
    let disks: std::collections::BTreeSet<Disk> = files.disks().into_iter().collect();
    for torn in disks {
        let booted = (kind.boot)(Recorder::new(torn.clone()));
        assert!(booted.is_some_and(|slot| allowed.contains(&slot)), "{}: boots {booted:?} from {torn:?}", kind.name);
        let again = Recorder::new(torn.clone());
        let mut loader = (kind.open)(again);
        operation(loader.as_mut());
        assert_eq!(loader.records().unwrap(), records, "{}: after {torn:?}", kind.name);
        loader.self_test().unwrap();
    }
    after
}

#[test]
fn the_power_may_go_at_any_instant() {
    for kind in KINDS {
        let (a, b) = (SlotId::A, SlotId::B);
        let disk = fresh(&kind).disk();
        let disk = cut_anywhere(&kind, &disk, &[a], |l| l.clear(SlotId::B).unwrap());
        let disk = cut_anywhere(&kind, &disk, &[a, b], |l| l.arm(SlotId::B, 3).unwrap());
        let confirmed = cut_anywhere(&kind, &disk, &[a, b], |l| l.confirm(SlotId::B).unwrap());
        cut_anywhere(&kind, &disk, &[a, b], |l| l.reject(SlotId::B).unwrap());
        cut_anywhere(&kind, &confirmed, &[a, b], |l| l.reject(SlotId::B).unwrap());
        let cleared = cut_anywhere(&kind, &confirmed, &[b], |l| l.clear(SlotId::A).unwrap());
        cut_anywhere(&kind, &cleared, &[a, b], |l| l.arm(SlotId::A, 3).unwrap());
    }
}

#[test]
fn a_full_or_read_only_disk_is_an_error_before_anything_is_lost() {
    for kind in KINDS {
        for error in [std::io::ErrorKind::StorageFull, std::io::ErrorKind::ReadOnlyFilesystem] {
            for operation in [|l: &mut dyn Loader| l.clear(SlotId::B), |l: &mut dyn Loader| l.arm(SlotId::B, 3)] {
                let files = fresh(&kind);
                (kind.open)(files.clone()).confirm(SlotId::B).unwrap();
                (kind.open)(files.clone()).confirm(SlotId::A).unwrap();
                let before = (kind.open)(files.clone()).records().unwrap();
                files.fail_after(0, error);
                let mut loader = (kind.open)(files.clone());
                assert!(matches!(operation(loader.as_mut()), Err(BootError::Write { .. })), "{}: {error}", kind.name);
                assert_eq!(loader.records().unwrap(), before, "{}: {error}", kind.name);
            }
        }
    }
}

#[test]
fn damage_is_mended_from_what_runs() {
    for kind in &KINDS[MENDED] {
        let files = fresh(kind);
        let ruined: Disk = files.disk().into_keys().map(|path| (path, Vec::new())).collect();
        let files = Recorder::new(ruined);
        let mut loader = (kind.open)(files.clone());
        assert!(matches!(loader.records(), Err(BootError::Damaged(_))), "{}", kind.name);
        loader.repair(SlotId::A, 2).unwrap();
        assert_eq!(loader.records().unwrap().a, SlotBoot::Trying { left: 2, done: 0 });
        assert_eq!((kind.boot)(files), Some(SlotId::A), "{}", kind.name);
    }
}

#[test]
fn both_names_of_a_torn_rename_become_one() {
    let files = fresh(&KINDS[0]);
    let mut loader = systemd_boot(files.clone());
    loader.arm(SlotId::B, 3).unwrap();
    let mut disk = files.disk();
    let content = disk["loader/entries/flipside-b+3.conf"].clone();
    disk.insert("loader/entries/flipside-b.conf".into(), content);
    let files = Recorder::new(disk);
    let mut loader = systemd_boot(files.clone());
    assert_eq!(loader.records().unwrap().b, TRYING, "seen as the one that promises less");
    loader.self_test().unwrap();
    let names: Vec<_> = files.list("loader/entries").unwrap();
    assert_eq!(names, ["flipside-a.conf", "flipside-b+3.conf"]);
}

#[test]
fn an_armed_entry_sorts_before_all_others_whatever_the_release() {
    let files = fresh(&KINDS[0]);
    let mut loader = systemd_boot(files.clone());
    for slot in [SlotId::B, SlotId::A, SlotId::B] {
        loader.clear(slot).unwrap();
        loader.arm(slot, 3).unwrap();
        assert_eq!(boot_systemd(files.clone()), Some(slot));
        loader.confirm(slot).unwrap();
        let other = &files.disk()[&format!("loader/entries/flipside-{}.conf", slot.other())];
        let mine = &files.disk()[&format!("loader/entries/flipside-{slot}.conf")];
        assert!(version_of(mine) > version_of(other));
    }
}

#[test]
fn counting_must_really_be_in_effect() {
    let variables = tempfile::tempdir().unwrap();
    let guid = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
    let set = |name: &str, bytes: &[u8]| {
        std::fs::write(variables.path().join(format!("{name}-{guid}")), [&[6, 0, 0, 0], bytes].concat()).unwrap()
    };
    let test = |files: Recorder| SystemdBoot::new(files, "", variables.path()).self_test();
    test(fresh(&KINDS[0])).unwrap();
    set("BootCurrent", &[0, 0]);
    let nobody = test(fresh(&KINDS[0]));
    assert!(
        matches!(nobody, Err(BootError::NotReady(text)) if text.contains("LoaderFeatures")),
        "another one started us"
    );
    set("LoaderFeatures", &0x10_u64.to_le_bytes());
    test(fresh(&KINDS[0])).unwrap();
    set("LoaderEntryDefault", b"x\0\0\0");
    assert!(matches!(test(fresh(&KINDS[0])), Err(BootError::NotReady(_))));
    set("LoaderEntryDefault", b"");
    set("LoaderFeatures", &0xf_u64.to_le_bytes());
    assert!(matches!(test(fresh(&KINDS[0])), Err(BootError::NotReady(_))));
    assert!(matches!(test(Recorder::default()), Err(BootError::NotReady(_))), "an ESP that is not mounted");
    set("LoaderFeatures", &0x1f_u64.to_le_bytes());
    let mut disk = fresh(&KINDS[0]).disk();
    disk.insert("loader/loader.conf".into(), b"timeout 0\ndefault debian\n".to_vec());
    assert!(matches!(test(Recorder::new(disk)), Err(BootError::NotReady(_))));
}

#[test]
fn the_real_file_layer_and_the_program_backend() {
    let dir = tempfile::tempdir().unwrap();
    let mut sim = Sim::new(Rooted::new(dir.path()), "state");
    sim.provision(SlotId::A).unwrap();
    let mut entries = SystemdBoot::new(Rooted::new(dir.path()), "ro", "/nowhere");
    entries.confirm(SlotId::A).unwrap();
    entries.arm(SlotId::B, 3).unwrap();
    assert_eq!(entries.records().unwrap(), PerSlot { a: SlotBoot::Confirmed, b: TRYING });

    let program = dir.path().join("program");
    let script = "#!/bin/sh\ncase $1 in\nfacts) cat \"$0.facts\" ;;\narm) echo '{\"a\":{\"record\":\"confirmed\"},\"b\":{\"record\":\"trying\",\"left\":3,\"done\":0}}' >\"$0.facts\" ;;\nclear) echo no >&2; exit 1 ;;\nself-test) exec sleep 60 ;;\nesac\n";
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(dir.path().join("program.facts"), "{\"a\":{\"record\":\"confirmed\"},\"b\":{\"record\":\"empty\"}}")
        .unwrap();
    let mut custom = Custom::new(&program, Duration::from_secs(20));
    assert_eq!(custom.records().unwrap().b, SlotBoot::Empty);
    custom.arm(SlotId::B, 3).unwrap();
    assert!(matches!(custom.confirm(SlotId::B), Err(BootError::ReadBack(_))), "it did nothing");
    assert!(matches!(custom.clear(SlotId::B), Err(BootError::Program(text)) if text.contains("no")));
    let mut hasty = Custom::new(&program, Duration::from_millis(200));
    assert!(matches!(hasty.self_test(), Err(BootError::Program(text)) if text.contains("no answer")));
}
