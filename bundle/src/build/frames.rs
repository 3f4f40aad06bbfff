//! Cuts an image into frames, compresses them in parallel, and writes payload and index.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use super::{BUILD_BASE, BUILD_MEMORY, BuildError, Compressor, Event, Settings, in_order};
use crate::digest::Digest;
use crate::frame::is_zero;
use crate::index::{FRAME_UNIT, FrameRecord, IndexHeader, MAX_FRAME_SIZE, MIN_FRAME_SIZE};
use crate::manifest::Blob;

/// Counts of one image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FrameStats {
    /// Frames.
    pub frames: u32,
    /// Of these, all zeros.
    pub zero_frames: u32,
    /// Raw bytes.
    pub raw: u64,
    /// Stored bytes.
    pub stored: u64,
}

/// Payload and index of one image.
#[derive(Debug)]
pub struct Written {
    /// The index member.
    pub index: Vec<u8>,
    /// Size and digest of the payload member.
    pub payload: Blob,
    /// Digest of the raw image.
    pub image_sha256: Digest,
    /// Counts.
    pub stats: FrameStats,
}

struct Frame {
    stored: Vec<u8>,
    stored_sha256: Digest,
    raw_sha256: Digest,
    raw_len: u32,
    zero: bool,
}

/// Reads `size` bytes of `input` and writes them as frames to `payload`.
///
/// # Errors
/// When reading, compressing or writing fails, or a setting is outside the format.
pub fn write_frames(
    input: &mut (impl Read + Send),
    size: u64,
    settings: &Settings,
    payload: &mut impl Write,
    progress: &(dyn Fn(Event<'_>) + Sync),
) -> Result<Written, BuildError> {
    check(settings)?;
    let frame_size = settings.frame_size;
    let compressor = Compressor::new(settings.level, frame_size as usize);
    // All full frames of zeros are the same bytes; an image may have a million of them.
    let zeros = make(&compressor, vec![0; frame_size as usize])?;
    let mut image_hash = Sha256::new();
    let mut left = size;
    let produce = || {
        let len = left.min(u64::from(frame_size));
        left -= len;
        (len > 0).then(|| read_frame(input, len, &mut image_hash))
    };
    let work = |raw: Vec<u8>| {
        if raw.len() == frame_size as usize && is_zero(&raw) { Ok(zeros.copy()) } else { make(&compressor, raw) }
    };
    let mut records = Vec::new();
    let mut stats = FrameStats::default();
    let mut payload_hash = Sha256::new();
    in_order(workers(settings, &compressor)?, produce, work, |frame: Frame| {
        payload.write_all(&frame.stored).map_err(BuildError::Write)?;
        payload_hash.update(&frame.stored);
        records.extend_from_slice(&frame.record(stats.stored)?.to_bytes());
        stats.frames += 1;
        stats.zero_frames += u32::from(frame.zero);
        stats.raw += u64::from(frame.raw_len);
        stats.stored += frame.stored.len() as u64;
        progress(Event::Frame { raw: u64::from(frame.raw_len), stored: frame.stored.len() as u64 });
        Ok(())
    })?;
    let header = IndexHeader { frame_size, frame_count: stats.frames, image_size: size, payload_size: stats.stored };
    let mut index = header.to_bytes().to_vec();
    index.append(&mut records);
    Ok(Written {
        index,
        payload: Blob { size: stats.stored, sha256: Digest(payload_hash.finalize().into()) },
        image_sha256: Digest(image_hash.finalize().into()),
        stats,
    })
}

/// Threads that keep building below [`BUILD_MEMORY`], whatever level and frame size make of their tables.
fn workers(settings: &Settings, compressor: &Compressor) -> Result<usize, BuildError> {
    let frame = settings.frame_size as usize;
    // Beside those that are worked on, a frame of zeros and the three of the pipeline.
    let fixed = BUILD_BASE + 4 * frame;
    Ok(settings.workers(BUILD_MEMORY.saturating_sub(fixed), compressor.memory(frame)?))
}

impl Frame {
    fn copy(&self) -> Self {
        Self { stored: self.stored.clone(), ..*self }
    }

    fn record(&self, offset: u64) -> Result<FrameRecord, BuildError> {
        let stored_len = u32::try_from(self.stored.len()).map_err(|_| BuildError::Zstd("a frame too large"))?;
        Ok(FrameRecord {
            offset,
            stored_len,
            raw_len: self.raw_len,
            zero: self.zero,
            stored_sha256: self.stored_sha256,
            raw_sha256: self.raw_sha256,
        })
    }
}

fn make(compressor: &Compressor, raw: Vec<u8>) -> Result<Frame, BuildError> {
    let stored = compressor.compress(&raw, None)?;
    let raw_len = u32::try_from(raw.len()).map_err(|_| BuildError::Zstd("a frame too large"))?;
    let (stored_sha256, raw_sha256) = (Digest::of(&stored), Digest::of(&raw));
    Ok(Frame { stored, stored_sha256, raw_sha256, raw_len, zero: is_zero(&raw) })
}

fn read_frame(input: &mut impl Read, len: u64, hash: &mut Sha256) -> Result<Vec<u8>, BuildError> {
    let mut raw = Vec::with_capacity(usize::try_from(len).unwrap_or_default());
    let read = input.take(len).read_to_end(&mut raw).and_then(|read| {
        let whole = read as u64 == len;
        if whole { Ok(()) } else { Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended early")) }
    });
    read.map_err(|source| BuildError::Read { path: PathBuf::new(), source })?;
    hash.update(&raw);
    Ok(raw)
}

fn check(settings: &Settings) -> Result<(), BuildError> {
    let Settings { level, frame_size, .. } = *settings;
    if !(1..=22).contains(&level) {
        return Err(BuildError::Setting(format!("level {level}: zstd levels are 1 to 22")));
    }
    if !(MIN_FRAME_SIZE..=MAX_FRAME_SIZE).contains(&frame_size) || !frame_size.is_multiple_of(FRAME_UNIT) {
        return Err(BuildError::Setting(format!(
            "frame size {frame_size}: frames are a multiple of 4 KiB, at most 4 MiB"
        )));
    }
    Ok(())
}
