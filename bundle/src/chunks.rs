//! Chunk addresses of an image: to find what the device already has, when no delta starts from what it runs.
//!
//! Two levels, so that a device fetches only what it does not know: a table of groups with an identity each, and for
//! each group its chunks. A group whose identity the old image's table has too is known without being fetched. Chunks
//! lie anywhere in the image; a frame all of whose bytes lie in known chunks is built locally, any other is fetched.
//!
//! All of this is a hint: a frame counts only when its signed raw digest matches. So addresses are short (8 bytes of a
//! SHA-256), and a lie costs a fetch. `docs/src/formats/chunks.md` has it byte by byte.

use crate::binary::{Cursor, TooShort, fixed};
use crate::reason::Reason;

#[cfg(feature = "cut")]
mod cut;
mod known;
mod reader;

#[cfg(feature = "cut")]
pub use cut::{Method, cut};
pub use known::{KnownChunks, Piece};
pub use reader::{ChunksReader, read_group};

/// The first four bytes.
pub const MAGIC: [u8; 4] = *b"FSCH";

/// The version this code writes and reads.
pub const VERSION: u16 = 1;

/// Size of the header, bytes.
pub const HEADER_LEN: usize = 64;

/// Size of a group's record, bytes.
pub const GROUP_LEN: usize = 24;

/// Size of a chunk's record, bytes.
pub const CHUNK_LEN: usize = 12;

/// Most chunks of a group: what a reader is ready to hold at once.
pub const MAX_GROUP: u32 = 1024;

/// Largest chunk, bytes.
pub const MAX_CHUNK: u32 = 4 << 20;

/// `method` of the manifest for content-defined chunks (FastCDC 2020).
pub const FASTCDC: &str = "fastcdc";

/// `method` of the manifest for aligned blocks of one size.
pub const BLOCKS: &str = "blocks";

/// Why chunk addresses can not be used. A device goes on without them.
#[derive(Debug, thiserror::Error)]
pub enum ChunksError {
    /// Reading failed or ended early.
    #[error("reading chunk addresses")]
    Io(#[from] std::io::Error),
    /// They need a newer reader.
    #[error("the chunk addresses need a newer reader: {0}")]
    TooNew(String),
    /// They break a rule of the format.
    #[error("the chunk addresses are malformed: {0}")]
    Malformed(&'static str),
}

impl From<TooShort> for ChunksError {
    fn from(_: TooShort) -> Self {
        Self::Malformed("too short")
    }
}

impl ChunksError {
    /// The reason code of this refusal.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Reason::Truncated,
            Self::Io(_) => Reason::Internal,
            Self::TooNew(_) => Reason::FormatTooNew,
            Self::Malformed(_) => Reason::Malformed,
        }
    }
}

/// What stands before the groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunksHeader {
    /// Number of groups.
    pub groups: u32,
    /// Number of chunks.
    pub chunks: u32,
    /// Raw bytes of the image.
    pub image_size: u64,
}

/// A run of chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// Raw bytes.
    pub raw_len: u32,
    /// Number of chunks.
    pub chunks: u32,
    /// The first 16 bytes of the SHA-256 of its chunk records.
    pub id: [u8; 16],
}

/// One chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Raw bytes.
    pub len: u32,
    /// The first 8 bytes of the SHA-256 of its content.
    pub address: [u8; 8],
}

impl ChunksHeader {
    /// Reads and checks a header; `member_size` is the size of the whole member.
    ///
    /// # Errors
    /// When it is not one, is newer, or its numbers do not fit each other.
    pub fn parse(bytes: &[u8; HEADER_LEN], member_size: u64) -> Result<Self, ChunksError> {
        let mut at = Cursor(bytes);
        if at.array()? != MAGIC {
            return Err(ChunksError::Malformed("not chunk addresses"));
        }
        let (version, header_len, required) = (at.u16()?, at.u16()?, at.u32()?);
        let _optional = at.u32()?;
        if version != VERSION {
            return Err(ChunksError::TooNew(format!("version {version}")));
        }
        if required != 0 {
            return Err(ChunksError::TooNew(format!("required features {required:#x}")));
        }
        if usize::from(header_len) != HEADER_LEN {
            return Err(ChunksError::Malformed("length of the header"));
        }
        let header = Self { groups: at.u32()?, chunks: at.u32()?, image_size: at.u64()? };
        if header.chunks_offset() + u64::from(header.chunks) * CHUNK_LEN as u64 != member_size {
            return Err(ChunksError::Malformed("its size does not fit its numbers"));
        }
        Ok(header)
    }

    /// As it is stored.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut out = Vec::with_capacity(HEADER_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(HEADER_LEN as u16).to_le_bytes());
        // Required features: none. Optional features: none.
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&self.groups.to_le_bytes());
        out.extend_from_slice(&self.chunks.to_le_bytes());
        out.extend_from_slice(&self.image_size.to_le_bytes());
        fixed(&out)
    }

    /// Offset of the first chunk record in the member: everything before it is the first level.
    #[must_use]
    pub fn chunks_offset(&self) -> u64 {
        HEADER_LEN as u64 + u64::from(self.groups) * GROUP_LEN as u64
    }
}

impl Group {
    fn parse(bytes: &[u8; GROUP_LEN]) -> Result<Self, ChunksError> {
        let mut at = Cursor(bytes);
        Ok(Self { raw_len: at.u32()?, chunks: at.u32()?, id: at.array()? })
    }

    /// As it is stored.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; GROUP_LEN] {
        let mut out = Vec::with_capacity(GROUP_LEN);
        out.extend_from_slice(&self.raw_len.to_le_bytes());
        out.extend_from_slice(&self.chunks.to_le_bytes());
        out.extend_from_slice(&self.id);
        fixed(&out)
    }

    /// Bytes of its chunk records.
    #[must_use]
    pub fn records_len(&self) -> u64 {
        u64::from(self.chunks) * CHUNK_LEN as u64
    }
}

impl Chunk {
    fn parse(bytes: &[u8; CHUNK_LEN]) -> Result<Self, ChunksError> {
        let mut at = Cursor(bytes);
        Ok(Self { len: at.u32()?, address: at.array()? })
    }

    /// As it is stored.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; CHUNK_LEN] {
        let mut out = Vec::with_capacity(CHUNK_LEN);
        out.extend_from_slice(&self.len.to_le_bytes());
        out.extend_from_slice(&self.address);
        fixed(&out)
    }
}

#[cfg(test)]
#[path = "chunks/tests.rs"]
mod tests;
