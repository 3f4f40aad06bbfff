//! The two ends of an image: whether it is there already, and what makes a written one durable.

use bundle::frame::is_zero;
use bundle::manifest::{Image, Manifest};
use tokio::task::spawn_blocking;
use updater_core::status::ProgressPhase;

use super::buffer::{ALIGN, Buffer};
use super::error::Error;
use super::halt::Halt;
use super::meter::Meter;
use super::place::{self, Found};
use super::readback;
use super::target::{SlotIo, Target, read_full};

/// Bytes at either end of what is left behind an image that are zeroed.
///
/// A larger image of before leaves its tail behind. No file system reads beyond its own size, but tools that guess by
/// signature look at the first megabyte behind, and at the last one of the device, where RAID, GPT and others keep
/// copies of theirs. The rest is not worth the wear.
const TAIL: u64 = 1 << 20;

/// Runs blocking work on a thread where that is allowed.
///
/// # Errors
/// Those of the work; [`Error::Lost`] when it panicked.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(Error::Lost(error.to_string())))
}

/// A file or folder that already is what it should be: the same kernel as before, or an install that was interrupted
/// later. A partition is never looked at as a whole here: its frames are.
///
/// # Errors
/// [`Error::Lost`].
pub async fn already_there(
    found: &Found,
    image: &Image,
    manifest: &Manifest,
    halt: &Halt,
    meter: &Meter,
) -> Result<bool, Error> {
    let (found, image, mtime) = (found.clone(), image.clone(), manifest.mtime());
    let (halt, meter) = (halt.clone(), meter.clone());
    blocking(move || {
        let (sink, _) = tokio::sync::watch::channel(None);
        let unseen = Meter::new(&sink, ProgressPhase::Writing, 0);
        let right = match &found {
            Found::Device(_) => false,
            Found::File { path, .. } => Target::file_read_only(path).is_ok_and(|io| {
                io.capacity() == image.size && readback::verify(&io, path, &image, &halt, &unseen).is_ok()
            }),
            Found::Tree(place) => place.verify(&image, mtime, &halt, &unseen).is_ok(),
        };
        if right {
            meter.kept(image.size);
            // What an earlier try left behind only takes room.
            let _ = match &found {
                Found::Tree(place) => place.clear().is_ok(),
                Found::File { temp, .. } => std::fs::remove_file(temp).is_ok(),
                Found::Device(_) => true,
            };
        }
        Ok(right)
    })
    .await
}

/// Flushes a complete target; a file gets its name, a folder its content.
///
/// # Errors
/// [`Error::Target`]; of a folder also that it has no room, or that its image can not be unpacked.
pub fn finish(found: &Found, image: &Image, io: &dyn SlotIo, halt: &Halt) -> Result<(), Error> {
    let path = found.path();
    if let Found::Device(_) = found {
        wipe_tail(io, image.size).map_err(Error::target("writing", path))?;
    }
    io.sync().map_err(Error::target("flushing", path))?;
    io.forget_caches().map_err(Error::target("forgetting what is cached of", path))?;
    match found {
        Found::Device(_) => Ok(()),
        Found::File { path, temp } => place::finish_file(path, temp),
        Found::Tree(place) => place.finish(image, halt),
    }
}

/// Zeroes what could be taken for something behind the image; see [`TAIL`].
fn wipe_tail(io: &dyn SlotIo, size: u64) -> std::io::Result<()> {
    let capacity = io.capacity();
    // The piece up to the next block may hold the last bytes of the image; it was written with it.
    let start = size.next_multiple_of(ALIGN as u64).min(capacity);
    let first = (start, capacity.min(start + TAIL));
    let last = (capacity.saturating_sub(TAIL).max(first.1), capacity);
    for (start, end) in [first, last] {
        let len = usize::try_from(end.saturating_sub(start)).unwrap_or(0);
        let mut buffer = Buffer::new(len);
        let count = read_full(io, buffer.get_mut(len), start)?;
        if len > 0 && !(count == len && is_zero(buffer.get(len))) {
            io.zero(start, len as u64)?;
        }
    }
    Ok(())
}
