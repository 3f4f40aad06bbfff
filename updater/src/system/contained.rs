//! How programs of others are started: in a process group of their own, without what is ours alone.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// How long a pipe is read on after its program has ended and its group was killed. Who still holds it then has left the
/// group, and may live for ever.
pub const LAST_WORDS: Duration = Duration::from_secs(1);

/// The command, with both output streams piped and nothing to read.
#[must_use]
pub fn command(program: &Path, arguments: &[&str]) -> Command {
    use std::os::unix::process::CommandExt as _;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // So that one signal reaches its children too.
        .process_group(0)
        // Not ours to hand on: it must not tell the service manager that we are ready, or feed our watchdog.
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_USEC")
        .env_remove("WATCHDOG_PID");
    command
}

/// Kills the process group that a program started here leads, or has led: what it leaves behind has no business after
/// its answer.
pub fn kill_group(leader: Option<u32>) {
    if let Some(group) = leader.and_then(|id| i32::try_from(id).ok()) {
        // Fails when nobody is left in the group, which is what we want.
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
}
