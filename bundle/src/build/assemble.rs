//! Puts members in their places, and exchanges the envelope of a finished bundle.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};

use super::{BuildError, Part};
use crate::layout::{END_BLOCKS, Layout, MANIFEST_MEMBER, MemberKind};
use crate::manifest::Manifest;
use crate::ustar::{self, BLOCK};

/// Writes a bundle; gives its size.
pub(super) fn assemble(
    out: &mut File,
    envelope: &[u8],
    manifest: &Manifest,
    parts: &mut [Part],
) -> Result<u64, BuildError> {
    let layout = Layout::new(envelope.len() as u64, manifest)?;
    let mtime = manifest.mtime();
    member(out, MANIFEST_MEMBER, mtime, envelope.len() as u64, |out| out.write_all(envelope))?;
    for each in layout.members() {
        let Some(part) = each.image.and_then(|n| parts.get_mut(n)) else { continue };
        match each.kind {
            MemberKind::Index => member(out, &each.name, mtime, each.size, |out| out.write_all(&part.index))?,
            MemberKind::Payload => {
                part.payload.rewind().map_err(BuildError::Write)?;
                member(out, &each.name, mtime, each.size, |out| io::copy(&mut part.payload, out).map(drop))?;
            }
            MemberKind::Chunks => member(out, &each.name, mtime, each.size, |out| out.write_all(&part.chunks))?,
            MemberKind::Manifest | MemberKind::Recipes | MemberKind::Patch => {}
        }
    }
    end(out)
}

/// The two blocks that end an archive; gives its size.
pub(super) fn end(out: &mut File) -> Result<u64, BuildError> {
    out.write_all(&[0; (END_BLOCKS * BLOCK) as usize]).map_err(BuildError::Write)?;
    out.stream_position().map_err(BuildError::Write)
}

pub(super) fn member(
    out: &mut File,
    name: &str,
    mtime: u64,
    size: u64,
    content: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), BuildError> {
    let header = ustar::header(name, size, mtime)
        .map_err(|error| BuildError::Setting(format!("member {name} can not stand in a tar: {error}")))?;
    let pad = ustar::padded(size).unwrap_or(size) - size;
    let write = || {
        out.write_all(&header)?;
        content(out)?;
        io::copy(&mut io::repeat(0).take(pad), out)
    };
    write().map(drop).map_err(BuildError::Write)
}

/// Copies a bundle with another envelope (more signatures); all other members stay as they are, byte for byte.
///
/// # Errors
/// When reading or writing fails.
pub fn replace_envelope(
    from: &mut File,
    old_len: u64,
    envelope: &[u8],
    manifest: &Manifest,
    out: &mut File,
) -> Result<(), BuildError> {
    let rest = Layout::new(old_len, manifest)?.members().get(1).map_or(BLOCK, |member| member.offset - BLOCK);
    member(out, MANIFEST_MEMBER, manifest.mtime(), envelope.len() as u64, |out| out.write_all(envelope))?;
    from.seek(SeekFrom::Start(rest)).map_err(BuildError::Write)?;
    let mut out = BufWriter::new(out);
    io::copy(from, &mut out).and_then(|_| out.flush()).map_err(BuildError::Write)
}
