//! Whether all images of a release fit, file system by file system, before the first byte is written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use bundle::manifest::{Image, Manifest};

use super::error::Error;
use crate::slots::DeviceRef;
use crate::slots::device::DeviceError;
use crate::slots::folder::standing;
use crate::slots::guard;

/// What one image asks of the file system it goes to.
pub struct Wish<'a> {
    /// The image.
    pub image: &'a Image,
    /// Its file or folder.
    pub path: &'a Path,
    /// Bytes needed beside the image while it is written; those of one image are given back before the next.
    pub passing: u64,
    /// What is there already, finished or half, does not need room again: the old content of this slot may go before
    /// the new one comes, because the slot's boot record was cleared.
    pub gives: Vec<PathBuf>,
}

/// All wishes, by device number.
#[derive(Default)]
pub struct Room {
    needed: BTreeMap<u64, Need>,
}

struct Need {
    bytes: u64,
    passing: u64,
    free: u64,
    gives: Vec<PathBuf>,
    image: String,
    path: PathBuf,
}

impl Room {
    /// Adds what an image needs. `root_device`: the file system of the running system, which is never written.
    ///
    /// # Errors
    /// [`Error`]: its file system is not there.
    pub fn add(&mut self, wish: Wish<'_>, root_device: Option<u64>) -> Result<(), Error> {
        let folder = wish.path.parent().unwrap_or(Path::new("/"));
        // The slot's own folder may be missing on a fresh device; the file system it belongs on may not.
        let standing = standing(folder);
        let device = fs::metadata(standing).map_err(Error::target("looking at", standing))?.dev();
        if root_device == Some(device) {
            return Err(Error::Device(DeviceError::Missing(DeviceRef::Path(folder.to_owned()))));
        }
        let free = guard::free_bytes(standing).map_err(Error::target("looking at", standing))?;
        let fresh =
            || Need { bytes: 0, passing: 0, free, gives: Vec::new(), image: String::new(), path: folder.to_owned() };
        let need = self.needed.entry(device).or_insert_with(fresh);
        need.bytes = need.bytes.saturating_add(wish.image.size);
        need.passing = need.passing.max(wish.passing);
        need.gives.extend(wish.gives);
        need.image.clone_from(&wish.image.name);
        Ok(())
    }

    /// Whether everything fits.
    ///
    /// # Errors
    /// [`Error::TooSmall`].
    pub fn check(self) -> Result<(), Error> {
        for need in self.needed.into_values() {
            let size = need.bytes.saturating_add(need.passing);
            // What would be given back is counted only where it matters: a folder may have very many files.
            if size <= need.free {
                continue;
            }
            let room = need.gives.iter().fold(need.free, |sum, path| sum.saturating_add(usage(path)));
            if size > room {
                return Err(Error::TooSmall { image: need.image, size, path: need.path, room });
            }
        }
        Ok(())
    }
}

/// Whether the indexes of a release find room where heads of releases are kept; what is kept there of others may go.
///
/// # Errors
/// [`Error::Spool`].
pub fn of_indexes(kept: &Path, manifest: &Manifest) -> Result<(), Error> {
    let size = manifest.images.iter().fold(0, |sum: u64, image| sum.saturating_add(image.index.size));
    let standing = standing(kept);
    let free = guard::free_bytes(standing).map_err(Error::spool(standing))?;
    if size <= free || size <= free.saturating_add(usage(kept)) {
        return Ok(());
    }
    let told = format!("the indexes of the release need {size} bytes, there is room for {free}");
    Err(Error::spool(kept)(io::Error::new(io::ErrorKind::StorageFull, told)))
}

/// Bytes that a file, or a folder with everything in it, takes on its file system; 0 when there is none. Follows no
/// link and does not leave the file system.
fn usage(path: &Path) -> u64 {
    let Ok(top) = fs::symlink_metadata(path) else { return 0 };
    let (mut sum, mut counted) = (0_u64, BTreeSet::new());
    let mut waiting = vec![(path.to_owned(), top)];
    while let Some((path, facts)) = waiting.pop() {
        // A file with several names is one file.
        if facts.is_dir() || facts.nlink() < 2 || counted.insert(facts.ino()) {
            sum = sum.saturating_add(facts.blocks().saturating_mul(512));
        }
        let inner = if facts.is_dir() { fs::read_dir(&path).ok() } else { None };
        for entry in inner.into_iter().flatten().flatten() {
            if let Ok(inner) = entry.metadata()
                && inner.dev() == facts.dev()
            {
                waiting.push((entry.path(), inner));
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    use bundle::digest::Digest;
    use bundle::manifest::{Blob, ImageKind};
    use bundle::reason::Reason;

    #[test]
    fn nothing_goes_onto_the_file_system_of_the_running_system() {
        // What an ESP or a data partition that is not mounted comes to: the path leads into the root.
        let dir = tempfile::tempdir().unwrap();
        let device = fs::metadata(dir.path()).unwrap().dev();
        let blob = || Blob { size: 1, sha256: Digest::of(b"x") };
        let (index, payload) = (blob(), blob());
        let image = Image {
            name: "kernel".into(),
            kind: ImageKind::File,
            size: 1,
            sha256: Digest::of(b"x"),
            index,
            chunks: None,
            payload,
            frame_size: None,
            level: None,
        };
        let path = dir.path().join("efi/flipside/b/vmlinuz");
        let wish = || Wish { image: &image, path: &path, passing: 0, gives: Vec::new() };
        let refused = Room::default().add(wish(), Some(device)).unwrap_err();
        assert_eq!(refused.reason(), Reason::SlotUnknown, "{refused}");
        Room::default().add(wish(), Some(device + 1)).unwrap();
        assert!(fs::read_dir(dir.path()).unwrap().next().is_none(), "nothing was made");
    }

    #[test]
    fn a_folder_is_counted_once_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("tree/in")).unwrap();
        fs::write(at("large"), vec![1; 1 << 20]).unwrap();
        fs::write(at("tree/in/file"), vec![1; 200_000]).unwrap();
        let one = usage(&at("tree"));
        assert!((200_000..400_000).contains(&one), "{one}");
        fs::hard_link(at("tree/in/file"), at("tree/same")).unwrap();
        symlink("../large", at("tree/link")).unwrap();
        symlink("..", at("tree/up")).unwrap();
        let two = usage(&at("tree"));
        assert!((one..one + 20_000).contains(&two), "{one} {two}");
        assert_eq!(usage(&at("missing")), 0);
    }
}
