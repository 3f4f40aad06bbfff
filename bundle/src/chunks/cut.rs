//! Cuts an image into chunks and groups: by whoever builds a bundle, and by a device that asks what it already has.
//!
//! Both must cut alike, or nothing would be found again: so there is one way to do it, here. Reads a stream once, in the
//! memory of a few chunks.

use std::io::{self, Read};

use fastcdc::v2020::FastCDC;

use super::{BLOCKS, CHUNK_LEN, Chunk, FASTCDC, Group, MAX_CHUNK, MAX_GROUP};
use crate::digest::Digest;
use crate::frame::is_zero;
use crate::manifest::Chunks;

/// Chunks of a group, about: a group is 24 bytes to everybody, its chunks are 12 bytes each to whoever lacks them.
const GROUP_TARGET: u64 = 64;

/// How to cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Content-defined, this many bytes on average (FastCDC 2020, a quarter to four times that).
    FastCdc(u32),
    /// Aligned blocks of this many bytes.
    Blocks(u32),
}

impl Method {
    /// The default for an image that begins like this.
    ///
    /// Measured on a security update: ext4 and squashfs move whole files, so content-defined chunks find most (9.7 MB
    /// to fetch); uncompressed erofs puts metadata between data, and only blocks of its own size find them (21.6 MB
    /// against 35 to 55).
    #[must_use]
    pub fn for_image(head: &[u8]) -> Self {
        const EROFS_MAGIC: [u8; 4] = 0xe0f5_e1e2u32.to_le_bytes();
        if head.get(1024..1028) == Some(EROFS_MAGIC.as_slice()) {
            Self::Blocks(4 << 10)
        } else {
            Self::FastCdc(32 << 10)
        }
    }

    /// As the manifest names it.
    #[must_use]
    pub const fn name(self) -> (&'static str, u32) {
        match self {
            Self::FastCdc(target) => (FASTCDC, target),
            Self::Blocks(target) => (BLOCKS, target),
        }
    }

    /// The method a manifest names; none when it is a newer one, or its sizes are outside what this code cuts.
    #[must_use]
    pub fn of_manifest(chunks: &Chunks) -> Option<Self> {
        let method = match chunks.method.as_str() {
            FASTCDC => Self::FastCdc(chunks.target),
            BLOCKS => Self::Blocks(chunks.target),
            _ => return None,
        };
        method.is_cut_by_devices().then_some(method)
    }

    /// Whether its sizes are those that this code cuts.
    #[must_use]
    pub fn is_cut_by_devices(self) -> bool {
        match self {
            // FastCDC's own limits: the smallest chunk at least 64 bytes, the largest at most ours.
            Self::FastCdc(average) => (256..=MAX_CHUNK / 4).contains(&average),
            Self::Blocks(len) => (512..=MAX_CHUNK).contains(&len),
        }
    }
}

/// Bytes read at once.
const WINDOW: usize = 512 << 10;

/// Cuts `size` bytes of `input`; `group` gets each group with its chunk records, in order.
///
/// # Errors
/// When reading fails.
pub fn cut(input: impl Read, size: u64, method: Method, group: impl FnMut(Group, &[u8])) -> io::Result<()> {
    let mut cutter = Cutter { group, records: Vec::new(), raw_len: 0, zeros: None };
    let mut window = Window { input: input.take(size), bytes: Vec::new(), start: 0, ended: false };
    let largest = match method {
        Method::FastCdc(average) => average as usize * 4,
        Method::Blocks(len) => len as usize,
    };
    loop {
        let ahead = window.ahead(largest)?;
        if ahead.is_empty() {
            break;
        }
        let zero = ahead.len() == largest && is_zero(ahead);
        let len = match (method, cutter.zeros) {
            (Method::Blocks(_), _) => ahead.len(),
            (Method::FastCdc(_), Some((len, _))) if zero => len,
            (Method::FastCdc(average), _) => {
                let average = average as usize;
                FastCDC::new(ahead, average / 4, average, largest).cut(0, ahead.len()).1
            }
        };
        let len = len.clamp(1, ahead.len());
        cutter.chunk(ahead.get(..len).unwrap_or_default(), zero);
        window.start += len;
    }
    cutter.end_group();
    Ok(())
}

/// A stream, as much of it in memory as a chunk may be long.
struct Window<R> {
    input: R,
    bytes: Vec<u8>,
    start: usize,
    ended: bool,
}

impl<R: Read> Window<R> {
    /// The next bytes: as many as wanted, fewer at the end, none behind it.
    fn ahead(&mut self, wanted: usize) -> io::Result<&[u8]> {
        if self.bytes.len() - self.start < wanted && !self.ended {
            self.bytes.drain(..self.start);
            self.start = 0;
            let missing = WINDOW.max(wanted) - self.bytes.len();
            let count = self.input.by_ref().take(missing as u64).read_to_end(&mut self.bytes)?;
            self.ended = count < missing;
        }
        let end = self.bytes.len().min(self.start + wanted);
        Ok(self.bytes.get(self.start..end).unwrap_or_default())
    }
}

struct Cutter<F> {
    group: F,
    records: Vec<u8>,
    raw_len: u32,
    /// Length and digest of what the method makes of nothing but zeros: found once, because images are full of them.
    zeros: Option<(usize, Digest)>,
}

impl<F: FnMut(Group, &[u8])> Cutter<F> {
    fn chunk(&mut self, content: &[u8], zero: bool) {
        let digest = if zero {
            self.zeros.get_or_insert_with(|| (content.len(), Digest::of(content))).1.0
        } else {
            Digest::of(content).0
        };
        let address = digest.first_chunk().copied().unwrap_or_default();
        let chunk = Chunk { len: content.len() as u32, address };
        self.records.extend_from_slice(&chunk.to_bytes());
        self.raw_len += chunk.len;
        // Groups end where content says so, as chunks do: one more chunk in front must not change all that follow. The
        // address has served as identity; the cut looks at other bytes of the digest.
        let cut = digest.last_chunk().copied().map_or(0, u64::from_le_bytes);
        let many = (self.records.len() / CHUNK_LEN) as u64;
        if cut.is_multiple_of(GROUP_TARGET) || many >= (4 * GROUP_TARGET).min(u64::from(MAX_GROUP)) {
            self.end_group();
        }
    }

    fn end_group(&mut self) {
        if self.records.is_empty() {
            return;
        }
        let chunks = (self.records.len() / CHUNK_LEN) as u32;
        let id = Digest::of(&self.records).0.first_chunk().copied().unwrap_or_default();
        (self.group)(Group { raw_len: self.raw_len, chunks, id }, &self.records);
        self.records.clear();
        self.raw_len = 0;
    }
}
