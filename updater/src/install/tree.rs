//! A folder as the target of an image: brought as the tar it is, unpacked beside the old folder, put in its place.
//!
//! The tar comes through the same frames as any other image, into a file beside the folder, so that an interrupted
//! fetch goes on and nothing is unpacked that was not proven. Three names stand beside a folder `x` while it is made,
//! and none when it is done:
//!
//! | name | what | after a crash |
//! |---|---|---|
//! | `x.flipside-tar` | the image | kept: what is right in it is not fetched again |
//! | `x.flipside-new` | the folder being unpacked | removed and unpacked again |
//! | `x.flipside-old` | the folder of before, on its way out | removed |
//!
//! The folder of before is not needed once the slot's boot record was cleared, so nothing refers to it, and the instant
//! without a folder between two renames harms nobody.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bundle::digest::Digest;
use bundle::manifest::Image;
use bundle::reason::Reason;
use bundle::tree::{Owners, PackError, Packing, UnpackError, pack, unpack};
use nix::fcntl::OFlag;
use sha2::{Digest as _, Sha256};

use super::error::Error;
use super::halt::Halt;
use super::meter::Meter;
use super::target::Target;
use crate::slots::folder;
use crate::slots::guard::{self, GuardError};
use crate::slots::map::{beside, named};

/// Bytes of the tar that are read at once.
const PIECE: usize = 256 << 10;
/// Where the kernel tells its mounts.
const PROC: &str = "/proc";

/// The names of a folder slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreePlace {
    /// The folder.
    pub folder: PathBuf,
    /// The image while it is brought.
    pub tar: PathBuf,
    fresh: PathBuf,
    old: PathBuf,
}

impl TreePlace {
    /// The names for the folder at `path`.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        let (tar, old) = (named(path, ".flipside-tar"), named(path, ".flipside-old"));
        Self { folder: path.to_owned(), tar, fresh: beside(path), old }
    }

    /// Everything that an install may remove.
    #[must_use]
    pub fn all(&self) -> Vec<PathBuf> {
        [&self.folder, &self.tar, &self.fresh, &self.old].map(Clone::clone).into()
    }

    /// Opens the file for the tar, and removes what an interrupted unpacking left. The folder of before stays as long as
    /// there is room for both.
    ///
    /// # Errors
    /// [`Error::Target`].
    pub fn open(&self, image: &Image) -> Result<Target, Error> {
        let around = self.around();
        fs::create_dir_all(around).map_err(Error::target("making", around))?;
        remove(&self.fresh)?;
        remove(&self.old)?;
        let here = fs::symlink_metadata(&self.tar).ok();
        if here.as_ref().is_some_and(|facts| !facts.is_file()) {
            remove(&self.tar)?;
        }
        // What is in it may be secret in the folder: nobody else reads it here either.
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits());
        let opened = options.open(&self.tar);
        let allocated = opened.and_then(|file| file.metadata()).map_err(Error::target("opening", &self.tar))?;
        let have = std::os::unix::fs::MetadataExt::blocks(&allocated).saturating_mul(512);
        let missing = image.size.saturating_mul(2).saturating_sub(have);
        if guard::free_bytes(around).is_ok_and(|free| free < missing) {
            self.make_room()?;
        }
        Target::file(&self.tar, image.size).map_err(Error::target("opening", &self.tar))
    }

    /// Unpacks the complete tar and puts the folder in its place, durably.
    ///
    /// # Errors
    /// [`Error`]; what is on the way to the folder is removed by the next try.
    pub fn finish(&self, image: &Image, halt: &Halt) -> Result<(), Error> {
        if let Err(error) = self.unpack(halt) {
            if error.reason() != Reason::NoSpace {
                return Err(error);
            }
            // Many small files take more room than they take in a tar.
            remove(&self.fresh)?;
            self.make_room()?;
            self.unpack(halt).map_err(|error| self.too_small(image, error))?;
        }
        // Flushing can take long, and what stopped us may be followed by another install.
        if halt.stopped() {
            return Err(Error::Cancelled);
        }
        self.move_away()?;
        fs::rename(&self.fresh, &self.folder).map_err(Error::target("renaming", &self.fresh))?;
        let around = self.around();
        let flushed = File::open(around).and_then(|folder| folder.sync_all());
        flushed.map_err(Error::target("flushing", around))?;
        self.clear()
    }

    /// Removes everything that is beside a complete folder.
    ///
    /// # Errors
    /// [`Error::Target`].
    pub fn clear(&self) -> Result<(), Error> {
        [&self.tar, &self.fresh, &self.old].into_iter().try_for_each(|path| remove(path))
    }

    /// Proves that the folder is the signed image, with its modes, owners and attributes and nothing besides: it is
    /// packed as the image was, and has to give the same bytes.
    ///
    /// # Errors
    /// [`Error::Image`] or [`Error::Tree`] when it is not; [`Error::Target`] when it can not be read;
    /// [`Error::Cancelled`].
    pub fn verify(&self, image: &Image, mtime: u64, halt: &Halt, meter: &Meter) -> Result<(), Error> {
        // A link here would prove another folder.
        let facts = fs::symlink_metadata(&self.folder).map_err(Error::target("reading", &self.folder))?;
        if !facts.is_dir() {
            return Err(Error::Guard(GuardError::NotAFolder(self.folder.clone())));
        }
        let packing = Packing { mtime, without_labels: false, past_caches: true };
        let (mut found, labels) = self.digest(image, packing, halt, Some(meter))?;
        // A kernel that labels every new file may label those of an image that has no labels, and of no other.
        if found != image.sha256 && labels {
            found = self.digest(image, Packing { without_labels: true, ..packing }, halt, None)?.0;
        }
        if found == image.sha256 {
            return Ok(());
        }
        Err(Error::Image { image: image.name.clone(), expected: image.sha256, found })
    }

    fn digest(
        &self,
        image: &Image,
        packing: Packing,
        halt: &Halt,
        meter: Option<&Meter>,
    ) -> Result<(Digest, bool), Error> {
        // A folder that grew can not be the image; labels that the kernel gave are up to three times of a tiny one.
        let left = image.size.saturating_mul(4).saturating_add(PIECE as u64);
        let mut hashing = Hashing { hash: Sha256::new(), left, halt, meter };
        let packed = pack(&self.folder, packing, &mut hashing);
        if halt.stopped() {
            return Err(Error::Cancelled);
        }
        let labels = match packed {
            Ok(labels) => labels,
            Err(PackError::Read { path, source }) => return Err(Error::target("reading", &path)(source)),
            // Only what was hashed so far is known of a folder that is too large.
            Err(PackError::Write(_)) => false,
            Err(source @ PackError::Refused { .. }) => {
                return Err(Error::Tree { image: image.name.clone(), source });
            }
        };
        Ok((Digest(hashing.hash.finalize().into()), labels))
    }

    fn unpack(&self, halt: &Halt) -> Result<(), Error> {
        remove(&self.fresh)?;
        let tar = File::open(&self.tar).map_err(Error::target("reading", &self.tar))?;
        // For us alone until it has its own mode.
        let made = fs::DirBuilder::new().mode(0o700).create(&self.fresh).and_then(|()| File::open(&self.fresh));
        // Opened before anything is written: it is told of every failure to write from then on.
        let fresh = made.map_err(Error::target("making", &self.fresh))?;
        let reader = BufReader::with_capacity(PIECE, Halting { inner: tar, halt });
        let unpacked = unpack(reader, &self.fresh, Owners::Keep);
        if halt.stopped() {
            return Err(Error::Cancelled);
        }
        unpacked.map_err(|error| match error {
            UnpackError::Write { path, source } => Error::target("unpacking", &path)(source),
            UnpackError::Tree(source) => Error::Unpack { path: self.tar.clone(), source },
        })?;
        // One call for all files and folders, however many, and for the device's own cache.
        nix::unistd::syncfs(&fresh).map_err(|error| Error::target("flushing", &self.fresh)(error.into()))
    }

    fn make_room(&self) -> Result<(), Error> {
        if self.folder.symlink_metadata().is_ok() {
            let path = self.folder.display();
            tracing::info!(%path, "no room for both: removing the target slot's old folder first");
        }
        self.move_away()?;
        remove(&self.old)
    }

    /// Never half a folder under its name: away first, then removed.
    fn move_away(&self) -> Result<(), Error> {
        folder::no_mount(&self.folder, Path::new(PROC))?;
        match fs::rename(&self.folder, &self.old) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(Error::target("moving away", &self.folder)),
        }
    }

    fn too_small(&self, image: &Image, error: Error) -> Error {
        if error.reason() != Reason::NoSpace {
            return error;
        }
        let _ = remove(&self.fresh).and_then(|()| remove(&self.tar));
        let room = guard::free_bytes(self.around()).unwrap_or(0);
        tracing::warn!(error = crate::system::chain(&error), "the folder takes more room than its image");
        Error::TooSmall { image: image.name.clone(), size: image.size, path: self.folder.clone(), room }
    }

    fn around(&self) -> &Path {
        self.folder.parent().unwrap_or(Path::new("/"))
    }
}

/// Removes a file, a link, or a folder with everything in it; nothing there is well. Links in it are removed, never
/// followed. Asked anew each time: a download takes hours, in which somebody may mount something in it, and deleting would
/// reach into that.
fn remove(path: &Path) -> Result<(), Error> {
    let removed = match fs::symlink_metadata(path) {
        Ok(facts) if facts.is_dir() => {
            folder::no_mount(path, Path::new(PROC))?;
            fs::remove_dir_all(path)
        }
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(Error::target("removing", path)),
    }
}

/// Ends early when everybody is to stop.
struct Halting<'a> {
    inner: File,
    halt: &'a Halt,
}

impl Read for Halting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.halt.stopped() {
            return Err(io::Error::other("stopped"));
        }
        self.inner.read(buffer)
    }
}

/// Hashes what is written, up to so many bytes.
struct Hashing<'a> {
    hash: Sha256,
    left: u64,
    halt: &'a Halt,
    meter: Option<&'a Meter>,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len() as u64;
        if len > self.left || self.halt.stopped() {
            return Err(io::Error::other("stopped"));
        }
        self.left -= len;
        self.hash.update(bytes);
        if let Some(meter) = self.meter {
            meter.read(len);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
