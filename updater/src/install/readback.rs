//! Reads a whole target back from the medium and compares it with the signed digest.
//!
//! The last word before a slot may boot: what the device gives is what counts, not what was written to it. Reading and
//! hashing overlap.

use std::path::Path;
use std::sync::mpsc;
use std::thread;

use bundle::digest::Digest;
use bundle::manifest::Image;
use sha2::{Digest as _, Sha256};

use super::buffer::Buffer;
use super::error::Error;
use super::halt::Halt;
use super::meter::Meter;
use super::target::{SlotIo, read_full};

/// Bytes read at once.
const PIECE: usize = 1 << 20;
/// Pieces between reader and hasher.
const PIECES: usize = 3;

/// Reads the image back from `io`.
///
/// # Errors
/// [`Error::Image`] when it is not the signed one; [`Error::Target`] when it can not be read; [`Error::Cancelled`].
pub fn verify(io: &dyn SlotIo, path: &Path, image: &Image, halt: &Halt, meter: &Meter) -> Result<(), Error> {
    io.forget_caches().map_err(Error::target("forgetting what is cached of", path))?;
    let (empty_sender, empty) = mpsc::sync_channel(PIECES);
    let (full_sender, full) = mpsc::sync_channel::<(Buffer, usize)>(PIECES);
    for _ in 0..PIECES {
        // Room for all of them, so this never waits.
        let _ = empty_sender.send(Buffer::new(PIECE));
    }
    let found = thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut offset = 0;
            while offset < image.size && !halt.stopped() {
                let Ok(mut buffer) = empty.recv() else { return Ok(()) };
                let wanted = usize::try_from(image.size - offset).unwrap_or(PIECE).min(PIECE);
                let count = read_full(io, buffer.get_mut(wanted), offset).map_err(Error::target("reading", path))?;
                if count == 0 || full_sender.send((buffer, count)).is_err() {
                    return Ok(());
                }
                offset += count as u64;
            }
            Ok(())
        });
        let mut hash = Sha256::new();
        for (buffer, count) in full {
            hash.update(buffer.get(count));
            meter.read(count as u64);
            // The reader may be done already.
            let _ = empty_sender.send(buffer);
        }
        reader.join().unwrap_or_else(|_| Err(Error::Lost("reading back".into())))?;
        Ok::<_, Error>(Digest(hash.finalize().into()))
    })?;
    if halt.stopped() {
        return Err(Error::Cancelled);
    }
    if found == image.sha256 {
        return Ok(());
    }
    Err(Error::Image { image: image.name.clone(), expected: image.sha256, found })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::faulty::{Fault, Memory};
    use crate::seams::Cancel;
    use bundle::manifest::{Blob, ImageKind};
    use bundle::reason::Reason;
    use updater_core::status::ProgressPhase;

    fn image(bytes: &[u8]) -> Image {
        let blob = Blob { size: 0, sha256: Digest::of(b"") };
        Image {
            name: "rootfs".into(),
            kind: ImageKind::Block,
            size: bytes.len() as u64,
            sha256: Digest::of(bytes),
            index: blob,
            chunks: None,
            payload: blob,
        }
    }

    fn check(io: &dyn SlotIo, image: &Image, cancel: &Cancel) -> Result<(), Error> {
        let (sink, _) = tokio::sync::watch::channel(None);
        let meter = Meter::new(&sink, ProgressPhase::Verifying, image.size);
        verify(io, Path::new("/dev/x"), image, &Halt::new(cancel), &meter)
    }

    #[test]
    fn right_wrong_unreadable_and_cancelled() {
        let bytes: Vec<u8> = (0..3_500_001_u32).map(|n| (n % 253) as u8).collect();
        let (image, cancel) = (image(&bytes), Cancel::new());
        let io = Memory::new(4 << 20);
        io.with(|target| target[..bytes.len()].copy_from_slice(&bytes));
        check(&io, &image, &cancel).unwrap();
        io.with(|target| target[bytes.len()] = 1);
        check(&io, &image, &cancel).unwrap();
        io.with(|target| target[2_000_000] ^= 1);
        assert_eq!(check(&io, &image, &cancel).unwrap_err().reason(), Reason::ImageMismatch);
        let short = Memory::with_fault(4 << 20, Fault::Short(777));
        short.with(|target| target[..bytes.len()].copy_from_slice(&bytes));
        check(&short, &image, &cancel).unwrap();
        let broken = Memory::with_fault(4 << 20, Fault::Read(nix::errno::Errno::EIO as i32));
        assert_eq!(check(&broken, &image, &cancel).unwrap_err().reason(), Reason::WriteError);
        cancel.cancel();
        assert_eq!(check(&io, &image, &cancel).unwrap_err().reason(), Reason::Cancelled);
    }
}
