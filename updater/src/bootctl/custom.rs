//! A program of the integrator's that speaks to a boot loader we do not know.
//!
//! Called as `program facts`, `clear SLOT`, `arm SLOT TRIES`, `confirm SLOT`, `reject SLOT`, `self-test`; exit status 0
//! is success, anything else a failure whose standard error is shown. `facts` prints
//! `{"a":{"record":"confirmed"},"b":{"record":"trying","left":2,"done":1}}` with the records `empty`, `confirmed`,
//! `trying` and `exhausted` (`done`). Every change is read back through `facts`.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use updater_core::facts::SlotBoot;
use updater_core::slot::{PerSlot, SlotId};

use super::error::BootError;
use super::loader::{Loader, check_tries, expect};

/// Output above this is not read.
const MAX_OUTPUT: u64 = 64 << 10;
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
        let mut child = Command::new(&self.program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        // Both pipes are emptied while it runs, or a talkative program would wait for us for ever.
        let out = child.stdout.take().map(|pipe| thread::spawn(move || read_some(pipe)));
        let err = child.stderr.take().map(|pipe| thread::spawn(move || read_some(pipe)));
        let status = wait(&mut child, self.timeout).map_err(|error| failed(error.to_string()))?;
        let Some(status) = status else {
            return Err(failed(format!("no answer within {} s", self.timeout.as_secs())));
        };
        let text = |reader: Option<thread::JoinHandle<Vec<u8>>>| reader.and_then(|r| r.join().ok()).unwrap_or_default();
        let (out, err) = (text(out), text(err));
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

/// At most [`MAX_OUTPUT`] bytes are kept; the rest is read and dropped, so that the writer never blocks.
fn read_some(mut pipe: impl std::io::Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = pipe.by_ref().take(MAX_OUTPUT).read_to_end(&mut bytes);
    let _ = std::io::copy(&mut pipe, &mut std::io::sink());
    bytes
}

/// Waits for the end, or kills at the deadline (`None`).
fn wait(child: &mut Child, timeout: Duration) -> std::io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
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
