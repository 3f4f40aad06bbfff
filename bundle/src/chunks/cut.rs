//! Cuts an image into chunks and groups: by whoever builds a bundle, and by a device that asks what it already has.
//!
//! Both must cut alike, or nothing would be found again: so there is one way to do it, here. Reads a stream once, in the
//! memory of one group.

use std::io::{self, Read};

use fastcdc::v2020::StreamCDC;

use super::{BLOCKS, CHUNK_LEN, Chunk, FASTCDC, Group, MAX_CHUNK, MAX_GROUP};
use crate::digest::Digest;
use crate::manifest::Chunks;

/// Chunks of a group, about: a group is 24 bytes to everybody, its chunks are 12 bytes each to whoever lacks them.
const GROUP_TARGET: u64 = 64;

/// How to cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Content-defined, this many bytes on average (FastCDC 2020, a quarter to four times that).
    FastCdc(u32),
    /// Aligned blocks of this many bytes.
    Blocks(u32),
}

impl Method {
    /// The default for an image that begins like this.
    ///
    /// Measured on a security update: ext4 and squashfs move whole files, so content-defined chunks find most (9.7 MB
    /// to fetch); uncompressed erofs puts metadata between data, and only blocks of its own size find them (21.6 MB
    /// against 35 to 55).
    #[must_use]
    pub fn for_image(head: &[u8]) -> Self {
        const EROFS_MAGIC: [u8; 4] = 0xe0f5_e1e2u32.to_le_bytes();
        if head.get(1024..1028) == Some(EROFS_MAGIC.as_slice()) {
            Self::Blocks(4 << 10)
        } else {
            Self::FastCdc(32 << 10)
        }
    }

    /// As the manifest names it.
    #[must_use]
    pub const fn name(self) -> (&'static str, u32) {
        match self {
            Self::FastCdc(target) => (FASTCDC, target),
            Self::Blocks(target) => (BLOCKS, target),
        }
    }

    /// The method a manifest names; none when it is a newer one, or its sizes are outside what this code cuts.
    #[must_use]
    pub fn of_manifest(chunks: &Chunks) -> Option<Self> {
        let target = chunks.target;
        match chunks.method.as_str() {
            // FastCDC's own limits: the smallest chunk at least 64 bytes, the largest at most ours.
            FASTCDC if (256..=MAX_CHUNK / 4).contains(&target) => Some(Self::FastCdc(target)),
            BLOCKS if (512..=MAX_CHUNK).contains(&target) => Some(Self::Blocks(target)),
            _ => None,
        }
    }
}

/// Cuts `size` bytes of `input`; `group` gets each group with its chunk records, in order.
///
/// # Errors
/// When reading fails.
pub fn cut(input: impl Read, size: u64, method: Method, group: impl FnMut(Group, &[u8])) -> io::Result<()> {
    let mut cutter = Cutter { group, records: Vec::new(), raw_len: 0 };
    let mut input = input.take(size);
    match method {
        Method::FastCdc(target) => {
            let average = target as usize;
            for chunk in StreamCDC::new(input, average / 4, average, average * 4) {
                cutter.chunk(&chunk.map_err(io::Error::other)?.data);
            }
        }
        Method::Blocks(target) => {
            let mut block = Vec::new();
            loop {
                block.clear();
                input.by_ref().take(u64::from(target)).read_to_end(&mut block)?;
                if block.is_empty() {
                    break;
                }
                cutter.chunk(&block);
            }
        }
    }
    cutter.end_group();
    Ok(())
}

struct Cutter<F> {
    group: F,
    records: Vec<u8>,
    raw_len: u32,
}

impl<F: FnMut(Group, &[u8])> Cutter<F> {
    fn chunk(&mut self, content: &[u8]) {
        let digest = Digest::of(content).0;
        let address = digest.first_chunk().copied().unwrap_or_default();
        let chunk = Chunk { len: content.len() as u32, address };
        self.records.extend_from_slice(&chunk.to_bytes());
        self.raw_len += chunk.len;
        // Groups end where content says so, as chunks do: one more chunk in front must not change all that follow. The
        // address has served as identity; the cut looks at other bytes of the digest.
        let cut = digest.last_chunk().copied().map_or(0, u64::from_le_bytes);
        let many = (self.records.len() / CHUNK_LEN) as u64;
        if cut.is_multiple_of(GROUP_TARGET) || many >= (4 * GROUP_TARGET).min(u64::from(MAX_GROUP)) {
            self.end_group();
        }
    }

    fn end_group(&mut self) {
        if self.records.is_empty() {
            return;
        }
        let chunks = (self.records.len() / CHUNK_LEN) as u32;
        let id = Digest::of(&self.records).0.first_chunk().copied().unwrap_or_default();
        (self.group)(Group { raw_len: self.raw_len, chunks, id }, &self.records);
        self.records.clear();
        self.raw_len = 0;
    }
}
