//! The device or file an image goes to: the seam between the pipeline and the disk.
//!
//! Partitions are written past the page cache (O_DIRECT), at a twelfth of the CPU time of buffered writes, and read
//! back from the medium rather than from memory. Files are written through the cache and synced; they are small, and
//! FAT wants it so. Touches only what it was opened with.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::fcntl::{FallocateFlags, OFlag, PosixFadviseAdvice, fallocate, posix_fadvise};

use super::buffer::{ALIGN, Buffer};

/// Bytes written at once where zeros have to be written out.
const ZERO_PIECE: usize = 1 << 20;

/// Where the bytes of one image go.
pub trait SlotIo: Send + Sync {
    /// Bytes that fit.
    fn capacity(&self) -> u64;

    /// Reads some bytes; fewer at the end of a file, 0 behind it.
    ///
    /// # Errors
    /// As the device says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes some bytes and says how many.
    ///
    /// # Errors
    /// As the device says.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Makes a range read as zeros, cheaply where the device can.
    ///
    /// # Errors
    /// As the device says.
    fn zero(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Makes everything durable, the device's own cache included.
    ///
    /// # Errors
    /// As the device says.
    fn sync(&self) -> io::Result<()>;

    /// Lets the next read come from the medium.
    ///
    /// # Errors
    /// As the device says.
    fn forget_caches(&self) -> io::Result<()>;
}

/// Fills `buffer` from `offset` and says how much there was.
///
/// # Errors
/// As the device says.
pub fn read_full(io: &dyn SlotIo, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match io.read_at(rest, offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes all of `bytes`, however many pieces the device takes.
///
/// # Errors
/// As the device says.
pub fn write_full(io: &dyn SlotIo, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        match io.write_at(rest, offset + done as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The real thing.
#[derive(Debug)]
pub struct Target {
    /// Past the page cache; none where the file system can not.
    direct: Option<File>,
    /// Through it: for pieces that are not whole blocks.
    plain: File,
    capacity: u64,
}

impl Target {
    /// Opens a block device for itself alone.
    ///
    /// `O_EXCL` on a block device is the kernel's own exclusive claim: mounted or held devices refuse it, in whatever
    /// namespace, and nobody can mount this one while we write.
    ///
    /// # Errors
    /// As the kernel says; `ResourceBusy` when somebody uses it.
    pub fn device(path: &Path) -> io::Result<Self> {
        let exclusive = |flags: OFlag| OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(path);
        let direct = match exclusive(OFlag::O_EXCL | OFlag::O_DIRECT) {
            Ok(file) => Some(file),
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EINVAL as i32) => None,
            Err(error) => return Err(error),
        };
        // One claim per open file: the second handle goes without.
        let flags = if direct.is_some() { OFlag::empty() } else { OFlag::O_EXCL };
        let mut plain = exclusive(flags)?;
        let capacity = plain.seek(SeekFrom::End(0))?;
        Ok(Self { direct, plain, capacity })
    }

    /// Opens a block device for reading back. Does not claim it: the slot may be mounted read-only by a test of the
    /// new system.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn device_read_only(path: &Path) -> io::Result<Self> {
        let direct = OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECT.bits()).open(path).ok();
        let mut plain = File::open(path)?;
        let capacity = plain.seek(SeekFrom::End(0))?;
        Ok(Self { direct, plain, capacity })
    }

    /// Opens a file, making it when it is not there, for an image of `size` bytes. What is in it stays: it may be what
    /// an interrupted install wrote.
    ///
    /// # Errors
    /// As the file system says.
    pub fn file(path: &Path, size: u64) -> io::Result<Self> {
        let plain = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        if plain.metadata()?.len() > size {
            plain.set_len(size)?;
        }
        Ok(Self { direct: None, plain, capacity: size })
    }

    /// Opens a file for reading back.
    ///
    /// # Errors
    /// As the file system says.
    pub fn file_read_only(path: &Path) -> io::Result<Self> {
        let plain = File::open(path)?;
        let capacity = plain.metadata()?.len();
        Ok(Self { direct: None, plain, capacity })
    }

    /// The handle for a piece: direct when address, offset and length are whole blocks.
    fn handle(&self, piece: &[u8], offset: u64) -> &File {
        let aligned = piece.as_ptr().align_offset(512) == 0
            && piece.len().is_multiple_of(ALIGN)
            && offset.is_multiple_of(ALIGN as u64);
        self.direct.as_ref().filter(|_| aligned).unwrap_or(&self.plain)
    }
}

impl SlotIo for Target {
    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.handle(buffer, offset).read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.handle(bytes, offset).write_at(bytes, offset)
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        let (Ok(start), Ok(length)) = (i64::try_from(offset), i64::try_from(len)) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let file = self.direct.as_ref().unwrap_or(&self.plain);
        let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        // A hole where the device promises that it reads as zeros (also frees flash), then the device's own zeroing.
        // A hole never makes a file longer, so the last one of a file is written out.
        let inside = offset.saturating_add(len) <= self.plain.metadata()?.len() || self.direct.is_some();
        if inside {
            for mode in [FallocateFlags::FALLOC_FL_PUNCH_HOLE, FallocateFlags::FALLOC_FL_ZERO_RANGE] {
                if fallocate(file, mode | keep, start, length).is_ok() {
                    return Ok(());
                }
            }
        }
        let zeros = Buffer::new(usize::try_from(len).unwrap_or(ZERO_PIECE).min(ZERO_PIECE));
        let mut done = 0;
        while done < len {
            let piece = zeros.get(usize::try_from(len - done).unwrap_or(ZERO_PIECE).min(ZERO_PIECE));
            write_full(self, piece, offset + done)?;
            done += piece.len() as u64;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        // One sync of the device covers both handles: the cache and the disk are the same.
        self.plain.sync_all()
    }

    fn forget_caches(&self) -> io::Result<()> {
        posix_fadvise(&self.plain, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).map_err(io::Error::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_filled_in_any_order_and_zeroed_anywhere() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, [7; 100]).unwrap();
        let target = Target::file(&path, 10_000).unwrap();
        write_full(&target, &[1; 5000], 5000).unwrap();
        target.zero(0, 5000).unwrap();
        target.zero(9000, 1000).unwrap();
        target.sync().unwrap();
        target.forget_caches().unwrap();
        let mut found = vec![9; 12_000];
        assert_eq!(read_full(&target, &mut found, 0).unwrap(), 10_000);
        assert!(found[..5000].iter().all(|b| *b == 0) && found[5000..9000].iter().all(|b| *b == 1));
        assert!(found[9000..10_000].iter().all(|b| *b == 0));
        assert_eq!(Target::file(&path, 400).unwrap().plain.metadata().unwrap().len(), 400, "a longer one is cut");
    }
}
