//! Reads a whole target back from the medium and compares it with the signed digest.
//!
//! The last word before a slot may boot: what the device gives is what counts, not what was written to it. Reading and
//! hashing overlap.

use std::path::Path;
use std::thread;

use bundle::digest::Digest;
use bundle::manifest::Image;
use sha2::{Digest as _, Sha256};

use super::ahead::Ahead;
use super::error::Error;
use super::halt::Halt;
use super::meter::Meter;
use super::target::SlotIo;

/// Reads the image back from `io`.
///
/// # Errors
/// [`Error::Image`] when it is not the signed one; [`Error::Target`] when it can not be read; [`Error::Cancelled`].
pub fn verify(io: &dyn SlotIo, path: &Path, image: &Image, halt: &Halt, meter: &Meter) -> Result<(), Error> {
    io.forget_caches().map_err(Error::target("forgetting what is cached of", path))?;
    let found = thread::scope(|scope| {
        let mut hash = Sha256::new();
        let mut ahead = Ahead::begin(scope, io, image.size, halt);
        loop {
            let piece = ahead.piece().map_err(Error::target("reading", path))?;
            if piece.is_empty() {
                return Ok::<_, Error>(Digest(hash.finalize().into()));
            }
            hash.update(piece);
            meter.read(piece.len() as u64);
        }
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
            frame_size: None,
            level: None,
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
        let put = |io: &Memory, change: &dyn Fn(&mut Vec<u8>)| {
            io.with(|target| change(target));
            io.sync().unwrap();
        };
        put(&io, &|target| target[..bytes.len()].copy_from_slice(&bytes));
        check(&io, &image, &cancel).unwrap();
        put(&io, &|target| target[bytes.len()] = 1);
        check(&io, &image, &cancel).unwrap();
        put(&io, &|target| target[2_000_000] ^= 1);
        assert_eq!(check(&io, &image, &cancel).unwrap_err().reason(), Reason::ImageMismatch);
        let short = Memory::with_fault(4 << 20, Fault::Short(777));
        put(&short, &|target| target[..bytes.len()].copy_from_slice(&bytes));
        check(&short, &image, &cancel).unwrap();
        let broken = Memory::with_fault(4 << 20, Fault::Read(nix::errno::Errno::EIO as i32));
        assert_eq!(check(&broken, &image, &cancel).unwrap_err().reason(), Reason::WriteError);
        cancel.cancel();
        assert_eq!(check(&io, &image, &cancel).unwrap_err().reason(), Reason::Cancelled);
    }
}
