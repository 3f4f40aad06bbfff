//! Finds the smallest recipe of one frame.

use std::collections::{BinaryHeap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt as _;

use super::old::{OldIndex, PIECE, block_hash};
use super::split;
use crate::build::{BuildError, Compressor};
use crate::delta::{BLOCK, Body, Method, Range, Run, Stream};

/// Sampled windows a piece must bring that no better piece brings already. Fewer cost a read of 16 KiB on the device
/// and save next to nothing.
const MIN_GAIN: usize = 3;

/// A window that stands in more pieces than this says nothing about where the rest comes from.
const TOO_COMMON: usize = 48;

/// Prefix, in frames: 4 MiB for frames of 1 MiB. More gains nothing, 1 costs 4 %.
const PREFIX_FRAMES: usize = 4;

/// Below this many bytes the streams of a split are not worth trying.
const TRY_SPLIT_FROM: usize = 1 << 10;

/// Makes recipes.
pub struct Encoder<'a> {
    old: Option<(&'a OldIndex, &'a File)>,
    level: i32,
    frame_size: usize,
    max_prefix: usize,
}

/// A recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Made {
    /// The old image holds the whole frame from here on.
    Copy {
        /// Offset in the old image, bytes.
        old: u64,
    },
    /// Nothing is smaller than what the bundle stores.
    Plain {
        /// That.
        stored: Vec<u8>,
    },
    /// A body.
    Patch {
        /// The body.
        body: Vec<u8>,
        /// Bytes of its prefix.
        prefix: u32,
        /// Bytes it reads of the old image, prefix included.
        read: u64,
        /// Whether it is in split streams.
        split: bool,
    },
}

impl Made {
    /// What goes into the patch member.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Copy { .. } => &[],
            Self::Plain { stored } => stored,
            Self::Patch { body, .. } => body,
        }
    }
}

impl<'a> Encoder<'a> {
    /// For frames of at most `frame_size` bytes; without an old image everything is plain.
    pub fn new(index: Option<&'a OldIndex>, file: Option<&'a File>, level: i32, frame_size: usize) -> Self {
        let max_prefix = (frame_size * PREFIX_FRAMES).clamp(PIECE as usize, crate::delta::MAX_PREFIX as usize);
        Self { old: index.zip(file), level, frame_size, max_prefix }
    }

    /// Bytes one thread holds at most.
    pub fn memory(&self) -> usize {
        // The frame raw, stored, and as literal, its streams, and each of them compressed.
        super::TABLES + self.max_prefix + 8 * self.frame_size
    }

    /// The smallest recipe of frame `number`, which the bundle stores as `stored`.
    ///
    /// # Errors
    /// When the old image can not be read, or zstd fails.
    pub fn encode(&self, number: u32, raw: &[u8], stored: Vec<u8>) -> Result<Made, BuildError> {
        let Some((index, file)) = self.old else { return Ok(Made::Plain { stored }) };
        let place = u64::from(number) * (self.frame_size as u64 / u64::from(BLOCK));
        if self.unmoved(index, file, raw, place)? {
            return Ok(Made::Copy { old: place * u64::from(BLOCK) });
        }
        let runs = self.runs(index, file, raw, place)?;
        if let [run] = runs.as_slice()
            && (run.count * BLOCK) as usize == raw.len()
        {
            return Ok(Made::Copy { old: run.old * u64::from(BLOCK) });
        }
        let literal = literal(raw, &runs);
        let ranges = self.choose(index, &literal);
        let prefix = gather(file, index.size(), &ranges)?;
        let compressor = Compressor::for_prefix(self.level, prefix.len(), literal.len());
        let packed = if literal.is_empty() { Vec::new() } else { compressor.compress(&literal, Some(&prefix))? };
        let whole = Body { runs, prefix: ranges, method: Method::Prefix(&packed) };
        let mut best = (whole.to_bytes(), false);
        if packed.len() >= TRY_SPLIT_FROM && !prefix.is_empty() {
            let body = self.split(&whole, &compressor, &literal, &prefix)?;
            if body.len() < best.0.len() {
                best = (body, true);
            }
        }
        if best.0.len() >= stored.len() {
            return Ok(Made::Plain { stored });
        }
        let read = u64::from(whole.copied()) + prefix.len() as u64;
        Ok(Made::Patch { body: best.0, prefix: prefix.len() as u32, read, split: best.1 })
    }

    fn split(
        &self,
        whole: &Body<'_>,
        compressor: &Compressor,
        literal: &[u8],
        prefix: &[u8],
    ) -> Result<Vec<u8>, BuildError> {
        let streams = split::split(prefix, literal);
        let plain = Compressor::new(self.level, self.frame_size);
        let pack = |raw: &[u8], prefix: Option<&[u8]>| match (raw, prefix) {
            ([], _) => Ok(Vec::new()),
            (raw, None) => plain.compress(raw, None),
            (raw, prefix) => compressor.compress(raw, prefix),
        };
        let control = pack(&streams.control, None)?;
        let diff = pack(&streams.diff, None)?;
        let extra = pack(&streams.extra, Some(prefix))?;
        let stream = |raw: &[u8], stored| Stream { raw: raw.len() as u32, stored };
        let method = Method::Split {
            control: stream(&streams.control, control.as_slice()),
            diff: stream(&streams.diff, diff.as_slice()),
            extra: stream(&streams.extra, extra.as_slice()),
        };
        Ok(Body { method, ..whole.clone() }.to_bytes())
    }

    /// Blocks of the frame, which stands at block `place` of its image, that equal blocks of the old image.
    ///
    /// Of several equal ones, the one that goes on a run; else the one as far away as the last run was, or at the same
    /// place: what was not changed stays one run, also where it holds a block that stands in many places. Zeros go on
    /// a run where the old image has zeros too, but never begin one.
    fn runs(&self, index: &OldIndex, file: &File, raw: &[u8], place: u64) -> Result<Vec<Run>, BuildError> {
        let mut runs: Vec<Run> = Vec::new();
        for (block, number) in raw.as_chunks::<{ BLOCK as usize }>().0.iter().zip(0u32..) {
            let hash = block_hash(block);
            let next = runs.last().map(|run| run.old + u64::from(number - run.block));
            let goes_on = runs.last().is_some_and(|run| run.block + run.count == number);
            let near = [next, Some(place + u64::from(number))].into_iter().flatten();
            let Some(old) = near.into_iter().find(|near| index.block(*near) == Some(hash)).or_else(|| index.find(hash))
            else {
                continue;
            };
            let longer = goes_on && next == Some(old);
            // The hash of zeros is exact; that of anything else says only where to look.
            if if hash == 0 { !longer } else { !same(file, old, block)? } {
                continue;
            }
            match runs.last_mut().filter(|_| longer) {
                Some(run) => run.count += 1,
                None => runs.push(Run { block: number, count: 1, old }),
            }
        }
        Ok(runs)
    }

    /// Whether the old image holds the very same bytes at that block.
    fn unmoved(&self, index: &OldIndex, file: &File, raw: &[u8], place: u64) -> Result<bool, BuildError> {
        let start = place * u64::from(BLOCK);
        let (blocks, _) = raw.as_chunks::<{ BLOCK as usize }>();
        let equal = |(block, number): (&[u8; BLOCK as usize], u64)| index.block(number) == Some(block_hash(block));
        if start + raw.len() as u64 > index.size() || !blocks.iter().zip(place..).all(equal) {
            return Ok(false);
        }
        let mut old = vec![0; raw.len()];
        file.read_exact_at(&mut old, start).map_err(BuildError::Write)?;
        Ok(old == raw)
    }

    /// Pieces of the old image that share most sampled windows with the literal: greedy, each piece counted only for
    /// what better ones have not brought.
    fn choose(&self, index: &OldIndex, literal: &[u8]) -> Vec<Range> {
        let mut holders: HashMap<u32, Vec<u32>> = HashMap::new();
        let mut windows = Vec::new();
        index.sample(literal, |hash| windows.push(hash));
        windows.sort_unstable();
        windows.dedup();
        for (hash, number) in windows.iter().zip(0u32..) {
            let pieces = index.pieces(*hash).take(TOO_COMMON + 1).collect::<Vec<_>>();
            if pieces.len() <= TOO_COMMON {
                pieces.into_iter().for_each(|piece| holders.entry(piece).or_default().push(number));
            }
        }
        let mut covered = vec![false; windows.len()];
        let is_new = |covered: &[bool], number: &u32| covered.get(*number as usize) == Some(&false);
        // The gain of a piece only ever shrinks, so the top of the heap is right once it was counted afresh.
        let mut heap: BinaryHeap<(usize, std::cmp::Reverse<u32>)> =
            holders.iter().map(|(piece, windows)| (windows.len(), std::cmp::Reverse(*piece))).collect();
        let mut chosen = Vec::new();
        while let Some((counted, piece)) = heap.pop() {
            if counted < MIN_GAIN || chosen.len() * PIECE as usize >= self.max_prefix {
                break;
            }
            let windows = holders.get(&piece.0).map(Vec::as_slice).unwrap_or_default();
            let gain = windows.iter().filter(|number| is_new(&covered, number)).count();
            if gain < counted {
                heap.push((gain, piece));
                continue;
            }
            for number in windows {
                if let Some(each) = covered.get_mut(*number as usize) {
                    *each = true;
                }
            }
            chosen.push(piece.0);
        }
        chosen.sort_unstable();
        ranges(&chosen, index.size())
    }
}

/// Sorted pieces as ranges of blocks, neighbours in one.
fn ranges(pieces: &[u32], size: u64) -> Vec<Range> {
    let per_piece = u64::from(PIECE / BLOCK);
    let end = size.div_ceil(u64::from(BLOCK));
    let mut ranges: Vec<Range> = Vec::new();
    for piece in pieces {
        let old = u64::from(*piece) * per_piece;
        let count = per_piece.min(end.saturating_sub(old)) as u32;
        match ranges.last_mut().filter(|last| last.old + u64::from(last.count) == old) {
            Some(last) => last.count += count,
            None => ranges.push(Range { old, count }),
        }
    }
    ranges
}

fn gather(file: &File, size: u64, ranges: &[Range]) -> Result<Vec<u8>, BuildError> {
    let mut prefix = Vec::new();
    for range in ranges {
        let start = range.old * u64::from(BLOCK);
        let len = (u64::from(range.count) * u64::from(BLOCK)).min(size - start);
        let filled = prefix.len();
        prefix.resize(filled + usize::try_from(len).unwrap_or(0), 0);
        file.read_exact_at(prefix.get_mut(filled..).unwrap_or_default(), start).map_err(BuildError::Write)?;
    }
    Ok(prefix)
}

/// What is not copied, in one piece.
fn literal(raw: &[u8], runs: &[Run]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let mut at = 0;
    for run in runs {
        let start = (run.block * BLOCK) as usize;
        out.extend_from_slice(raw.get(at..start).unwrap_or_default());
        at = start + (run.count * BLOCK) as usize;
    }
    out.extend_from_slice(raw.get(at..).unwrap_or_default());
    out
}

/// Equal hashes are not yet equal bytes.
fn same(file: &File, block: u64, bytes: &[u8]) -> Result<bool, BuildError> {
    let mut old = [0; BLOCK as usize];
    file.read_exact_at(&mut old, block * u64::from(BLOCK)).map_err(BuildError::Write)?;
    Ok(old.as_slice() == bytes)
}
