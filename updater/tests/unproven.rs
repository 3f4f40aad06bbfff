//! The net below the updater, `/usr/lib/flipside/unproven-boot`: when it starts the machine again, and when never. The boot
//! loaders' records are those that the backends write.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may fail loudly"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use updater::bootctl::files::Rooted;
use updater::bootctl::grub::Grub;
use updater::bootctl::loader::Loader;
use updater::bootctl::systemd_boot::SystemdBoot;
use updater::bootctl::uboot::UBoot;
use updater_core::slot::SlotId::{A, B};

/// What the script did.
#[derive(Debug, PartialEq, Eq)]
enum Did {
    Nothing,
    /// It does not look again.
    Stopped,
    Rebooted,
}

/// A machine that runs slot b.
struct Machine {
    root: tempfile::TempDir,
    counted: &'static str,
}

/// Programs that the script may use; its PATH has no other.
const PROGRAMS: [&str; 6] = ["sed", "grep", "tr", "cat", "ls", "sh"];

const SYSTEMCTL: &str = r#"#!/bin/sh
case $1 in
    is-system-running) cat "$FLIPSIDE_ROOT/system" ;;
    is-active) cat "$FLIPSIDE_ROOT/updater" ;;
    *) echo "$1" >> "$FLIPSIDE_ROOT/did" ;;
esac
"#;

impl Machine {
    fn new(counted: &'static str, config: &str) -> Self {
        let machine = Self { root: tempfile::tempdir().unwrap(), counted };
        for folder in ["proc", "etc/flipside/flipside.d", "bin", "efi/loader/entries", "efi/grub", "efi/flipside"] {
            fs::create_dir_all(machine.at(folder)).unwrap();
        }
        machine.put("etc/flipside/flipside.toml", config);
        machine.put("proc/cmdline", &format!("quiet flipside.slot=b {counted}\n"));
        machine.program("bin/systemctl", SYSTEMCTL);
        for program in PROGRAMS {
            let found = ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(program));
            let found = found.iter().find(|path| path.exists()).unwrap();
            std::os::unix::fs::symlink(found, machine.at("bin").join(program)).unwrap();
        }
        machine.up(300, "degraded", "failed");
        machine
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn put(&self, path: &str, text: &str) {
        fs::write(self.at(path), text).unwrap();
    }

    fn program(&self, path: &str, text: &str) {
        self.put(path, text);
        fs::set_permissions(self.at(path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Up for so long, with the boot and the updater's service in these states.
    fn up(&self, seconds: u32, system: &str, updater: &str) {
        self.put("proc/uptime", &format!("{seconds}.25 1.0\n"));
        self.put("system", system);
        self.put("updater", updater);
    }

    fn run(&self) -> Did {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../systemd/usr/lib/flipside/unproven-boot");
        let _ = fs::remove_file(self.at("did"));
        let output = Command::new(script)
            .env_clear()
            .env("PATH", self.at("bin"))
            .env("FLIPSIDE_ROOT", self.root.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        match fs::read_to_string(self.at("did")).unwrap_or_default().as_str() {
            "" => Did::Nothing,
            "stop\n" => Did::Stopped,
            "reboot\n" => Did::Rebooted,
            other => panic!("{other}"),
        }
    }

    fn loader(&self) -> Box<dyn Loader> {
        let files = Rooted::new(self.root.path());
        match self.counted {
            "flipside.counted=grub" => Box::new(Grub::new(files, "efi/grub/grubenv")),
            "flipside.counted=uboot" => Box::new(UBoot::new(files, "efi/flipside/one.env", "efi/flipside/two.env")),
            _ => Box::new(SystemdBoot::new(Rooted::new(self.at("efi")), "ro", "/nonexistent")),
        }
    }
}

/// A machine of each boot loader.
fn machines() -> Vec<Machine> {
    let config = "[boot]\nbackend = \"custom\" # see the command line\ngrubenv = \"/efi/grub/grubenv\" # here\n\
                  uboot_env = [\"/efi/flipside/one.env\", \"/efi/flipside/two.env\"]\n[health]\ndeadline_seconds = 600\n";
    let systemd_boot = config.replace("custom", "systemd-boot");
    vec![
        Machine::new("", &systemd_boot),
        Machine::new("flipside.counted=grub", config),
        Machine::new("flipside.counted=uboot", config),
    ]
}

/// Slot a confirmed, slot b in its first try.
fn on_trial(machine: &Machine) -> Box<dyn Loader> {
    let mut loader = machine.loader();
    let _ = loader.repair(A, 3);
    loader.confirm(A).or_else(|_| loader.arm(A, 3).and_then(|()| loader.confirm(A))).unwrap();
    loader.arm(B, 3).unwrap();
    loader
}

#[test]
fn an_unproven_system_without_an_updater_is_left() {
    for machine in machines() {
        let _loader = on_trial(&machine);
        assert_eq!(machine.run(), Did::Rebooted, "{}", machine.counted);
    }
}

#[test]
fn the_last_try_is_a_try() {
    let [systemd_boot, grub, uboot] = machines().try_into().unwrap_or_else(|_| panic!());
    let _loader = on_trial(&systemd_boot);
    let entries = systemd_boot.at("efi/loader/entries");
    fs::rename(entries.join("flipside-b+3.conf"), entries.join("flipside-b+0-3.conf")).unwrap();
    assert_eq!(systemd_boot.run(), Did::Rebooted);
    for (machine, file) in [(grub, "efi/grub/grubenv"), (uboot, "efi/flipside/one.env")] {
        let _loader = on_trial(&machine);
        let state = String::from_utf8_lossy(&fs::read(machine.at(file)).unwrap()).replace("B_LEFT=3", "B_LEFT=0");
        fs::write(machine.at(file), state).unwrap();
        assert_eq!(machine.run(), Did::Rebooted, "{file}");
    }
}

#[test]
fn a_confirmed_system_is_never_left_whatever_became_of_its_updater() {
    for machine in machines() {
        on_trial(&machine).confirm(B).unwrap();
        for (uptime, system, updater) in [(240, "degraded", "failed"), (99_999, "starting", "inactive")] {
            machine.up(uptime, system, updater);
            assert_eq!(machine.run(), Did::Stopped, "{}", machine.counted);
        }
    }
}

#[test]
fn a_restart_that_would_not_help_is_not_made() {
    for machine in machines() {
        // Rejected already, and running all the same.
        on_trial(&machine).reject(B).unwrap();
        assert_eq!(machine.run(), Did::Nothing, "rejected, {}", machine.counted);
        // Nothing to fall back to.
        let mut loader = on_trial(&machine);
        loader.clear(A).unwrap();
        assert_eq!(machine.run(), Did::Nothing, "alone, {}", machine.counted);
        // A system that somebody booted by hand.
        on_trial(&machine).clear(B).unwrap();
        assert_eq!(machine.run(), Did::Nothing, "by hand, {}", machine.counted);
    }
}

#[test]
fn what_can_not_be_read_is_no_reason_to_restart() {
    for machine in machines() {
        let _loader = on_trial(&machine);
        fs::remove_dir_all(machine.at("efi")).unwrap();
        assert_eq!(machine.run(), Did::Nothing, "not mounted, {}", machine.counted);
        for file in ["efi/grub/grubenv", "efi/flipside/one.env"] {
            fs::create_dir_all(machine.at(file).parent().unwrap()).unwrap();
            fs::write(machine.at(file), [0xff; 1024]).unwrap();
        }
        assert_eq!(machine.run(), Did::Nothing, "damaged, {}", machine.counted);
        machine.put("proc/cmdline", "quiet xflipside.slot=b\n");
        assert_eq!(machine.run(), Did::Nothing, "no slots, {}", machine.counted);
    }
}

#[test]
fn an_updater_at_work_decides_itself_but_not_for_ever() {
    for machine in machines() {
        let _loader = on_trial(&machine);
        for (system, updater) in [("starting", "inactive"), ("running", "active"), ("degraded", "activating")] {
            machine.up(1499, system, updater);
            assert_eq!(machine.run(), Did::Nothing, "{system} {updater}");
            // The deadline of the configuration, and a quarter of an hour.
            machine.up(1500, system, updater);
            assert_eq!(machine.run(), Did::Rebooted, "{system} {updater}");
        }
    }
}

#[test]
fn a_boot_control_of_the_integrators_is_asked() {
    let machine = Machine::new("", "[boot]\nbackend = \"custom\"\nprogram = \"/bin/boot-control\"\n");
    let facts = |b: &str| {
        let answer = format!("{{\"a\": {{\"record\": \"confirmed\"}},\n \"b\": {b}}}");
        machine.program("bin/boot-control", &format!("#!/bin/sh\n[ \"$1\" = facts ] && cat <<X\n{answer}\nX\n"));
        machine.run()
    };
    assert_eq!(facts("{\"record\": \"trying\", \"left\": 2, \"done\": 1}"), Did::Rebooted);
    assert_eq!(facts("{\"record\": \"exhausted\", \"done\": 3}"), Did::Rebooted);
    assert_eq!(facts("{\"record\": \"exhausted\", \"done\": 0}"), Did::Nothing);
    assert_eq!(facts("{\"record\": \"empty\"}"), Did::Nothing);
    assert_eq!(facts("{\"record\": \"confirmed\"}"), Did::Stopped);
    machine.program("bin/boot-control", "#!/bin/sh\nexit 1\n");
    assert_eq!(machine.run(), Did::Nothing);
}

#[test]
fn the_later_configuration_says_where_to_look() {
    let machine = Machine::new("flipside.counted=grub", "[boot]\ngrubenv = \"/elsewhere\"\n[health]\n");
    machine.put("etc/flipside/flipside.d/x.toml", "[boot]\ngrubenv=\"/efi/grub/grubenv\"\n");
    let _loader = on_trial(&machine);
    assert_eq!(machine.run(), Did::Rebooted);
    // What can not be read at all leaves the defaults, and they hold no state.
    machine.put("etc/flipside/flipside.d/x.toml", "= [");
    assert_eq!(machine.run(), Did::Nothing);
}
