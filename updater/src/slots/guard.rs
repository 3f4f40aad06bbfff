//! Refuses a target that somebody uses.
//!
//! Three questions, asked before the first byte: is it mounted here, does another kernel driver hold it (device
//! mapper, md), is it swap? Opening with `O_EXCL` afterwards closes the gap between asking and writing; the questions
//! are asked first because their answers name the culprit. Reads `/proc` and `/sys` below injected roots.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::device::Roots;

/// Why a device must not be written.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// Something is mounted from it.
    #[error("{device} is mounted at {at}")]
    Mounted {
        /// The device node.
        device: PathBuf,
        /// The mount point.
        at: String,
    },
    /// Another block device is built on it.
    #[error("{device} is held by {holder}")]
    Held {
        /// The device node.
        device: PathBuf,
        /// Kernel name of the holder, for instance `dm-0`.
        holder: String,
    },
    /// It is swap.
    #[error("{0} is used as swap")]
    Swap(PathBuf),
    /// It is no block device: a node of another kind, or a plain file left where a node should be.
    #[error("{0} is not a block device")]
    NotABlockDevice(PathBuf),
    /// A link or a file stands where the folder of a slot should be.
    #[error("{0} is not a folder")]
    NotAFolder(PathBuf),
    /// The folder is not this image's alone.
    #[error("{0} is, holds, or stands in {1}, which is the place of another image")]
    Shared(PathBuf, PathBuf),
    /// Somebody else could put a link in the place of the slot.
    #[error("{0} belongs to others, or others may write in it; a slot needs a folder around it that is root's alone")]
    Open(PathBuf),
    /// The system could not be asked.
    #[error("looking who uses {0}")]
    Look(PathBuf, #[source] io::Error),
}

/// Checks that nobody uses the block device at `node`.
///
/// # Errors
/// [`GuardError`], naming who does.
pub fn unused(node: &Path, roots: &Roots) -> Result<(), GuardError> {
    let look = |error| GuardError::Look(node.to_owned(), error);
    let metadata = fs::metadata(node).map_err(look)?;
    if !metadata.file_type().is_block_device() {
        return Err(GuardError::NotABlockDevice(node.to_owned()));
    }
    let number = metadata.rdev();
    let number = format!("{}:{}", nix::sys::stat::major(number), nix::sys::stat::minor(number));
    free(node, &number, roots)
}

/// The same for a device known by its `major:minor`; apart from [`unused`] so that tests need no device.
fn free(node: &Path, number: &str, roots: &Roots) -> Result<(), GuardError> {
    let look = |error| GuardError::Look(node.to_owned(), error);
    let mounts = fs::read_to_string(roots.proc.join("self/mountinfo")).map_err(look)?;
    if let Some(at) = mount_point(&mounts, number) {
        return Err(GuardError::Mounted { device: node.to_owned(), at });
    }
    let holders = roots.sys.join("dev/block").join(number).join("holders");
    if let Ok(mut entries) = fs::read_dir(holders)
        && let Some(Ok(holder)) = entries.next()
    {
        let holder = holder.file_name().to_string_lossy().into_owned();
        return Err(GuardError::Held { device: node.to_owned(), holder });
    }
    // No /proc/swaps: a kernel without swap.
    let swaps = fs::read_to_string(roots.proc.join("swaps")).unwrap_or_default();
    if swaps.lines().skip(1).filter_map(|line| line.split_ascii_whitespace().next()).any(|path| Path::new(path) == node)
    {
        return Err(GuardError::Swap(node.to_owned()));
    }
    Ok(())
}

/// Where the device `number` is mounted, from `/proc/self/mountinfo` (proc(5)): third field device, fifth the place.
fn mount_point(mountinfo: &str, number: &str) -> Option<String> {
    mountinfo.lines().find_map(|line| {
        let mut fields = line.split(' ');
        (fields.nth(2)? == number).then(|| fields.nth(1).unwrap_or("?").to_owned())
    })
}

/// The node and size in bytes of the device that a file system object lives on; for `file` images.
///
/// # Errors
/// As the system says.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = nix::sys::statvfs::statvfs(path).map_err(io::Error::from)?;
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(dir: &Path, mountinfo: &str, swaps: &str, holder: Option<&str>) -> Roots {
        fs::create_dir_all(dir.join("proc/self")).unwrap();
        fs::write(dir.join("proc/self/mountinfo"), mountinfo).unwrap();
        fs::write(dir.join("proc/swaps"), swaps).unwrap();
        let holders = dir.join("sys/dev/block/254:3/holders");
        fs::create_dir_all(&holders).unwrap();
        if let Some(holder) = holder {
            fs::write(holders.join(holder), "").unwrap();
        }
        Roots { dev: dir.join("dev"), sys: dir.join("sys"), proc: dir.join("proc") }
    }

    const ROOT: &str = "22 1 254:2 / / ro,relatime shared:1 - ext4 /dev/vda2 ro\n";

    #[test]
    fn mounted_held_swap_or_free() {
        let node = Path::new("/dev/vda3");
        let check = |mountinfo: &str, swaps: &str, holder| {
            let dir = tempfile::tempdir().unwrap();
            free(node, "254:3", &system(dir.path(), mountinfo, swaps, holder))
        };
        check(ROOT, "Filename\n", None).unwrap();
        let behind_overlay = format!("{ROOT}30 22 254:3 / /run/lower ro - ext4 /dev/vda3 ro\n");
        assert!(matches!(check(&behind_overlay, "", None), Err(GuardError::Mounted { at, .. }) if at == "/run/lower"));
        assert!(matches!(check(ROOT, "", Some("dm-0")), Err(GuardError::Held { holder, .. }) if holder == "dm-0"));
        assert!(matches!(check(ROOT, "Filename\n/dev/vda3 partition 1 0 -2\n", None), Err(GuardError::Swap(_))));
    }

    #[test]
    fn a_plain_file_is_no_device() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(unused(file.path(), &Roots::default()), Err(GuardError::NotABlockDevice(_))));
    }
}
