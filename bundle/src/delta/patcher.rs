//! Follows recipes: makes a frame from the old image and a body.
//!
//! Reads the old image, writes nothing. What comes out was checked against the signed raw digest.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use zstd_safe::DCtx;

use super::body::{Body, Method, Stream};
use super::varint::Varints;
use super::{BLOCK, DeltaError, Section};
use crate::digest::{Digest, Hashed};
use crate::frame::{FrameError, check_raw, decompress};
use crate::index::FrameRecord;

/// The image a device runs, held read-only.
pub trait OldImage {
    /// Fills `out` from `offset` on.
    ///
    /// # Errors
    /// When reading fails, or the image ends before `out` is full.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
}

impl OldImage for File {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(out, offset)
    }
}

impl OldImage for [u8] {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..));
        let part = rest.and_then(|rest| rest.get(..out.len())).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(part);
        Ok(())
    }
}

/// Makes frames, one after the other, with one zstd context and the same buffers.
#[derive(Default)]
pub struct Patcher {
    context: DCtx<'static>,
    prefix: Vec<u8>,
    literal: Vec<u8>,
}

impl Patcher {
    /// A patcher.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Fills `out` with a frame that the old image holds as it is.
    ///
    /// # Errors
    /// When the old image can not be read, or is not what the delta was made from.
    pub fn copy<O: OldImage + ?Sized>(
        &self,
        frame: &FrameRecord,
        old: &O,
        offset: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), DeltaError> {
        out.clear();
        out.resize(frame.raw_len as usize, 0);
        old.read_at(offset, out).map_err(DeltaError::Old)?;
        check_raw(frame, out).map_err(DeltaError::Frame)
    }

    /// Fills `out` with a frame made by a body of that digest.
    ///
    /// # Errors
    /// When the body is damaged or malformed, the old image can not be read, or something else comes out.
    pub fn patch<O: OldImage + ?Sized>(
        &mut self,
        frame: &FrameRecord,
        section: &Section,
        (body, sha256): (&[u8], &Digest),
        old: &O,
        out: &mut Vec<u8>,
    ) -> Result<(), DeltaError> {
        out.clear();
        out.resize(frame.raw_len as usize, 0);
        self.patch_into(frame, section, (Hashed::new(body), sha256), old, out)
    }

    /// The same into memory of exactly the frame's length, for whoever needs it in a certain place.
    ///
    /// # Errors
    /// As above; what `out` holds then is not to be used.
    pub fn patch_into<O: OldImage + ?Sized>(
        &mut self,
        frame: &FrameRecord,
        section: &Section,
        (body, sha256): (Hashed<&[u8]>, &Digest),
        old: &O,
        out: &mut [u8],
    ) -> Result<(), DeltaError> {
        if body.sha256() != sha256 {
            return Err(DeltaError::Body);
        }
        if out.len() != frame.raw_len as usize {
            return Err(DeltaError::Frame(FrameError::Raw));
        }
        let body = Body::parse(body.bytes(), frame.raw_len, section.old_size)?;
        let literal_len = frame.raw_len.saturating_sub(body.copied()) as usize;
        self.gather(&body, section, old)?;
        self.literal(&body.method, literal_len)?;
        self.weave(&body, old, out)?;
        check_raw(frame, out).map_err(DeltaError::Frame)
    }

    fn gather<O: OldImage + ?Sized>(&mut self, body: &Body<'_>, section: &Section, old: &O) -> Result<(), DeltaError> {
        self.prefix.clear();
        // At once: growing bit by bit takes up to twice the memory.
        self.prefix.reserve_exact(section.max_prefix as usize);
        for range in &body.prefix {
            let start = range.old * u64::from(BLOCK);
            // The last block of an image may be a short one.
            let len = (u64::from(range.count) * u64::from(BLOCK)).min(section.old_size.saturating_sub(start));
            let len = usize::try_from(len).unwrap_or(0);
            let filled = self.prefix.len();
            if filled + len > section.max_prefix as usize {
                return Err(DeltaError::Malformed("a prefix larger than its section says"));
            }
            self.prefix.resize(filled + len, 0);
            let part = self.prefix.get_mut(filled..).unwrap_or_default();
            old.read_at(start, part).map_err(DeltaError::Old)?;
        }
        Ok(())
    }

    /// Everything that is not copied, in one piece.
    fn literal(&mut self, method: &Method<'_>, len: usize) -> Result<(), DeltaError> {
        match method {
            Method::Prefix(stored) => unpack(stored, Some(&self.prefix), len, &mut self.literal),
            Method::Split { control, diff, extra } => {
                let mut streams = [Vec::new(), Vec::new(), Vec::new()];
                let [controls, diffs, extras] = &mut streams;
                plain(&mut self.context, control, controls)?;
                plain(&mut self.context, diff, diffs)?;
                unpack(extra.stored, Some(&self.prefix), extra.raw as usize, extras)?;
                join(controls, diffs, extras, &self.prefix, len, &mut self.literal)
            }
        }
    }

    /// Puts copies and literal in their places.
    fn weave<O: OldImage + ?Sized>(&self, body: &Body<'_>, old: &O, out: &mut [u8]) -> Result<(), DeltaError> {
        let mut literal = self.literal.as_slice();
        let mut rest = out;
        let mut block = 0;
        for run in &body.runs {
            let gap = (run.block - block) as usize * BLOCK as usize;
            fill(&mut rest, &mut literal, gap)?;
            let (copy, after) = std::mem::take(&mut rest)
                .split_at_mut_checked(run.count as usize * BLOCK as usize)
                .ok_or(DeltaError::Malformed("a copy outside the frame"))?;
            old.read_at(run.old * u64::from(BLOCK), copy).map_err(DeltaError::Old)?;
            rest = after;
            block = run.block + run.count;
        }
        let tail = rest.len();
        fill(&mut rest, &mut literal, tail)
    }
}

/// Moves `len` bytes of the literal to the front of what is left of the frame.
fn fill(rest: &mut &mut [u8], literal: &mut &[u8], len: usize) -> Result<(), DeltaError> {
    let short = || DeltaError::Malformed("a literal of another length");
    let (from, left) = literal.split_at_checked(len).ok_or_else(short)?;
    let (to, after) = std::mem::take(rest).split_at_mut_checked(len).ok_or_else(short)?;
    to.copy_from_slice(from);
    (*literal, *rest) = (left, after);
    Ok(())
}

/// A zstd frame with a prefix; nothing at all when nothing comes out.
fn unpack(stored: &[u8], prefix: Option<&[u8]>, len: usize, out: &mut Vec<u8>) -> Result<(), DeltaError> {
    out.clear();
    if len == 0 && stored.is_empty() {
        return Ok(());
    }
    // A context of its own: the reference to the prefix must not outlive this call.
    let mut context = DCtx::try_create().ok_or(DeltaError::Malformed("out of memory"))?;
    if let Some(prefix) = prefix {
        context
            .ref_prefix(prefix)
            .map_err(|code| DeltaError::Frame(FrameError::Zstd(zstd_safe::get_error_name(code))))?;
    }
    decompress(&mut context, stored, len, out).map_err(DeltaError::Frame)
}

fn plain(context: &mut DCtx<'static>, stream: &Stream<'_>, out: &mut Vec<u8>) -> Result<(), DeltaError> {
    out.clear();
    if stream.raw == 0 && stream.stored.is_empty() {
        return Ok(());
    }
    decompress(context, stream.stored, stream.raw as usize, out).map_err(DeltaError::Frame)
}

/// Joins the streams of bsdiff (Percival 2003): differences are added to the old bytes, extra bytes stand as they are.
fn join(
    control: &[u8],
    mut diff: &[u8],
    mut extra: &[u8],
    prefix: &[u8],
    len: usize,
    out: &mut Vec<u8>,
) -> Result<(), DeltaError> {
    let short = || DeltaError::Malformed("streams of other lengths");
    out.clear();
    let mut control = Varints(control);
    let mut at = 0usize;
    while !control.0.is_empty() {
        let (differs, extras, seek) = (control.u32()? as usize, control.u32()? as usize, control.zigzag()?);
        // Also where memory is counted in 32 bits.
        differs.checked_add(extras).filter(|made| *made <= len - out.len()).ok_or_else(short)?;
        let (part, rest) = diff.split_at_checked(differs).ok_or_else(short)?;
        let old = prefix.get(at..).and_then(|old| old.get(..differs)).ok_or_else(short)?;
        out.extend(part.iter().zip(old).map(|(part, old)| part.wrapping_add(*old)));
        diff = rest;
        let (part, rest) = extra.split_at_checked(extras).ok_or_else(short)?;
        out.extend_from_slice(part);
        extra = rest;
        let seek = isize::try_from(seek).map_err(|_| short())?;
        let next = at.checked_add(differs).and_then(|next| next.checked_add_signed(seek));
        at = next.ok_or_else(short)?;
    }
    if out.len() == len && diff.is_empty() && extra.is_empty() { Ok(()) } else { Err(short()) }
}
