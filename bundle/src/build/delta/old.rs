//! What the old image holds: its blocks by content, and sampled fingerprints of where similar content stands.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::delta::BLOCK;

/// Unit in which a prefix is gathered: below it, naming ranges costs more than they bring.
pub const PIECE: u32 = 16 << 10;

/// Bytes of a fingerprint's window.
const WINDOW: usize = 16;

/// Fingerprints expected at most (8 bytes each); a larger image is sampled more sparsely.
const MAX_FINGERPRINTS: u64 = 12 << 20;

/// Fingerprints kept at any time. Content that repeats itself may have one at every byte.
const ROOM: usize = 16 << 20;

/// Densest sampling, as power of two: one position in 32. Denser finds no more.
const MIN_SAMPLE_LOG: u32 = 5;

/// Bytes read at a time; a whole number of pieces.
const READ: usize = 4 << 20;

/// The index of an old image.
#[derive(Debug)]
pub struct OldIndex {
    size: u64,
    sample_log: u32,
    /// Hash of each whole block, by its number; 0 for a block of zeros.
    blocks: Vec<u64>,
    /// Hash and number of each block that is not zeros, sorted.
    by_hash: Vec<(u64, u32)>,
    /// Upper half: hash of a window, lower half: number of its piece. Sorted, each once.
    fingerprints: Vec<u64>,
    /// No more of them are taken.
    full: bool,
}

impl OldIndex {
    /// Reads the image once.
    ///
    /// # Errors
    /// When it can not be read.
    pub fn new(file: &File, size: u64) -> io::Result<Self> {
        Self::with_room(file, size, ROOM)
    }

    fn with_room(file: &File, size: u64, room: usize) -> io::Result<Self> {
        let mut sample_log = MIN_SAMPLE_LOG;
        while size >> sample_log > MAX_FINGERPRINTS {
            sample_log += 1;
        }
        let (blocks, by_hash, fingerprints) = (Vec::new(), Vec::new(), Vec::new());
        let mut index = Self { size, sample_log, blocks, by_hash, fingerprints, full: false };
        let mut buffer = vec![0; READ + WINDOW];
        let mut at = 0;
        while at < size {
            // A window may reach into the next read: a little more is read than is gone through.
            let len = usize::try_from(size - at).unwrap_or(usize::MAX).min(READ + WINDOW);
            let bytes = buffer.get_mut(..len).unwrap_or_default();
            file.read_exact_at(bytes, at)?;
            index.add(bytes, at, room);
            at += READ as u64;
        }
        index.by_hash = index.blocks.iter().zip(0u32..).filter(|(hash, _)| **hash != 0).map(|(h, n)| (*h, n)).collect();
        index.by_hash.sort_unstable();
        index.tidy();
        index.fingerprints.shrink_to_fit();
        Ok(index)
    }

    fn tidy(&mut self) {
        self.fingerprints.sort_unstable();
        self.fingerprints.dedup();
    }

    fn add(&mut self, bytes: &[u8], at: u64, room: usize) {
        let own = bytes.get(..bytes.len().min(READ)).unwrap_or_default();
        self.blocks.extend(own.as_chunks::<{ BLOCK as usize }>().0.iter().map(|block| block_hash(block)));
        let first = at / u64::from(PIECE);
        sample(bytes, self.sample_log, |position, hash| {
            // The same again says nothing new. Where everything is different and too much all the same, the front of the
            // image has to do.
            if position < READ && !self.full {
                let piece = first + (position / PIECE as usize) as u64;
                self.fingerprints.push(u64::from(hash) << 32 | piece);
                if self.fingerprints.len() == room {
                    self.tidy();
                    self.full = self.fingerprints.len() > room / 4 * 3;
                }
            }
        });
    }

    /// Bytes of the image.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The hash of that block, if it is a whole one.
    pub fn block(&self, number: u64) -> Option<u64> {
        self.blocks.get(usize::try_from(number).ok()?).copied()
    }

    /// The first block with that hash.
    pub fn find(&self, hash: u64) -> Option<u64> {
        let place = self.by_hash.partition_point(|(each, _)| *each < hash);
        self.by_hash.get(place).filter(|(each, _)| *each == hash).map(|(_, number)| u64::from(*number))
    }

    /// Sampled windows of `bytes`, in the way the image was sampled.
    pub fn sample(&self, bytes: &[u8], mut each: impl FnMut(u32)) {
        sample(bytes, self.sample_log, |_, hash| each(hash));
    }

    /// Pieces that hold a window with that hash; each may be wrong by a collision.
    pub fn pieces(&self, hash: u32) -> impl Iterator<Item = u32> {
        let low = u64::from(hash) << 32;
        let start = self.fingerprints.partition_point(|each| *each < low);
        let rest = self.fingerprints.get(start..).unwrap_or_default();
        rest.iter().take_while(move |each| **each >> 32 == u64::from(hash)).map(|each| *each as u32)
    }
}

/// A hash of a block; 0 means all zeros and nothing else.
pub fn block_hash(block: &[u8]) -> u64 {
    let (words, _) = block.as_chunks::<8>();
    let mut any = 0;
    // Four lanes, so that the multiplications need not wait for each other.
    let mut lanes = [0x9e37_79b9_7f4a_7c15u64, 0xc2b2_ae3d_27d4_eb4f, 0x1656_67b1_9e37_79f9, 0x27d4_eb2f_1656_67c5];
    for group in words.chunks(4) {
        for (lane, word) in lanes.iter_mut().zip(group) {
            let word = u64::from_le_bytes(*word);
            any |= word;
            *lane = (*lane ^ word).wrapping_mul(0x9fb2_1c65_1e98_df25).rotate_left(29);
        }
    }
    if any == 0 {
        return 0;
    }
    lanes.iter().fold(0u64, |hash, lane| (hash ^ lane).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(31)).max(1)
}

/// Calls `each` with position and hash of the windows whose hash says so: old and new image choose the same ones,
/// wherever they stand.
fn sample(bytes: &[u8], sample_log: u32, mut each: impl FnMut(usize, u32)) {
    let mut position = 0;
    let mut rest = bytes;
    while let Some(window) = rest.first_chunk::<WINDOW>() {
        let word = u128::from_le_bytes(*window);
        let (low, high) = (word as u64, (word >> 64) as u64);
        // A run of one byte says nothing about where it comes from.
        if low != high {
            let hash =
                (low.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ high.rotate_left(32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
            if hash >> (64 - sample_log) == 0 {
                each(position, (hash >> 8) as u32);
            }
        }
        position += 1;
        rest = rest.get(1..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image whose sampled windows stand at every sixteenth byte, and how many a piece has.
    fn repeating() -> Vec<u8> {
        let patterns = (1u128..).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_le_bytes());
        let image = |pattern: [u8; WINDOW]| pattern.into_iter().cycle().take(1 << 20).collect::<Vec<_>>();
        let sampled = |bytes: &[u8]| {
            let mut count = 0;
            sample(bytes, MIN_SAMPLE_LOG, |_, _| count += 1);
            count
        };
        patterns.map(image).find(|bytes| sampled(bytes) > bytes.len() / 32).unwrap()
    }

    fn index(bytes: &[u8], room: usize) -> OldIndex {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, bytes).unwrap();
        OldIndex::with_room(&file, bytes.len() as u64, room).unwrap()
    }

    #[test]
    fn content_that_repeats_itself_takes_no_more_memory_than_other() {
        let bytes = repeating();
        let narrow = index(&bytes, 1 << 10);
        // It has 65536 of them, of which each piece needs only one.
        assert!(narrow.fingerprints.capacity() <= 1 << 10 && !narrow.full);
        assert_eq!(narrow.fingerprints, index(&bytes, ROOM).fingerprints);
    }

    #[test]
    fn what_is_too_much_all_the_same_is_left_out() {
        let mut state = 1u64;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        });
        let bytes = noise.take(1 << 20).collect::<Vec<_>>();
        let narrow = index(&bytes, 1 << 10);
        assert!(narrow.full && narrow.fingerprints.capacity() <= 1 << 10);
        let whole = index(&bytes, ROOM).fingerprints;
        assert!(narrow.fingerprints.iter().all(|each| whole.binary_search(each).is_ok()));
    }
}
