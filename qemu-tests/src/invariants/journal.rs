//! A copy of the journal, read without the updater's code. Pure.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::disk::sha256;

/// A copy of the journal is a line `flipside-copy 1 GENERATION LENGTH SHA256` and then the bytes; the digest is that of
/// the generation (8 bytes, big-endian) and the bytes.
pub(super) fn whole_copy(copy: &[u8]) -> Result<()> {
    let mut halves = copy.splitn(2, |byte| *byte == b'\n');
    let head = String::from_utf8_lossy(halves.next().unwrap_or_default());
    let body = halves.next().context("no head line")?;
    let ["flipside-copy", "1", generation, length, digest] = head.split(' ').collect::<Vec<_>>()[..] else {
        bail!("an odd head line: {head}");
    };
    ensure!(length.parse() == Ok(body.len()), "{length} bytes are told, {} are there", body.len());
    let summed = [&generation.parse::<u64>()?.to_be_bytes(), body].concat();
    ensure!(sha256(&mut summed.as_slice())? == digest, "the checksum is wrong");
    let document: Value = serde_json::from_slice(body)?;
    ensure!(document.get("format").is_some_and(Value::is_u64), "no format is told");
    Ok(())
}
