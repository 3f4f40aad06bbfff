//! Cuts an image into chunks and writes their addresses.

use std::io::{self, Read};

use fastcdc::v2020::StreamCDC;

use super::BuildError;
use crate::chunks::{BLOCKS, Chunk, ChunksHeader, FASTCDC, Group, MAX_GROUP};
use crate::digest::Digest;

/// Chunks of a group, about: a group is 24 bytes to everybody, its chunks are 12 bytes each to whoever lacks them.
const GROUP_TARGET: u64 = 64;

/// Below this an image is fetched sooner than its addresses are compared.
pub const MIN_IMAGE: u64 = 4 << 20;

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
}

/// Reads `size` bytes and writes their chunks member.
///
/// # Errors
/// When reading fails.
pub fn write_chunks(input: impl Read, size: u64, method: Method) -> Result<Vec<u8>, BuildError> {
    let mut writer = Writer::default();
    let input = input.take(size);
    match method {
        Method::FastCdc(target) => {
            let average = target as usize;
            for chunk in StreamCDC::new(input, average / 4, average, average * 4) {
                let chunk = chunk.map_err(|error| BuildError::Write(io::Error::other(error)))?;
                writer.chunk(&chunk.data);
            }
        }
        Method::Blocks(target) => {
            let (mut input, mut block) = (input, Vec::new());
            loop {
                block.clear();
                input.by_ref().take(u64::from(target)).read_to_end(&mut block).map_err(BuildError::Write)?;
                if block.is_empty() {
                    break;
                }
                writer.chunk(&block);
            }
        }
    }
    Ok(writer.finish(size))
}

#[derive(Default)]
struct Writer {
    groups: Vec<u8>,
    chunks: Vec<u8>,
    group: Vec<u8>,
    raw_len: u32,
    count: u32,
    groups_count: u32,
}

impl Writer {
    fn chunk(&mut self, content: &[u8]) {
        let digest = Digest::of(content).0;
        let address = digest.first_chunk().copied().unwrap_or_default();
        let chunk = Chunk { len: content.len() as u32, address };
        self.group.extend_from_slice(&chunk.to_bytes());
        self.raw_len += chunk.len;
        self.count += 1;
        // Groups end where content says so, as chunks do: one more chunk in front must not change all that follow. The
        // address has served as identity; the cut looks at other bytes of the digest.
        let cut = digest.last_chunk().copied().map_or(0, u64::from_le_bytes);
        let many = self.group.len() as u64 / crate::chunks::CHUNK_LEN as u64;
        if cut.is_multiple_of(GROUP_TARGET) || many >= (4 * GROUP_TARGET).min(u64::from(MAX_GROUP)) {
            self.end_group();
        }
    }

    fn end_group(&mut self) {
        if self.group.is_empty() {
            return;
        }
        let chunks = (self.group.len() / crate::chunks::CHUNK_LEN) as u32;
        let id = Digest::of(&self.group).0.first_chunk().copied().unwrap_or_default();
        self.groups.extend_from_slice(&Group { raw_len: self.raw_len, chunks, id }.to_bytes());
        self.chunks.append(&mut self.group);
        self.groups_count += 1;
        self.raw_len = 0;
    }

    fn finish(mut self, image_size: u64) -> Vec<u8> {
        self.end_group();
        let header = ChunksHeader { groups: self.groups_count, chunks: self.count, image_size };
        let mut out = header.to_bytes().to_vec();
        out.append(&mut self.groups);
        out.append(&mut self.chunks);
        out
    }
}
