//! The new system's own updater, tried before anything boots it.
//!
//! A release whose updater can not read this device's configuration, keys or journal, or does not even start, can
//! neither confirm itself nor receive its own repair. That is found out here, without a restart: `flipside self-test` of
//! the new slot is run from that slot, read-only, in a sandbox (`sandbox`), in a process of its own with a time-out.

pub mod filesystem;
pub mod sandbox;
pub mod settings;

use std::path::PathBuf;
use std::time::Duration;

use updater_core::slot::SlotId;

use crate::cli::exit::Exit;
use crate::health::program::{self, End};
use crate::seams::{BoxFuture, Rehearsal, RehearsalError};

/// Reading a few files takes well below a second; an overloaded device with a slow card gets its time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs `flipside self-test --slot`, which goes into the slot.
#[derive(Debug, Clone)]
pub struct SelfTest {
    /// This updater's own program.
    pub program: PathBuf,
}

impl Rehearsal for SelfTest {
    fn rehearse(&self, slot: SlotId) -> BoxFuture<'_, Result<(), RehearsalError>> {
        Box::pin(async move {
            let run = program::run(&self.program, &["self-test", "--slot", &slot.to_string()], PATIENCE).await;
            match judge(&run) {
                Judgement::Passed => tracing::info!(%slot, "the new system's own updater can work here"),
                Judgement::NotTried(why) => {
                    tracing::warn!(%slot, why, "the new system's own updater could not be tried before the restart");
                }
                Judgement::Refused(why) => return Err(RehearsalError(why)),
            }
            Ok(())
        })
    }
}

/// For devices that are not asked to: a simulation, or switched off in the configuration.
#[derive(Debug, Clone, Copy)]
pub struct NoRehearsal;

impl Rehearsal for NoRehearsal {
    fn rehearse(&self, _: SlotId) -> BoxFuture<'_, Result<(), RehearsalError>> {
        Box::pin(async { Ok(()) })
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    Passed,
    /// Nothing is known of the release.
    NotTried(String),
    Refused(String),
}

/// A no costs the release its way onto this device, so only what it surely is to blame for is one: its updater said no
/// (exit code 1), broke down, or lacks a library. All else may be this device's, today's: no sandbox, an updater that does
/// not know the question, a kernel that its own will replace, too little memory or time.
fn judge(run: &program::Run) -> Judgement {
    const PASSED: i32 = Exit::Ok as i32;
    const SAID_NO: i32 = Exit::Failed as i32;
    /// A panic of Rust; and by signal SIGILL, SIGABRT, SIGBUS, SIGSEGV, as shells count them.
    const BROKE_DOWN: [i32; 5] = [101, 128 + 4, 128 + 6, 128 + 7, 128 + 11];
    /// What ld.so says (exit code 127).
    const LIBRARY: &str = "error while loading shared libraries";
    let told = || {
        let failed: Vec<_> = run.output.lines().filter(|line| line.starts_with("FAILED")).map(words).collect();
        if failed.is_empty() { run.sentence() } else { failed.join("; ") }
    };
    match &run.end {
        End::Exited(PASSED) => Judgement::Passed,
        End::Exited(code) if *code == SAID_NO || BROKE_DOWN.contains(code) || run.output.contains(LIBRARY) => {
            Judgement::Refused(format!("the new system's own updater, tried before a restart: {}", told()))
        }
        _ => Judgement::NotTried(run.sentence()),
    }
}

/// One space between words: the lines are a table.
fn words(line: &str) -> String {
    line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_new_systems_own_no_is_a_no() {
        let run = |end, output: &str| program::Run { end, output: output.into() };
        let table = "ok      config  12 values set\nFAILED  keys    no trust root\nFAILED  state   x\n";
        let Judgement::Refused(why) = judge(&run(End::Exited(1), table)) else { panic!("refused") };
        assert!(why.ends_with(": keys no trust root; state x"), "{why}");
        assert_eq!(judge(&run(End::Exited(0), table)), Judgement::Passed);
        for end in [End::Exited(1), End::Exited(101), End::Exited(139)] {
            assert!(matches!(judge(&run(end, "")), Judgement::Refused(_)));
        }
        let library = "flipside: error while loading shared libraries: libfoo.so.1: cannot open";
        assert!(matches!(judge(&run(End::Exited(127), library)), Judgement::Refused(_)));
        let kernel = run(End::Exited(127), "FATAL: kernel too old");
        assert!(matches!(judge(&kernel), Judgement::NotTried(_)));
        for end in [End::Exited(2), End::Exited(3), End::Exited(137), End::Killed(9), End::TimedOut(PATIENCE)] {
            assert!(matches!(judge(&run(end, "")), Judgement::NotTried(_)));
        }
        assert!(matches!(judge(&run(End::NotRun("gone".into()), "")), Judgement::NotTried(_)));
    }
}
