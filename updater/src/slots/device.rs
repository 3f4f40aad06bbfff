//! Finds a partition by what the partition table says of it.
//!
//! Never by file system label or UUID: after an image was written, both slots carry the same ones. Reads `/dev/disk`
//! and `/sys/class/block` below injected roots; opens nothing.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// How the config names a block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceRef {
    /// `PARTLABEL=root-a`: the GPT partition name.
    PartLabel(String),
    /// `PARTUUID=…`: the GPT partition's own UUID.
    PartUuid(String),
    /// `/dev/…`, for disks without GPT and for tests.
    Path(PathBuf),
}

/// Why a device could not be found.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// File system labels and UUIDs are the same on both slots.
    #[error("{0}: a slot is named by PARTLABEL=, PARTUUID= or a path below /dev, never by file system label or UUID")]
    NotAPartition(String),
    /// Nothing has that name.
    #[error("no partition has {0}")]
    Missing(DeviceRef),
    /// Two disks carry the same label: writing either would be a guess.
    #[error("more than one partition has {0}: {1} and {2}")]
    Ambiguous(DeviceRef, String, String),
    /// The system could not be asked.
    #[error("looking for {0}")]
    Look(DeviceRef, #[source] io::Error),
}

impl FromStr for DeviceRef {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        match text.split_once('=') {
            Some(("PARTLABEL", label)) if !label.is_empty() => Ok(Self::PartLabel(label.into())),
            Some(("PARTUUID", uuid)) if !uuid.is_empty() => Ok(Self::PartUuid(uuid.to_ascii_lowercase())),
            None if text.starts_with('/') => Ok(Self::Path(text.into())),
            // The same partition under a name that moves with the content of the slot.
            _ => Err(DeviceError::NotAPartition(text.into())),
        }
    }
}

impl fmt::Display for DeviceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PartLabel(label) => write!(f, "PARTLABEL={label}"),
            Self::PartUuid(uuid) => write!(f, "PARTUUID={uuid}"),
            Self::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Where the system shows its devices.
#[derive(Debug, Clone)]
pub struct Roots {
    /// `/dev`.
    pub dev: PathBuf,
    /// `/sys`.
    pub sys: PathBuf,
    /// `/proc`.
    pub proc: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { dev: "/dev".into(), sys: "/sys".into(), proc: "/proc".into() }
    }
}

/// The device node a reference means, symbolic links followed.
///
/// sysfs is asked first: it is the kernel's own word and can tell that a label is there twice, which the one symbolic
/// link of udev hides. udev's links are for kernels that do not put `PARTUUID` into the uevent.
///
/// # Errors
/// [`DeviceError`]: not there, there twice, or the system could not be asked.
pub fn resolve(reference: &DeviceRef, roots: &Roots) -> Result<PathBuf, DeviceError> {
    let (key, value, folder) = match reference {
        DeviceRef::Path(path) => {
            return fs::canonicalize(path).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => DeviceError::Missing(reference.clone()),
                _ => DeviceError::Look(reference.clone(), error),
            });
        }
        DeviceRef::PartLabel(label) => ("PARTNAME", label, "by-partlabel"),
        DeviceRef::PartUuid(uuid) => ("PARTUUID", uuid, "by-partuuid"),
    };
    let found = in_sysfs(key, value, &roots.sys).map_err(|error| DeviceError::Look(reference.clone(), error))?;
    match found.as_slice() {
        [] => {}
        [only] => return Ok(roots.dev.join(only)),
        [first, second, ..] => return Err(DeviceError::Ambiguous(reference.clone(), first.clone(), second.clone())),
    }
    fs::canonicalize(roots.dev.join("disk").join(folder).join(udev_escaped(value)))
        .map_err(|_| DeviceError::Missing(reference.clone()))
}

/// Names of the block devices whose uevent has `key=value`, sorted.
fn in_sysfs(key: &str, value: &str, sys: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(sys.join("class/block")) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        // A device may vanish between the listing and the reading; then it is simply not the one.
        let Ok(uevent) = fs::read_to_string(entry?.path().join("uevent")) else { continue };
        let field = |name: &str| uevent.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        if field(key).is_some_and(|found| found.eq_ignore_ascii_case(value)) && key == "PARTUUID"
            || field(key) == Some(value)
        {
            found.extend(field("DEVNAME").map(str::to_owned));
        }
    }
    found.sort();
    Ok(found)
}

/// A label as udev writes it into a file name (`encode_devnode_name`): all but a few characters as `\xNN`.
fn udev_escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'#' | b'+' | b'-' | b'.' | b':' | b'=' | b'@' | b'_' => {
                char::from(byte).to_string()
            }
            // Valid UTF-8 above ASCII is kept by udev; it arrives here byte by byte, so it is not looked for.
            _ => format!("\\x{byte:02x}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roots(dir: &Path) -> Roots {
        Roots { dev: dir.join("dev"), sys: dir.join("sys"), proc: dir.join("proc") }
    }

    fn block(dir: &Path, name: &str, uevent: &str) {
        let folder = dir.join("sys/class/block").join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("uevent"), format!("MAJOR=254\nDEVNAME={name}\n{uevent}")).unwrap();
    }

    #[test]
    fn only_names_that_belong_to_the_partition() {
        for good in ["PARTLABEL=root-a", "PARTUUID=AB-CD", "/dev/sda2"] {
            good.parse::<DeviceRef>().unwrap();
        }
        for bad in ["LABEL=rootfs", "UUID=1234", "root-a", "PARTLABEL=", ""] {
            assert!(matches!(bad.parse::<DeviceRef>(), Err(DeviceError::NotAPartition(_))), "{bad}");
        }
    }

    #[test]
    fn label_and_uuid_from_sysfs_and_twice_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        block(dir.path(), "vda2", "PARTNAME=root-a\nPARTUUID=aa-bb\n");
        block(dir.path(), "vda3", "PARTNAME=root-b\n");
        let find = |text: &str| resolve(&text.parse().unwrap(), &roots(dir.path()));
        assert_eq!(find("PARTLABEL=root-a").unwrap(), dir.path().join("dev/vda2"));
        assert_eq!(find("PARTUUID=AA-BB").unwrap(), dir.path().join("dev/vda2"));
        assert!(matches!(find("PARTLABEL=root"), Err(DeviceError::Missing(_))));
        block(dir.path(), "sdb1", "PARTNAME=root-b\n");
        assert!(matches!(find("PARTLABEL=root-b"), Err(DeviceError::Ambiguous(..))), "a cloned disk is plugged in");
    }

    #[test]
    fn udev_link_when_the_kernel_does_not_tell() {
        let dir = tempfile::tempdir().unwrap();
        let links = dir.path().join("dev/disk/by-partlabel");
        fs::create_dir_all(&links).unwrap();
        fs::write(dir.path().join("dev/vda7"), b"").unwrap();
        std::os::unix::fs::symlink("../../vda7", links.join("root\\x20a")).unwrap();
        let found = resolve(&"PARTLABEL=root a".parse().unwrap(), &roots(dir.path())).unwrap();
        assert_eq!(found, fs::canonicalize(dir.path().join("dev/vda7")).unwrap());
    }
}
