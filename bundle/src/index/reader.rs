//! Reads an index as a stream and proves it is the signed one.

use std::io::Read;

use sha2::{Digest as _, Sha256};

use super::{FrameRecord, HEADER_LEN, IndexError, IndexHeader, RECORD_LEN, frames_of_index};
use crate::digest::Digest;
use crate::manifest::Image;

/// The records of an index, in order, in the memory of one.
///
/// Each record is checked against the header and its neighbours when it comes out; whether the whole is the signed
/// one is known only after the last, so act on records only after a first pass ([`check_index`]) over stored bytes.
/// After an error it yields nothing more.
#[derive(Debug)]
pub struct IndexReader<R> {
    inner: R,
    header: IndexHeader,
    expected: Digest,
    hash: Option<Sha256>,
    next: u32,
    offset: u64,
    zeros: Option<(u32, Digest)>,
}

impl<R: Read> IndexReader<R> {
    /// Reads the header of the index of `image`.
    ///
    /// # Errors
    /// When it is not an index, is newer, or does not describe that image.
    pub fn new(mut inner: R, image: &Image) -> Result<Self, IndexError> {
        let mut bytes = [0; HEADER_LEN];
        inner.read_exact(&mut bytes)?;
        let header = IndexHeader::parse(&bytes)?;
        if header.image_size != image.size || header.payload_size != image.payload.size {
            return Err(IndexError::Malformed("it describes another image"));
        }
        if frames_of_index(image.index.size) != Some(u64::from(header.frame_count)) {
            return Err(IndexError::Malformed("its size does not fit its number of frames"));
        }
        let hash = Some(Sha256::new_with_prefix(bytes));
        Ok(Self { inner, header, expected: image.index.sha256, hash, next: 0, offset: 0, zeros: None })
    }

    /// The header.
    #[must_use]
    pub const fn header(&self) -> &IndexHeader {
        &self.header
    }

    fn record(&mut self) -> Result<FrameRecord, IndexError> {
        let mut bytes = [0; RECORD_LEN];
        self.inner.read_exact(&mut bytes)?;
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        let record = FrameRecord::parse(&bytes)?;
        if record.offset != self.offset {
            return Err(IndexError::Malformed("a gap between frames"));
        }
        if record.raw_len != self.header.raw_len(self.next) {
            return Err(IndexError::Malformed("raw length of a frame"));
        }
        if record.zero && self.zeros(record.raw_len) != record.raw_sha256 {
            return Err(IndexError::Malformed("a frame marked as zeros that is not"));
        }
        self.offset += u64::from(record.stored_len);
        self.next += 1;
        Ok(record)
    }

    /// The digest of that many zeros; all frames but the last ask for the same.
    fn zeros(&mut self, len: u32) -> Digest {
        match self.zeros {
            Some((known, digest)) if known == len => digest,
            _ => {
                let digest = Digest::of(&vec![0; len as usize]);
                self.zeros = Some((len, digest));
                digest
            }
        }
    }

    fn finish(&mut self) -> Result<(), IndexError> {
        let Some(hash) = self.hash.take() else { return Ok(()) };
        if self.offset != self.header.payload_size {
            return Err(IndexError::Malformed("frames do not fill the payload"));
        }
        if Digest(hash.finalize().into()) != self.expected {
            return Err(IndexError::Mismatch);
        }
        Ok(())
    }
}

impl<R: Read> Iterator for IndexReader<R> {
    type Item = Result<FrameRecord, IndexError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.hash.as_ref()?;
        if self.next == self.header.frame_count {
            return self.finish().err().map(Err);
        }
        let record = self.record();
        if record.is_err() {
            self.hash = None;
        }
        Some(record)
    }
}

/// Reads a whole index and proves that it is the one `image` names.
///
/// # Errors
/// As [`IndexReader`].
pub fn check_index<R: Read>(reader: R, image: &Image) -> Result<IndexHeader, IndexError> {
    let mut records = IndexReader::new(reader, image)?;
    for record in records.by_ref() {
        record?;
    }
    Ok(*records.header())
}
