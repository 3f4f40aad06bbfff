//! Which file system an image holds, and how it is mounted without writing a byte. Reads the head of a device.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// A file system of Linux that a root can be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filesystem {
    /// The kernel's name.
    pub name: &'static str,
    /// Mount options beside read-only. Some kinds replay their journal, and so write, even when mounted read-only: then
    /// the slot would no longer be what was read back (ext4(5), xfs(5), btrfs(5)).
    pub options: &'static str,
    /// Where its magic number is, and which.
    magic: (u64, &'static [u8]),
}

/// From `include/uapi/linux/magic.h` and each file system's on-disk format.
const KNOWN: [Filesystem; 5] = [
    Filesystem { name: "erofs", options: "", magic: (1024, &[0xe2, 0xe1, 0xf5, 0xe0]) },
    // The driver of ext4 mounts ext2 and ext3, too.
    Filesystem { name: "ext4", options: "noload", magic: (1024 + 56, &[0x53, 0xef]) },
    Filesystem { name: "squashfs", options: "", magic: (0, b"hsqs") },
    Filesystem { name: "btrfs", options: "rescue=nologreplay", magic: (0x1_0040, b"_BHRfS_M") },
    // Both slots may hold file systems of one UUID.
    Filesystem { name: "xfs", options: "norecovery,nouuid", magic: (0, b"XFSB") },
];

/// The file system on a device or in a file; none: no known one.
///
/// # Errors
/// The device can not be read.
pub fn on(device: &Path) -> io::Result<Option<Filesystem>> {
    let file = File::open(device)?;
    for known in KNOWN {
        let (at, magic) = known.magic;
        let mut found = vec![0; magic.len()];
        match file.read_exact_at(&mut found, at) {
            Ok(()) if found == magic => return Ok(Some(known)),
            // Shorter than that: not this one.
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
            _ => {}
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_magic_number_tells() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(on(file.path()).unwrap(), None);
        for known in KNOWN {
            file.as_file().set_len(0).unwrap();
            file.as_file().set_len(1 << 20).unwrap();
            file.as_file().write_all_at(known.magic.1, known.magic.0).unwrap();
            assert_eq!(on(file.path()).unwrap(), Some(known));
        }
        file.as_file().set_len(0).unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        assert_eq!(on(file.path()).unwrap(), None);
        on(Path::new("/nonexistent")).unwrap_err();
    }
}
