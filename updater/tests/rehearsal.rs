//! `flipside self-test --slot`: a system in a slot is run from there, and changes nothing.
//!
//! Real mounts and namespaces, in the process under test alone: needs root and a loop device, and says so when there is
//! none.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may fail loudly"
)]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bundle::digest::Digest;
use common::loops::Loop;
use common::skip::{skipped_below_chroot, skipped_without_root};

const FLIPSIDE: &str = env!("CARGO_BIN_EXE_flipside");

/// A running system below a folder, and one in slot b.
struct Device {
    folder: tempfile::TempDir,
}

impl Device {
    /// None where no process can have a root of its own, with a loud line.
    fn new() -> Option<Self> {
        if skipped_below_chroot() {
            return None;
        }
        let device = Self { folder: tempfile::tempdir().unwrap() };
        write(&device.root().join("var/lib/flipside/note"), "");
        for folder in ["run", "etc", "usr/lib", "usr/bin", "proc"] {
            fs::create_dir_all(device.new_system().join(folder)).unwrap();
        }
        write(&device.new_system().join("usr/lib/os-release"), "ID=appliance\n");
        write(&device.new_system().join("etc/flipside/flipside.toml"), "channel = \"stable\"\n");
        Some(device)
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn new_system(&self) -> PathBuf {
        self.folder.path().join("new")
    }

    /// Puts a program and the libraries it needs into the new system.
    fn bring(&self, program: &Path, to: &str) {
        let ldd = Command::new("ldd").arg(program).output().unwrap();
        let text = String::from_utf8(ldd.stdout).unwrap();
        let libraries = text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
        for (from, to) in libraries.map(|path| (path.clone(), path)).chain([(program.to_owned(), PathBuf::from(to))]) {
            let to = self.new_system().join(to.strip_prefix("/").unwrap());
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(from, to).unwrap();
        }
    }

    /// A trust root, as releases bring it.
    fn bring_trust(&self) {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bundle/tests/golden/v1/trust.dsse.json");
        let to = self.new_system().join("usr/lib/flipside/trust.dsse.json");
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(golden, to).unwrap();
    }

    /// Slot b is this place.
    fn slot_b(&self, kind: &str, place: &str) {
        let (key, a) = if kind == "block" { ("device", "/dev/nothing") } else { ("path", "/slots/a") };
        let slot = |slot: &str, place: &str| {
            format!(
                "[slots.{slot}]\nrootfs = {{ kind = \"{kind}\", {key} = \"{place}\" }}\nboot = {{ kind = \"file\", path = \"/efi/{slot}\" }}\n"
            )
        };
        write(&self.root().join("etc/flipside/flipside.toml"), &(slot("a", a) + &slot("b", place)));
    }

    fn slot_b_on(&self, image: &Loop) {
        self.slot_b("block", &image.device.to_string_lossy());
    }

    /// The new system as a file system on a loop device.
    fn image(&self) -> Option<Loop> {
        let file = self.folder.path().join("b.img");
        let mut make = Command::new("mke2fs");
        make.args(["-q", "-F", "-t", "ext4", "-d"]).arg(self.new_system()).arg(&file).arg("96M");
        assert!(make.status().unwrap().success());
        Loop::attach(&file)
    }

    fn self_test(&self) -> Output {
        let run = Command::new(FLIPSIDE).arg("--root").arg(self.root()).args(["self-test", "--slot", "b"]).output();
        run.unwrap()
    }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn the_new_updater_runs_from_its_slot_and_the_slot_stays_as_it_was() {
    let Some(device) = Device::new() else { return };
    device.bring(Path::new(FLIPSIDE), "/usr/bin/flipside");
    device.bring_trust();
    let Some(image) = device.image() else { return };
    device.slot_b_on(&image);
    let before = Digest::of(&fs::read(&image.device).unwrap());
    let good = device.self_test();
    assert_eq!(good.status.code(), Some(0), "{}", said(&good));
    assert!(said(&good).contains("trust root version 1"), "{}", said(&good));
    assert_eq!(Digest::of(&fs::read(&image.device).unwrap()), before, "the slot was written");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&*image.device.to_string_lossy()), "still mounted");
}

#[test]
fn what_the_new_updater_can_not_read_is_told_before_a_restart() {
    let Some(device) = Device::new() else { return };
    device.bring(Path::new(FLIPSIDE), "/usr/bin/flipside");
    device.slot_b("tree", "/slots/b");
    fs::create_dir_all(device.root().join("slots")).unwrap();
    fs::rename(device.new_system(), device.root().join("slots/b")).unwrap();
    symlink(device.root().join("slots/b"), device.new_system()).unwrap();
    let no_trust = device.self_test();
    if no_trust.status.code() == Some(3) && !nix::unistd::geteuid().is_root() {
        return skipped_without_root(&said(&no_trust));
    }
    assert_eq!(no_trust.status.code(), Some(1), "{}", said(&no_trust));
    assert!(said(&no_trust).lines().any(|line| line.starts_with("FAILED") && line.contains("keys")));
    device.bring_trust();
    assert_eq!(device.self_test().status.code(), Some(0));
    write(&device.new_system().join("etc/flipside/flipside.toml"), "= [");
    let broken = device.self_test();
    assert_eq!(broken.status.code(), Some(1), "{}", said(&broken));
    assert!(said(&broken).contains("/etc/flipside/flipside.toml: skipped"), "{}", said(&broken));
}

#[test]
fn it_can_only_read() {
    let Some(device) = Device::new() else { return };
    device.bring(&fs::canonicalize("/bin/sh").unwrap(), "/bin/sh");
    let script = "#!/bin/sh\nfor file in /x /usr/bin/x /run/flipside-state/x; do\n\
        if ( : > $file ); then echo wrote $file; fi\ndone 2>&-\n\
        [ -e /run/flipside-state/note ] || echo no state\n\
        [ -e /proc/self ] && echo sees processes\n[ -n \"$SECRET\" ] && echo sees the environment\nexit 0\n";
    let program = device.new_system().join("usr/bin/flipside");
    write(&program, script);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let Some(image) = device.image() else { return };
    device.slot_b_on(&image);
    let run = Command::new(FLIPSIDE)
        .env("SECRET", "x")
        .arg("--root")
        .arg(device.root())
        .args(["self-test", "--slot", "b"])
        .output()
        .unwrap();
    assert_eq!((run.status.code(), said(&run).as_str()), (Some(0), ""), "{}", said(&run));
}

#[test]
fn a_system_without_an_updater_is_at_fault_and_a_slot_without_a_system_is_not() {
    let Some(device) = Device::new() else { return };
    let Some(image) = device.image() else { return };
    device.slot_b_on(&image);
    let none = device.self_test();
    assert_eq!(none.status.code(), Some(1), "{}", said(&none));
    assert!(said(&none).contains("has no /usr/bin/flipside"), "{}", said(&none));
    fs::write(&image.device, vec![0; 1 << 20]).unwrap();
    let empty = device.self_test();
    assert_eq!(empty.status.code(), Some(3), "{}", said(&empty));
    assert!(said(&empty).contains("no file system that is known"), "{}", said(&empty));
}
