//! The folder of a running scenario, under TMPDIR: disks of a gigabyte. It goes away with its value; what a run that was
//! killed left behind is removed by the next one.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};

/// Whose run is alive holds a lock on this file in its folder.
const LOCK: &str = "in-use";

/// A folder of this process.
#[derive(Debug)]
pub struct Scratch {
    // Removed with the value, then let go of.
    dir: tempfile::TempDir,
    _lock: File,
}

impl Scratch {
    /// A new one whose name begins like this; those of dead processes that do, too, are removed.
    ///
    /// # Errors
    /// It can not be made.
    pub fn new(prefix: &str) -> Result<Self> {
        Self::under(&std::env::temp_dir(), prefix)
    }

    fn under(parent: &Path, prefix: &str) -> Result<Self> {
        sweep(parent, prefix);
        let dir = tempfile::Builder::new().prefix(prefix).tempdir_in(parent).context("a folder to work in")?;
        // Under its name only once it is locked: another one may be sweeping.
        let (unlocked, locked) = (dir.path().join("in-use.new"), dir.path().join(LOCK));
        let lock = File::create(&unlocked)?;
        lock.lock()?;
        fs::rename(unlocked, locked)?;
        Ok(Self { dir, _lock: lock })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Removes what nobody holds. What can not be removed is somebody else's.
fn sweep(parent: &Path, prefix: &str) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(prefix);
        let unused = || File::open(entry.path().join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok());
        if ours && unused() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_run_left_is_removed_and_what_a_live_one_has_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let alive = Scratch::under(parent.path(), "vm-").unwrap();
        let make = |name: &str, file: &str| {
            fs::create_dir(parent.path().join(name)).unwrap();
            fs::write(parent.path().join(name).join(file), "x").unwrap();
        };
        make("vm-dead", LOCK);
        make("vm-just-made", "in-use.new");
        make("other", LOCK);
        let second = Scratch::under(parent.path(), "vm-").unwrap();
        for (name, there) in [("vm-dead", false), ("vm-just-made", true), ("other", true)] {
            assert_eq!(parent.path().join(name).exists(), there, "{name}");
        }
        assert!(alive.path().exists() && second.path().exists());
        drop(alive);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 3);
    }
}
