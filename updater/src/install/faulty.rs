//! Targets for tests: one in memory, and faults on top of it.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::target::SlotIo;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Every call takes or gives at most this many bytes.
    Short(usize),
    /// From this many written bytes on, writes fail with this error.
    Write(u64, i32),
    /// Reads fail with this error.
    Read(i32),
    /// Writes are taken and one bit of them is lost.
    Lies,
    /// Everything is taken, and the flush fails with this error: how a full or dying disk behind a cache shows.
    Sync(i32),
}

/// A target in memory. What was not flushed is gone when its caches are forgotten.
#[derive(Debug)]
pub struct Memory {
    bytes: Mutex<Vec<u8>>,
    flushed: Mutex<Vec<u8>>,
    written: AtomicU64,
    fault: Fault,
}

impl Memory {
    pub fn new(size: usize) -> Self {
        Self::with_fault(size, Fault::None)
    }

    pub fn with_fault(size: usize, fault: Fault) -> Self {
        Self { bytes: Mutex::new(vec![0; size]), flushed: Mutex::new(vec![0; size]), written: AtomicU64::new(0), fault }
    }

    /// Looks at, or changes, the content.
    pub fn with<T>(&self, look: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        look(&mut self.bytes.lock().unwrap())
    }

    pub fn written(&self) -> u64 {
        self.written.load(Ordering::SeqCst)
    }

    fn limit(&self, len: usize) -> usize {
        match self.fault {
            Fault::Short(most) => len.min(most),
            _ => len,
        }
    }
}

impl SlotIo for Memory {
    fn capacity(&self) -> u64 {
        self.with(|bytes| bytes.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if let Fault::Read(errno) = self.fault {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let offset = usize::try_from(offset).unwrap();
        self.with(|bytes| {
            let count = self.limit(buffer.len()).min(bytes.len().saturating_sub(offset));
            buffer[..count].copy_from_slice(&bytes[offset..offset + count]);
            Ok(count)
        })
    }

    fn write_at(&self, piece: &[u8], offset: u64) -> io::Result<usize> {
        if let Fault::Write(after, errno) = self.fault
            && self.written() >= after
        {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let offset = usize::try_from(offset).unwrap();
        let count = self.limit(piece.len());
        self.with(|bytes| {
            bytes[offset..offset + count].copy_from_slice(&piece[..count]);
            if self.fault == Fault::Lies {
                bytes[offset] ^= 1;
            }
        });
        self.written.fetch_add(count as u64, Ordering::SeqCst);
        Ok(count)
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        let (offset, len) = (usize::try_from(offset).unwrap(), usize::try_from(len).unwrap());
        self.with(|bytes| bytes[offset..offset + len].fill(0));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        if let Fault::Sync(errno) = self.fault {
            return Err(io::Error::from_raw_os_error(errno));
        }
        *self.flushed.lock().unwrap() = self.with(|bytes| bytes.clone());
        Ok(())
    }

    fn forget_caches(&self) -> io::Result<()> {
        self.with(|bytes| bytes.clone_from(&self.flushed.lock().unwrap()));
        Ok(())
    }
}
