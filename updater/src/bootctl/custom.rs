//! A program of the integrator's that speaks to a boot loader we do not know.
//!
//! Called as `program facts`, `clear SLOT`, `arm SLOT TRIES`, `confirm SLOT`, `reject SLOT`, `self-test`; exit status 0
//! is success, anything else a failure whose standard error is shown. `facts` prints
//! `{"a":{"record":"confirmed"},"b":{"record":"trying","left":2,"done":1}}` with the records `empty`, `confirmed`,
//! `trying` and `exhausted` (`done`). Every change is read back through `facts`. It runs in a process group of its own,
//! which is killed when the program has ended or its time is up.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use updater_core::facts::SlotBoot;
use updater_core::slot::{PerSlot, SlotId};

use super::error::BootError;
use super::loader::{Loader, check_tries, expect};
use crate::system::contained;

/// Output above this is not read.
const MAX_OUTPUT: usize = 64 << 10;
/// How often a running program is looked at.
const POLL: Duration = Duration::from_millis(5);

/// The backend.
#[derive(Debug, Clone)]
pub struct Custom {
    program: PathBuf,
    timeout: Duration,
}

impl Custom {
    /// Calls `program`, which gets `timeout` for each answer.
    pub fn new(program: impl Into<PathBuf>, timeout: Duration) -> Self {
        Self { program: program.into(), timeout }
    }

    fn call(&self, arguments: &[&str]) -> Result<Vec<u8>, BootError> {
        let what = arguments.join(" ");
        let failed = |text: String| BootError::Program(format!("{} {what}: {text}", self.program.display()));
        let mut child =
            contained::command(&self.program, arguments).spawn().map_err(|error| failed(error.to_string()))?;
        // Both pipes are emptied while it runs, or a talkative program would wait for us for ever.
        let (out, err) = (Reader::start(child.stdout.take()), Reader::start(child.stderr.take()));
        let group = Some(child.id());
        let status = wait(&mut child, self.timeout);
        contained::kill_group(group);
        // Reaps it after a time-out; it was just killed, so this does not wait.
        let _ = child.wait();
        let Some(status) = status.map_err(|error| failed(error.to_string()))? else {
            return Err(failed(format!("no answer within {} s", self.timeout.as_secs_f32())));
        };
        let (out, err) = (out.bytes(), err.bytes());
        if !status.success() {
            return Err(failed(format!("{status}: {}", String::from_utf8_lossy(&err).trim())));
        }
        Ok(out)
    }

    fn change(&self, arguments: &[&str], slot: SlotId, wanted: SlotBoot) -> Result<(), BootError> {
        self.call(arguments)?;
        expect(*self.records()?.get(slot), wanted)
    }
}

/// Empties a pipe from a thread of its own. At most [`MAX_OUTPUT`] bytes are kept; the rest is read and dropped, so that
/// the writer never blocks.
struct Reader {
    kept: Arc<Mutex<Vec<u8>>>,
    /// Closed when the pipe has ended.
    end: mpsc::Receiver<()>,
}

impl Reader {
    fn start(pipe: Option<impl Read + Send + 'static>) -> Self {
        let (at_work, end) = mpsc::channel();
        let kept = Arc::new(Mutex::new(Vec::new()));
        let keep = Arc::clone(&kept);
        thread::spawn(move || {
            let _at_work = at_work;
            let Some(mut pipe) = pipe else { return };
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = pipe.read(&mut buffer) {
                let mut kept = keep.lock().unwrap_or_else(PoisonError::into_inner);
                let room = MAX_OUTPUT.saturating_sub(kept.len());
                kept.extend(buffer.iter().take(n.min(room)));
            }
        });
        Self { kept, end }
    }

    /// What was said: all of it, unless somebody still holds the pipe who has left the program's group.
    fn bytes(self) -> Vec<u8> {
        // Nothing is ever sent: it ends with the thread, or with our patience.
        let _ = self.end.recv_timeout(contained::LAST_WORDS);
        std::mem::take(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Waits for the end; `None` at the deadline.
fn wait(child: &mut Child, timeout: Duration) -> std::io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

impl Loader for Custom {
    fn records(&self) -> Result<PerSlot<SlotBoot>, BootError> {
        let out = self.call(&["facts"])?;
        serde_json::from_slice(&out).map_err(|error| BootError::Damaged(format!("the program's facts: {error}")))
    }

    fn clear(&mut self, slot: SlotId) -> Result<(), BootError> {
        self.change(&["clear", slot.as_str()], slot, SlotBoot::Empty)
    }

    fn arm(&mut self, slot: SlotId, tries: u8) -> Result<(), BootError> {
        check_tries(tries)?;
        self.change(&["arm", slot.as_str(), &tries.to_string()], slot, SlotBoot::Trying { left: tries, done: 0 })
    }

    fn confirm(&mut self, slot: SlotId) -> Result<(), BootError> {
        self.change(&["confirm", slot.as_str()], slot, SlotBoot::Confirmed)
    }

    fn reject(&mut self, slot: SlotId) -> Result<(), BootError> {
        self.call(&["reject", slot.as_str()])?;
        match *self.records()?.get(slot) {
            SlotBoot::Exhausted { .. } | SlotBoot::Empty => Ok(()),
            other => Err(BootError::ReadBack(format!("{other:?} after reject"))),
        }
    }

    fn self_test(&mut self) -> Result<(), BootError> {
        self.records()?;
        self.call(&["self-test"]).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that does `script` when it is asked for facts.
    fn program(script: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        (folder, path)
    }

    const FACTS: &str = r#"echo '{"a":{"record":"confirmed"},"b":{"record":"empty"}}'"#;

    #[test]
    fn the_time_is_up_for_children_too() {
        let (folder, path) = program("sleep 1000 & echo $! >\"$0.pid\"; wait");
        let began = Instant::now();
        let error = Custom::new(&path, Duration::from_millis(300)).records().unwrap_err();
        assert!(error.to_string().contains("no answer"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(20), "the child held the pipe");
        let pid = std::fs::read_to_string(folder.path().join("program.pid")).unwrap();
        let stat = PathBuf::from(format!("/proc/{}/stat", pid.trim()));
        let gone = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
        let deadline = Instant::now() + Duration::from_secs(10);
        while !gone() && Instant::now() < deadline {
            thread::sleep(POLL);
        }
        assert!(gone(), "the child is still there");
    }

    #[test]
    fn who_keeps_the_pipe_keeps_nobody_waiting() {
        for child in ["sleep 1000 &", "setsid sleep 20 &"] {
            let (_folder, path) = program(&format!("{child}\n{FACTS}"));
            let began = Instant::now();
            let facts = Custom::new(&path, Duration::from_secs(50)).records().unwrap();
            assert_eq!(facts.a, SlotBoot::Confirmed);
            assert!(began.elapsed() < Duration::from_secs(30), "{child}");
        }
    }

    #[test]
    fn much_talk_is_read_and_dropped() {
        let (_folder, path) = program("yes | head -c 1000000 >&2; exit 1");
        let error = Custom::new(&path, Duration::from_secs(50)).records().unwrap_err().to_string();
        assert!(error.len() < MAX_OUTPUT + 1000, "{}", error.len());
    }

    #[test]
    fn what_is_dropped_is_not_kept_until_it_is_asked_for() {
        let mut child = contained::command(std::path::Path::new("/usr/bin/yes"), &[]).spawn().unwrap();
        let reader = Reader::start(child.stdout.take());
        // Nobody asks yet, and the program goes on talking.
        let deadline = Instant::now() + Duration::from_secs(10);
        while reader.kept.lock().unwrap().len() < MAX_OUTPUT && Instant::now() < deadline {
            thread::sleep(POLL);
        }
        contained::kill_group(Some(child.id()));
        child.wait().unwrap();
        assert_eq!(reader.bytes().len(), MAX_OUTPUT);
    }
}
