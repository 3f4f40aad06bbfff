//! The seam's real version: a backend, plus what the kernel says of this boot.

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
}

impl Control {
    /// `boot_id` is `/proc/sys/kernel/random/boot_id`; `booted` as found by [`crate::slots::booted`].
    #[must_use]
    pub fn new(loader: Box<dyn Loader>, boot_id: BootId, booted: Option<SlotId>, repair_tries: u8) -> Self {
        Self { loader: Mutex::new(loader), boot_id, booted, repair_tries }
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
        self.change(|loader| loader.reject(slot))
    }

    fn self_test(&self) -> Result<(), seams::BootError> {
        let mut loader = self.loader();
        Ok(self.mended(loader.as_mut(), |loader| loader.self_test())?)
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
