//! The seam's real version: a backend, plus what the kernel says of this boot.

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use updater_core::facts::{BootFacts, BootId, SlotBoot};
use updater_core::slot::SlotId;

use super::error::BootError;
use super::loader::Loader;
use crate::seams;

/// A backend and this boot.
pub struct Control {
    loader: Mutex<Box<dyn Loader>>,
    boot_id: BootId,
    booted: Option<SlotId>,
    /// Boots the running slot gets when the state had to be made anew.
    repair_tries: u8,
    /// Holds the id of the boot in which the self-test passed last.
    tested: Option<PathBuf>,
}

impl Control {
    /// `boot_id` is `/proc/sys/kernel/random/boot_id`; `booted` as found by [`crate::slots::booted`].
    #[must_use]
    pub fn new(loader: Box<dyn Loader>, boot_id: BootId, booted: Option<SlotId>, repair_tries: u8) -> Self {
        Self { loader: Mutex::new(loader), boot_id, booted, repair_tries, tested: None }
    }

    /// The same, remembering in `file` that the self-test passed.
    #[must_use]
    pub fn remembering(self, file: PathBuf) -> Self {
        Self { tested: Some(file), ..self }
    }

    /// A poisoned lock means that a backend panicked; its state is on disk, not in memory.
    fn loader(&self) -> MutexGuard<'_, Box<dyn Loader>> {
        self.loader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self, loader: &dyn Loader) -> Result<BootFacts, BootError> {
        let mut slots = loader.records()?;
        if let Some(booted) = self.booted
            && let record = slots.get_mut(booted)
            && let SlotBoot::Exhausted { done: done @ 1.. } = *record
        {
            // The loader counted the last try down before it booted it: this boot is that try. (A rejected slot has
            // no count.)
            *record = SlotBoot::Trying { left: 0, done };
        }
        Ok(BootFacts { boot_id: self.boot_id.clone(), booted: self.booted, slots })
    }

    fn change(
        &self,
        operation: impl FnOnce(&mut dyn Loader) -> Result<(), BootError>,
    ) -> Result<BootFacts, seams::BootError> {
        let mut loader = self.loader();
        operation(loader.as_mut())?;
        Ok(self.look(loader.as_ref())?)
    }

    /// Damage found while the running slot is known is mended at once: a loader without readable state may not boot
    /// at all next time.
    fn mended<T>(
        &self,
        loader: &mut dyn Loader,
        operation: impl Fn(&mut dyn Loader) -> Result<T, BootError>,
    ) -> Result<T, BootError> {
        match (operation(loader), self.booted) {
            (Err(BootError::Damaged(what)), Some(booted)) => {
                tracing::error!(what, %booted, "boot loader state damaged; making it anew");
                loader.repair(booted, self.repair_tries)?;
                operation(loader)
            }
            (result, _) => result,
        }
    }
}

impl seams::BootControl for Control {
    fn facts(&self) -> Result<BootFacts, seams::BootError> {
        let mut loader = self.loader();
        Ok(self.mended(loader.as_mut(), |loader| self.look(loader))?)
    }

    fn clear(&self, slot: SlotId) -> Result<BootFacts, seams::BootError> {
        if self.booted == Some(slot) {
            return Err(BootError::Refused(format!("slot {slot} is running; its record stays")).into());
        }
        self.change(|loader| loader.clear(slot))
    }

    fn arm(&self, slot: SlotId, tries: u8) -> Result<BootFacts, seams::BootError> {
        self.change(|loader| loader.arm(slot, tries))
    }

    fn confirm(&self, slot: SlotId) -> Result<BootFacts, seams::BootError> {
        self.change(|loader| loader.confirm(slot))
    }

    fn reject(&self, slot: SlotId) -> Result<BootFacts, seams::BootError> {
        self.change(|loader| {
            // Whatever was true when it was decided: another change may have come between. What is damaged, the backend makes
            // anew, with the other slot to boot.
            let other = slot.other();
            let alone = match loader.records() {
                _ if self.booted != Some(slot) => false,
                Ok(records) => !records.get(other).is_choosable(),
                Err(BootError::Damaged(_)) => false,
                Err(error) => return Err(error),
            };
            if alone {
                return Err(BootError::Refused(format!(
                    "slot {other} can not boot: nothing would be left without {slot}"
                )));
            }
            loader.reject(slot)
        })
    }

    fn self_test(&self) -> Result<(), seams::BootError> {
        let mut loader = self.loader();
        Ok(self.mended(loader.as_mut(), |loader| loader.self_test())?)
    }

    fn self_test_once(&self) -> Result<(), seams::BootError> {
        let this = self.boot_id.0.as_str();
        let known = self.tested.as_ref().and_then(|file| fs::read_to_string(file).ok());
        if known.is_some_and(|known| !this.is_empty() && known.trim() == this) {
            return Ok(());
        }
        self.self_test()?;
        if let Some(file) = &self.tested {
            // Not synced: when it is lost, or can not be written, the next start tests again.
            let _ = fs::write(file, format!("{this}\n"));
        }
        Ok(())
    }
}

impl From<BootError> for seams::BootError {
    fn from(error: BootError) -> Self {
        let kind = match &error {
            BootError::Read { .. } | BootError::Program(_) => seams::BootErrorKind::Read,
            BootError::Damaged(_) => seams::BootErrorKind::Parse,
            BootError::Write { .. } => seams::BootErrorKind::Write,
            BootError::ReadBack(_) => seams::BootErrorKind::ReadBack,
            BootError::NotReady(_) | BootError::Refused(_) => seams::BootErrorKind::Unsupported,
        };
        let cause = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        Self::new(kind, format!("{error}{cause}"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use updater_core::slot::PerSlot;

    use super::*;
    use crate::seams::BootControl as _;

    /// Counts how often it is tested, and is well from the second time on.
    struct Counting(Arc<AtomicU32>);

    impl Loader for Counting {
        fn records(&self) -> Result<PerSlot<SlotBoot>, BootError> {
            Ok(PerSlot::default())
        }
        fn clear(&mut self, _: SlotId) -> Result<(), BootError> {
            Ok(())
        }
        fn arm(&mut self, _: SlotId, _: u8) -> Result<(), BootError> {
            Ok(())
        }
        fn confirm(&mut self, _: SlotId) -> Result<(), BootError> {
            Ok(())
        }
        fn reject(&mut self, _: SlotId) -> Result<(), BootError> {
            Ok(())
        }
        fn self_test(&mut self) -> Result<(), BootError> {
            match self.0.fetch_add(1, Ordering::SeqCst) {
                0 => Err(BootError::NotReady("not mounted".into())),
                _ => Ok(()),
            }
        }
    }

    /// A loader with that state; none: it is damaged.
    struct State(Option<PerSlot<SlotBoot>>);

    impl Loader for State {
        fn records(&self) -> Result<PerSlot<SlotBoot>, BootError> {
            self.0.ok_or_else(|| BootError::Damaged("torn".into()))
        }
        fn clear(&mut self, _: SlotId) -> Result<(), BootError> {
            Ok(())
        }
        fn arm(&mut self, _: SlotId, _: u8) -> Result<(), BootError> {
            Ok(())
        }
        fn confirm(&mut self, _: SlotId) -> Result<(), BootError> {
            Ok(())
        }
        fn reject(&mut self, _: SlotId) -> Result<(), BootError> {
            self.0 = Some(PerSlot { a: SlotBoot::Exhausted { done: 0 }, b: SlotBoot::Confirmed });
            Ok(())
        }
        fn self_test(&mut self) -> Result<(), BootError> {
            Ok(())
        }
    }

    #[test]
    fn the_running_slot_is_rejected_only_where_the_other_one_boots() {
        let rejected = |state| {
            let control = Control::new(Box::new(State(state)), BootId("one".into()), Some(SlotId::A), 3);
            control.reject(SlotId::A).map_err(|error| error.kind)
        };
        let with = |b| Some(PerSlot { a: SlotBoot::Confirmed, b });
        assert!(rejected(with(SlotBoot::Confirmed)).is_ok());
        assert_eq!(rejected(with(SlotBoot::Empty)).unwrap_err(), seams::BootErrorKind::Unsupported);
        // What is damaged the backend makes anew, the other slot first: the way back must not be barred by that.
        assert!(rejected(None).is_ok());
    }

    #[test]
    fn a_start_tests_once_in_each_boot_and_again_after_a_failure() {
        let state = tempfile::tempdir().unwrap();
        let tests = Arc::new(AtomicU32::new(0));
        let start = |boot: &str| {
            let control = Control::new(Box::new(Counting(tests.clone())), BootId(boot.into()), Some(SlotId::A), 3);
            let passed = control.remembering(state.path().join("boot-tested")).self_test_once().is_ok();
            (passed, tests.load(Ordering::SeqCst))
        };
        assert_eq!(start("one"), (false, 1));
        assert_eq!(start("one"), (true, 2));
        assert_eq!(start("one"), (true, 2));
        assert_eq!(start("two"), (true, 3));
        // A kernel that says no boot id proves nothing.
        assert_eq!((start(""), start("")), ((true, 4), (true, 5)));
    }
}
