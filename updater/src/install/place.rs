//! From the slot map to opened targets, everything checked before the first byte is written.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use bundle::manifest::{Image, ImageKind, Manifest};
use updater_core::slot::SlotId;

use super::error::Error;
use super::room::{Room, Wish};
use super::target::Target;
use super::tree::TreePlace;
use crate::slots::device::{Roots, resolve};
use crate::slots::map::beside;
use crate::slots::{Place, SlotMap, folder, guard};

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
    /// A folder; its image is written beside it and unpacked there.
    Tree(TreePlace),
}

impl Found {
    /// The path to name in messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Device(path) | Self::File { path, .. } => path,
            Self::Tree(place) => &place.folder,
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
    /// Device number of the running root file system: a file or folder is never written there, because that is what
    /// happens when the ESP, or the data partition, is not mounted. None in tests.
    pub root_device: Option<u64>,
}

impl Finder {
    /// Every image's place in `slot`; block devices and folders not in use, everything large enough.
    ///
    /// # Errors
    /// [`Error`]: the first place that will not do. Nothing has been changed then.
    pub fn all(&self, manifest: &Manifest, slot: SlotId) -> Result<Vec<Found>, Error> {
        let found = manifest.images.iter().map(|image| self.one(image, slot)).collect::<Result<Vec<_>, _>>()?;
        let mut needed = Room::default();
        for (image, found) in manifest.images.iter().zip(&found) {
            match found {
                Found::Device(path) => {
                    guard::unused(path, &self.roots)?;
                    let room = size_of(path).map_err(Error::target("opening", path))?;
                    if room < image.size {
                        return Err(too_small(image, path, room));
                    }
                }
                Found::File { path, temp } => {
                    let gives = vec![path.clone(), temp.clone()];
                    needed.add(Wish { image, path, passing: 0, gives }, self.root_device)?;
                }
                Found::Tree(place) => {
                    let path = &place.folder;
                    folder::unused(path, self.map.paths_but(slot, &image.name), &self.roots)?;
                    // The tar and the folder stand side by side for a while.
                    let wish = Wish { image, path, passing: image.size, gives: place.all() };
                    needed.add(wish, self.root_device)?;
                }
            }
        }
        needed.check()?;
        Ok(found)
    }

    /// The place of one image, not checked any further.
    ///
    /// # Errors
    /// [`Error`]: none configured, of another kind, or not to be found.
    pub fn one(&self, image: &Image, slot: SlotId) -> Result<Found, Error> {
        let kind = match image.kind {
            ImageKind::Block => "block",
            ImageKind::File => "file",
            ImageKind::Tree => "tree",
            _ => "a kind this updater does not write",
        };
        match (self.map.place(slot, &image.name), image.kind) {
            (Some(Place::Block(device)), ImageKind::Block) => Ok(Found::Device(resolve(device, &self.roots)?)),
            (Some(Place::File(path)), ImageKind::File) => Ok(Found::File { path: path.clone(), temp: beside(path) }),
            (Some(Place::Tree(path)), ImageKind::Tree) => Ok(Found::Tree(TreePlace::new(path))),
            _ => Err(Error::NoPlace { slot, image: image.name.clone(), kind }),
        }
    }
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
        Found::Tree(place) => place.open(image),
    }
}

/// Opens a place for reading back: the device or file; of a folder that is being written, its tar.
///
/// # Errors
/// [`Error::Target`].
pub fn open_read_only(found: &Found) -> Result<Target, Error> {
    match found {
        Found::Device(path) => Target::device_read_only(path),
        Found::File { path, .. } => Target::file_read_only(path),
        Found::Tree(place) => Target::file_read_only(&place.tar),
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
