//! systemd-boot: one Boot Loader Specification entry per slot, counted in its file name.
//!
//! The loader itself renames `flipside-b+3.conf` to `+2-1` and so on at each try, and sorts entries without tries
//! last; among the others the highest `version` comes first. So arming is a new entry with a raised number, and every
//! operation here is one rename. Touches `loader/entries` on the ESP (an injected layer) and reads the loader's EFI
//! variables below an injected folder.

use std::path::PathBuf;

use updater_core::facts::SlotBoot;
use updater_core::slot::{PerSlot, SlotId};

use super::entry::{EntryName, EntryText, version_of};
use super::error::BootError;
use super::files::{Files, replace};
use super::loader::{Loader, check_tries, expect};

/// Folder of the entries.
const ENTRIES: &str = "loader/entries";
/// Written first, then renamed. Not `.conf`, so the loader never sees it.
const TEMP: &str = "loader/entries/flipside.tmp";
/// `LoaderFeatures` of systemd's Boot Loader Interface; the bit for boot counting.
const FEATURES: &str = "LoaderFeatures-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
const FEATURE_BOOT_COUNTING: u64 = 1 << 4;
/// A pattern set by `bootctl set-default` wins over our order.
const DEFAULT_ENTRY: &str = "LoaderEntryDefault-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// The backend.
#[derive(Debug)]
pub struct SystemdBoot<F> {
    files: F,
    options: String,
    efivars: PathBuf,
}

/// One entry of ours as found.
#[derive(Debug, Clone)]
struct Found {
    name: EntryName,
    file: String,
    content: Vec<u8>,
}

impl Found {
    fn version(&self) -> u64 {
        version_of(&self.content)
    }
}

impl<F: Files> SystemdBoot<F> {
    /// Entries below `files` (the ESP), written with `options` (`%s` stands for the slot). `efivars` is where the
    /// loader's variables show, usually `/sys/firmware/efi/efivars`.
    pub fn new(files: F, options: impl Into<String>, efivars: impl Into<PathBuf>) -> Self {
        Self { files, options: options.into(), efivars: efivars.into() }
    }

    fn found(&self) -> Result<Vec<Found>, BootError> {
        let mut found = Vec::new();
        for file in self.files.list(ENTRIES).map_err(BootError::read(ENTRIES))? {
            let Some(name) = EntryName::parse(&file) else { continue };
            let path = format!("{ENTRIES}/{file}");
            let content = self.files.read(&path).map_err(BootError::read(&path))?.unwrap_or_default();
            found.push(Found { name, file, content });
        }
        Ok(found)
    }

    fn of(&self, slot: SlotId) -> Result<Vec<Found>, BootError> {
        Ok(self.found()?.into_iter().filter(|entry| entry.name.slot == slot).collect())
    }

    fn content(&self, slot: SlotId, version: u64) -> Vec<u8> {
        EntryText { slot, version, options: self.options.clone() }.render().into_bytes()
    }

    /// Leaves exactly one entry of the slot, with this count and content.
    ///
    /// The entry that stays is made (or renamed) and durable before the others go: at no instant is the slot without
    /// an entry. Others exist only after a power loss in the middle of a rename on FAT, which can leave both names.
    fn settle(&mut self, slot: SlotId, count: Option<(u32, u32)>, content: &[u8]) -> Result<(), BootError> {
        let name = EntryName { slot, count }.file_name();
        let path = format!("{ENTRIES}/{name}");
        self.files.make_dir(ENTRIES).map_err(BootError::write(ENTRIES))?;
        let present = self.of(slot)?;
        match present.as_slice() {
            [only] if only.file == name && only.content == content => {}
            // The usual case: the right content under another name.
            [only] if only.content == content => {
                let from = format!("{ENTRIES}/{}", only.file);
                self.files.rename(&from, &path).map_err(BootError::write(&path))?;
                self.files.sync_dir(ENTRIES).map_err(BootError::write(ENTRIES))?;
            }
            // Two names may share one file's clusters after a torn rename on FAT: write anew rather than rename.
            _ => replace(&mut self.files, TEMP, &path, content).map_err(BootError::write(&path))?,
        }
        self.remove_except(slot, Some(&name))?;
        match self.files.read(&path).map_err(BootError::read(&path))? {
            Some(found) if found == content => Ok(()),
            _ => Err(BootError::ReadBack(format!("{name} does not hold what was written"))),
        }
    }

    fn remove_except(&mut self, slot: SlotId, keep: Option<&str>) -> Result<(), BootError> {
        let others: Vec<Found> = self.of(slot)?.into_iter().filter(|e| Some(e.file.as_str()) != keep).collect();
        for entry in &others {
            let path = format!("{ENTRIES}/{}", entry.file);
            self.files.remove(&path).map_err(BootError::write(&path))?;
        }
        if others.is_empty() {
            return Ok(());
        }
        self.files.sync_dir(ENTRIES).map_err(BootError::write(ENTRIES))
    }

    /// Proves that an entry can still be written, before anything is given up for it: the ESP may be full, or mounted
    /// read-only after an error.
    fn probe(&mut self) -> Result<(), BootError> {
        self.files.make_dir(ENTRIES).map_err(BootError::write(ENTRIES))?;
        let content = self.content(SlotId::A, u64::MAX);
        let written = self.files.create(TEMP, &content).and_then(|()| self.files.sync(TEMP));
        let removed = self.files.remove(TEMP);
        written.and(removed).map_err(BootError::write(TEMP))
    }

    /// Whether the loader that started this system says that it counts. Where there are no variables at all nobody can
    /// tell (the kernel makes the folder in any case, and real-time kernels leave it empty); where there are some and this
    /// one is not, the system was started by another loader, which knows nothing of our names.
    fn counts(&self) -> Result<(), BootError> {
        let no = |text: &str| Err(BootError::NotReady(text.to_owned()));
        if std::fs::read_dir(&self.efivars).map_or(true, |mut variables| variables.next().is_none()) {
            tracing::warn!("no firmware variables are to be seen: whether the boot loader counts is not known");
            return Ok(());
        }
        let features = self.variable(FEATURES);
        match features.as_ref().and_then(|bytes| bytes.first_chunk::<8>()) {
            Some(bytes) if u64::from_le_bytes(*bytes) & FEATURE_BOOT_COUNTING == 0 => {
                no("this systemd-boot does not count boots")
            }
            Some(_) => Ok(()),
            None => no("the firmware has no variable LoaderFeatures: another boot loader started this system"),
        }
    }

    fn variable(&self, name: &str) -> Option<Vec<u8>> {
        // Four bytes of attributes come first (efivarfs).
        std::fs::read(self.efivars.join(name)).ok()?.get(4..).map(<[u8]>::to_vec)
    }
}

/// The entry with the highest number; of two names for one entry, either.
fn newest(entries: Vec<Found>) -> Option<Found> {
    entries.into_iter().max_by_key(Found::version)
}

/// What the loader thinks of a slot with these entries. After a torn rename there may be two: the one that promises
/// least counts, because a slot seen as trying is checked and confirmed again, one seen as confirmed is not.
fn record(entries: &[Found]) -> SlotBoot {
    let byte = |n: u32| u8::try_from(n).unwrap_or(u8::MAX);
    entries
        .iter()
        .map(|entry| match entry.name.count {
            None => SlotBoot::Confirmed,
            Some((0, done)) => SlotBoot::Exhausted { done: byte(done) },
            Some((left, done)) => SlotBoot::Trying { left: byte(left), done: byte(done) },
        })
        .min_by_key(|record| match record {
            SlotBoot::Empty => (0, 0),
            SlotBoot::Exhausted { .. } => (1, 0),
            SlotBoot::Trying { left, .. } => (2, *left),
            SlotBoot::Confirmed => (3, 0),
        })
        .unwrap_or_default()
}

impl<F: Files> Loader for SystemdBoot<F> {
    fn records(&self) -> Result<PerSlot<SlotBoot>, BootError> {
        let found = self.found()?;
        let of = |slot| record(&found.iter().filter(|e| e.name.slot == slot).cloned().collect::<Vec<_>>());
        Ok(PerSlot { a: of(SlotId::A), b: of(SlotId::B) })
    }

    fn clear(&mut self, slot: SlotId) -> Result<(), BootError> {
        self.probe()?;
        self.remove_except(slot, None)?;
        expect(*self.records()?.get(slot), SlotBoot::Empty)
    }

    fn arm(&mut self, slot: SlotId, tries: u8) -> Result<(), BootError> {
        check_tries(tries)?;
        let wanted = SlotBoot::Trying { left: tries, done: 0 };
        let found = self.found()?;
        let highest = |slot| found.iter().filter(|e| e.name.slot == slot).map(Found::version).max();
        let (mine, others) = (highest(slot), highest(slot.other()).unwrap_or(0));
        // Armed already, by a run that was cut off: the same number again, or the number would rise at every crash.
        let version = match mine {
            Some(mine) if mine > others && *self.records()?.get(slot) == wanted => mine,
            _ => mine.unwrap_or(0).max(others).saturating_add(1),
        };
        let content = self.content(slot, version);
        self.settle(slot, Some((u32::from(tries), 0)), &content)?;
        expect(*self.records()?.get(slot), wanted)
    }

    fn confirm(&mut self, slot: SlotId) -> Result<(), BootError> {
        // The content stays: it is what was just tried, whatever the config of the new system says.
        let content = match newest(self.of(slot)?) {
            Some(entry) => entry.content,
            None => self.content(slot, newest(self.found()?).map_or(0, |other| other.version()).saturating_add(1)),
        };
        self.settle(slot, None, &content)?;
        expect(*self.records()?.get(slot), SlotBoot::Confirmed)
    }

    fn reject(&mut self, slot: SlotId) -> Result<(), BootError> {
        let Some(entry) = newest(self.of(slot)?) else { return Ok(()) };
        // `+0-0` is what the loader itself never writes, so that a rejected slot can be told from one on its last
        // try.
        self.settle(slot, Some((0, 0)), &entry.content)?;
        expect(*self.records()?.get(slot), SlotBoot::Exhausted { done: 0 })
    }

    fn self_test(&mut self) -> Result<(), BootError> {
        // An empty mount point takes our entries just as well, and no loader would ever read them.
        if self.files.list("loader").map_err(BootError::read("loader"))?.is_empty() {
            return Err(BootError::NotReady("there is no systemd-boot here; is the ESP mounted?".into()));
        }
        self.probe()?;
        for slot in SlotId::ALL {
            let entries = self.of(slot)?;
            let count = entries.iter().filter_map(|entry| entry.name.count).min();
            if entries.len() > 1
                && let Some(entry) = newest(entries)
            {
                self.settle(slot, count, &entry.content)?;
            }
        }
        self.counts()?;
        if self.variable(DEFAULT_ENTRY).is_some_and(|value| value.iter().any(|byte| *byte != 0)) {
            return Err(BootError::NotReady(
                "a default entry is set in the firmware and wins over the activation order; run `bootctl set-default ''`".into(),
            ));
        }
        let config =
            self.files.read("loader/loader.conf").map_err(BootError::read("loader/loader.conf"))?.unwrap_or_default();
        if String::from_utf8_lossy(&config).lines().any(|line| line.split_ascii_whitespace().next() == Some("default"))
        {
            return Err(BootError::NotReady("loader.conf sets `default`, which wins over the activation order".into()));
        }
        Ok(())
    }
}
