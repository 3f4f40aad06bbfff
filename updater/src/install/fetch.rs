//! Fetches runs of frames and hands each frame on as soon as it is whole.
//!
//! Several of these run at once, each over its own kept connection. A frame that does not match the signed index is
//! asked for again, from the next mirror if there is one: a bad byte on one server must not fail an install.

use std::sync::{Mutex, PoisonError};

use bundle::digest::Digest;
use bundle::frame::FrameError;
use bundle::index::{MAX_FRAME_SIZE, max_stored};
use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc;

use super::error::Error;
use super::meter::Meter;
use super::plan::{Frame, Run};
use crate::http::FetchError;
use crate::http::retry::{Patience, Reader};
use crate::http::source::RangeSource;

/// Times a frame may come wrong, per place it can come from.
const WRONG_FRAMES: usize = 2;

/// A frame on its way to a worker.
pub struct Job {
    /// Which.
    pub frame: Frame,
    /// Its bytes as stored, equal in digest to the index.
    pub stored: Vec<u8>,
}

/// Buffers that went through the pipeline, to be used again.
///
/// All have room for the largest frame from the start: memory that is not touched costs nothing, while buffers that
/// grow frame by frame leave the allocator with several frames' worth of fragments.
#[derive(Debug)]
pub struct Pool {
    buffers: Mutex<Vec<Vec<u8>>>,
    capacity: usize,
}

impl Pool {
    /// Buffers for frames of at most `frame_size` raw bytes.
    #[must_use]
    pub fn new(frame_size: usize) -> Self {
        let largest = max_stored(u32::try_from(frame_size).unwrap_or(u32::MAX).min(MAX_FRAME_SIZE));
        Self { buffers: Mutex::default(), capacity: largest as usize }
    }

    /// An empty buffer.
    pub fn take(&self) -> Vec<u8> {
        let used = self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffer = used.unwrap_or_else(|| Vec::with_capacity(self.capacity));
        buffer.clear();
        buffer
    }

    /// Gives a buffer back.
    pub fn give(&self, buffer: Vec<u8>) {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

/// What a fetcher works with.
pub struct Fetcher<'a> {
    /// Where the bundle is.
    pub source: &'a dyn RangeSource,
    /// Patience with it.
    pub patience: Patience,
    /// Where the payload of the image starts in the bundle, bytes.
    pub base: u64,
    /// Name of the image, for messages.
    pub image: &'a str,
    /// Told of fetched bytes.
    pub meter: &'a Meter,
    /// Used buffers.
    pub pool: &'a Pool,
}

impl Fetcher<'_> {
    /// Fetches one run.
    ///
    /// # Errors
    /// [`Error`]; a closed `jobs` is no error, because then somebody else has one.
    pub async fn run(&self, run: &Run, jobs: &mpsc::Sender<Job>) -> Result<(), Error> {
        let mut bytes = self.reader(run.start(), run.end());
        let mut position = run.start();
        for frame in &run.frames {
            let mut stored = self.pool.take();
            bytes.skip(self.meter, frame.record.offset - position).await?;
            bytes.fill(self.meter, &mut stored, frame.record.stored_len as usize).await?;
            position = frame.record.offset + u64::from(frame.record.stored_len);
            if Digest::of(&stored) != frame.record.stored_sha256 {
                self.again(frame, &mut stored).await?;
                // What follows in this stream is as doubtful; the next mirror is in use now.
                bytes = self.reader(position, run.end());
            }
            if jobs.send(Job { frame: *frame, stored }).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn reader(&self, start: u64, end: u64) -> Stream<'_> {
        let reader = Reader::new(self.source, self.patience, self.base + start, self.base + end);
        Stream { reader, rest: Bytes::new() }
    }

    /// Asks for a frame that came wrong again.
    async fn again(&self, frame: &Frame, stored: &mut Vec<u8>) -> Result<(), Error> {
        let (start, len) = (frame.record.offset, frame.record.stored_len);
        for attempt in 0..WRONG_FRAMES * self.source.places() {
            tracing::warn!(frame = frame.number, image = self.image, attempt, "a frame came wrong; asking again");
            self.source.failed(&FetchError::WrongRange { host: "the server".into() });
            stored.clear();
            self.reader(start, start + u64::from(len)).fill(self.meter, stored, len as usize).await?;
            if Digest::of(stored) == frame.record.stored_sha256 {
                return Ok(());
            }
        }
        Err(Error::Frame { image: self.image.to_owned(), number: frame.number, source: FrameError::Stored })
    }
}

/// A range as one stream of bytes.
struct Stream<'a> {
    reader: Reader<'a>,
    rest: Bytes,
}

impl Stream<'_> {
    async fn more(&mut self, meter: &Meter) -> Result<(), Error> {
        while self.rest.is_empty() {
            self.rest = match self.reader.next().await? {
                Some(bytes) => bytes,
                None => return Err(FetchError::Truncated { host: "the range".into(), missing: 1 }.into()),
            };
            meter.fetched(self.rest.len() as u64);
        }
        Ok(())
    }

    async fn skip(&mut self, meter: &Meter, mut count: u64) -> Result<(), Error> {
        while count > 0 {
            self.more(meter).await?;
            let piece = self.rest.len().min(usize::try_from(count).unwrap_or(usize::MAX));
            self.rest.advance(piece);
            count -= piece as u64;
        }
        Ok(())
    }

    async fn fill(&mut self, meter: &Meter, buffer: &mut Vec<u8>, len: usize) -> Result<(), Error> {
        while buffer.len() < len {
            self.more(meter).await?;
            let piece = self.rest.len().min(len - buffer.len());
            buffer.extend_from_slice(&self.rest.split_to(piece));
        }
        Ok(())
    }
}
