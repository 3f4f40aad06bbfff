//! The simulated boot loader: one file, and an executable model of what every loader here does at boot.
//!
//! Used by tests and by `flipside --sim`, where [`Sim::boot`] plays the reboot. Touches one file below an injected
//! layer.

use serde::{Deserialize, Serialize};
use updater_core::facts::SlotBoot;
use updater_core::slot::{PerSlot, SlotId};

use super::error::BootError;
use super::files::{Files, replace};
use super::loader::{Loader, check_tries, expect};

/// What the file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The slot that is asked first.
    pub first: SlotId,
    /// The records.
    pub slots: PerSlot<SlotBoot>,
    /// The slot the last [`Sim::boot`] chose: what the kernel command line would say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub booted: Option<SlotId>,
}

/// The backend.
#[derive(Debug)]
pub struct Sim<F> {
    files: F,
    path: String,
}

impl<F: Files> Sim<F> {
    /// The state in the file `path` below `files`.
    pub fn new(files: F, path: impl Into<String>) -> Self {
        Self { files, path: path.into() }
    }

    /// Makes the state of a factory-fresh device: `slot` confirmed and running, the other empty.
    ///
    /// # Errors
    /// [`BootError`] when the file can not be written.
    pub fn provision(&mut self, slot: SlotId) -> Result<(), BootError> {
        let mut slots = PerSlot::default();
        *slots.get_mut(slot) = SlotBoot::Confirmed;
        self.store(State { first: slot, slots, booted: Some(slot) })
    }

    /// The file's content.
    ///
    /// # Errors
    /// [`BootError`]: missing, unreadable or damaged.
    pub fn state(&self) -> Result<State, BootError> {
        let bytes = self.files.read(&self.path).map_err(BootError::read(&self.path))?;
        let bytes = bytes.ok_or_else(|| BootError::Damaged(format!("{} is missing", self.path)))?;
        serde_json::from_slice(&bytes).map_err(|error| BootError::Damaged(error.to_string()))
    }

    /// What the boot loader does at power-on: chooses, counts down, boots. `None` when nothing can boot.
    ///
    /// # Errors
    /// [`BootError`] when the state can not be read or written.
    pub fn boot(&mut self) -> Result<Option<SlotId>, BootError> {
        let mut state = self.state()?;
        let (chosen, record) = choose(&state);
        if let Some(slot) = chosen {
            *state.slots.get_mut(slot) = record;
        }
        state.booted = chosen;
        self.store(state)?;
        Ok(chosen)
    }

    fn store(&mut self, state: State) -> Result<(), BootError> {
        let bytes = serde_json::to_vec(&state).map_err(|error| BootError::Refused(error.to_string()))?;
        let temp = format!("{}.new", self.path);
        replace(&mut self.files, &temp, &self.path, &bytes).map_err(BootError::write(&self.path))
    }

    fn change(&mut self, slot: SlotId, record: SlotBoot, first: Option<SlotId>) -> Result<(), BootError> {
        let mut state = self.state()?;
        *state.slots.get_mut(slot) = record;
        state.first = first.unwrap_or(state.first);
        self.store(state)?;
        expect(self.state()?.slots.get(slot).to_owned(), record)
    }
}

/// The slot that boots, and its record afterwards. The order is that of systemd-boot: slots with tries or without
/// counting first, exhausted ones only when there is nothing else.
fn choose(state: &State) -> (Option<SlotId>, SlotBoot) {
    let order = [state.first, state.first.other()];
    let good = order.into_iter().find(|slot| state.slots.get(*slot).is_choosable());
    let last_resort = || {
        order
            .into_iter()
            .find(|slot| matches!(state.slots.get(*slot), SlotBoot::Exhausted { .. } | SlotBoot::Trying { .. }))
    };
    let chosen = good.or_else(last_resort);
    let after = match chosen.map(|slot| *state.slots.get(slot)) {
        Some(SlotBoot::Trying { left, done }) if left > 0 => match left - 1 {
            0 => SlotBoot::Exhausted { done: done.saturating_add(1) },
            left => SlotBoot::Trying { left, done: done.saturating_add(1) },
        },
        other => other.unwrap_or_default(),
    };
    (chosen, after)
}

impl<F: Files> Loader for Sim<F> {
    fn records(&self) -> Result<PerSlot<SlotBoot>, BootError> {
        Ok(self.state()?.slots)
    }

    fn clear(&mut self, slot: SlotId) -> Result<(), BootError> {
        self.change(slot, SlotBoot::Empty, None)
    }

    fn arm(&mut self, slot: SlotId, tries: u8) -> Result<(), BootError> {
        check_tries(tries)?;
        self.change(slot, SlotBoot::Trying { left: tries, done: 0 }, Some(slot))
    }

    fn confirm(&mut self, slot: SlotId) -> Result<(), BootError> {
        self.change(slot, SlotBoot::Confirmed, Some(slot))
    }

    fn reject(&mut self, slot: SlotId) -> Result<(), BootError> {
        if *self.records()?.get(slot) == SlotBoot::Empty {
            return Ok(());
        }
        self.change(slot, SlotBoot::Exhausted { done: 0 }, Some(slot.other()))
    }

    fn self_test(&mut self) -> Result<(), BootError> {
        let state = self.state()?;
        self.store(state)
    }

    fn repair(&mut self, booted: SlotId, tries: u8) -> Result<(), BootError> {
        let mut slots = PerSlot::default();
        *slots.get_mut(booted) = SlotBoot::Trying { left: tries, done: 0 };
        *slots.get_mut(booted.other()) = SlotBoot::Exhausted { done: 0 };
        self.store(State { first: booted, slots, booted: Some(booted) })
    }
}
