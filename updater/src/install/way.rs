//! How a frame that the target lacks comes to be.
//!
//! Every way but the bundle's own is a hint: what it makes counts only when the signed raw digest matches, and a frame it
//! can not make is fetched from the bundle.

use std::collections::VecDeque;
use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bundle::chunks::{ChunksError, ChunksReader, Group, KnownChunks, Piece, read_group};
use bundle::delta::{DeltaError, FrameSource, Item, Recipe, RecipesReader};
use bundle::digest::Digest;
use bundle::manifest::{Image, Manifest};

use super::plan::Frame;

/// Bytes of the running image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Offset in the running image.
    pub old: u64,
    /// Bytes.
    pub len: u32,
}

/// Where a frame comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// The bundle's payload.
    Bundle,
    /// The running image holds it, in these pieces, in order.
    Old(Arc<[Span]>),
    /// The delta's patch member holds it as the bundle does.
    Plain {
        /// Offset in the patch member.
        offset: u64,
        /// Bytes.
        len: u32,
    },
    /// The delta's patch member holds a body that makes it from the running image.
    Patch {
        /// Offset in the patch member.
        offset: u64,
        /// Bytes.
        len: u32,
        /// SHA-256 of the body.
        sha256: Digest,
    },
}

/// Knows the way of each frame.
pub trait Ways: Send {
    /// The way of this frame; asked for every frame of the image, in order.
    fn of(&mut self, frame: &Frame) -> Way;
}

/// Everything from the bundle.
#[derive(Debug, Clone, Copy)]
pub struct FromBundle;

impl Ways for FromBundle {
    fn of(&mut self, _: &Frame) -> Way {
        Way::Bundle
    }
}

/// By the recipes of a delta, for one image.
pub struct ByRecipes<'a> {
    items: RecipesReader<'a, BufReader<File>>,
    position: u32,
    ours: bool,
    current: Option<Recipe>,
    frame_size: u64,
}

impl<'a> ByRecipes<'a> {
    /// Reads the recipes of the image at `position` from a file that was checked.
    ///
    /// # Errors
    /// [`DeltaError`], when the file changed since.
    pub fn new(
        path: &Path,
        manifest: &'a Manifest,
        to: &Digest,
        position: u32,
        frame_size: u64,
    ) -> Result<Self, DeltaError> {
        let file = File::open(path).map_err(DeltaError::Io)?;
        let items = RecipesReader::new(BufReader::new(file), manifest, to)?;
        Ok(Self { items, position, ours: false, current: None, frame_size })
    }

    /// The next recipe of this image.
    fn next_recipe(&mut self) -> Option<Recipe> {
        loop {
            match self.items.next()? {
                Ok(Item::Section(section)) => self.ours = section.image == self.position,
                Ok(Item::Recipe(recipe)) if self.ours => return Some(recipe),
                Ok(Item::Recipe(_)) => {}
                Err(error) => {
                    tracing::warn!(%error, "the rest of the recipes is not used");
                    return None;
                }
            }
        }
    }
}

impl Ways for ByRecipes<'_> {
    fn of(&mut self, frame: &Frame) -> Way {
        let ends = |recipe: &Recipe| u64::from(recipe.frame) + u64::from(recipe.count);
        while self.current.is_none_or(|recipe| ends(&recipe) <= frame.number) {
            match self.next_recipe() {
                Some(recipe) => self.current = Some(recipe),
                None => return Way::Bundle,
            }
        }
        let Some(recipe) = self.current.filter(|recipe| u64::from(recipe.frame) <= frame.number) else {
            return Way::Bundle;
        };
        match recipe.source {
            FrameSource::Copy { old } => {
                let old = old + (frame.number - u64::from(recipe.frame)) * self.frame_size;
                Way::Old([Span { old, len: frame.record.raw_len }].into())
            }
            FrameSource::Plain { offset, len } => Way::Plain { offset, len },
            FrameSource::Patch { offset, len, sha256 } => Way::Patch { offset, len, sha256 },
        }
    }
}

/// By chunk addresses: a frame all of whose bytes lie in known chunks is built here, any other is fetched.
pub struct ByChunks {
    groups: ChunksReader<BufReader<File>>,
    records: File,
    path: PathBuf,
    known: Arc<KnownChunks>,
    /// Where the records of the next group stand.
    next_records: u64,
    /// Where the next group begins in the new image.
    next_group: u64,
    /// Pieces that end behind the last frame asked for.
    pieces: VecDeque<Piece>,
}

impl ByChunks {
    /// Reads the addresses in `path`; those of groups that `known` has need not be there.
    ///
    /// # Errors
    /// [`ChunksError`]: they can not be used.
    pub fn new(path: &Path, image: &Image, known: Arc<KnownChunks>) -> Result<Self, ChunksError> {
        let groups = ChunksReader::new(BufReader::new(File::open(path)?), image)?;
        let next_records = groups.header().chunks_offset();
        let records = File::open(path)?;
        Ok(Self { groups, records, path: path.to_owned(), known, next_records, next_group: 0, pieces: VecDeque::new() })
    }

    /// The pieces of one more group; false behind the last one.
    fn more(&mut self) -> bool {
        let group = match self.groups.next() {
            Some(Ok(group)) => group,
            Some(Err(error)) => {
                tracing::warn!(path = %self.path.display(), %error, "the rest of the chunk addresses is not used");
                return false;
            }
            None => return false,
        };
        let (start, records) = (self.next_group, self.next_records);
        self.next_group += u64::from(group.raw_len);
        self.next_records += group.records_len();
        match self.known.group(&group, start) {
            Some(piece) => self.pieces.push_back(piece),
            None => self.chunks_of(&group, start, records),
        }
        true
    }

    fn chunks_of(&mut self, group: &Group, start: u64, records: u64) {
        let mut bytes = vec![0; usize::try_from(group.records_len()).unwrap_or(0)];
        let read = self.records.read_exact_at(&mut bytes, records).map_err(ChunksError::from);
        match read.and_then(|()| read_group(group, &bytes)) {
            Ok(chunks) => {
                let mut at = start;
                for chunk in chunks {
                    self.pieces.push_back(self.known.chunk(&chunk, at));
                    at += u64::from(chunk.len);
                }
            }
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "a group of chunk addresses is not used");
                self.pieces.push_back(Piece { new: start, old: None, len: group.raw_len });
            }
        }
    }
}

impl Ways for ByChunks {
    fn of(&mut self, frame: &Frame) -> Way {
        let (start, end) = (frame.raw_offset, frame.raw_offset + u64::from(frame.record.raw_len));
        while self.pieces.front().is_some_and(|piece| piece.new + u64::from(piece.len) <= start) {
            self.pieces.pop_front();
        }
        while self.next_group < end && self.more() {}
        let (mut spans, mut at) = (Vec::new(), start);
        for piece in self.pieces.iter().take_while(|piece| piece.new < end) {
            let last = end.min(piece.new + u64::from(piece.len));
            let Some(old) = piece.old.filter(|_| piece.new <= at && at < last) else { return Way::Bundle };
            let span = Span { old: old + (at - piece.new), len: u32::try_from(last - at).unwrap_or(0) };
            match spans.last_mut() {
                // Neighbours in both images are one read.
                Some(Span { old, len }) if *old + u64::from(*len) == span.old => *len += span.len,
                _ => spans.push(span),
            }
            at = last;
        }
        if at == end { Way::Old(spans.into()) } else { Way::Bundle }
    }
}

/// Where, in the member, the chunk records stand that a device with `known` chunks needs: those of groups it lacks.
///
/// # Errors
/// [`ChunksError`]: the groups in `path` can not be used.
pub fn needed_records(path: &Path, image: &Image, known: &KnownChunks) -> Result<Vec<(u64, u64)>, ChunksError> {
    let groups = ChunksReader::new(BufReader::new(File::open(path)?), image)?;
    let (mut ranges, mut at) = (Vec::new(), groups.header().chunks_offset());
    for group in groups {
        let group = group?;
        let end = at + group.records_len();
        if known.group(&group, 0).is_none() {
            ranges.push((at, end));
        }
        at = end;
    }
    Ok(ranges)
}
