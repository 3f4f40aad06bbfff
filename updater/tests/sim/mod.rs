//! A simulated device, its releases and its processes.
#![allow(dead_code, reason = "each test binary uses a part")]

mod served;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bundle::channel::ChannelRelease;
use bundle::trust::TRUST_TYPE;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use served::{signed, trust_root};

use crate::common::folder::is_root;
use crate::common::server::Server;
use crate::common::site::noise;
use crate::common::skip::{skipped, skipped_below_chroot};

/// Exit codes of the manual.
pub const OK: i32 = 0;
pub const FAILED: i32 = 1;
pub const USAGE: i32 = 2;
pub const REFUSED: i32 = 3;
pub const NO_DAEMON: i32 = 4;

const DEADLINE: Duration = Duration::from_secs(60);
/// Longest time a daemon may take to end.
const GOODBYE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(30);

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

pub struct World {
    /// The device.
    pub folder: tempfile::TempDir,
    /// What the server serves; several devices may share it.
    pub tree: Rc<tempfile::TempDir>,
    bus: Option<(Child, String)>,
    daemon: Option<Child>,
    releases: Vec<ChannelRelease>,
    approvals: u64,
}

impl World {
    /// A fresh device running slot a, a bus, an empty served tree.
    pub fn new() -> Self {
        Self::served_by(Rc::new(tempfile::tempdir().unwrap()))
    }

    /// The same, not started yet; release 2 is published and approved for everybody.
    pub fn offered() -> Self {
        let mut world = Self::new();
        world.publish(2);
        world.approve(2, 10_000, "rolling");
        world
    }

    /// Another device of the same fleet.
    pub fn served_by(tree: Rc<tempfile::TempDir>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let world = Self {
            bus: Some(bus(&folder, "<allow own=\"*\"/>")),
            folder,
            tree,
            daemon: None,
            releases: Vec::new(),
            approvals: 0,
        };
        let trust = world.tree.path().join("trust.dsse.json");
        fs::write(&trust, signed(TRUST_TYPE, &trust_root().to_bytes().unwrap())).unwrap();
        let url = format!("file://{}", world.tree.path().display());
        let said = world.flipside(&["sim", "init", "--trust", trust.to_str().unwrap(), "--url", &url]);
        assert_eq!(said.code, 0, "{said:?}");
        world.config("test.toml", "compatible = \"test\"\n[health]\nsoak_seconds = 0\ndeadline_seconds = 30\n");
        world
    }

    /// A local fragment.
    pub fn config(&self, name: &str, text: &str) {
        let folder = self.folder.path().join("etc/flipside/flipside.d");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), text).unwrap();
    }

    /// What is served comes over HTTP, and no faster than that.
    pub fn fetch_slowly(&self, server: &Server, bytes_per_second: u32) {
        let url = server.url("");
        self.config(
            "slow.toml",
            &format!("[source]\nurl = \"{url}\"\nmaximum_bytes_per_second = {bytes_per_second}\n"),
        );
    }

    pub fn health_check(&self, name: &str, body: &str) {
        let folder = self.folder.path().join("etc/flipside/health.d");
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(name);
        fs::write(&path, format!("#!/bin/sh\nPATH=/usr/bin:/bin\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The daemon's lines of `/proc/<pid>/status`, in KiB.
    pub fn memory(&self, line: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.daemon.as_ref().unwrap().id())).unwrap();
        let value = status.lines().find_map(|each| each.strip_prefix(line)?.strip_prefix(':')).unwrap();
        value.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// What the server shows.
    pub fn tree(&self) -> &Path {
        self.tree.path()
    }

    pub fn bus_address(&self) -> &str {
        self.bus.as_ref().map_or("unix:path=/nonexistent", |(_, address)| address)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg("--sim").arg(self.folder.path()).args(arguments).env("DBUS_SYSTEM_BUS_ADDRESS", self.bus_address());
        // Nothing of what Flipside does needs a program that an image may lack.
        command.env("PATH", "/nonexistent");
        command
    }

    /// Runs a command to its end.
    pub fn flipside(&self, arguments: &[&str]) -> Said {
        self.said(&mut self.command(arguments))
    }

    /// The same with a file's content through a pipe as standard input.
    pub fn flipside_piped(&self, file: &Path, arguments: &[&str]) -> Said {
        let mut cat = Command::new("cat").arg(file).stdout(Stdio::piped()).spawn().unwrap();
        let said = self.said(self.command(arguments).stdin(cat.stdout.take().unwrap()));
        cat.wait().unwrap();
        said
    }

    /// Begins a command.
    pub fn begin(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn said(&self, command: &mut Command) -> Said {
        said(&command.output().unwrap())
    }

    /// Starts the daemon and waits until it answers.
    pub fn start(&mut self) {
        self.start_with(&["--idle-exit", "0"]);
    }

    pub fn start_with(&mut self, arguments: &[&str]) {
        self.spawn(arguments);
        until("the daemon answers", || {
            let said = self.flipside(&["status"]);
            said.code == 0 && said.err.is_empty()
        });
    }

    /// Starts the daemon.
    pub fn spawn(&mut self, arguments: &[&str]) {
        let mut all = vec!["daemon", "--debug"];
        all.extend(arguments);
        self.daemon = Some(self.command(&all).spawn().unwrap());
    }

    /// Starts the daemon as a service manager does that watches it for `patience`; where it says how it is.
    pub fn spawn_watched(&mut self, patience: Duration) -> UnixDatagram {
        let path = self.folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut command = self.command(&["daemon", "--debug", "--idle-exit", "0"]);
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", patience.as_micros().to_string());
        self.daemon = Some(command.spawn().unwrap());
        manager
    }

    /// Starts the daemon on another bus.
    pub fn spawn_on(&mut self, address: &str) {
        let mut command = self.command(&["daemon", "--debug", "--idle-exit", "0"]);
        self.daemon = Some(command.env("DBUS_SYSTEM_BUS_ADDRESS", address).spawn().unwrap());
    }

    /// Starts the daemon where the data partition went read-only, as one does after an error; false, with a loud line,
    /// when this machine can not show such a mount.
    pub fn spawn_on_read_only_state(&mut self) -> bool {
        let unshare = || {
            let mut command = Command::new("unshare");
            command.args(["--mount", "--map-root-user"].get(..1 + usize::from(!is_root())).unwrap());
            command
        };
        if !unshare().arg("true").status().is_ok_and(|status| status.success()) {
            if !skipped_below_chroot() {
                skipped("unshare can not make a mount here");
            }
            return false;
        }
        let state = self.folder.path().join("var/lib/flipside");
        let script = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && exec \"$@\"";
        let daemon = self.command(&["daemon", "--debug", "--idle-exit", "0"]);
        let mut command = unshare();
        command.args(["sh", "-c", script]).arg(state).arg(daemon.get_program()).args(daemon.get_args());
        let environment = daemon.get_envs().filter(|(name, _)| *name != "PATH");
        command.envs(environment.filter_map(|(name, value)| Some((name, value?))));
        self.daemon = Some(command.spawn().unwrap());
        true
    }

    pub fn stop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.daemon.as_ref().unwrap().id().try_into().unwrap()), signal).unwrap();
    }

    /// The daemon hangs.
    pub fn halt(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// The daemon is told to end, as by the service manager, and does so in time.
    pub fn stop_in_order(&mut self) {
        self.signal(Signal::SIGTERM);
        let began = Instant::now();
        self.wait_for_end();
        assert!(began.elapsed() < GOODBYE, "it took {:?}", began.elapsed());
    }

    /// The daemon ends by itself, without an error.
    pub fn wait_for_end(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        until("the daemon ends", || daemon.try_wait().unwrap().is_some());
        assert!(daemon.wait().unwrap().success());
    }

    /// An orderly restart: the daemon is asked, the boot loader chooses.
    pub fn restart_into(&mut self, slot: &str) {
        assert_eq!(self.flipside(&["reboot"]).code, 0);
        self.wait_for_end();
        self.boot(slot);
    }

    /// Power-on.
    pub fn boot(&mut self, slot: &str) {
        self.play_boot_loader(slot);
        self.start();
    }

    pub fn play_boot_loader(&self, slot: &str) {
        let said = self.flipside(&["sim", "reboot"]);
        assert!(said.out.contains(&format!("slot {slot}.")), "{said:?}");
    }

    pub fn status(&self) -> Value {
        let said = self.flipside(&["status", "--json"]);
        assert_eq!(said.code, 0, "{said:?}");
        serde_json::from_str(&said.out).unwrap()
    }

    pub fn wait_for(&self, field: &str, value: &str) {
        until(&format!("{field} is {value}"), || self.status()[field] == value);
    }

    pub fn has_outcome(&self, kind: &str, reason: Option<&str>) -> bool {
        let history: Value = serde_json::from_str(&self.flipside(&["history", "--json"]).out).unwrap();
        let outcomes = history["outcomes"].as_array().unwrap();
        outcomes.iter().any(|o| o["kind"] == kind && reason.is_none_or(|r| o["reason"] == r))
    }

    pub fn slot_b(&self, file: &str) -> PathBuf {
        self.folder.path().join("slots/b").join(file)
    }

    pub fn assert_slot_b_holds(&self, counter: u64) {
        for (name, file) in [("rootfs", "rootfs.img"), ("kernel", "vmlinuz"), ("initrd", "initrd.img")] {
            let expected = noise(400_000, counter + name.len() as u64);
            assert!(fs::read(self.slot_b(file)).unwrap() == expected, "{file}");
        }
    }

    /// The bus lets nobody own a name, as without the policy that the package brings.
    pub fn refusing_bus(&mut self) {
        end_bus(self.bus.take());
        self.bus = Some(bus(&self.folder, ""));
    }

    /// The bus dies.
    pub fn no_bus(&mut self) {
        end_bus(self.bus.take());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        end_bus(self.bus.take());
    }
}

/// The binary under test: cargo's, or the one of a package.
pub fn binary() -> PathBuf {
    std::env::var_os("FLIPSIDE_TEST_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_flipside").into(), PathBuf::from)
}

fn end_bus(bus: Option<(Child, String)>) {
    if let Some((mut bus, _)) = bus {
        let _ = bus.kill();
        let _ = bus.wait();
    }
}

/// What an ended command said.
pub fn said(Output { status, stdout, stderr }: &Output) -> Said {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Said { code: status.code().unwrap_or(-1), out: text(stdout), err: text(stderr) }
}

/// Waits for a condition.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < DEADLINE, "waited in vain until {what}");
        std::thread::sleep(PAUSE);
    }
}

fn bus(folder: &tempfile::TempDir, owning: &str) -> (Child, String) {
    let config = folder.path().join("bus.conf");
    let text = format!(
        r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path={}/bus</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>
{owning}</policy></busconfig>"#,
        folder.path().display()
    );
    fs::write(&config, text).unwrap();
    let mut daemon = Command::new("dbus-daemon")
        .arg(format!("--config-file={}", config.display()))
        .args(["--nofork", "--nopidfile", "--print-address=1"])
        .stdout(Stdio::piped())
        // As root it says that it may not raise a limit, and works.
        .stderr(Stdio::null())
        .spawn()
        .expect("these tests need dbus-daemon (Debian: dbus)");
    let mut address = String::new();
    BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut address).unwrap();
    (daemon, address.trim().to_owned())
}
