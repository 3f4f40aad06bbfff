//! One updater at a time: an advisory lock on a file, released by the kernel when the process ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Held until dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Takes the lock; `None` when another process has it.
///
/// # Errors
/// As the file system says.
pub fn take(path: &Path) -> io::Result<Option<Lock>> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // Never truncated or removed: a lock on a file that somebody else replaced guards nothing.
    // Ours alone: whoever can open it can hold it, and keep the updater from starting.
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Lock { _file: file })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/lock");
        let held = super::take(&path).unwrap().expect("free");
        assert!(super::take(&path).unwrap().is_none());
        drop(held);
        assert!(super::take(&path).unwrap().is_some());
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
    }
}
