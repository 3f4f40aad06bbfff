//! The body of a recipe: which blocks to copy, which ranges make the prefix, and how the rest is stored.

use super::varint::Varints;
use super::{BLOCK, DeltaError, MAX_PREFIX, put_varint, put_zigzag};

/// The literal is one zstd frame with the gathered prefix.
const METHOD_PREFIX: u64 = 1;
/// The literal is three streams in the manner of bsdiff, against the gathered prefix.
const METHOD_SPLIT: u64 = 2;

/// Blocks of the frame that equal blocks of the old image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First block in the frame.
    pub block: u32,
    /// Number of blocks.
    pub count: u32,
    /// First block in the old image.
    pub old: u64,
}

/// Blocks of the old image that belong to the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First block.
    pub old: u64,
    /// Number of blocks.
    pub count: u32,
}

/// A stored stream: how many bytes it has, and how many come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream<'a> {
    /// Raw bytes.
    pub raw: u32,
    /// One zstd frame; empty when nothing comes out.
    pub stored: &'a [u8],
}

/// How the literal is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method<'a> {
    /// One zstd frame that needs the prefix; empty when there is no literal.
    Prefix(&'a [u8]),
    /// Control, differences, and extra bytes (the last with the prefix).
    Split {
        /// Triples of numbers: bytes of difference, bytes of extra, then a signed seek in the prefix.
        control: Stream<'a>,
        /// Byte-wise differences to the prefix.
        diff: Stream<'a>,
        /// Bytes found nowhere.
        extra: Stream<'a>,
    },
}

/// A body, read and bounded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body<'a> {
    /// Copies, in the order of the frame.
    pub runs: Vec<Run>,
    /// Ranges of the prefix, in the order of the old image.
    pub prefix: Vec<Range>,
    /// The rest.
    pub method: Method<'a>,
}

impl<'a> Body<'a> {
    /// Reads the body of a frame of `raw_len` bytes, made from an image of `old_size` bytes.
    ///
    /// # Errors
    /// When it would reach outside the frame, the old image, or the memory a prefix may take.
    pub fn parse(bytes: &'a [u8], raw_len: u32, old_size: u64) -> Result<Self, DeltaError> {
        let mut at = Varints(bytes);
        let method = at.next()?;
        let runs = runs(&mut at, raw_len, old_size)?;
        let prefix = ranges(&mut at, old_size)?;
        let method = match method {
            METHOD_PREFIX => Method::Prefix(at.0),
            METHOD_SPLIT => {
                let lens = (at.u32()?, at.u32()?, at.u32()?, at.u32()?, at.u32()?);
                let (control_raw, control_len, diff_raw, diff_len, extra_raw) = lens;
                let (control, rest) = split(at.0, control_len)?;
                let (diff, extra) = split(rest, diff_len)?;
                // Each triple makes at least one byte and has at most 15 of its own.
                if diff_raw.max(extra_raw) > raw_len || u64::from(control_raw) > 15 * (u64::from(raw_len) / 8 + 1) {
                    return Err(DeltaError::Malformed("lengths of streams"));
                }
                Method::Split {
                    control: Stream { raw: control_raw, stored: control },
                    diff: Stream { raw: diff_raw, stored: diff },
                    extra: Stream { raw: extra_raw, stored: extra },
                }
            }
            other => return Err(DeltaError::TooNew(format!("method {other}"))),
        };
        Ok(Self { runs, prefix, method })
    }

    /// As it is stored.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, if matches!(self.method, Method::Prefix(_)) { METHOD_PREFIX } else { METHOD_SPLIT });
        put_varint(&mut out, self.runs.len() as u64);
        let (mut block, mut old) = (0, 0);
        for run in &self.runs {
            put_varint(&mut out, u64::from(run.block - block));
            put_varint(&mut out, u64::from(run.count));
            put_zigzag(&mut out, run.old.wrapping_sub(old) as i64);
            block = run.block + run.count;
            old = run.old + u64::from(run.count);
        }
        put_varint(&mut out, self.prefix.len() as u64);
        let mut end = 0;
        for range in &self.prefix {
            put_varint(&mut out, range.old - end);
            put_varint(&mut out, u64::from(range.count));
            end = range.old + u64::from(range.count);
        }
        match self.method {
            Method::Prefix(stored) => out.extend_from_slice(stored),
            Method::Split { control, diff, extra } => {
                let lens = [control.raw, control.stored.len() as u32, diff.raw, diff.stored.len() as u32, extra.raw];
                lens.iter().for_each(|len| put_varint(&mut out, u64::from(*len)));
                [control, diff, extra].iter().for_each(|stream| out.extend_from_slice(stream.stored));
            }
        }
        out
    }

    /// Bytes that copies put into the frame.
    #[must_use]
    pub fn copied(&self) -> u32 {
        self.runs.iter().map(|run| run.count * BLOCK).sum()
    }
}

fn runs(at: &mut Varints<'_>, raw_len: u32, old_size: u64) -> Result<Vec<Run>, DeltaError> {
    // Only whole blocks are copied; a rest at the end of the image is literal.
    let (blocks, old_blocks) = (raw_len / BLOCK, old_size / u64::from(BLOCK));
    let count = at.u32()?;
    if count > blocks {
        return Err(DeltaError::Malformed("more copies than blocks"));
    }
    let (mut block, mut old) = (0u32, 0u64);
    (0..count)
        .map(|_| {
            let (skip, count, seek) = (at.u32()?, at.u32()?, at.zigzag()?);
            let run = block.checked_add(skip).zip(old.checked_add_signed(seek));
            let (first, from) = run.ok_or(DeltaError::Malformed("a copy outside the image"))?;
            let ends = first.checked_add(count).zip(from.checked_add(u64::from(count)));
            let inside = ends.is_some_and(|(end, old_end)| end <= blocks && old_end <= old_blocks);
            if count == 0 || !inside {
                return Err(DeltaError::Malformed("a copy outside the image"));
            }
            (block, old) = (first + count, from + u64::from(count));
            Ok(Run { block: first, count, old: from })
        })
        .collect()
}

fn ranges(at: &mut Varints<'_>, old_size: u64) -> Result<Vec<Range>, DeltaError> {
    let old_blocks = old_size.div_ceil(u64::from(BLOCK));
    let count = at.u32()?;
    if count > MAX_PREFIX / BLOCK {
        return Err(DeltaError::Malformed("more ranges than a prefix has blocks"));
    }
    let (mut old, mut total) = (0u64, 0u32);
    (0..count)
        .map(|_| {
            let (gap, count) = (at.next()?, at.u32()?);
            let first = old.checked_add(gap).filter(|first| *first <= old_blocks);
            let first = first.ok_or(DeltaError::Malformed("a prefix outside the image"))?;
            old = first + u64::from(count);
            total = total.saturating_add(count);
            if count == 0 || old > old_blocks || total > MAX_PREFIX / BLOCK {
                return Err(DeltaError::Malformed("a prefix too large or outside the image"));
            }
            Ok(Range { old: first, count })
        })
        .collect()
}

fn split(bytes: &[u8], len: u32) -> Result<(&[u8], &[u8]), DeltaError> {
    bytes.split_at_checked(len as usize).ok_or(DeltaError::Malformed("a stream ends early"))
}
