//! Writes deltas: from one bundle and the images of an older one to recipes for every frame that changed.
//!
//! Touches the files it is told to. Memory: an index of the old image (a few bytes for each KiB of it, sampled more
//! sparsely when it is large), and for each worker a frame, its prefix and the compressor's tables (about 65 MB). When
//! nobody says how many workers, there are as many as fit into a gigabyte.

use std::fs::File;
use std::io::{self, BufReader, Seek as _, Write as _};
use std::path::Path;

use super::{BuildError, Event, Settings, folder_of, in_order, publish};
use crate::delta::{DeltaHeader, FrameSource, RECIPES_MEMBER, Recipe, Section, delta_layout};
use crate::digest::Digest;
use crate::frame::FrameDecoder;
use crate::index::FrameRecord;
use crate::layout::MemberKind;
use crate::manifest::Manifest;
use crate::random::RandomReader;

mod encode;
mod old;
mod split;

pub use encode::{Encoder, Made};
pub use old::OldIndex;

/// Memory of all workers when nobody says how many, bytes; the index of the old image comes on top.
const MEMORY: usize = 850_000_000;

/// Tables of the compressor behind a prefix of 8 MiB, bytes.
const TABLES: usize = 52_000_000;

/// An image of the old release.
#[derive(Debug)]
pub struct OldFile {
    /// Its name.
    pub name: String,
    /// Its raw content.
    pub file: File,
    /// Its size, bytes.
    pub size: u64,
    /// Its digest.
    pub sha256: Digest,
}

/// Counts of a delta.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeltaStats {
    /// Frames that the old image holds as they are.
    pub copied: u32,
    /// Frames of zeros.
    pub zeros: u32,
    /// Frames stored as in the bundle.
    pub plain: u32,
    /// Frames with a prefix.
    pub prefixed: u32,
    /// Frames in split streams.
    pub split: u32,
    /// Bytes of all patches.
    pub patch: u64,
    /// Bytes of the old image that recipes read, copies of whole frames included.
    pub old_read: u64,
}

/// A finished delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuiltDelta {
    /// The release it starts from.
    pub from: Digest,
    /// The release it makes.
    pub to: Digest,
    /// Bytes of the file.
    pub size: u64,
    /// Digest of its `delta.recipes`.
    pub recipes_sha256: Digest,
    /// Counts.
    pub stats: DeltaStats,
}

/// The new release: its bundle, open for reading.
pub struct NewRelease<'a> {
    /// The envelope as it stands in the bundle.
    pub envelope: &'a [u8],
    /// The bundle.
    pub reader: RandomReader<BufReader<File>>,
    /// Digest of the manifest.
    pub digest: Digest,
}

/// Builds a delta at `out`, which appears complete or not at all.
///
/// # Errors
/// When an input can not be read or does not match its digests, or the output can not be written.
pub fn build_delta(
    from: Digest,
    old: &[OldFile],
    new: &mut NewRelease<'_>,
    settings: &Settings,
    out: &Path,
    progress: &(dyn Fn(Event<'_>) + Sync),
) -> Result<BuiltDelta, BuildError> {
    let manifest = new.reader.manifest().clone();
    let mut stats = DeltaStats::default();
    let mut parts = Vec::new();
    for (n, image) in manifest.images.iter().enumerate() {
        progress(Event::Image { name: &image.name, size: image.size });
        let source = old.iter().find(|each| each.name == image.name);
        parts.push(section(n, source, new, settings, folder_of(out), &mut stats, progress)?);
    }
    let header = DeltaHeader { from, to: new.digest, sections: parts.len() as u32 };
    let mut recipes = header.to_bytes().to_vec();
    parts.iter().for_each(|part| recipes.extend_from_slice(&part.recipes));
    let recipes_sha256 = Digest::of(&recipes);
    let size = publish(out, |file| assemble(file, new, &manifest, &recipes, &mut parts))?;
    stats.patch = parts.iter().map(|part| part.section.patch_size).sum();
    Ok(BuiltDelta { from, to: new.digest, size, recipes_sha256, stats })
}

/// Recipes and patch of one image.
struct Part {
    section: Section,
    recipes: Vec<u8>,
    patch: File,
}

fn section(
    n: usize,
    old: Option<&OldFile>,
    new: &mut NewRelease<'_>,
    settings: &Settings,
    folder: &Path,
    stats: &mut DeltaStats,
    progress: &(dyn Fn(Event<'_>) + Sync),
) -> Result<Part, BuildError> {
    let records = new.reader.index(n)?.collect::<Result<Vec<_>, _>>()?;
    let index = old.map(|old| OldIndex::new(&old.file, old.size)).transpose().map_err(BuildError::Write)?;
    let mut patch = tempfile::tempfile_in(folder).map_err(BuildError::Write)?;
    let mut recipes: Vec<Recipe> = Vec::new();
    let mut max_prefix = 0;
    let mut offset = 0u64;
    let frame_size = records.first().map_or(0, |record| record.raw_len);
    let encoder = Encoder::new(index.as_ref(), old.map(|old| &old.file), settings.level, frame_size as usize);

    let reader = &mut new.reader;
    let mut frames = records.iter();
    let mut number = 0u32;
    let produce = || {
        loop {
            let record = frames.next()?;
            number += 1;
            if record.zero {
                stats.zeros += 1;
                progress(Event::Frame { raw: u64::from(record.raw_len), stored: 0 });
                continue;
            }
            let mut stored = Vec::new();
            let read = reader.stored(n, record, &mut stored).map_err(BuildError::from);
            return Some(read.map(|()| (number - 1, *record, stored)));
        }
    };
    let work = |(number, record, stored): (u32, FrameRecord, Vec<u8>)| {
        let mut raw = Vec::new();
        FrameDecoder::new().decode(&record, &stored, &mut raw)?;
        let made = encoder.encode(number, &raw, stored)?;
        Ok::<_, BuildError>((number, record, made))
    };
    let mut counts = DeltaStats::default();
    in_order(
        settings.workers(MEMORY, encoder.memory()),
        produce,
        work,
        |(number, record, made): (u32, FrameRecord, Made)| {
            let source = match &made {
                Made::Copy { old } => FrameSource::Copy { old: *old },
                Made::Plain { stored } => FrameSource::Plain { offset, len: stored.len() as u32 },
                Made::Patch { body, prefix, .. } => {
                    max_prefix = max_prefix.max(*prefix);
                    FrameSource::Patch { offset, len: body.len() as u32, sha256: Digest::of(body) }
                }
            };
            counts.add(&made, record.raw_len);
            let bytes = made.bytes();
            patch.write_all(bytes).map_err(BuildError::Write)?;
            offset += bytes.len() as u64;
            push(&mut recipes, Recipe { frame: number, count: 1, source }, frame_size);
            progress(Event::Frame { raw: u64::from(record.raw_len), stored: bytes.len() as u64 });
            Ok(())
        },
    )?;
    counts.zeros = stats.zeros;
    stats.merge(&counts);
    let section = Section {
        image: n as u32,
        recipes: recipes.len() as u32,
        old_size: old.map_or(0, |old| old.size),
        old_sha256: old.map_or(Digest([0; 32]), |old| old.sha256),
        patch_size: offset,
        max_prefix,
    };
    let mut bytes = section.to_bytes().to_vec();
    recipes.iter().for_each(|recipe| bytes.extend_from_slice(&recipe.to_bytes()));
    Ok(Part { section, recipes: bytes, patch })
}

/// Adds a recipe; a copy that goes on where the last one ended makes that one longer.
fn push(recipes: &mut Vec<Recipe>, recipe: Recipe, frame_size: u32) {
    if let (Some(last), FrameSource::Copy { old }) = (recipes.last_mut(), recipe.source)
        && let FrameSource::Copy { old: start } = last.source
        && last.frame + last.count == recipe.frame
        && start + u64::from(last.count) * u64::from(frame_size) == old
    {
        last.count += 1;
        return;
    }
    recipes.push(recipe);
}

impl DeltaStats {
    fn add(&mut self, made: &Made, raw_len: u32) {
        match made {
            Made::Copy { .. } => {
                self.copied += 1;
                self.old_read += u64::from(raw_len);
            }
            Made::Plain { .. } => self.plain += 1,
            Made::Patch { split, read, .. } => {
                if *split {
                    self.split += 1
                } else {
                    self.prefixed += 1
                }
                self.old_read += read;
            }
        }
    }

    fn merge(&mut self, other: &Self) {
        self.copied += other.copied;
        self.zeros = other.zeros;
        self.plain += other.plain;
        self.prefixed += other.prefixed;
        self.split += other.split;
        self.old_read += other.old_read;
    }
}

fn assemble(
    out: &mut File,
    new: &mut NewRelease<'_>,
    manifest: &Manifest,
    recipes: &[u8],
    parts: &mut [Part],
) -> Result<u64, BuildError> {
    let sections = parts.iter().map(|part| part.section).collect::<Vec<_>>();
    let layout = delta_layout(new.envelope.len() as u64, recipes.len() as u64, manifest, &sections)?;
    let mtime = manifest.mtime();
    for each in layout.members() {
        super::assemble::member(out, &each.name, mtime, each.size, |out| match (each.kind, each.image) {
            (MemberKind::Manifest, _) => out.write_all(new.envelope),
            (MemberKind::Recipes, _) => out.write_all(recipes),
            (MemberKind::Index, Some(n)) => {
                let member = new.reader.layout().index(n).cloned().ok_or(io::ErrorKind::NotFound)?;
                io::copy(&mut new.reader.content(&member, 0)?, out).map(drop)
            }
            (_, n) => {
                let part = parts.iter_mut().find(|part| Some(part.section.image as usize) == n);
                let part = part.ok_or(io::ErrorKind::NotFound)?;
                part.patch.rewind()?;
                io::copy(&mut part.patch, out).map(drop)
            }
        })?;
    }
    debug_assert_eq!(layout.members().get(1).map(|member| member.name.as_str()), Some(RECIPES_MEMBER));
    super::assemble::end(out)
}

#[cfg(test)]
#[path = "delta/tests.rs"]
mod tests;
