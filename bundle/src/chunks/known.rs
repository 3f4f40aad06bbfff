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

/// Most chunks kept, some 24 bytes each: what a device is ready to hold. An image with more is found in part.
const MAX_KNOWN: usize = 1 << 18;

/// The groups and chunks of an old image.
#[derive(Debug, Clone, Default)]
pub struct KnownChunks {
    groups: HashMap<[u8; 16], u64>,
    chunks: HashMap<[u8; 8], (u64, u32)>,
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
        Ok(known)
    }

    fn add(&mut self, mut at: u64, group: Group, chunks: &[Chunk]) {
        if self.groups.len() < MAX_KNOWN {
            self.groups.entry(group.id).or_insert(at);
        }
        for chunk in chunks {
            if self.chunks.len() < MAX_KNOWN {
                self.chunks.entry(chunk.address).or_insert((at, chunk.len));
            }
            at += u64::from(chunk.len);
        }
    }

    /// Where the whole of a group stands; none: fetch its chunk records and ask for each.
    #[must_use]
    pub fn group(&self, group: &Group, new: u64) -> Option<Piece> {
        self.groups.get(&group.id).map(|old| Piece { new, old: Some(*old), len: group.raw_len })
    }

    /// Where a chunk stands.
    #[must_use]
    pub fn chunk(&self, chunk: &Chunk, new: u64) -> Piece {
        let old = self.chunks.get(&chunk.address).filter(|(_, len)| *len == chunk.len).map(|(old, _)| *old);
        Piece { new, old, len: chunk.len }
    }
}
