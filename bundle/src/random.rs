//! A bundle with random access: a file, or anything that can seek.
//!
//! For readers that fetch ranges themselves (HTTP), [`crate::layout`], [`crate::index`] and [`crate::frame`] are the
//! same pieces without this one. Touches only the `Read + Seek` it is given.

use std::io::{self, Read, Seek, SeekFrom, Take};

use crate::document::DocumentError;
use crate::index::{FrameRecord, IndexError, IndexReader};
use crate::layout::{Layout, Member, MemberKind};
use crate::manifest::Manifest;
use crate::sequential::{ReadError, SequentialReader};

/// A bundle whose manifest was accepted by the caller.
#[derive(Debug)]
pub struct RandomReader<R> {
    inner: R,
    manifest: Manifest,
    layout: Layout,
}

/// Reads only the envelope of a bundle; nothing is trusted yet.
///
/// # Errors
/// When it does not begin like a bundle.
pub fn read_envelope<R: Read + Seek>(inner: &mut R) -> Result<Vec<u8>, ReadError> {
    inner.rewind()?;
    Ok(SequentialReader::new(inner)?.envelope().to_vec())
}

impl<R: Read + Seek> RandomReader<R> {
    /// Opens a bundle whose envelope, of `envelope_len` bytes, held this manifest.
    ///
    /// # Errors
    /// When its length is not the one the manifest gives it.
    pub fn new(mut inner: R, envelope_len: u64, manifest: Manifest) -> Result<Self, ReadError> {
        let layout = Layout::new(envelope_len, &manifest)?;
        let len = inner.seek(SeekFrom::End(0))?;
        if len < layout.len() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the bundle ends early").into());
        }
        if len > layout.len() {
            return Err(DocumentError::Invalid("the bundle is longer than its members".to_owned()).into());
        }
        Ok(Self { inner, manifest, layout })
    }

    /// Its manifest.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where its members stand.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The content of a member, from `skip` bytes on.
    ///
    /// # Errors
    /// When seeking fails.
    pub fn content(&mut self, member: &Member, skip: u64) -> io::Result<Take<&mut R>> {
        let skip = skip.min(member.size);
        self.inner.seek(SeekFrom::Start(member.offset + skip))?;
        Ok(self.inner.by_ref().take(member.size - skip))
    }

    /// The index of the image at position `image`.
    ///
    /// # Errors
    /// When there is no such image, or its index is not acceptable.
    pub fn index(&mut self, image: usize) -> Result<IndexReader<Take<&mut R>>, IndexError> {
        let member = self.member(MemberKind::Index, image)?;
        self.inner.seek(SeekFrom::Start(member.offset))?;
        let described = self.manifest.images.get(image).ok_or(IndexError::Malformed("no such image"))?;
        IndexReader::new(self.inner.by_ref().take(member.size), described)
    }

    /// Reads the stored bytes of a frame; unchecked, for [`crate::frame::FrameDecoder`].
    ///
    /// # Errors
    /// When there is no such image, or reading fails.
    pub fn stored(&mut self, image: usize, record: &FrameRecord, out: &mut Vec<u8>) -> Result<(), IndexError> {
        let member = self.member(MemberKind::Payload, image)?;
        out.resize(record.stored_len as usize, 0);
        self.content(&member, record.offset)?.read_exact(out)?;
        Ok(())
    }

    fn member(&self, kind: MemberKind, image: usize) -> Result<Member, IndexError> {
        self.layout.member(kind, image).cloned().ok_or(IndexError::Malformed("no such member"))
    }
}
