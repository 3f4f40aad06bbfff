//! Where each member of a bundle stands: a pure function of the envelope's length and the manifest.
//!
//! Sizes of all members are in the signed manifest, so a reader with ranges (a file, HTTP) never walks the tar: after
//! the first member it knows every offset, and a bundle with other members in between is simply not this bundle.

use crate::document::DocumentError;
use crate::manifest::{Blob, Manifest};
use crate::ustar::{self, BLOCK};

/// Name of the first member.
pub const MANIFEST_MEMBER: &str = "manifest.dsse.json";

/// Blocks of zeros after the last member.
pub const END_BLOCKS: u64 = 2;

/// What a member holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberKind {
    /// The envelope over the manifest.
    Manifest,
    /// The frame index of an image.
    Index,
    /// The chunk addresses of an image.
    Chunks,
    /// The compressed frames of an image.
    Payload,
    /// In a delta: how frames are made.
    Recipes,
    /// In a delta: what the recipes of an image need beyond the old image.
    Patch,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name in the tar.
    pub name: String,
    /// What it holds.
    pub kind: MemberKind,
    /// Which image it belongs to, as position in `manifest.images`; none for the manifest.
    pub image: Option<usize>,
    /// Offset of its content in the bundle, bytes; its header stands 512 before.
    pub offset: u64,
    /// Size of its content, bytes.
    pub size: u64,
}

/// All members, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    members: Vec<Member>,
    end: u64,
}

impl Layout {
    /// Lays out a bundle: the manifest, every index, every chunks member, every payload.
    ///
    /// Grouped like this, everything a device plans with comes with the first request.
    ///
    /// # Errors
    /// When the sum of sizes overflows, which a parsed manifest can not do.
    pub fn new(envelope_len: u64, manifest: &Manifest) -> Result<Self, DocumentError> {
        let images = || manifest.images.iter().enumerate();
        let indexes = images().map(|(n, image)| (format!("{}.index", image.name), MemberKind::Index, n, image.index));
        let chunks = images().filter_map(|(n, image)| {
            let chunks = image.chunks.as_ref()?;
            let blob = Blob { size: chunks.size, sha256: chunks.sha256 };
            Some((format!("{}.chunks", image.name), MemberKind::Chunks, n, blob))
        });
        let payloads =
            images().map(|(n, image)| (format!("{}.zst", image.name), MemberKind::Payload, n, image.payload));

        let parts = indexes.chain(chunks).chain(payloads);
        Self::stack(envelope_len, parts.map(|(name, kind, image, blob)| (name, kind, Some(image), blob.size)))
    }

    /// Stacks members behind the envelope.
    pub(crate) fn stack(
        envelope_len: u64,
        parts: impl IntoIterator<Item = (String, MemberKind, Option<usize>, u64)>,
    ) -> Result<Self, DocumentError> {
        let overflow = || DocumentError::Invalid("the sizes add up to more than a tar can hold".to_owned());
        let first = (MANIFEST_MEMBER.to_owned(), MemberKind::Manifest, None, envelope_len);
        let mut members = Vec::new();
        let mut at = 0u64;
        for (name, kind, image, size) in std::iter::once(first).chain(parts) {
            let offset = at.checked_add(BLOCK).ok_or_else(overflow)?;
            at = ustar::padded(size).and_then(|len| offset.checked_add(len)).ok_or_else(overflow)?;
            members.push(Member { name, kind, image, offset, size });
        }
        let end = at.checked_add(END_BLOCKS * BLOCK).filter(|end| i64::try_from(*end).is_ok()).ok_or_else(overflow)?;
        Ok(Self { members, end })
    }

    /// The members, in order.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Length of the whole bundle, bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.end
    }

    /// Never: a bundle has at least its manifest.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.end == 0
    }

    /// That member of the image at position `image` of the manifest.
    #[must_use]
    pub fn member(&self, kind: MemberKind, image: usize) -> Option<&Member> {
        self.members.iter().find(|member| member.kind == kind && member.image == Some(image))
    }

    /// The index of the image at position `image` of the manifest.
    #[must_use]
    pub fn index(&self, image: usize) -> Option<&Member> {
        self.member(MemberKind::Index, image)
    }

    /// The payload of the image at position `image` of the manifest.
    #[must_use]
    pub fn payload(&self, image: usize) -> Option<&Member> {
        self.member(MemberKind::Payload, image)
    }

    /// Offset of the first payload's header: everything before it is what a device plans with.
    #[must_use]
    pub fn preamble_len(&self) -> u64 {
        let first = self.members.iter().find(|member| member.kind == MemberKind::Payload);
        first.map_or(self.end, |member| member.offset - BLOCK)
    }
}
