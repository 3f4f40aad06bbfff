//! Reads the first level as a stream, and the chunks of one group.

use std::io::Read;

use super::{CHUNK_LEN, Chunk, ChunksError, ChunksHeader, GROUP_LEN, Group, HEADER_LEN, MAX_CHUNK, MAX_GROUP};
use crate::digest::Digest;
use crate::manifest::Image;

/// The groups of an image, in order, in the memory of one. After an error it yields nothing more.
#[derive(Debug)]
pub struct ChunksReader<R> {
    inner: R,
    header: ChunksHeader,
    left: u32,
    chunks: u64,
    raw: u64,
    done: bool,
}

impl<R: Read> ChunksReader<R> {
    /// Reads the header of the chunks member of `image`.
    ///
    /// # Errors
    /// When the image has none, or it is not acceptable.
    pub fn new(mut inner: R, image: &Image) -> Result<Self, ChunksError> {
        let size = image.chunks.as_ref().ok_or(ChunksError::Malformed("the image has none"))?.size;
        let mut bytes = [0; HEADER_LEN];
        inner.read_exact(&mut bytes)?;
        let header = ChunksHeader::parse(&bytes, size)?;
        if header.image_size != image.size {
            return Err(ChunksError::Malformed("they describe another image"));
        }
        Ok(Self { inner, header, left: header.groups, chunks: 0, raw: 0, done: false })
    }

    /// The header.
    #[must_use]
    pub const fn header(&self) -> &ChunksHeader {
        &self.header
    }

    fn group(&mut self) -> Result<Option<Group>, ChunksError> {
        let Some(left) = self.left.checked_sub(1) else {
            let whole = self.chunks == u64::from(self.header.chunks) && self.raw == self.header.image_size;
            return if whole { Ok(None) } else { Err(ChunksError::Malformed("groups do not fill the image")) };
        };
        let mut bytes = [0; GROUP_LEN];
        self.inner.read_exact(&mut bytes)?;
        let group = Group::parse(&bytes)?;
        if group.chunks == 0 || group.chunks > MAX_GROUP || group.raw_len == 0 {
            return Err(ChunksError::Malformed("numbers of a group"));
        }
        self.left = left;
        self.chunks += u64::from(group.chunks);
        self.raw += u64::from(group.raw_len);
        Ok(Some(group))
    }
}

impl<R: Read> Iterator for ChunksReader<R> {
    type Item = Result<Group, ChunksError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let group = self.group();
        self.done = !matches!(group, Ok(Some(_)));
        group.transpose()
    }
}

/// Reads the chunks of a group from the bytes of its records.
///
/// # Errors
/// When they are not the ones the group names, or do not fill it.
pub fn read_group(group: &Group, records: &[u8]) -> Result<Vec<Chunk>, ChunksError> {
    if records.len() as u64 != group.records_len() || Digest::of(records).0.first_chunk() != Some(&group.id) {
        return Err(ChunksError::Malformed("the chunks of another group"));
    }
    let chunks = records.as_chunks::<CHUNK_LEN>().0.iter().map(Chunk::parse).collect::<Result<Vec<_>, _>>()?;
    let sane = chunks.iter().all(|chunk| (1..=MAX_CHUNK).contains(&chunk.len));
    let sum: u64 = chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
    if !sane || sum != u64::from(group.raw_len) {
        return Err(ChunksError::Malformed("chunks do not fill their group"));
    }
    Ok(chunks)
}
