//! A boot loader as a value: the executable model of every backend.
//!
//! Used by the core's property tests, by the in-memory boot control of the engine's tests, and by the `sim` backend
//! behind `--sim`. It does what `docs/src/boot-loaders.md` asks of all of them: counts down on each try of an
//! unconfirmed slot only, never locks a confirmed slot out, and boots the other slot without help when tries are gone.

use serde::{Deserialize, Serialize};

use crate::facts::SlotBoot;
use crate::slot::{PerSlot, SlotId};

/// The boot loader's record of one slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SimRecord {
    /// What it says.
    pub boot: SlotBoot,
    /// Raised at each arming; among slots that may boot the highest goes first.
    #[serde(default)]
    pub number: u64,
}

/// The boot loader's whole state. Every method is one atomic change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SimLoader {
    /// One record per slot.
    pub slots: PerSlot<SimRecord>,
}

impl SimLoader {
    /// As it leaves the factory: that slot confirmed, the other empty.
    #[must_use]
    pub fn factory(slot: SlotId) -> Self {
        let mut loader = Self::default();
        loader.confirm(slot);
        loader
    }

    /// Both records.
    #[must_use]
    pub const fn records(&self) -> PerSlot<SlotBoot> {
        PerSlot { a: self.slots.a.boot, b: self.slots.b.boot }
    }

    /// Removes the record: the slot can not be chosen.
    pub fn clear(&mut self, slot: SlotId) {
        *self.slots.get_mut(slot) = SimRecord::default();
    }

    /// Lets the slot be chosen next, counted. Arming again gives all tries back.
    pub fn arm(&mut self, slot: SlotId, tries: u8) {
        let other = self.slots.get(slot.other()).number;
        let record = self.slots.get_mut(slot);
        record.number = record.number.max(other.saturating_add(1));
        record.boot = SlotBoot::Trying { left: tries, done: 0 };
    }

    /// Ends the counting; also makes a record where there is none.
    pub const fn confirm(&mut self, slot: SlotId) {
        self.slots.get_mut(slot).boot = SlotBoot::Confirmed;
    }

    /// Prefers the other slot from now on.
    pub const fn reject(&mut self, slot: SlotId) {
        let record = self.slots.get_mut(slot);
        record.boot = match record.boot {
            SlotBoot::Empty => SlotBoot::Empty,
            SlotBoot::Confirmed => SlotBoot::Exhausted { done: 0 },
            SlotBoot::Trying { done, .. } | SlotBoot::Exhausted { done } => SlotBoot::Exhausted { done },
        };
    }

    /// The slot the next boot takes: of those that may boot the highest number; when there is none, an exhausted one is
    /// better than nothing. None: nothing boots.
    #[must_use]
    pub fn choice(&self) -> Option<SlotId> {
        let rank = |slot: &SlotId| {
            let record = self.slots.get(*slot);
            (record.boot.is_choosable(), record.number)
        };
        let bootable = SlotId::ALL.into_iter().filter(|slot| self.slots.get(*slot).boot != SlotBoot::Empty);
        // Ties go to slot a, as with loaders that sort by name.
        bootable.rev().max_by_key(rank)
    }

    /// Boots: chooses, and counts the try durably before the kernel starts.
    pub fn boot(&mut self) -> Option<SlotId> {
        let slot = self.choice()?;
        self.count(slot);
        Some(slot)
    }

    /// Boots a slot that a person chose in the menu; counted all the same.
    pub const fn count(&mut self, slot: SlotId) {
        let record = self.slots.get_mut(slot);
        if let SlotBoot::Trying { left, done } = record.boot {
            let done = done.saturating_add(1);
            record.boot = match left.saturating_sub(1) {
                0 => SlotBoot::Exhausted { done },
                left => SlotBoot::Trying { left, done },
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SlotId = SlotId::A;
    const B: SlotId = SlotId::B;

    #[test]
    fn an_armed_slot_is_tried_and_then_given_up() {
        let mut loader = SimLoader::factory(A);
        loader.arm(B, 2);
        assert_eq!([loader.boot(), loader.boot(), loader.boot()], [Some(B), Some(B), Some(A)]);
        assert_eq!(loader.records().b, SlotBoot::Exhausted { done: 2 });
        loader.arm(B, 1);
        assert_eq!([loader.boot(), loader.boot()], [Some(B), Some(A)]);
    }

    #[test]
    fn a_confirmed_slot_is_never_locked_out() {
        let mut loader = SimLoader::factory(A);
        loader.arm(B, 3);
        loader.boot();
        loader.confirm(B);
        assert!((0..100).all(|_| loader.boot() == Some(B)));
    }

    #[test]
    fn going_back_works_with_any_numbers() {
        let mut loader = SimLoader::factory(A);
        for (slot, other) in [(B, A), (A, B), (B, A)] {
            loader.arm(slot, 3);
            assert_eq!(loader.boot(), Some(slot));
            loader.confirm(slot);
            loader.reject(slot);
            assert_eq!(loader.boot(), Some(other));
            loader.confirm(slot);
        }
    }

    #[test]
    fn changes_are_idempotent() {
        type Change = fn(&mut SimLoader);
        let changes: [Change; 4] = [|l| l.clear(B), |l| l.arm(B, 3), |l| l.confirm(B), |l| l.reject(B)];
        for before in changes {
            for change in changes {
                let mut once = SimLoader::factory(A);
                before(&mut once);
                change(&mut once);
                let mut twice = once.clone();
                change(&mut twice);
                assert_eq!(once, twice);
            }
        }
    }

    #[test]
    fn nothing_boots_from_nothing_and_an_exhausted_slot_beats_nothing() {
        let mut loader = SimLoader::default();
        assert_eq!(loader.boot(), None);
        loader.arm(B, 1);
        assert_eq!([loader.boot(), loader.boot()], [Some(B), Some(B)]);
    }
}
