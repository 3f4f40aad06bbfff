//! One frame from its stored form to raw bytes, never trusting what is in between.
//!
//! Order matters: the stored digest comes first, so that zstd only ever sees bytes that the release keys signed, and
//! the raw digest last, so that only bytes of the image come out. Memory: the caller's two buffers and a zstd context
//! (about 160 KiB); a frame is decoded into a buffer of exactly its raw length, so no window is ever allocated.

use zstd_safe::{DCtx, DParameter, ResetDirective};

use crate::digest::{Digest, Hashed};
use crate::index::FrameRecord;
use crate::reason::Reason;

/// Largest zstd window, as power of two: 8 MiB.
pub const WINDOW_LOG_MAX: u32 = 23;

/// Why a frame is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The stored bytes are not those of the index.
    #[error("the stored bytes do not match the signed index")]
    Stored,
    /// zstd can not make exactly one frame of that length of them.
    #[error("the frame can not be decompressed: {0}")]
    Zstd(&'static str),
    /// The raw bytes are not those of the index.
    #[error("the raw bytes do not match the signed index")]
    Raw,
}

impl FrameError {
    /// The reason code of this refusal.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        Reason::FrameMismatch
    }
}

/// Decodes frames, one after the other, with one zstd context.
#[derive(Default)]
pub struct FrameDecoder {
    context: DCtx<'static>,
}

impl FrameDecoder {
    /// A decoder.
    #[must_use]
    pub fn new() -> Self {
        let mut context = DCtx::create();
        // Only streaming allocates a window, and we do not stream; this bounds it all the same.
        let _ = context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX));
        Self { context }
    }

    /// Fills `out` with the raw bytes of `record`, from its stored bytes (ignored for a frame of zeros).
    ///
    /// # Errors
    /// When anything does not match; `out` is then empty.
    pub fn decode(&mut self, record: &FrameRecord, stored: &[u8], out: &mut Vec<u8>) -> Result<(), FrameError> {
        let result = self.fill(record, stored, out);
        if result.is_err() {
            out.clear();
        }
        result
    }

    fn fill(&mut self, record: &FrameRecord, stored: &[u8], out: &mut Vec<u8>) -> Result<(), FrameError> {
        out.clear();
        out.resize(record.raw_len as usize, 0);
        self.decode_into(record, Hashed::new(stored), out)
    }

    /// The same into memory of exactly the frame's length, for whoever needs it in a certain place.
    ///
    /// # Errors
    /// When anything does not match; what `out` holds then is not to be used.
    pub fn decode_into(
        &mut self,
        record: &FrameRecord,
        stored: Hashed<&[u8]>,
        out: &mut [u8],
    ) -> Result<(), FrameError> {
        if out.len() != record.raw_len as usize {
            return Err(FrameError::Raw);
        }
        if record.zero {
            out.fill(0);
            return check_raw(record, out);
        }
        if *stored.sha256() != record.stored_sha256 || stored.bytes().len() != record.stored_len as usize {
            return Err(FrameError::Stored);
        }
        let stored = stored.bytes();
        // zstd would happily go on into a second frame; a frame is one.
        if zstd_safe::find_frame_compressed_size(stored) != Ok(stored.len()) {
            return Err(FrameError::Zstd("not exactly one zstd frame"));
        }
        decompress_into(&mut self.context, stored, out)?;
        check_raw(record, out)
    }
}

/// Decompresses into exactly `len` bytes.
pub(crate) fn decompress(
    context: &mut DCtx<'_>,
    stored: &[u8],
    len: usize,
    out: &mut Vec<u8>,
) -> Result<(), FrameError> {
    out.clear();
    // The allocator may round up, and zstd fills whatever capacity it is shown: so it is shown a slice.
    out.resize(len, 0);
    decompress_into(context, stored, out)
}

fn decompress_into(context: &mut DCtx<'_>, stored: &[u8], out: &mut [u8]) -> Result<(), FrameError> {
    match context.decompress(out, stored) {
        Ok(written) if written == out.len() => Ok(()),
        Ok(_) => Err(FrameError::Zstd("shorter than stated")),
        Err(code) => {
            let _ = context.reset(ResetDirective::SessionOnly);
            Err(FrameError::Zstd(zstd_safe::get_error_name(code)))
        }
    }
}

/// Whether `raw` is the frame that `record` describes.
///
/// # Errors
/// When length or digest differ.
pub fn check_raw(record: &FrameRecord, raw: &[u8]) -> Result<(), FrameError> {
    let same = raw.len() == record.raw_len as usize && Digest::of(raw) == record.raw_sha256;
    if same { Ok(()) } else { Err(FrameError::Raw) }
}

/// Whether all bytes are zero; by wide pieces, which the compiler turns into vector instructions.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let (pieces, rest) = bytes.as_chunks::<64>();
    pieces.iter().all(|piece| piece.iter().fold(0, |all, byte| all | byte) == 0) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(raw: &[u8]) -> (FrameRecord, Vec<u8>) {
        let mut stored = vec![0; zstd_safe::compress_bound(raw.len())];
        let len = zstd_safe::compress(stored.as_mut_slice(), raw, 3).unwrap();
        stored.truncate(len);
        (record(raw, &stored), stored)
    }

    fn record(raw: &[u8], stored: &[u8]) -> FrameRecord {
        FrameRecord {
            offset: 0,
            stored_len: stored.len() as u32,
            raw_len: raw.len() as u32,
            zero: false,
            stored_sha256: Digest::of(stored),
            raw_sha256: Digest::of(raw),
        }
    }

    #[test]
    fn zeros_are_told_from_all_else() {
        assert!(is_zero(&[]) && is_zero(&[0; 5000]));
        for place in [0, 511, 512, 4999] {
            let mut bytes = [0; 5000];
            bytes[place] = 1;
            assert!(!is_zero(&bytes));
        }
    }

    #[test]
    fn frames_round_trip() {
        let mut decoder = FrameDecoder::new();
        let mut out = Vec::new();
        for raw in [vec![1], b"hello ".repeat(1000), (0..=255).collect()] {
            let (record, stored) = frame(&raw);
            decoder.decode(&record, &stored, &mut out).unwrap();
            assert_eq!(out, raw);
        }
    }

    #[test]
    fn any_flipped_bit_and_any_truncation_is_found_before_zstd() {
        let (record, stored) = frame(&b"some text ".repeat(40));
        let (mut decoder, mut out) = (FrameDecoder::new(), Vec::new());
        for bit in 0..stored.len() * 8 {
            let mut flipped = stored.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decoder.decode(&record, &flipped, &mut out), Err(FrameError::Stored));
            assert!(out.is_empty());
        }
        for len in 0..stored.len() {
            assert_eq!(decoder.decode(&record, &stored[..len], &mut out), Err(FrameError::Stored));
        }
    }

    #[test]
    fn a_signed_lie_about_lengths_stops_at_the_stated_size() {
        let raw = vec![0x55; 1 << 20];
        let (_, bomb) = frame(&raw);
        let (mut decoder, mut out) = (FrameDecoder::new(), Vec::new());
        let short = record(&raw[..4096], &bomb);
        assert!(matches!(decoder.decode(&short, &bomb, &mut out), Err(FrameError::Zstd(_))));
        assert!(out.capacity() < 8192, "{}", out.capacity());
        let long = record(&vec![0x55; (1 << 20) + 1], &bomb);
        assert!(matches!(decoder.decode(&long, &bomb, &mut out), Err(FrameError::Zstd(_))));
        // The context is usable afterwards.
        decoder.decode(&record(&raw, &bomb), &bomb, &mut out).unwrap();
    }

    #[test]
    fn two_zstd_frames_are_not_one() {
        let (_, mut stored) = frame(b"one");
        stored.extend(frame(b"two").1);
        let error = FrameDecoder::new().decode(&record(b"onetwo", &stored), &stored, &mut Vec::new());
        assert!(matches!(error, Err(FrameError::Zstd(_))));
    }

    #[test]
    fn right_compression_of_other_bytes_is_refused() {
        let (mut record, stored) = frame(b"genuine");
        record.raw_sha256 = Digest::of(b"other");
        assert_eq!(FrameDecoder::new().decode(&record, &stored, &mut Vec::new()), Err(FrameError::Raw));
    }

    #[test]
    fn zeros_need_nothing_stored() {
        let zeros = vec![0; 4096];
        let zero = FrameRecord { zero: true, ..record(&zeros, b"") };
        let mut out = Vec::new();
        FrameDecoder::new().decode(&zero, b"", &mut out).unwrap();
        assert_eq!(out, zeros);
        let lie = FrameRecord { raw_sha256: Digest::of(b"x"), ..zero };
        assert_eq!(FrameDecoder::new().decode(&lie, b"", &mut out), Err(FrameError::Raw));
    }
}
