//! Difference of two programs that were built from nearly the same source: bsdiff's idea (Colin Percival, 2003).
//!
//! Moved code differs from its old place in a few address bytes here and there. Where long stretches agree *mostly*,
//! the byte-wise difference is almost all zeros and compresses to little; only what is new stands as it is.

use crate::delta::{put_varint, put_zigzag};

/// Bytes that must agree for a place in the old bytes to be looked at.
const SEED: usize = 8;

/// Places looked at for each position.
const DEPTH: usize = 24;

/// The three streams.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// Triples of numbers.
    pub control: Vec<u8>,
    /// Differences.
    pub diff: Vec<u8>,
    /// New bytes.
    pub extra: Vec<u8>,
}

/// Expresses `new` by `old`.
pub fn split(old: &[u8], new: &[u8]) -> Streams {
    let places = Places::new(old);
    let mut out = Writer { old, new, streams: Streams::default(), done: 0, at: 0 };
    let mut scan = 0;
    // Distance between a byte of the new and its twin in the old, of the stretch we are in.
    let mut shift = 0isize;
    let mut found = Match { at: 0, len: 0 };
    while scan < new.len() {
        scan += found.len;
        // Bytes of the match that also agree where we are; below zero for a moment, until they are counted.
        let mut agreeing = 0isize;
        let mut counted = scan;
        while scan < new.len() {
            found = places.longest(old, new, scan);
            while counted < scan + found.len {
                agreeing += isize::from(agrees(old, new, counted, shift));
                counted += 1;
            }
            // As good where we are, or clearly better elsewhere (bsdiff's eight bytes).
            let len = found.len as isize;
            if (len == agreeing && len != 0) || len > agreeing + 8 {
                break;
            }
            agreeing -= isize::from(agrees(old, new, scan, shift));
            scan += 1;
        }
        if scan >= new.len() {
            break;
        }
        if found.len as isize != agreeing {
            out.stretch(scan, found.at);
            shift = found.at as isize - scan as isize;
        }
    }
    out.finish();
    out.streams
}

fn agrees(old: &[u8], new: &[u8], position: usize, shift: isize) -> bool {
    let twin = position.checked_add_signed(shift).and_then(|at| old.get(at));
    twin.is_some() && twin == new.get(position)
}

#[derive(Debug, Clone, Copy)]
struct Match {
    at: usize,
    len: usize,
}

/// Where each run of eight bytes stands in the old: by its hash the last place, and from each place the one before.
///
/// Two words for each byte of the old; a map from the eight bytes themselves would take ten times that.
struct Places {
    last: Vec<u32>,
    before: Vec<u32>,
}

const NOWHERE: u32 = u32::MAX;

/// Places with the same hash that are passed by in all: a long run of one byte must not be walked for every other seed
/// that shares its hash.
const PATIENCE: usize = 1 << 12;

impl Places {
    fn new(old: &[u8]) -> Self {
        let mut last = vec![NOWHERE; old.len().next_power_of_two().max(2)];
        let buckets = last.len();
        let before = old.windows(SEED).zip(0u32..).map(|(seed, at)| match last.get_mut(hash(seed, buckets)) {
            Some(last) => std::mem::replace(last, at),
            None => NOWHERE,
        });
        let before = before.collect();
        Self { last, before }
    }

    /// Places in the old that begin with `seed`, the last first.
    fn of<'a>(&'a self, old: &'a [u8], seed: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
        let mut at = self.last.get(hash(seed, self.last.len())).copied().unwrap_or(NOWHERE);
        let chain = std::iter::from_fn(move || {
            let place = usize::try_from(at).ok().filter(|_| at != NOWHERE)?;
            at = self.before.get(place).copied().unwrap_or(NOWHERE);
            Some(place)
        });
        chain.take(PATIENCE).filter(move |at| old.get(*at..).is_some_and(|rest| rest.starts_with(seed)))
    }

    fn longest(&self, old: &[u8], new: &[u8], position: usize) -> Match {
        let rest = new.get(position..).unwrap_or_default();
        let mut best = Match { at: 0, len: 0 };
        let Some(seed) = rest.get(..SEED) else { return best };
        for at in self.of(old, seed).take(DEPTH) {
            let len = common(old.get(at..).unwrap_or_default(), rest);
            if len > best.len {
                best = Match { at, len };
            }
        }
        best
    }
}

/// The bucket of eight bytes, of a power of two of buckets. One multiplication spreads them; only its uppermost bits know
/// of all eight.
fn hash(seed: &[u8], buckets: usize) -> usize {
    let word = seed.first_chunk().copied().map_or(0, u64::from_le_bytes);
    let bits = buckets.trailing_zeros().clamp(1, 32);
    (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - bits)) as usize
}

/// Bytes two slices have in common at their start.
fn common(a: &[u8], b: &[u8]) -> usize {
    let wide = a.as_chunks::<16>().0.iter().zip(b.as_chunks::<16>().0).take_while(|(a, b)| a == b).count() * 16;
    let (a, b) = (a.get(wide..).unwrap_or_default(), b.get(wide..).unwrap_or_default());
    wide + a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Writes stretches: what goes on from the last one forwards, what leads up to the next one backwards.
struct Writer<'a> {
    old: &'a [u8],
    new: &'a [u8],
    streams: Streams,
    /// New bytes written so far.
    done: usize,
    /// Place in the old that belongs to them.
    at: usize,
}

impl Writer<'_> {
    /// A new stretch: `new[scan..]` agrees with `old[place..]`.
    fn stretch(&mut self, scan: usize, place: usize) {
        let mut forward = self.forward(scan);
        let mut backward = self.backward(scan, place);
        if self.done + forward > scan - backward {
            let overlap = self.done + forward - (scan - backward);
            let keep = self.best_cut(forward, scan, backward, place, overlap);
            forward = forward - overlap + keep;
            backward -= keep;
        }
        self.emit(forward, scan - backward, place - backward);
    }

    fn finish(&mut self) {
        if self.done < self.new.len() || self.streams.control.is_empty() && !self.new.is_empty() {
            let forward = self.forward(self.new.len());
            self.emit(forward, self.new.len(), self.at + forward);
        }
    }

    /// How far the last stretch goes on before it agrees in less than half.
    fn forward(&self, limit: usize) -> usize {
        let (mut score, mut best, mut len) = (0isize, 0isize, 0);
        let pairs = self.old.iter().skip(self.at).zip(self.new.iter().take(limit).skip(self.done));
        for ((old, new), n) in pairs.zip(1usize..) {
            score += if old == new { 1 } else { -1 };
            if score > best {
                (best, len) = (score, n);
            }
        }
        len
    }

    /// How far back from `scan` the new stretch already agrees in more than half.
    fn backward(&self, scan: usize, place: usize) -> usize {
        let (mut score, mut best, mut len) = (0isize, 0isize, 0);
        let old = self.old.get(..place).unwrap_or_default().iter().rev();
        let new = self.new.get(self.done..scan).unwrap_or_default().iter().rev();
        for ((old, new), n) in old.zip(new).zip(1usize..) {
            score += if old == new { 1 } else { -1 };
            if score > best {
                (best, len) = (score, n);
            }
        }
        len
    }

    /// Where two stretches overlap, how much of it the first one explains better.
    fn best_cut(&self, forward: usize, scan: usize, backward: usize, place: usize, overlap: usize) -> usize {
        let (mut score, mut best, mut keep) = (0isize, 0isize, 0);
        for n in 0..overlap {
            let new = self.new.get(self.done + forward - overlap + n);
            let first = self.old.get(self.at + forward - overlap + n);
            let second = self.old.get(place - backward + n);
            debug_assert_eq!(self.done + forward - overlap, scan - backward);
            score += isize::from(new == first) - isize::from(new == second);
            if score > best {
                (best, keep) = (score, n + 1);
            }
        }
        keep
    }

    /// Differences for `forward` bytes, then new bytes up to `until`; the next stretch begins at `place` in the old.
    fn emit(&mut self, forward: usize, until: usize, place: usize) {
        let new = self.new.get(self.done..self.done + forward).unwrap_or_default();
        let old = self.old.get(self.at..self.at + forward).unwrap_or_default();
        self.streams.diff.extend(new.iter().zip(old).map(|(new, old)| new.wrapping_sub(*old)));
        let extra = self.new.get(self.done + forward..until).unwrap_or_default();
        self.streams.extra.extend_from_slice(extra);
        put_varint(&mut self.streams.control, forward as u64);
        put_varint(&mut self.streams.control, extra.len() as u64);
        put_zigzag(&mut self.streams.control, place as i64 - (self.at + forward) as i64);
        (self.done, self.at) = (until, place);
    }
}
