//! Writes the chunk addresses of an image.

use std::io::Read;

use super::BuildError;
use crate::chunks::{ChunksHeader, cut};

pub use crate::chunks::Method;

/// Below this an image is fetched sooner than its addresses are compared.
pub const MIN_IMAGE: u64 = 4 << 20;

/// Reads `size` bytes and writes their chunks member.
///
/// # Errors
/// When reading fails.
pub fn write_chunks(input: impl Read, size: u64, method: Method) -> Result<Vec<u8>, BuildError> {
    let (mut groups, mut records) = (Vec::new(), Vec::new());
    let mut header = ChunksHeader { groups: 0, chunks: 0, image_size: size };
    cut(input, size, method, |group, chunks| {
        groups.extend_from_slice(&group.to_bytes());
        records.extend_from_slice(chunks);
        header.groups += 1;
        header.chunks += group.chunks;
    })
    .map_err(BuildError::Write)?;
    let mut out = header.to_bytes().to_vec();
    out.append(&mut groups);
    out.append(&mut records);
    Ok(out)
}
