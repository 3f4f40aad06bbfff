//! zstd frames with every parameter fixed by us, so that the same bytes always become the same frame.

use zstd_safe::{CCtx, CParameter, ErrorCode};

use super::BuildError;
use crate::frame::WINDOW_LOG_MAX;

/// Compresses pieces of at most a given size.
#[derive(Debug, Clone, Copy)]
pub struct Compressor {
    level: i32,
    window_log: u32,
    /// Size of the match finder's tables, as power of two; none: as the level has it.
    chain_log: Option<u32>,
}

impl Compressor {
    /// For pieces of at most `size` bytes (prefix included, if any).
    #[must_use]
    pub fn new(level: i32, size: usize) -> Self {
        Self { level, window_log: window_log(size), chain_log: None }
    }

    /// For a piece of `size` bytes behind a prefix.
    ///
    /// The level's own tables for a window of 8 MiB take 80 MB for each thread; half of that covers a prefix of 4 MiB
    /// and a frame just as well.
    #[must_use]
    pub fn for_prefix(level: i32, prefix: usize, size: usize) -> Self {
        Self { chain_log: Some(23), ..Self::new(level, prefix + size) }
    }

    /// One zstd frame with its content size and no checksum (the index has better ones).
    ///
    /// A fresh context each time: at the levels of a release setting one up is lost in the noise, and the result can
    /// not depend on what the thread compressed before.
    ///
    /// # Errors
    /// When zstd refuses the level or is out of memory.
    pub fn compress(&self, raw: &[u8], prefix: Option<&[u8]>) -> Result<Vec<u8>, BuildError> {
        Ok(self.run(raw, prefix)?.0)
    }

    /// Bytes that compressing a piece of `size` bytes takes: the context, as zstd counts it, the piece, and its result.
    ///
    /// # Errors
    /// As [`Self::compress`].
    pub fn memory(&self, size: usize) -> Result<usize, BuildError> {
        // Tables follow from level and size, not from what is in the piece; zeros are done at once.
        let (_, context) = self.run(&vec![0; size], None)?;
        Ok(context + size + zstd_safe::compress_bound(size))
    }

    /// The frame, and the size of the context that made it.
    fn run(&self, raw: &[u8], prefix: Option<&[u8]>) -> Result<(Vec<u8>, usize), BuildError> {
        let mut context = CCtx::try_create().ok_or(BuildError::Zstd("out of memory"))?;
        let parameters = [
            CParameter::CompressionLevel(self.level),
            CParameter::WindowLog(self.window_log),
            CParameter::ContentSizeFlag(true),
            CParameter::ChecksumFlag(false),
            CParameter::DictIdFlag(false),
        ];
        for parameter in parameters {
            context.set_parameter(parameter).map_err(zstd)?;
        }
        if let Some(chain_log) = self.chain_log.filter(|chain_log| *chain_log <= self.window_log) {
            context.set_parameter(CParameter::ChainLog(chain_log)).map_err(zstd)?;
            context.set_parameter(CParameter::HashLog(chain_log - 1)).map_err(zstd)?;
        }
        if let Some(prefix) = prefix {
            context.ref_prefix(prefix).map_err(zstd)?;
        }
        let mut out = vec![0; zstd_safe::compress_bound(raw.len())];
        let len = context.compress2(out.as_mut_slice(), raw).map_err(zstd)?;
        out.truncate(len);
        out.shrink_to_fit();
        Ok((out, context.sizeof()))
    }
}

fn zstd(code: ErrorCode) -> BuildError {
    BuildError::Zstd(zstd_safe::get_error_name(code))
}

/// The smallest window (as power of two) that covers `size` bytes, within what a device accepts.
#[must_use]
pub fn window_log(size: usize) -> u32 {
    size.max(1).next_power_of_two().ilog2().clamp(10, WINDOW_LOG_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_the_piece_and_no_more() {
        assert_eq!(window_log(0), 10);
        assert_eq!(window_log(1 << 20), 20);
        assert_eq!(window_log((1 << 20) + 1), 21);
        assert_eq!(window_log(1 << 30), 23);
    }

    #[test]
    fn memory_is_that_of_the_tables_whatever_is_compressed() {
        let noise: Vec<u8> = (0..1u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let compressor = Compressor::new(19, noise.len());
        let (_, context) = compressor.run(&noise, None).unwrap();
        let stated = compressor.memory(noise.len()).unwrap();
        assert!(stated > context + noise.len() && stated < 30_000_000, "{stated}, {context}");
        assert!(Compressor::new(1, 1 << 20).memory(1 << 20).unwrap() < stated / 2);
    }

    #[test]
    fn a_prefix_helps_and_is_needed_again() {
        let old: Vec<u8> = (0..200_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let mut new = old.clone();
        new[100_000] ^= 1;
        let compressor = Compressor::new(3, old.len() + new.len());
        let plain = compressor.compress(&new, None).unwrap();
        let small = compressor.compress(&new, Some(&old)).unwrap();
        assert!(small.len() * 20 < plain.len(), "{} {}", small.len(), plain.len());
    }
}
