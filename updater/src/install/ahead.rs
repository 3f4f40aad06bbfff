//! Reads a device or file from start to end, a few pieces ahead of whoever works on them, past the page cache.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Scope;

use super::buffer::Buffer;
use super::halt::Halt;
use super::target::{SlotIo, read_full};

/// Bytes read at once.
const PIECE: usize = 1 << 20;
/// Pieces under way between the two.
const PIECES: usize = 3;

/// What has been read and not been taken yet. Ends early when everybody is told to stop.
pub struct Ahead {
    full: Receiver<io::Result<(Buffer, usize)>>,
    empty: SyncSender<Buffer>,
    /// The piece being taken: its length, and how much of it is gone.
    current: Option<(Buffer, usize, usize)>,
}

impl Ahead {
    /// Begins to read the first `size` bytes of `io`; fewer when there are fewer.
    pub fn begin<'scope>(
        scope: &'scope Scope<'scope, '_>,
        io: &'scope dyn SlotIo,
        size: u64,
        halt: &'scope Halt,
    ) -> Self {
        let (empty, empty_buffers) = sync_channel(PIECES);
        let (full_buffers, full) = sync_channel(PIECES);
        for _ in 0..PIECES {
            // Room for all of them, so this never waits.
            let _ = empty.send(Buffer::new(PIECE));
        }
        scope.spawn(move || {
            let mut offset = 0;
            while offset < size && !halt.stopped() {
                let Ok(mut buffer) = empty_buffers.recv() else { return };
                let wanted = usize::try_from(size - offset).unwrap_or(PIECE).min(PIECE);
                let read = read_full(io, buffer.get_mut(wanted), offset);
                let count = *read.as_ref().unwrap_or(&0);
                if full_buffers.send(read.map(|count| (buffer, count))).is_err() || count < wanted {
                    return;
                }
                offset += count as u64;
            }
        });
        Self { full, empty, current: None }
    }

    /// The next piece; empty at the end.
    ///
    /// # Errors
    /// As the device says.
    pub fn piece(&mut self) -> io::Result<&[u8]> {
        if let Some((buffer, ..)) = self.current.take() {
            // The reader may be done already.
            let _ = self.empty.send(buffer);
        }
        if let Ok(read) = self.full.recv() {
            let (buffer, count) = read?;
            self.current = Some((buffer, count, 0));
        }
        Ok(self.current.as_ref().map_or(&[], |(buffer, count, _)| buffer.get(*count)))
    }
}

impl Read for Ahead {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.current.as_ref().is_none_or(|(_, count, gone)| gone == count) {
            self.piece()?;
        }
        let Some((buffer, count, gone)) = &mut self.current else { return Ok(0) };
        let piece = buffer.get(*count).get(*gone..).unwrap_or_default();
        let len = piece.len().min(out.len());
        let (to, from) = (out.get_mut(..len).unwrap_or_default(), piece.get(..len).unwrap_or_default());
        to.copy_from_slice(from);
        *gone += len;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::faulty::{Fault, Memory};
    use crate::seams::Cancel;

    fn read(io: &Memory, size: u64) -> io::Result<Vec<u8>> {
        let halt = Halt::new(&Cancel::new());
        let mut out = Vec::new();
        std::thread::scope(|scope| Ahead::begin(scope, io, size, &halt).read_to_end(&mut out))?;
        Ok(out)
    }

    #[test]
    fn all_of_it_in_order_to_the_end_or_the_fault() {
        let bytes: Vec<u8> = (0..5_500_001_u32).map(|n| (n % 251) as u8).collect();
        let io = Memory::new(bytes.len());
        io.with(|target| target.copy_from_slice(&bytes));
        assert_eq!(read(&io, u64::MAX).unwrap(), bytes);
        assert_eq!(read(&io, 3_000_000).unwrap(), bytes[..3_000_000]);
        assert!(read(&io, 0).unwrap().is_empty());
        read(&Memory::with_fault(4 << 20, Fault::Read(nix::errno::Errno::EIO as i32)), u64::MAX).unwrap_err();
    }
}
