//! Starts the command of a gate and waits for it: with a time limit, and never leaving it behind.
//!
//! Output goes to two files that stay, so that a failure can be read afterwards and a result is parsed from what was
//! really said. The command has a process group of its own, so that a time-out or Ctrl-C ends all of it.

use std::fs::{self, File};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::Gate;

/// How often to look whether the command has ended. It runs for seconds at least; nobody sees this delay.
const POLL: Duration = Duration::from_millis(20);

/// What a command gets to end by itself once it was asked to.
const GRACE: Duration = Duration::from_secs(5);

/// Lines of output that are shown of a failed gate.
const TAIL: usize = 15;

/// Where the output of a gate goes.
#[derive(Debug, Clone)]
pub struct Logs {
    /// Standard output.
    pub stdout: PathBuf,
    /// Standard error.
    pub stderr: PathBuf,
}

impl Logs {
    /// In that folder.
    pub fn new(folder: &Path, gate: &str) -> Self {
        Self { stdout: folder.join(format!("{gate}.out")), stderr: folder.join(format!("{gate}.err")) }
    }

    /// The end of what was said, for people.
    pub fn tail(&self) -> String {
        let mut lines = Vec::new();
        for path in [&self.stdout, &self.stderr] {
            let bytes = fs::read(path).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            let all = text.lines().collect::<Vec<_>>();
            let from = all.len().saturating_sub(TAIL);
            lines.extend(all.iter().skip(from).map(|line| format!("  | {line}\n")));
        }
        lines.concat()
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With this exit status.
    Exit(i32),
    /// By this signal.
    Signal(i32),
    /// It was still running when its time was over, and was ended.
    TimedOut,
}

/// Whether somebody wants this process to end. Must be there before the first gate runs.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    wanted: Arc<AtomicBool>,
    at_once: Arc<AtomicBool>,
}

impl Interrupt {
    /// From now on Ctrl-C and its kin are only noted, so that a running command can be ended first.
    pub fn watch() -> Result<Self> {
        let interrupt = Self::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register_conditional_default(signal, Arc::clone(&interrupt.at_once))
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&interrupt.wanted)))
                .context("watching for signals")?;
        }
        Ok(interrupt)
    }

    /// From now on they end this process as they always do.
    pub fn at_once(&self) {
        self.at_once.store(true, Ordering::SeqCst);
    }

    /// Fails once somebody wants this process to end.
    pub fn check(&self) -> Result<()> {
        if self.wanted.load(Ordering::SeqCst) {
            bail!("interrupted; the same command goes on from here");
        }
        Ok(())
    }
}

/// Runs the command of a gate in `folder`.
///
/// # Errors
/// When it could not be started or somebody interrupted us; that it failed is no error here.
pub fn run(gate: &Gate, folder: &Path, facts: &[(&str, String)], logs: &Logs, interrupt: &Interrupt) -> Result<Ended> {
    let create = |path: &Path| File::create(path).with_context(|| format!("writing {}", path.display()));
    let mut child = Command::new("sh")
        .args(["-c", &gate.run])
        .current_dir(folder)
        .envs(facts.iter().map(|(name, value)| (*name, value)))
        .stdin(Stdio::null())
        .stdout(create(&logs.stdout)?)
        .stderr(create(&logs.stderr)?)
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting `{}`", gate.run))?;
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().context("waiting for the command")? {
            return Ok(ended(status));
        }
        if let Err(interrupted) = interrupt.check() {
            stop(&mut child)?;
            return Err(interrupted);
        }
        if started.elapsed() >= gate.timeout {
            stop(&mut child)?;
            return Ok(Ended::TimedOut);
        }
        std::thread::sleep(POLL);
    }
}

fn ended(status: ExitStatus) -> Ended {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Exit(code),
        (None, signal) => Ended::Signal(signal.unwrap_or(0)),
    }
}

/// Asks the whole group to end, then makes it.
fn stop(child: &mut Child) -> Result<()> {
    let group = Pid::from_child(child);
    // Both may find nobody left; that is what is wanted.
    let _ = kill_process_group(group, Signal::TERM);
    let asked = Instant::now();
    while asked.elapsed() < GRACE && child.try_wait().context("waiting for the command")?.is_none() {
        std::thread::sleep(POLL);
    }
    let _ = kill_process_group(group, Signal::KILL);
    child.wait().context("waiting for the command").map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::Stage;

    fn gate(run: &str, seconds: u64) -> Gate {
        let timeout = Duration::from_secs(seconds);
        Gate { name: "g".into(), stage: Stage::Test, run: run.into(), timeout, tests: None, benchmarks: None }
    }

    fn start(gate: &Gate, interrupt: &Interrupt) -> (Result<Ended>, Logs, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::new(dir.path(), "g");
        let ended = run(gate, dir.path(), &[("FLIPSIDE_COUNTER", "57".to_owned())], &logs, interrupt);
        (ended, logs, dir)
    }

    #[test]
    fn a_command_ends_in_one_of_these_ways() {
        let calm = Interrupt::default();
        for (command, expected) in
            [("exit 0", Ended::Exit(0)), ("exit 3", Ended::Exit(3)), ("kill -9 $$", Ended::Signal(9))]
        {
            assert_eq!(start(&gate(command, 60), &calm).0.unwrap(), expected, "{command}");
        }
        let (_, logs, _dir) = start(&gate("echo $FLIPSIDE_COUNTER; echo no >&2", 60), &calm);
        assert_eq!(fs::read(&logs.stdout).unwrap(), b"57\n");
        assert_eq!(logs.tail(), "  | 57\n  | no\n");
    }

    #[test]
    fn a_command_that_hangs_is_ended_with_all_it_started() {
        let (ended, logs, _dir) = start(&gate("sleep 600 & echo $!; wait", 1), &Interrupt::default());
        assert_eq!(ended.unwrap(), Ended::TimedOut);
        let pid = fs::read_to_string(&logs.stdout).unwrap();
        let stat = PathBuf::from(format!("/proc/{}/stat", pid.trim()));
        // The orphan is gone, or dead and not yet collected by whoever inherited it.
        let deadline = Instant::now() + Duration::from_secs(10);
        while fs::read_to_string(&stat).is_ok_and(|text| !text.contains(") Z ")) {
            assert!(Instant::now() < deadline, "it still runs");
            std::thread::sleep(POLL);
        }
    }

    #[test]
    fn an_interrupted_gate_has_no_outcome() {
        let now = Interrupt { wanted: Arc::new(AtomicBool::new(true)), ..Interrupt::default() };
        assert!(start(&gate("sleep 600", 60), &now).0.unwrap_err().to_string().contains("interrupted"));
    }
}
