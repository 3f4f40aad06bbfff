//! What a device would fetch by chunk addresses, computed from two bundles as the device computes it.

use std::io::Read as _;

use anyhow::{Context as _, Result};
use bundle::chunks::{ChunksReader, KnownChunks, Piece, read_group};
use bundle::layout::MemberKind;
use serde::Serialize;

use crate::release::Release;

/// What it comes to.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub struct ByChunks {
    /// Bytes of manifest and indexes.
    pub indexes: u64,
    /// Bytes of chunk addresses fetched: all groups, and the chunks of those not known.
    pub addresses: u64,
    /// Bytes of stored frames fetched.
    pub frames: u64,
    /// Frames fetched.
    pub frames_fetched: u64,
    /// Frames built from what is there.
    pub frames_built: u64,
}

impl ByChunks {
    /// All bytes fetched.
    pub fn total(&self) -> u64 {
        self.indexes + self.addresses + self.frames
    }
}

/// Compares all images.
pub fn compare(old: &mut Release, new: &mut Release) -> Result<ByChunks> {
    let mut sum = ByChunks { indexes: new.envelope.len() as u64, ..ByChunks::default() };
    for n in 0..new.manifest().images.len() {
        image(n, old, new, &mut sum)?;
    }
    Ok(sum)
}

fn image(n: usize, old: &mut Release, new: &mut Release, sum: &mut ByChunks) -> Result<()> {
    let image = new.manifest().images.get(n).context("no image")?.clone();
    sum.indexes += image.index.size;
    let twin = old.manifest().images.iter().position(|each| each.name == image.name);
    let known = match twin {
        Some(twin) => known(old, twin)?,
        None => KnownChunks::default(),
    };
    let unknown = match image.chunks {
        Some(_) => unknown(n, new, &known, sum)?,
        None => vec![(0, image.size)],
    };
    let index = new.reader.index(n)?;
    let header = *index.header();
    let mut unknown = unknown.into_iter().peekable();
    for (record, number) in index.zip(0u32..) {
        let record = record?;
        let (start, len) = (header.raw_offset(number), u64::from(record.raw_len));
        while unknown.next_if(|(at, len)| at + len <= start).is_some() {}
        let lacks = unknown.peek().is_some_and(|(at, _)| *at < start + len);
        if lacks && !record.zero {
            sum.frames += u64::from(record.stored_len);
            sum.frames_fetched += 1;
        } else {
            sum.frames_built += 1;
        }
    }
    Ok(())
}

fn known(old: &mut Release, n: usize) -> Result<KnownChunks> {
    let image = old.manifest().images.get(n).context("no image")?.clone();
    let Some(member) = old.reader.layout().member(MemberKind::Chunks, n).cloned() else {
        return Ok(KnownChunks::default());
    };
    let mut bytes = Vec::new();
    old.reader.content(&member, 0)?.read_to_end(&mut bytes)?;
    let offset = ChunksReader::new(bytes.as_slice(), &image)?.header().chunks_offset();
    let records = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
    Ok(KnownChunks::read(bytes.as_slice(), records, &image)?)
}

/// Ranges of the new image that the old one does not have, in order: offset and length.
fn unknown(n: usize, new: &mut Release, known: &KnownChunks, sum: &mut ByChunks) -> Result<Vec<(u64, u64)>> {
    let image = new.manifest().images.get(n).context("no image")?.clone();
    let member = new.reader.layout().member(MemberKind::Chunks, n).cloned().context("no chunks")?;
    let mut bytes = Vec::new();
    new.reader.content(&member, 0)?.read_to_end(&mut bytes)?;
    let groups = ChunksReader::new(bytes.as_slice(), &image)?;
    let mut offset = groups.header().chunks_offset();
    sum.addresses += offset;
    let (mut ranges, mut at) = (Vec::new(), 0u64);
    for group in groups {
        let group = group?;
        let records = offset..offset + group.records_len();
        offset = records.end;
        let next = at + u64::from(group.raw_len);
        if known.group(&group, at).is_none() {
            sum.addresses += group.records_len();
            let records = usize::try_from(records.start)?..usize::try_from(records.end)?;
            for chunk in read_group(&group, bytes.get(records).unwrap_or_default())? {
                let Piece { new, old, len } = known.chunk(&chunk, at);
                if old.is_none() {
                    ranges.push((new, u64::from(len)));
                }
                at += u64::from(len);
            }
        }
        at = next;
    }
    Ok(ranges)
}
