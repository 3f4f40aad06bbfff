//! The example of an integrator's program as a backend of the conformance suite, and a boot loader that reads its file.

use std::collections::BTreeMap;
use std::time::Duration;

use updater_core::facts::SlotBoot;
use updater_core::slot::{PerSlot, SlotId};

use super::custom::Custom;
use super::error::BootError;
use super::files::{Files as _, replace};
use super::loader::Loader;
use super::powerloss::Recorder;

type Values = BTreeMap<String, String>;

/// The shipped example of a program, over the recorded disk: its file is there before a call, and what the call made of
/// it is recorded as the steps in which such a program must do it.
pub(super) struct Scripted {
    files: Recorder,
    folder: tempfile::TempDir,
    program: Custom,
}

const STATE: &str = "state";

impl Scripted {
    pub(super) fn new(files: Recorder) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        std::os::unix::fs::symlink(concat!(env!("CARGO_MANIFEST_DIR"), "/src/bootctl/example.sh"), &program).unwrap();
        Self { files, folder, program: Custom::new(program, Duration::from_secs(60)) }
    }

    fn call<T>(&self, call: impl FnOnce(&mut Custom) -> Result<T, BootError>) -> Result<T, BootError> {
        let file = self.folder.path().join(STATE);
        let before = self.files.disk().remove(STATE);
        match &before {
            Some(bytes) => std::fs::write(&file, bytes).unwrap(),
            None => drop(std::fs::remove_file(&file)),
        }
        let result = call(&mut self.program.clone())?;
        let after = std::fs::read(&file).ok();
        if let Some(bytes) = after.filter(|after| before.as_ref() != Some(after)) {
            let mut files = self.files.clone();
            replace(&mut files, "state.new", STATE, &bytes).map_err(BootError::write(STATE))?;
        }
        Ok(result)
    }
}

impl Loader for Scripted {
    fn records(&self) -> Result<PerSlot<SlotBoot>, BootError> {
        self.call(|program| program.records())
    }
    fn clear(&mut self, slot: SlotId) -> Result<(), BootError> {
        self.call(|program| program.clear(slot))
    }
    fn arm(&mut self, slot: SlotId, tries: u8) -> Result<(), BootError> {
        self.call(|program| program.arm(slot, tries))
    }
    fn confirm(&mut self, slot: SlotId) -> Result<(), BootError> {
        self.call(|program| program.confirm(slot))
    }
    fn reject(&mut self, slot: SlotId) -> Result<(), BootError> {
        self.call(|program| program.reject(slot))
    }
    fn self_test(&mut self) -> Result<(), BootError> {
        self.call(|program| program.self_test())
    }
}

/// A boot loader that sources that file.
pub(super) fn boot_custom(mut files: Recorder) -> Option<SlotId> {
    let text = String::from_utf8(files.read(STATE).unwrap()?).unwrap();
    let (order, words) = text.strip_prefix("ORDER='")?.split_once("'\n")?;
    let mut values: Values =
        words.split_whitespace().map(|word| word.split_once('=').unwrap()).map(|(k, v)| (k.into(), v.into())).collect();
    let slots = || order.split(' ').map(|slot| slot.parse::<SlotId>().unwrap());
    for slot in slots() {
        match values[slot.as_str()].as_str() {
            "confirmed" => return Some(slot),
            "trying" => {
                let count = |values: &Values, what: &str| values[&format!("{slot}_{what}")].parse::<u8>().unwrap();
                let (left, done) = (count(&values, "left") - 1, count(&values, "done") + 1);
                values.insert(format!("{slot}_left"), left.to_string());
                values.insert(format!("{slot}_done"), done.to_string());
                if left == 0 {
                    values.insert(slot.to_string(), "exhausted".into());
                }
                let words: Vec<_> = values.iter().map(|(name, value)| format!("{name}={value}")).collect();
                let text = format!("ORDER='{order}'\n{}\n", words.join(" "));
                files.create(STATE, text.as_bytes()).unwrap();
                return Some(slot);
            }
            _ => {}
        }
    }
    slots().next()
}
