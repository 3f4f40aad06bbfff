//! Reads `delta.recipes` as a stream: header, then each image's section and its recipes.

use std::io::Read;

use super::{
    DeltaError, DeltaHeader, FrameSource, HEADER_LEN, MAX_BODY, MAX_PREFIX, RECIPE_LEN, Recipe, SECTION_LEN, Section,
};
use crate::digest::Digest;
use crate::index::{FRAME_UNIT, frames_of_index};
use crate::manifest::{MAX_IMAGE_SIZE, Manifest};

/// What comes out next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// The recipes of an image begin.
    Section(Section),
    /// One of them, in the order of frames.
    Recipe(Recipe),
}

/// Sections and recipes, in order, in the memory of one. After an error it yields nothing more.
#[derive(Debug)]
pub struct RecipesReader<'a, R> {
    inner: R,
    manifest: &'a Manifest,
    header: DeltaHeader,
    sections_left: u32,
    current: Option<Current>,
    done: bool,
}

/// Where we are in a section.
#[derive(Debug)]
struct Current {
    section: Section,
    left: u32,
    frames: u64,
    /// What every frame but the last has at least, bytes: the index knows it exactly, but is not read here.
    least_frame: u64,
    next_frame: u64,
    patch: u64,
}

impl<'a, R: Read> RecipesReader<'a, R> {
    /// Reads the header of a delta that makes the release of this manifest.
    ///
    /// # Errors
    /// When it is not a delta, is newer, or makes another release.
    pub fn new(mut inner: R, manifest: &'a Manifest, to: &Digest) -> Result<Self, DeltaError> {
        let mut bytes = [0; HEADER_LEN];
        inner.read_exact(&mut bytes).map_err(DeltaError::Io)?;
        let header = DeltaHeader::parse(&bytes)?;
        if header.to != *to {
            return Err(DeltaError::WrongRelease);
        }
        if u64::from(header.sections) > manifest.images.len() as u64 {
            return Err(DeltaError::Malformed("more sections than images"));
        }
        Ok(Self { inner, manifest, header, sections_left: header.sections, current: None, done: false })
    }

    /// The header.
    #[must_use]
    pub const fn header(&self) -> &DeltaHeader {
        &self.header
    }

    fn item(&mut self) -> Result<Option<Item>, DeltaError> {
        if let Some(current) = &mut self.current {
            if current.left > 0 {
                let mut bytes = [0; RECIPE_LEN];
                self.inner.read_exact(&mut bytes).map_err(DeltaError::Io)?;
                return current.recipe(Recipe::parse(&bytes)?).map(|recipe| Some(Item::Recipe(recipe)));
            }
            if current.patch != current.section.patch_size {
                return Err(DeltaError::Malformed("recipes do not fill the patch"));
            }
        }
        if self.sections_left == 0 {
            return match self.inner.read(&mut [0]).map_err(DeltaError::Io)? {
                0 => Ok(None),
                _ => Err(DeltaError::Malformed("something after the last recipe")),
            };
        }
        self.section().map(|section| Some(Item::Section(section)))
    }

    fn section(&mut self) -> Result<Section, DeltaError> {
        let mut bytes = [0; SECTION_LEN];
        self.inner.read_exact(&mut bytes).map_err(DeltaError::Io)?;
        let section = Section::parse(&bytes)?;
        let previous = self.current.as_ref().map(|current| current.section.image);
        if previous.is_some_and(|previous| section.image <= previous) {
            return Err(DeltaError::Malformed("sections out of order"));
        }
        let image = self.manifest.images.get(section.image as usize).ok_or(DeltaError::Malformed("no such image"))?;
        let frames = frames_of_index(image.index.size).unwrap_or(0);
        let limit = frames.saturating_mul(u64::from(MAX_BODY));
        let sizes = section.old_size > MAX_IMAGE_SIZE || section.patch_size > limit;
        if u64::from(section.recipes) > frames || section.max_prefix > MAX_PREFIX || sizes {
            return Err(DeltaError::Malformed("numbers of a section"));
        }
        self.sections_left -= 1;
        let least_frame = image.size.div_ceil(frames.max(1)).next_multiple_of(u64::from(FRAME_UNIT));
        let left = section.recipes;
        self.current = Some(Current { section, left, frames, least_frame, next_frame: 0, patch: 0 });
        Ok(section)
    }
}

impl Current {
    fn recipe(&mut self, recipe: Recipe) -> Result<Recipe, DeltaError> {
        let (first, count) = (u64::from(recipe.frame), u64::from(recipe.count));
        if first < self.next_frame || count == 0 || first + count > self.frames {
            return Err(DeltaError::Malformed("frames of a recipe"));
        }
        match recipe.source {
            FrameSource::Copy { old } => self.copy(old, first + count, count)?,
            _ if count != 1 => return Err(DeltaError::Malformed("one patch for several frames")),
            _ => {}
        }
        if let Some((offset, len)) = recipe.patch() {
            if offset != self.patch || len == 0 || len > MAX_BODY {
                return Err(DeltaError::Malformed("a gap in the patch"));
            }
            self.patch += u64::from(len);
        }
        self.left -= 1;
        self.next_frame = first + count;
        Ok(recipe)
    }

    /// Whether frames up to `end` may be copied from `old` on. What passes can be counted with in 64 bits: an image has
    /// at most 2^44 bytes, and frames of at most 2^22 are at most 2^32.
    fn copy(&self, old: u64, end: u64, count: u64) -> Result<(), DeltaError> {
        // Of the last frame of an image one byte is certain.
        let last = if end == self.frames { 1 } else { self.least_frame };
        let least = self.least_frame.saturating_mul(count - 1).saturating_add(last);
        match old.checked_add(least) {
            Some(end) if end <= self.section.old_size => Ok(()),
            _ => Err(DeltaError::Malformed("a copy from behind the old image")),
        }
    }
}

impl<R: Read> Iterator for RecipesReader<'_, R> {
    type Item = Result<Item, DeltaError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let item = self.item();
        self.done = !matches!(item, Ok(Some(_)));
        item.transpose()
    }
}

/// Reads all recipes once and checks them; gives the header and every section.
///
/// # Errors
/// As [`RecipesReader`].
pub fn check_recipes<R: Read>(
    reader: R,
    manifest: &Manifest,
    to: &Digest,
) -> Result<(DeltaHeader, Vec<Section>), DeltaError> {
    let items = RecipesReader::new(reader, manifest, to)?;
    let header = *items.header();
    let mut sections = Vec::new();
    for item in items {
        if let Item::Section(section) = item? {
            sections.push(section);
        }
    }
    Ok((header, sections))
}
