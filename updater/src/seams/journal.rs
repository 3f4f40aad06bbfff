//! Keeps the journal's bytes through power cuts.

/// Two checksummed copies with generation numbers. Blocking.
pub trait JournalStore: Send + Sync {
    /// The newest whole copy; none when there never was one. An error when copies are there and none is whole.
    fn load(&self) -> Result<Option<Vec<u8>>, StoreError>;

    /// Replaces the older copy. Durable on return: file and folder are synced. Power lost in the middle leaves the
    /// newer copy of before.
    fn save(&self, bytes: &[u8]) -> Result<(), StoreError>;
}

/// The journal could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Both copies are damaged.
    #[error("no copy of the journal is whole: {0}")]
    Damaged(String),
    /// The file system said no.
    #[error("{0}")]
    Io(String),
}
