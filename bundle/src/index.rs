//! The frame index of an image: where each frame stands, and what it must hash to.
//!
//! Little-endian, fixed-size records, read as a stream in the memory of one record; `docs/src/formats/index.md` has
//! it byte by byte. Every length is checked here before anybody allocates for it. Magic, version and required
//! features are checked before any digest, so an old reader says "newer format" and never "bad hash".

use crate::binary::{Cursor, TooShort, fixed};
use crate::digest::Digest;
use crate::reason::Reason;

mod reader;

pub use reader::{IndexReader, check_index};

/// The first four bytes.
pub const MAGIC: [u8; 4] = *b"FSIX";

/// The version this code writes and reads.
pub const VERSION: u16 = 1;

/// Size of the header, bytes.
pub const HEADER_LEN: usize = 64;

/// Size of a record, bytes.
pub const RECORD_LEN: usize = 84;

/// Smallest frame, bytes of raw image. Below it the index would outgrow the payload.
pub const MIN_FRAME_SIZE: u32 = 4 << 10;

/// Largest frame, bytes of raw image: what a worker on a device is ready to hold.
pub const MAX_FRAME_SIZE: u32 = 4 << 20;

/// Frames are whole blocks of this size, save the last one.
pub const FRAME_UNIT: u32 = 4 << 10;

/// Record flag: the frame is all zeros, so nobody needs to fetch it.
const FLAG_ZERO: u32 = 1;

/// Flags a reader must understand; the upper half may be ignored.
const REQUIRED_FLAGS: u32 = 0xffff;

/// Why an index is refused.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// Reading failed or ended early.
    #[error("reading the index")]
    Io(#[from] std::io::Error),
    /// It needs a newer reader.
    #[error("the index needs a newer reader: {0}")]
    TooNew(String),
    /// It breaks a rule of the format.
    #[error("the index is malformed: {0}")]
    Malformed(&'static str),
    /// Sound, but not the one the manifest names.
    #[error("the index is not the one that was signed")]
    Mismatch,
}

impl From<TooShort> for IndexError {
    fn from(_: TooShort) -> Self {
        Self::Malformed("too short")
    }
}

impl IndexError {
    /// The reason code of this refusal.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Reason::Truncated,
            Self::Io(_) => Reason::Internal,
            Self::TooNew(_) => Reason::FormatTooNew,
            Self::Malformed(_) => Reason::Malformed,
            Self::Mismatch => Reason::FrameMismatch,
        }
    }
}

/// What stands before the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexHeader {
    /// Raw bytes of every frame but the last.
    pub frame_size: u32,
    /// Number of frames.
    pub frame_count: u32,
    /// Raw bytes of the image.
    pub image_size: u64,
    /// Bytes of the payload member.
    pub payload_size: u64,
}

impl IndexHeader {
    /// Reads and checks a header.
    ///
    /// # Errors
    /// When it is not one, is newer, or its numbers do not fit each other.
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Self, IndexError> {
        let mut at = Cursor(bytes);
        if at.array()? != MAGIC {
            return Err(IndexError::Malformed("not an index"));
        }
        let (version, header_len) = (at.u16()?, at.u16()?);
        let required = at.u32()?;
        let _optional: [u8; 4] = at.array()?;
        if version != VERSION {
            return Err(IndexError::TooNew(format!("version {version}")));
        }
        if required != 0 {
            return Err(IndexError::TooNew(format!("required features {required:#x}")));
        }
        if usize::from(header_len) != HEADER_LEN {
            return Err(IndexError::Malformed("length of the header"));
        }
        let header =
            Self { frame_size: at.u32()?, frame_count: at.u32()?, image_size: at.u64()?, payload_size: at.u64()? };
        header.validate()?;
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
        out.extend_from_slice(&self.frame_size.to_le_bytes());
        out.extend_from_slice(&self.frame_count.to_le_bytes());
        out.extend_from_slice(&self.image_size.to_le_bytes());
        out.extend_from_slice(&self.payload_size.to_le_bytes());
        fixed(&out)
    }

    /// Offset in the raw image of frame number `n`, bytes.
    #[must_use]
    pub fn raw_offset(&self, n: u32) -> u64 {
        u64::from(n) * u64::from(self.frame_size)
    }

    /// Raw bytes of frame number `n`; 0 behind the last.
    #[must_use]
    pub fn raw_len(&self, n: u32) -> u32 {
        let left = self.image_size.saturating_sub(self.raw_offset(n));
        u32::try_from(left).unwrap_or(u32::MAX).min(self.frame_size)
    }

    fn validate(&self) -> Result<(), IndexError> {
        let sizes = MIN_FRAME_SIZE..=MAX_FRAME_SIZE;
        if !sizes.contains(&self.frame_size) || !self.frame_size.is_multiple_of(FRAME_UNIT) {
            return Err(IndexError::Malformed("frame size"));
        }
        if self.image_size.div_ceil(u64::from(self.frame_size)) != u64::from(self.frame_count) {
            return Err(IndexError::Malformed("number of frames"));
        }
        if self.payload_size > max_payload(self.image_size, u64::from(self.frame_count)) {
            return Err(IndexError::Malformed("payload size"));
        }
        Ok(())
    }
}

/// One frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameRecord {
    /// Offset in the payload member, bytes.
    pub offset: u64,
    /// Bytes as stored: one zstd frame.
    pub stored_len: u32,
    /// Bytes of raw image.
    pub raw_len: u32,
    /// All zeros: need not be fetched. It is stored all the same (some 50 bytes), so that `zstd -d` gives the image.
    pub zero: bool,
    /// SHA-256 of the stored bytes, checked before zstd sees them.
    pub stored_sha256: Digest,
    /// SHA-256 of the raw bytes, checked before they are written.
    pub raw_sha256: Digest,
}

impl FrameRecord {
    /// Reads a record; its place among its neighbours is for [`IndexReader`] to check.
    ///
    /// # Errors
    /// When it carries a flag that must be understood, or a length no frame can have.
    pub fn parse(bytes: &[u8; RECORD_LEN]) -> Result<Self, IndexError> {
        let mut at = Cursor(bytes);
        let offset = at.u64()?;
        let stored_len = at.u32()?;
        let raw_len = at.u32()?;
        let flags = at.u32()?;
        if flags & REQUIRED_FLAGS & !FLAG_ZERO != 0 {
            return Err(IndexError::TooNew(format!("frame flags {flags:#x}")));
        }
        if raw_len == 0 || raw_len > MAX_FRAME_SIZE || stored_len == 0 || stored_len > max_stored(raw_len) {
            return Err(IndexError::Malformed("length of a frame"));
        }
        let (stored_sha256, raw_sha256) = (Digest(at.array()?), Digest(at.array()?));
        Ok(Self { offset, stored_len, raw_len, zero: flags & FLAG_ZERO != 0, stored_sha256, raw_sha256 })
    }

    /// As it is stored.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; RECORD_LEN] {
        let mut out = Vec::with_capacity(RECORD_LEN);
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.stored_len.to_le_bytes());
        out.extend_from_slice(&self.raw_len.to_le_bytes());
        out.extend_from_slice(&if self.zero { FLAG_ZERO } else { 0 }.to_le_bytes());
        out.extend_from_slice(&self.stored_sha256.0);
        out.extend_from_slice(&self.raw_sha256.0);
        fixed(&out)
    }
}

/// How many frames an index member of that size describes; none when no index has that size.
#[must_use]
pub fn frames_of_index(size: u64) -> Option<u64> {
    let records = size.checked_sub(HEADER_LEN as u64)?;
    records.is_multiple_of(RECORD_LEN as u64).then_some(records / RECORD_LEN as u64)
}

/// Most bytes a frame can be stored in: zstd adds a little to what it can not compress.
#[must_use]
pub const fn max_stored(raw_len: u32) -> u32 {
    raw_len + raw_len / 128 + 128
}

/// Most bytes the payload of an image can have.
#[must_use]
pub const fn max_payload(image_size: u64, frames: u64) -> u64 {
    image_size.saturating_add(image_size / 128).saturating_add(frames.saturating_mul(128))
}

#[cfg(test)]
#[path = "index/tests.rs"]
mod tests;
