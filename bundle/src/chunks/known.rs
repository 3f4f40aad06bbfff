//! What the device has: the chunks of the image it runs, by group and by address.

use std::collections::HashMap;
use std::io::Read;

use super::{Chunk, ChunksError, ChunksReader, Group, read_group};
use crate::manifest::Image;

/// Where bytes of the new image stand in the old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Offset in the new image, bytes.
    pub new: u64,
    /// Offset in the old image, bytes; none when the old image does not have it.
    pub old: Option<u64>,
    /// Bytes.
    pub len: u32,
}

/// Most chunks kept, 16 bytes each: what a device is ready to hold. An image with more is found in part.
const MAX_KNOWN: usize = 3 << 16;

/// Bits of a place that are the length; the rest is the offset. More than any chunk has.
const LEN_BITS: u32 = 24;

/// A chunk and where it stands, in 16 bytes: an image of aligned blocks has hundreds of thousands of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Known {
    address: [u8; 8],
    place: u64,
}

impl Known {
    /// None for what no image has: an offset of a terabyte and more.
    fn new(chunk: &Chunk, at: u64) -> Option<Self> {
        let fits = at >> (u64::BITS - LEN_BITS) == 0 && chunk.len >> LEN_BITS == 0;
        fits.then(|| Self { address: chunk.address, place: at << LEN_BITS | u64::from(chunk.len) })
    }

    const fn at(self) -> u64 {
        self.place >> LEN_BITS
    }

    const fn len(self) -> u64 {
        self.place & ((1 << LEN_BITS) - 1)
    }
}

/// The groups and chunks of an old image.
#[derive(Debug, Clone, Default)]
pub struct KnownChunks {
    groups: HashMap<[u8; 16], u64>,
    /// Sorted, each address once with its first place.
    chunks: Vec<Known>,
    /// No more of them are taken.
    full: bool,
}

impl KnownChunks {
    /// Reads the chunks member of the image the device runs, kept from its install.
    ///
    /// `groups` and `records` read the same member; the second stands at [`super::ChunksHeader::chunks_offset`].
    ///
    /// # Errors
    /// When it is not acceptable.
    pub fn read<R: Read, S: Read>(groups: R, mut records: S, image: &Image) -> Result<Self, ChunksError> {
        let mut known = Self::default();
        let mut at = 0u64;
        for group in ChunksReader::new(groups, image)? {
            let group = group?;
            let mut bytes = vec![0; usize::try_from(group.records_len()).unwrap_or(0)];
            records.read_exact(&mut bytes)?;
            known.add(at, group, &read_group(&group, &bytes)?);
            at += u64::from(group.raw_len);
        }
        known.tidy();
        Ok(known)
    }

    /// Cuts the image a device runs as the new one was cut, and so knows it, whatever way it came there: from the
    /// factory, by delta, by hand. `size` may go beyond the image, to the end of its partition.
    ///
    /// # Errors
    /// When the image can not be read.
    #[cfg(feature = "cut")]
    pub fn of_image(input: impl Read, size: u64, method: super::Method) -> std::io::Result<Self> {
        let mut known = Self::default();
        let mut at = 0u64;
        super::cut(input, size, method, |group, records| {
            // Cut here and now, so it reads back; if it did not, it would only not be known.
            known.add(at, group, &read_group(&group, records).unwrap_or_default());
            at += u64::from(group.raw_len);
        })?;
        known.tidy();
        Ok(known)
    }

    fn add(&mut self, mut at: u64, group: Group, chunks: &[Chunk]) {
        if self.groups.len() < MAX_KNOWN {
            self.groups.entry(group.id).or_insert(at);
        }
        for chunk in chunks.iter().filter(|_| !self.full) {
            self.chunks.extend(Known::new(chunk, at));
            at += u64::from(chunk.len);
        }
        if self.chunks.len() >= MAX_KNOWN && !self.full {
            self.tidy();
            // The same again, zeros above all, takes no room; what is all different does.
            self.full = self.chunks.len() > MAX_KNOWN / 4 * 3;
        }
    }

    /// Sorted by place within an address, so that the first is kept.
    fn tidy(&mut self) {
        self.chunks.sort_unstable();
        self.chunks.dedup_by_key(|known| known.address);
    }

    /// Where the whole of a group stands; none: fetch its chunk records and ask for each.
    #[must_use]
    pub fn group(&self, group: &Group, new: u64) -> Option<Piece> {
        self.groups.get(&group.id).map(|old| Piece { new, old: Some(*old), len: group.raw_len })
    }

    /// Where a chunk stands.
    #[must_use]
    pub fn chunk(&self, chunk: &Chunk, new: u64) -> Piece {
        let place = self.chunks.binary_search_by_key(&chunk.address, |known| known.address).ok();
        let known = place.and_then(|place| self.chunks.get(place)).filter(|known| known.len() == u64::from(chunk.len));
        Piece { new, old: known.map(|known| known.at()), len: chunk.len }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(numbers: impl Iterator<Item = u64>) -> Vec<Chunk> {
        numbers.map(|n| Chunk { address: n.to_be_bytes(), len: 4096 }).collect()
    }

    fn known(groups: &[Vec<Chunk>]) -> KnownChunks {
        let mut known = KnownChunks::default();
        let mut at = 0;
        for (n, chunks) in groups.iter().enumerate() {
            let raw_len = chunks.len() as u32 * 4096;
            let group = Group { id: [n as u8; 16], chunks: chunks.len() as u32, raw_len };
            known.add(at, group, chunks);
            at += u64::from(raw_len);
        }
        known.tidy();
        known
    }

    #[test]
    fn a_chunk_that_stands_twice_is_found_at_its_first_place() {
        let known = known(&[chunks([7, 8, 7].into_iter()), chunks([9, 8].into_iter())]);
        let found = |n: u64, len| known.chunk(&Chunk { address: n.to_be_bytes(), len }, 0).old;
        assert_eq!([7, 8, 9, 10].map(|n| found(n, 4096)), [Some(0), Some(4096), Some(3 * 4096), None]);
        assert_eq!(found(7, 4095), None, "an address that means other bytes");
    }

    #[test]
    fn a_device_holds_so_many_and_no_more() {
        assert_eq!(size_of::<Known>(), 16);
        let group = 1 << 10;
        let different = (0..2 * MAX_KNOWN as u64 / group).map(|n| chunks(n * group..(n + 1) * group));
        let known_all = known(&different.collect::<Vec<_>>());
        assert!((MAX_KNOWN / 4 * 3..=MAX_KNOWN + group as usize).contains(&known_all.chunks.len()));
        assert!(known_all.chunk(&chunks(5..6)[0], 0).old.is_some(), "the front of the image is there");
        // What repeats itself is held once.
        let same = known(&vec![chunks(0..group); 2 * MAX_KNOWN / group as usize]);
        assert_eq!((same.chunks.len(), same.full), (group as usize, false));
    }

    #[test]
    fn a_place_beyond_any_image_is_not_taken() {
        let chunk = chunks(1..2)[0];
        let last = (1 << 40) - 4096;
        assert_eq!(Known::new(&chunk, last).map(|known| (known.at(), known.len())), Some((last, 4096)));
        assert_eq!(Known::new(&chunk, 1 << 40), None);
    }
}
