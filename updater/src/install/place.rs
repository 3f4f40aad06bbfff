//! From the slot map to opened targets, everything checked before the first byte is written.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use bundle::manifest::{Image, ImageKind, Manifest};
use updater_core::slot::SlotId;

use super::error::Error;
use super::target::Target;
use crate::slots::device::{DeviceError, Roots, resolve};
use crate::slots::map::beside;
use crate::slots::{Place, SlotMap, guard};

/// Where one image goes, found and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A block device node that nobody uses.
    Device(PathBuf),
    /// A file; written under the name beside it first.
    File {
        /// Its final name.
        path: PathBuf,
        /// The name it is written under.
        temp: PathBuf,
    },
}

impl Found {
    /// The path to name in messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Device(path) | Self::File { path, .. } => path,
        }
    }
}

/// What is needed to find places.
#[derive(Debug, Clone)]
pub struct Finder {
    /// Places per slot.
    pub map: SlotMap,
    /// Where the system shows its devices.
    pub roots: Roots,
    /// Device number of the running root file system: a file image is never written there, because that is what
    /// happens when the ESP is not mounted. None in tests.
    pub root_device: Option<u64>,
}

impl Finder {
    /// Every image's place in `slot`; block devices not in use, everything large enough.
    ///
    /// # Errors
    /// [`Error`]: the first place that will not do. Nothing has been changed then.
    pub fn all(&self, manifest: &Manifest, slot: SlotId) -> Result<Vec<Found>, Error> {
        let found = manifest.images.iter().map(|image| self.one(image, slot)).collect::<Result<Vec<_>, _>>()?;
        let mut needed: BTreeMap<u64, Need> = BTreeMap::new();
        for (image, found) in manifest.images.iter().zip(&found) {
            match found {
                Found::Device(path) => {
                    guard::unused(path, &self.roots)?;
                    let room = size_of(path).map_err(Error::target("opening", path))?;
                    if room < image.size {
                        return Err(too_small(image, path, room));
                    }
                }
                Found::File { path, temp } => self.add_file(&mut needed, image, path, temp)?,
            }
        }
        match needed.into_values().find(|need| need.bytes > need.room) {
            Some(need) => {
                Err(Error::TooSmall { image: need.image, size: need.bytes, path: need.path, room: need.room })
            }
            None => Ok(found),
        }
    }

    /// The place of one image, not checked any further.
    ///
    /// # Errors
    /// [`Error`]: none configured, of another kind, or not to be found.
    pub fn one(&self, image: &Image, slot: SlotId) -> Result<Found, Error> {
        let kind = match image.kind {
            ImageKind::Block => "block",
            ImageKind::File => "file",
            _ => "a kind this updater does not write",
        };
        match (self.map.place(slot, &image.name), image.kind) {
            (Some(Place::Block(device)), ImageKind::Block) => Ok(Found::Device(resolve(device, &self.roots)?)),
            (Some(Place::File(path)), ImageKind::File) => Ok(Found::File { path: path.clone(), temp: beside(path) }),
            _ => Err(Error::NoPlace { slot, image: image.name.clone(), kind }),
        }
    }

    /// Adds what a file image needs to the sum of its file system.
    fn add_file(&self, needed: &mut BTreeMap<u64, Need>, image: &Image, path: &Path, temp: &Path) -> Result<(), Error> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        // The slot's own folder may be missing on a fresh device; the file system it belongs on may not.
        let mut standing = folder;
        while !standing.exists() {
            standing = standing.parent().unwrap_or(Path::new("/"));
        }
        let device = fs::metadata(standing).map_err(Error::target("looking at", standing))?.dev();
        if self.root_device == Some(device) {
            let missing = crate::slots::DeviceRef::Path(folder.to_owned());
            return Err(Error::Device(DeviceError::Missing(missing)));
        }
        let room = guard::free_bytes(standing).map_err(Error::target("looking at", standing))?;
        let need =
            needed.entry(device).or_insert(Need { bytes: 0, room, image: String::new(), path: folder.to_owned() });
        // What is there already, finished or half, does not need room again: the old file of this slot may go before
        // the new one comes, because the slot's boot record was cleared.
        need.room = need.room.saturating_add(len(path)).saturating_add(len(temp));
        need.bytes = need.bytes.saturating_add(image.size);
        need.image.clone_from(&image.name);
        Ok(())
    }
}

/// Room on one file system.
struct Need {
    bytes: u64,
    room: u64,
    image: String,
    path: PathBuf,
}

fn too_small(image: &Image, path: &Path, room: u64) -> Error {
    Error::TooSmall { image: image.name.clone(), size: image.size, path: path.to_owned(), room }
}

/// Length of a file, 0 when there is none.
fn len(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Size of a device or file by seeking to its end; the length in `stat` is 0 for devices.
fn size_of(path: &Path) -> io::Result<u64> {
    use std::io::Seek as _;
    File::open(path)?.seek(io::SeekFrom::End(0))
}

/// Opens a place for writing.
///
/// # Errors
/// [`Error::Target`].
pub fn open(found: &Found, image: &Image) -> Result<Target, Error> {
    match found {
        Found::Device(path) => Target::device(path).map_err(Error::target("opening", path)),
        Found::File { path, temp } => {
            let folder = path.parent().unwrap_or(Path::new("/"));
            fs::create_dir_all(folder).map_err(Error::target("making", folder))?;
            // What the target slot held under this name is not needed any more: it is what the new one is made from,
            // frame by frame, which keeps what both have in common and needs no room for two.
            if path.exists() && !temp.exists() {
                fs::rename(path, temp).map_err(Error::target("renaming", path))?;
            }
            let missing = image.size.saturating_sub(len(temp));
            if guard::free_bytes(folder).is_ok_and(|free| free < missing) && path.exists() {
                tracing::info!(path = %path.display(), "no room for both: removing the target slot's old file first");
                fs::remove_file(path).map_err(Error::target("removing", path))?;
            }
            Target::file(temp, image.size).map_err(Error::target("opening", temp))
        }
    }
}

/// Opens a place for reading back.
///
/// # Errors
/// [`Error::Target`].
pub fn open_read_only(found: &Found) -> Result<Target, Error> {
    match found {
        Found::Device(path) => Target::device_read_only(path),
        Found::File { path, .. } => Target::file_read_only(path),
    }
    .map_err(Error::target("opening", found.path()))
}

/// Gives a written and synced file its final name.
///
/// On FAT a rename over an existing file is not one step, but nothing refers to the file now: the boot record of the
/// slot is gone until the whole slot was read back.
///
/// # Errors
/// [`Error::Target`].
pub fn finish_file(path: &Path, temp: &Path) -> Result<(), Error> {
    fs::rename(temp, path).map_err(Error::target("renaming", temp))?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::target("flushing", folder))
}
