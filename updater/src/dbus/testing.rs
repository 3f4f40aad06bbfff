//! A private bus and an engine made of paper, for tests.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command as Process, Stdio};

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use updater_core::effect::Refusal;
use updater_core::facts::SlotBoot;
use updater_core::history::{Outcome, OutcomeKind};
use updater_core::slot::{PerSlot, SlotId};
use updater_core::status::{Explanation, STATUS_FORMAT, SlotStatus, StateName, Status};

use crate::engine::{Command, Handle, Reply};

/// A dbus-daemon of our own; gone when dropped.
pub struct PrivateBus {
    daemon: Child,
    pub address: String,
    _folder: tempfile::TempDir,
}

impl PrivateBus {
    /// Starts one that lets everyone connect, own and call everything: what is allowed is the service's business here.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("flipside-bus").tempdir().unwrap();
        use std::os::unix::fs::PermissionsExt;
        // Other users must reach the socket.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let socket = folder.path().join("socket");
        let config = folder.path().join("bus.conf");
        let text = format!(
            r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>
<allow own="*"/></policy></busconfig>"#,
            socket.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut daemon = Process::new("dbus-daemon")
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--nopidfile", "--print-address=1"])
            .stdout(Stdio::piped())
            // As root it says that it may not raise a limit, and works.
            .stderr(Stdio::null())
            .spawn()
            .expect("these tests need dbus-daemon (Debian: dbus)");
        let mut address = String::new();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self { daemon, address: address.trim().to_owned(), _folder: folder }
    }

    pub fn builder(&self) -> zbus::connection::Builder<'static> {
        zbus::connection::Builder::address(self.address.as_str())
    }
}

impl Drop for PrivateBus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// A device at rest, running slot a.
pub fn status() -> Status {
    let slot = |boot| SlotStatus { boot, release: None };
    Status {
        format: STATUS_FORMAT,
        version: "0.1.0".into(),
        state: StateName::Idle,
        operation: None,
        progress: None,
        booted_slot: Some(SlotId::A),
        confirmed: true,
        slots: PerSlot { a: slot(SlotBoot::Confirmed), b: slot(SlotBoot::Trying { left: 3, done: 0 }) },
        release: None,
        target: None,
        letting_go: None,
        waiting: None,
        last_error: None,
        last_outcome: None,
        next_check: None,
        approval_age: None,
        approval: None,
        trial_seconds_left: None,
    }
}

pub fn outcome() -> Outcome {
    Outcome {
        at: Timestamp::from_second(1_800_000_000).unwrap(),
        clock_trusted: true,
        kind: OutcomeKind::RolledBack,
        release: None,
        from: None,
        slot: Some(SlotId::B),
        reason: Some(bundle::reason::Reason::HealthFailed),
        detail: "unit:demo-app.service".into(),
        seconds: None,
        approval: Some((3, 412)),
    }
}

/// An engine that takes every change (or refuses it, when told to) and shows what the test shows.
pub struct PaperEngine {
    pub handle: Handle,
    pub status: watch::Sender<Status>,
    pub seen: mpsc::UnboundedReceiver<updater_core::event::Command>,
    pub refuse: watch::Sender<Option<Refusal>>,
    /// Kept, or the engine would look ended.
    pub _idle: watch::Sender<bool>,
}

impl PaperEngine {
    pub fn start() -> Self {
        let (commands, mut requests) = mpsc::channel::<(Command, oneshot::Sender<Reply>)>(4);
        let (status, watched) = watch::channel(status());
        let (tell, seen) = mpsc::unbounded_channel();
        let (refuse, refusals) = watch::channel(None::<Refusal>);
        let (idle, is_idle) = watch::channel(true);
        let shown = watched.clone();
        tokio::spawn(async move {
            while let Some((command, reply)) = requests.recv().await {
                let answer = match command {
                    Command::Change(change) => {
                        let _ = tell.send(change);
                        refusals.borrow().clone().map_or(Reply::Done, Reply::Refused)
                    }
                    Command::Explain => Reply::Explained(Explanation {
                        summary: "up to date".into(),
                        state: shown.borrow().state,
                        release: None,
                        lines: Vec::new(),
                    }),
                    Command::History => Reply::History(vec![outcome()]),
                };
                let _ = reply.send(answer);
            }
        });
        Self { handle: Handle { commands, status: watched, idle: is_idle }, status, seen, refuse, _idle: idle }
    }
}
