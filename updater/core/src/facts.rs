//! What the boot loader and the kernel say: the truth, where the journal is only a hint.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::slot::{PerSlot, SlotId};

/// The kernel's boot id (`/proc/sys/kernel/random/boot_id`): tells a restart of the daemon from a reboot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(pub String);

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the kernel says, whether or not the boot loader's state can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// This boot.
    pub id: BootId,
    /// The running slot; none: not certain.
    pub slot: Option<SlotId>,
}

/// What the boot loader thinks of one slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum SlotBoot {
    /// No boot record: the boot loader can not choose this slot.
    #[default]
    Empty,
    /// Boots without being counted.
    Confirmed,
    /// Armed and not confirmed yet. `left` counts the boots still to come, so it is 0 during the last one.
    Trying {
        /// Boots the loader will still give it.
        left: u8,
        /// Boots it had.
        done: u8,
    },
    /// Rejected, or out of tries: chosen only when there is nothing else.
    Exhausted {
        /// Boots it had.
        done: u8,
    },
}

impl SlotBoot {
    /// True for a slot that boots by default and is not counted.
    #[must_use]
    pub const fn is_confirmed(self) -> bool {
        matches!(self, SlotBoot::Confirmed)
    }

    /// True for a slot that the boot loader would still choose by itself.
    #[must_use]
    pub const fn is_choosable(self) -> bool {
        matches!(self, SlotBoot::Confirmed | SlotBoot::Trying { left: 1.., .. })
    }
}

/// What is known about this boot and the next one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootFacts {
    /// This boot.
    pub boot_id: BootId,
    /// The running slot; none when neither the kernel command line nor the root device makes it certain. Nothing is
    /// ever written then.
    pub booted: Option<SlotId>,
    /// The boot loader's records.
    pub slots: PerSlot<SlotBoot>,
}

impl BootFacts {
    /// The boot loader's record of `slot`.
    #[must_use]
    pub const fn slot(&self, slot: SlotId) -> SlotBoot {
        *self.slots.get(slot)
    }

    /// The running slot, if it is certain and confirmed: the only one it is safe to write beside.
    #[must_use]
    pub fn confirmed_booted(&self) -> Option<SlotId> {
        self.booted.filter(|slot| self.slot(*slot).is_confirmed())
    }
}
