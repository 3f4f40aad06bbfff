//! What every boot loader backend does: five operations on two records.
//!
//! Each is idempotent, durable on return, and read back before it returns. A backend knows nothing of this boot;
//! [`super::Control`] adds which slot is running.

use updater_core::facts::SlotBoot;
use updater_core::slot::{PerSlot, SlotId};

use super::error::BootError;

/// Most tries a slot can be given: boot loaders without arithmetic count with a chain of comparisons.
pub const MAX_TRIES: u8 = 7;

/// The state of one boot loader.
pub trait Loader: Send {
    /// What the boot loader thinks of the slots. Changes nothing, so that `flipside status` may ask.
    ///
    /// # Errors
    /// [`BootError`]: not readable, or damaged beyond a safe reading.
    fn records(&self) -> Result<PerSlot<SlotBoot>, BootError>;

    /// Removes the slot's record: the boot loader can not choose it any more.
    ///
    /// # Errors
    /// [`BootError`]; the record may then still be there, and nothing else has changed.
    fn clear(&mut self, slot: SlotId) -> Result<(), BootError>;

    /// Makes the slot first choice, for at most `tries` boots (1 to [`MAX_TRIES`]).
    ///
    /// # Errors
    /// [`BootError`]; the other slot then still boots.
    fn arm(&mut self, slot: SlotId, tries: u8) -> Result<(), BootError>;

    /// Makes the slot boot from now on without being counted; makes a record where there is none.
    ///
    /// # Errors
    /// [`BootError`].
    fn confirm(&mut self, slot: SlotId) -> Result<(), BootError>;

    /// Makes the boot loader choose the other slot and this one only when nothing else is left.
    ///
    /// # Errors
    /// [`BootError`].
    fn reject(&mut self, slot: SlotId) -> Result<(), BootError>;

    /// Checks that the state can be read and written and that counting is in effect; repairs what a power loss left
    /// behind.
    ///
    /// # Errors
    /// [`BootError`]: the first thing found that makes an update unsafe.
    fn self_test(&mut self) -> Result<(), BootError>;

    /// Makes damaged state usable again, knowing only which slot runs: that one gets `tries` counted boots, because
    /// nobody knows any more whether it was confirmed; the other is the last resort.
    ///
    /// # Errors
    /// [`BootError`]; the default is for backends whose state can not be damaged as a whole.
    fn repair(&mut self, booted: SlotId, tries: u8) -> Result<(), BootError> {
        let _ = (booted, tries);
        Err(BootError::Damaged("this boot loader's state can not be made anew".into()))
    }
}

/// Refuses tries that the boot loaders can not count.
pub(super) fn check_tries(tries: u8) -> Result<(), BootError> {
    if (1..=MAX_TRIES).contains(&tries) {
        Ok(())
    } else {
        Err(BootError::Refused(format!("{tries} tries; 1 to {MAX_TRIES} can be counted")))
    }
}

/// The read-back at the end of each change.
pub(super) fn expect(found: SlotBoot, wanted: SlotBoot) -> Result<(), BootError> {
    if found == wanted { Ok(()) } else { Err(BootError::ReadBack(format!("{found:?} instead of {wanted:?}"))) }
}
