//! A delta: how a device that runs one known release makes the frames of another.
//!
//! A second tar, beside the bundle: the same `manifest.dsse.json` and indexes, `delta.recipes`, and a patch member for
//! each image. A frame that changed has a recipe: copy these blocks of the old image, and decompress the rest with a
//! zstd prefix gathered from named ranges of the old image. Memory is that of a frame and its prefix, however large
//! the image. `docs/src/formats/delta.md` has it byte by byte.
//!
//! Nothing here needs a signature: whatever a recipe makes is a hint until the frame's signed raw digest matches. What
//! a hostile delta can do is bounded here: every length is checked before anything is allocated.

use crate::binary::{Cursor, TooShort, fixed};
use crate::digest::Digest;
use crate::frame::FrameError;
use crate::reason::Reason;

mod body;
mod layout;
mod patcher;
mod reader;
mod varint;

pub use body::{Body, Method, Range, Run, Stream};
pub use layout::{RECIPES_MEMBER, delta_layout};
pub use patcher::{OldImage, Patcher};
pub use reader::{Item, RecipesReader, check_recipes};
pub(crate) use varint::{put_varint, put_zigzag};

/// The first four bytes of `delta.recipes`.
pub const MAGIC: [u8; 4] = *b"FSDL";

/// The version this code writes and reads.
pub const VERSION: u16 = 1;

/// Size of the header, bytes.
pub const HEADER_LEN: usize = 96;

/// Size of a section's header, bytes.
pub const SECTION_LEN: usize = 72;

/// Size of a recipe, bytes.
pub const RECIPE_LEN: usize = 56;

/// Largest `delta.recipes`, bytes: as an index, it is stored and streamed.
pub const MAX_RECIPES_SIZE: u64 = 64 << 20;

/// Unit of copies and prefix ranges, bytes: the block of common file systems.
pub const BLOCK: u32 = 4096;

/// Largest prefix, bytes: what a worker on a device is ready to hold beside a frame.
pub const MAX_PREFIX: u32 = 8 << 20;

/// Largest body of a recipe, bytes. One that is larger than the frame as stored would have no purpose.
pub const MAX_BODY: u32 = crate::index::max_stored(crate::index::MAX_FRAME_SIZE);

/// Why a delta is refused, or a frame can not be made from it.
#[derive(Debug, thiserror::Error)]
pub enum DeltaError {
    /// Reading the delta failed or ended early.
    #[error("reading the delta")]
    Io(#[source] std::io::Error),
    /// Reading the old image failed.
    #[error("reading the running image")]
    Old(#[source] std::io::Error),
    /// It needs a newer reader.
    #[error("the delta needs a newer reader: {0}")]
    TooNew(String),
    /// It breaks a rule of the format.
    #[error("the delta is malformed: {0}")]
    Malformed(&'static str),
    /// Sound, but made for another release.
    #[error("the delta is made for another release")]
    WrongRelease,
    /// The recipe's body was damaged on its way.
    #[error("the recipe of a frame does not match its digest")]
    Body,
    /// The recipe was followed, and something else came out: the running image is not what the delta was made from.
    /// Only this frame must be fetched from the bundle; the rest of the delta still counts.
    #[error("the frame can not be made from the running image")]
    Frame(#[source] FrameError),
}

impl From<TooShort> for DeltaError {
    fn from(_: TooShort) -> Self {
        Self::Malformed("too short")
    }
}

impl DeltaError {
    /// The reason code of this refusal.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Reason::Truncated,
            Self::Io(_) => Reason::Internal,
            Self::Old(_) => Reason::WriteError,
            Self::TooNew(_) => Reason::FormatTooNew,
            Self::Malformed(_) | Self::WrongRelease => Reason::Malformed,
            Self::Body => Reason::FrameMismatch,
            Self::Frame(error) => error.reason(),
        }
    }
}

/// What stands before the sections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaHeader {
    /// The release it starts from, by manifest digest.
    pub from: Digest,
    /// The release it makes.
    pub to: Digest,
    /// Number of sections.
    pub sections: u32,
}

/// Recipes of one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// The image, as position in the new manifest.
    pub image: u32,
    /// Number of recipes.
    pub recipes: u32,
    /// Bytes of the old image; 0 when the old release has none of this name.
    pub old_size: u64,
    /// SHA-256 of the old image.
    pub old_sha256: Digest,
    /// Bytes of the patch member.
    pub patch_size: u64,
    /// Largest prefix any recipe gathers, bytes.
    pub max_prefix: u32,
}

/// How frames are made. Frames without a recipe are zeros, or must come from the bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipe {
    /// First frame.
    pub frame: u32,
    /// Number of frames; 1 unless the source is a copy.
    pub count: u32,
    /// Where from.
    pub source: FrameSource,
}

/// Where a frame comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameSource {
    /// The old image holds it, from this offset on (bytes).
    Copy {
        /// Offset in the old image.
        old: u64,
    },
    /// The patch member holds it as the bundle does: one zstd frame that the index names.
    Plain {
        /// Offset in the patch member.
        offset: u64,
        /// Bytes.
        len: u32,
    },
    /// The patch member holds a body for [`Patcher`].
    Patch {
        /// Offset in the patch member.
        offset: u64,
        /// Bytes.
        len: u32,
        /// SHA-256 of the body.
        sha256: Digest,
    },
}

const KIND_COPY: u32 = 1;
const KIND_PLAIN: u32 = 2;
const KIND_PATCH: u32 = 3;

impl DeltaHeader {
    /// Reads a header.
    ///
    /// # Errors
    /// When it is not one, or is newer.
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Self, DeltaError> {
        let mut at = Cursor(bytes);
        if at.array()? != MAGIC {
            return Err(DeltaError::Malformed("not a delta"));
        }
        let (version, header_len) = (at.u16()?, at.u16()?);
        let required = at.u32()?;
        let _optional = at.u32()?;
        if version != VERSION {
            return Err(DeltaError::TooNew(format!("version {version}")));
        }
        if required != 0 {
            return Err(DeltaError::TooNew(format!("required features {required:#x}")));
        }
        if usize::from(header_len) != HEADER_LEN {
            return Err(DeltaError::Malformed("length of the header"));
        }
        let sections = at.u32()?;
        let _reserved: [u8; 12] = at.array()?;
        Ok(Self { from: Digest(at.array()?), to: Digest(at.array()?), sections })
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
        out.extend_from_slice(&self.sections.to_le_bytes());
        out.extend_from_slice(&[0; 12]);
        out.extend_from_slice(&self.from.0);
        out.extend_from_slice(&self.to.0);
        fixed(&out)
    }
}

impl Section {
    fn parse(bytes: &[u8; SECTION_LEN]) -> Result<Self, DeltaError> {
        let mut at = Cursor(bytes);
        let (image, recipes, old_size) = (at.u32()?, at.u32()?, at.u64()?);
        let old_sha256 = Digest(at.array()?);
        let (patch_size, max_prefix) = (at.u64()?, at.u32()?);
        Ok(Self { image, recipes, old_size, old_sha256, patch_size, max_prefix })
    }

    /// As it is stored.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; SECTION_LEN] {
        let mut out = Vec::with_capacity(SECTION_LEN);
        out.extend_from_slice(&self.image.to_le_bytes());
        out.extend_from_slice(&self.recipes.to_le_bytes());
        out.extend_from_slice(&self.old_size.to_le_bytes());
        out.extend_from_slice(&self.old_sha256.0);
        out.extend_from_slice(&self.patch_size.to_le_bytes());
        out.extend_from_slice(&self.max_prefix.to_le_bytes());
        fixed(&out)
    }
}

impl Recipe {
    fn parse(bytes: &[u8; RECIPE_LEN]) -> Result<Self, DeltaError> {
        let mut at = Cursor(bytes);
        let (frame, count, kind, len, offset) = (at.u32()?, at.u32()?, at.u32()?, at.u32()?, at.u64()?);
        let sha256 = Digest(at.array()?);
        let source = match kind {
            KIND_COPY => FrameSource::Copy { old: offset },
            KIND_PLAIN => FrameSource::Plain { offset, len },
            KIND_PATCH => FrameSource::Patch { offset, len, sha256 },
            _ => return Err(DeltaError::TooNew(format!("recipe of kind {kind}"))),
        };
        Ok(Self { frame, count, source })
    }

    /// As it is stored.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; RECIPE_LEN] {
        let none = Digest([0; 32]);
        let (kind, len, offset, sha256) = match self.source {
            FrameSource::Copy { old } => (KIND_COPY, 0, old, none),
            FrameSource::Plain { offset, len } => (KIND_PLAIN, len, offset, none),
            FrameSource::Patch { offset, len, sha256 } => (KIND_PATCH, len, offset, sha256),
        };
        let mut out = Vec::with_capacity(RECIPE_LEN);
        out.extend_from_slice(&self.frame.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(&sha256.0);
        fixed(&out)
    }

    /// Place in the patch member, if it has one.
    const fn patch(&self) -> Option<(u64, u32)> {
        match self.source {
            FrameSource::Copy { .. } => None,
            FrameSource::Plain { offset, len } | FrameSource::Patch { offset, len, .. } => Some((offset, len)),
        }
    }
}
