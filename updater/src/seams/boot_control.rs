//! The boot loader's state: which slot boots, how often it is tried.

use updater_core::facts::BootFacts;
use updater_core::slot::SlotId;

/// Reads and changes the boot loader's state. Blocking.
///
/// Every change is idempotent, durable on return, one atomic write, and read back: the facts returned are those the
/// boot loader will see, not what was meant. Power lost in the middle leaves either the old or the new state.
pub trait BootControl: Send + Sync {
    /// The running slot, the boot id and both records.
    fn facts(&self) -> Result<BootFacts, BootError>;

    /// Removes the boot record of `slot`, so that the loader can not choose it. Afterwards `SlotBoot::Empty`.
    fn clear(&self, slot: SlotId) -> Result<BootFacts, BootError>;

    /// Makes the loader choose `slot` next, before the other, for at most `tries` counted boots.
    /// Afterwards `SlotBoot::Trying { left: tries, done: 0 }`.
    fn arm(&self, slot: SlotId, tries: u8) -> Result<BootFacts, BootError>;

    /// Ends the counting: `slot` boots by default from now on. Also creates a record where there is none.
    fn confirm(&self, slot: SlotId) -> Result<BootFacts, BootError>;

    /// Makes the loader prefer the other slot from now on. Afterwards `SlotBoot::Exhausted`, or `Empty` where there
    /// was no record.
    fn reject(&self, slot: SlotId) -> Result<BootFacts, BootError>;

    /// Proves that state can be read and written and that counting is really in effect. Changes nothing that counts.
    /// Asked before the first byte of an update is written.
    fn self_test(&self) -> Result<(), BootError>;

    /// The same, asked at each start of the daemon. What was proven in this boot need not be proven again: whoever reads
    /// the status starts the daemon, and the test writes.
    fn self_test_once(&self) -> Result<(), BootError> {
        self.self_test()
    }
}

/// What was being done when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootErrorKind {
    /// Reading the state.
    Read,
    /// Understanding it.
    Parse,
    /// Changing it.
    Write,
    /// What was read back is not what was written.
    ReadBack,
    /// The loader or the set-up can not do this (no counting in effect, no room).
    Unsupported,
}

/// The boot loader's state could not be read or changed. Reason code `boot_control_error`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct BootError {
    /// What was being done.
    pub kind: BootErrorKind,
    /// A sentence with the path or variable and the cause.
    pub detail: String,
}

impl BootError {
    /// An error with its sentence.
    pub fn new(kind: BootErrorKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }
}
