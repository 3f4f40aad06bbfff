//! From what was fetched, or from the running image, to the device: make, prove, compare, write. One per worker thread.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bundle::delta::{DeltaError, OldImage, Patcher, Section};
use bundle::digest::Hashed;
use bundle::frame::{FrameDecoder, FrameError, check_raw};

use super::buffer::Buffer;
use super::error::Error;
use super::plan::{Frame, Task};
use super::target::{SlotIo, read_full, write_full};
use super::way::{Span, Way};

/// Size in which old and new are compared: the block of the file systems in question.
const BLOCK: usize = 4096;
/// Equal bytes between two pieces that are written along rather than skipped: two writes cost more than this.
const MAX_GAP: usize = 64 << 10;
/// How much of the old content is read at once for the comparison.
const COMPARE: usize = 256 << 10;
/// Bytes compared before judging whether comparing pays.
const JUDGE_AFTER: u64 = 16 << 20;

/// Whether reading the old content saves writes; shared by all workers of an image.
///
/// A release beside the one in the slot shares blocks at the same place, and on flash a read is cheaper than a write,
/// for speed and for wear. In a slot that held something else the reading is lost time, so it is given up when less
/// than a sixteenth was equal.
#[derive(Debug, Default)]
pub struct Comparing {
    looked: AtomicU64,
    equal: AtomicU64,
}

impl Comparing {
    fn pays(&self) -> bool {
        let looked = self.looked.load(Ordering::Relaxed);
        looked < JUDGE_AFTER || self.equal.load(Ordering::Relaxed) > looked / 16
    }
}

/// The running image, and what a delta says of it.
#[derive(Debug)]
pub struct Old {
    /// Read only.
    pub file: std::fs::File,
    /// The delta's section for this image, where there is a delta.
    pub section: Option<Section>,
}

/// A worker's tools.
pub struct Writer {
    decoder: FrameDecoder,
    patcher: Patcher,
    /// The frame, where the device can be written from.
    new: Buffer,
    old: Buffer,
    comparing: Arc<Comparing>,
}

impl Writer {
    /// Tools for frames of at most `frame_size` raw bytes.
    #[must_use]
    pub fn new(frame_size: usize, comparing: Arc<Comparing>) -> Self {
        let old = Buffer::new(COMPARE.min(frame_size));
        let (decoder, patcher) = (FrameDecoder::new(), Patcher::new());
        Self { decoder, patcher, new: Buffer::new(frame_size), old, comparing }
    }

    /// Decodes a frame of the bundle and makes the target hold it. Gives the bytes that had to be written.
    ///
    /// # Errors
    /// [`Decoded::Frame`] before anything was written, [`Decoded::Io`] otherwise.
    pub fn place(&mut self, io: &dyn SlotIo, frame: &Frame, stored: Hashed<&[u8]>) -> Result<u64, Decoded> {
        let new = self.new.get_mut(frame.record.raw_len as usize);
        self.decoder.decode_into(&frame.record, stored, new).map_err(Decoded::Frame)?;
        self.write(io, frame).map_err(Decoded::Io)
    }

    /// The same for a frame that comes in any way.
    ///
    /// # Errors
    /// [`Decoded::Way`] when it can not be made in this way; nothing was written then.
    pub fn place_task(
        &mut self,
        io: &dyn SlotIo,
        task: &Task,
        stored: Hashed<&[u8]>,
        old: Option<&Old>,
    ) -> Result<u64, Decoded> {
        let frame = &task.frame;
        if matches!(task.way, Way::Bundle | Way::Plain { .. }) {
            return self.place(io, frame, stored);
        }
        self.make(task, stored, old).map_err(Decoded::Way)?;
        self.write(io, frame).map_err(Decoded::Io)
    }

    /// Makes the frame in `new`.
    fn make(&mut self, task: &Task, stored: Hashed<&[u8]>, old: Option<&Old>) -> Result<(), DeltaError> {
        let old = old.ok_or(DeltaError::Malformed("no running image"))?;
        let record = &task.frame.record;
        let new = self.new.get_mut(record.raw_len as usize);
        match (&task.way, &old.section) {
            (Way::Old(spans), _) => {
                gather(&old.file, spans, new)?;
                check_raw(record, new).map_err(DeltaError::Frame)
            }
            (Way::Patch { sha256, .. }, Some(section)) => {
                self.patcher.patch_into(record, section, (stored, sha256), &old.file, new)
            }
            _ => Err(DeltaError::Malformed("a recipe without a delta")),
        }
    }

    /// Makes the target hold what is in `new`.
    fn write(&mut self, io: &dyn SlotIo, frame: &Frame) -> std::io::Result<u64> {
        if self.comparing.pays() { self.write_differing(io, frame) } else { self.write_all(io, frame) }
    }

    fn write_all(&self, io: &dyn SlotIo, frame: &Frame) -> std::io::Result<u64> {
        let new = self.new.get(frame.record.raw_len as usize);
        write_full(io, new, frame.raw_offset)?;
        Ok(new.len() as u64)
    }

    /// Writes only the blocks that differ, small gaps included.
    fn write_differing(&mut self, io: &dyn SlotIo, frame: &Frame) -> std::io::Result<u64> {
        let new = self.new.get(frame.record.raw_len as usize);
        // Start and end, within the frame, of the piece that waits to be written.
        let mut pending: Option<(usize, usize)> = None;
        let (mut written, mut equal) = (0, 0);
        let flush = |piece: Option<(usize, usize)>| -> std::io::Result<u64> {
            let Some((start, end)) = piece else { return Ok(0) };
            write_full(io, new.get(start..end).unwrap_or_default(), frame.raw_offset + start as u64)?;
            Ok((end - start) as u64)
        };
        let mut at = 0;
        while at < new.len() {
            let wanted = (new.len() - at).min(self.old.capacity());
            let old = self.old.get_mut(wanted);
            let count = read_full(io, old, frame.raw_offset + at as u64)?;
            let old = old.get(..count).unwrap_or_default();
            for start in (at..at + wanted).step_by(BLOCK) {
                let end = (start + BLOCK).min(at + wanted);
                if old.get(start - at..end - at) == new.get(start..end) {
                    equal += end - start;
                    continue;
                }
                pending = match pending {
                    Some((first, last)) if start - last <= MAX_GAP => Some((first, end)),
                    other => {
                        written += flush(other)?;
                        Some((start, end))
                    }
                };
            }
            at += wanted;
        }
        written += flush(pending)?;
        self.comparing.looked.fetch_add(new.len() as u64, Ordering::Relaxed);
        self.comparing.equal.fetch_add(equal as u64, Ordering::Relaxed);
        Ok(written)
    }
}

/// Puts pieces of the running image one behind the other.
fn gather(old: &std::fs::File, spans: &[Span], out: &mut [u8]) -> Result<(), DeltaError> {
    let sum: u64 = spans.iter().map(|span| u64::from(span.len)).sum();
    if sum != out.len() as u64 {
        return Err(DeltaError::Malformed("pieces of another length"));
    }
    let mut rest = out;
    for span in spans {
        let (piece, after) = std::mem::take(&mut rest)
            .split_at_mut_checked(span.len as usize)
            .ok_or(DeltaError::Malformed("pieces of another length"))?;
        old.read_at(span.old, piece).map_err(DeltaError::Old)?;
        rest = after;
    }
    Ok(())
}

/// What went wrong with a frame.
#[derive(Debug)]
pub enum Decoded {
    /// It can not be made in this way; there is another.
    Way(DeltaError),
    /// The bytes are not those of the index.
    Frame(FrameError),
    /// The target.
    Io(std::io::Error),
}

impl Decoded {
    /// The error of the install.
    pub(super) fn into_error(self, image: &str, frame: &Frame, path: &Path) -> Error {
        match self {
            // Whoever asks for one way only has no other.
            Self::Way(DeltaError::Frame(source)) | Self::Frame(source) => {
                Error::Frame { image: image.to_owned(), number: frame.number, source }
            }
            Self::Way(_) => Error::Frame { image: image.to_owned(), number: frame.number, source: FrameError::Raw },
            Self::Io(source) => Error::target("writing", path)(source),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::faulty::Memory;
    use bundle::digest::Digest;
    use bundle::index::FrameRecord;

    fn frame(raw: &[u8], raw_offset: u64) -> (Frame, Vec<u8>) {
        let mut stored = vec![0; zstd_safe::compress_bound(raw.len())];
        let len = zstd_safe::compress(stored.as_mut_slice(), raw, 3).unwrap();
        stored.truncate(len);
        let record = FrameRecord {
            offset: 0,
            stored_len: u32::try_from(stored.len()).unwrap(),
            raw_len: u32::try_from(raw.len()).unwrap(),
            zero: false,
            stored_sha256: Digest::of(&stored),
            raw_sha256: Digest::of(raw),
        };
        (Frame { number: 0, raw_offset, record }, stored)
    }

    #[test]
    fn only_what_differs_is_written() {
        let raw: Vec<u8> = (0..1_000_000_u32).map(|n| (n / 5000 % 250) as u8 + 1).collect();
        let (frame, stored) = frame(&raw, 8192);
        let io = Memory::new(2 << 20);
        let mut writer = Writer::new(1 << 20, Arc::default());
        assert_eq!(
            writer.place(&io, &frame, Hashed::new(&stored)).unwrap(),
            1_000_000 / 4096 * 4096 + 1_000_000 % 4096
        );
        assert_eq!(writer.place(&io, &frame, Hashed::new(&stored)).unwrap(), 0);
        io.with(|bytes| {
            assert_eq!(&bytes[8192..8192 + raw.len()], &raw);
            bytes[8192 + 10] ^= 1;
            bytes[8192 + 500_000] ^= 1;
        });
        assert_eq!(writer.place(&io, &frame, Hashed::new(&stored)).unwrap(), 2 * 4096);
        io.with(|bytes| assert_eq!(&bytes[8192..8192 + raw.len()], &raw));
    }

    #[test]
    fn wrong_bytes_never_reach_the_target() {
        let (frame, mut stored) = frame(&[1; 100_000], 0);
        stored[20] ^= 1;
        let io = Memory::new(1 << 20);
        let mut writer = Writer::new(1 << 20, Arc::default());
        assert!(matches!(writer.place(&io, &frame, Hashed::new(&stored)), Err(Decoded::Frame(FrameError::Stored))));
        io.with(|bytes| assert!(bytes.iter().all(|byte| *byte == 0)));
    }
}
