//! Fetches runs of frames and hands each frame on as soon as it is whole.
//!
//! Several of these run at once, each over its own kept connection. Bytes that do not match their digest are asked for
//! again, from the next mirror if there is one: a bad byte on one server must not fail an install.

use std::sync::{Arc, Mutex, PoisonError};

use bundle::digest::Hashed;
use bundle::frame::FrameError;
use bundle::index::{MAX_FRAME_SIZE, max_stored};
use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc;

use super::error::Error;
use super::frames::FrameSet;
use super::meter::Meter;
use super::plan::{From, Run, Task};
use super::way::Way;
use crate::http::FetchError;
use crate::http::retry::{Patience, Reader};
use crate::http::source::RangeSource;

/// Times a frame may come wrong, per place it can come from.
const WRONG_FRAMES: usize = 2;

/// A frame on its way to a worker.
pub struct Job {
    /// Which, and how it comes.
    pub task: Task,
    /// What was fetched for it.
    pub stored: Hashed<Vec<u8>>,
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
        // What needed no fetching came without one.
        if buffer.capacity() == 0 {
            return;
        }
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

/// A member to fetch from.
#[derive(Clone)]
pub struct Member {
    /// The file it is in.
    pub source: Arc<dyn RangeSource>,
    /// Where it starts there, bytes.
    pub base: u64,
}

/// What a fetcher works with.
pub struct Fetcher<'a> {
    /// The payload of the image in the bundle; none: such frames go into `left`.
    pub bundle: Option<&'a Member>,
    /// The patch of the image in the delta; none: such frames go into `left`.
    pub delta: Option<&'a Member>,
    /// Patience with either.
    pub patience: Patience,
    /// Name of the image, for messages.
    pub image: &'a str,
    /// Told of fetched bytes.
    pub meter: &'a Meter,
    /// Used buffers.
    pub pool: &'a Pool,
    /// Frames that have to come some other way.
    pub left: &'a FrameSet,
}

impl Fetcher<'_> {
    /// Brings one run.
    ///
    /// # Errors
    /// [`Error`]; a closed `jobs` is no error, because then somebody else has one.
    pub async fn run(&self, run: Run, jobs: &mpsc::Sender<Job>) -> Result<(), Error> {
        let member = match run.from {
            From::Bundle => self.bundle,
            From::Delta => self.delta,
            From::Here => {
                for task in run.tasks {
                    if jobs.send(Job { task, stored: Hashed::new(Vec::new()) }).await.is_err() {
                        break;
                    }
                }
                return Ok(());
            }
        };
        let numbers: Vec<u64> = run.tasks.iter().map(|task| task.frame.number).collect();
        let leave = || numbers.iter().for_each(|number| self.left.add(*number));
        let Some(member) = member else {
            leave();
            return Ok(());
        };
        let from = run.from;
        match self.fetch(member, run, jobs).await {
            // The delta is gone, and waiting does not bring it back: the bundle has these frames, too. What may pass
            // fails the install, which then goes on with the delta.
            Err(Error::Fetch(error)) if from == From::Delta && error.is_final() => {
                tracing::warn!(%error, image = self.image, frames = numbers.len(), "the delta is not to be had");
                leave();
                Ok(())
            }
            result => result,
        }
    }

    async fn fetch(&self, member: &Member, run: Run, jobs: &mpsc::Sender<Job>) -> Result<(), Error> {
        let end = run.end();
        let mut position = run.start();
        let mut bytes = self.reader(member, position, end);
        for task in run.tasks {
            let mut stored = self.pool.take();
            let (start, len) = task.place();
            bytes.skip(self.meter, start.saturating_sub(position)).await?;
            bytes.fill(self.meter, &mut stored, len as usize).await?;
            position = start + u64::from(len);
            let mut stored = Hashed::new(stored);
            if !is_right(&task, &stored) {
                stored = self.again(member, &task, stored.into_bytes()).await?;
                // What follows in this stream is as doubtful; the next mirror is in use now.
                bytes = self.reader(member, position, end);
                if !is_right(&task, &stored) {
                    self.left.add(task.frame.number);
                    self.pool.give(stored.into_bytes());
                    continue;
                }
            }
            if jobs.send(Job { task, stored }).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn reader<'a>(&'a self, member: &'a Member, start: u64, end: u64) -> Stream<'a> {
        let reader = Reader::new(member.source.as_ref(), self.patience, member.base + start, member.base + end);
        Stream { reader, rest: Bytes::new() }
    }

    /// Asks again for what came wrong; what stays wrong is given back where there is another way.
    async fn again(&self, member: &Member, task: &Task, mut stored: Vec<u8>) -> Result<Hashed<Vec<u8>>, Error> {
        let ((start, len), number) = (task.place(), task.frame.number);
        for attempt in 0..WRONG_FRAMES * member.source.places() {
            tracing::warn!(frame = number, image = self.image, attempt, "a frame came wrong; asking again");
            member.source.failed(&FetchError::WrongRange { host: "the server".into() });
            stored.clear();
            self.reader(member, start, start + u64::from(len)).fill(self.meter, &mut stored, len as usize).await?;
            let hashed = Hashed::new(stored);
            if is_right(task, &hashed) {
                return Ok(hashed);
            }
            stored = hashed.into_bytes();
        }
        match task.way {
            Way::Bundle => Err(Error::Frame { image: self.image.to_owned(), number, source: FrameError::Stored }),
            _ => Ok(Hashed::new(stored)),
        }
    }
}

/// Whether this is what the signed index, or the signed recipes, name.
fn is_right(task: &Task, stored: &Hashed<Vec<u8>>) -> bool {
    let expected = match &task.way {
        Way::Patch { sha256, .. } => sha256,
        _ => &task.frame.record.stored_sha256,
    };
    stored.sha256() == expected
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
