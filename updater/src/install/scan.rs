//! Finds which frames are right in the target already, and makes zeros where the image has zeros.
//!
//! This is how an interrupted install goes on, and how frames that two releases share are kept: nothing is remembered,
//! the device itself is asked. All cores read and hash; what is missing comes out in order, as requests, each frame with
//! its way.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;

use bundle::digest::Digest;
use bundle::index::{FrameRecord, IndexReader};
use bundle::manifest::Image;

use super::buffer::Buffer;
use super::error::Error;
use super::frames::FrameSet;
use super::halt::Halt;
use super::meter::Meter;
use super::plan::{Frame, Planner, Run, Task};
use super::target::{SlotIo, read_full};
use super::way::Ways;

/// Frames a thread takes at once: few enough to share the work evenly, enough to read in a row.
const BATCH: usize = 8;

/// What a scan works on.
pub struct Scan<'a> {
    /// The target.
    pub io: &'a dyn SlotIo,
    /// Its path, for messages.
    pub path: &'a Path,
    /// The index, already checked.
    pub index: &'a Path,
    /// The image.
    pub image: &'a Image,
    /// Asked between frames.
    pub halt: &'a Halt,
    /// Told of kept and zeroed frames.
    pub meter: &'a Meter,
    /// Look only at these; none: at all.
    pub only: Option<&'a FrameSet>,
    /// Threads.
    pub threads: usize,
}

/// Frames with their ways, some of them in a row, and which batch that is.
type Batch = (u64, Vec<Task>);

/// Hands out frames in order.
struct Feed<'a> {
    records: IndexReader<BufReader<File>>,
    ways: &'a mut dyn Ways,
    number: u64,
    raw_offset: u64,
    batch: u64,
}

impl Scan<'_> {
    /// Looks at every frame; calls `emit` with each request as soon as it is complete, until that says stop (false).
    ///
    /// # Errors
    /// [`Error`] when the target or the index can not be read, or zeros can not be written.
    pub fn run(&self, ways: &mut dyn Ways, emit: &mut dyn FnMut(Run) -> bool) -> Result<(), Error> {
        let file = File::open(self.index).map_err(Error::spool(self.index))?;
        let records = IndexReader::new(BufReader::new(file), self.image).map_err(|source| self.index_error(source))?;
        let frame_size = records.header().frame_size as usize;
        let feed = Mutex::new(Feed { records, ways, number: 0, raw_offset: 0, batch: 0 });
        let (sender, results) = mpsc::sync_channel(self.threads);
        thread::scope(|scope| {
            for _ in 0..self.threads {
                let (sender, feed) = (sender.clone(), &feed);
                scope.spawn(move || self.work(feed, frame_size, &sender));
            }
            drop(sender);
            collect(&results, emit)
        })
    }

    fn index_error(&self, source: bundle::index::IndexError) -> Error {
        Error::Index { image: self.image.name.clone(), source }
    }

    /// One thread: takes batches until there are no more or somebody stopped.
    fn work(&self, feed: &Mutex<Feed<'_>>, frame_size: usize, sender: &mpsc::SyncSender<Result<Batch, Error>>) {
        let mut buffer = Buffer::new(frame_size);
        while !self.halt.stopped() {
            let batch = self.take(feed);
            let result = match batch {
                Ok((_, frames)) if frames.is_empty() => return,
                Ok((number, frames)) => self.missing(frames, &mut buffer).map(|missing| (number, missing)),
                Err(error) => Err(error),
            };
            let failed = result.is_err();
            // The collector is gone: it was told to stop.
            if sender.send(result).is_err() || failed {
                return;
            }
        }
    }

    fn take(&self, feed: &Mutex<Feed<'_>>) -> Result<Batch, Error> {
        let mut feed = feed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tasks = Vec::with_capacity(BATCH);
        while tasks.len() < BATCH {
            let Some(record) = feed.records.next() else { break };
            let record = record.map_err(|source| self.index_error(source))?;
            let frame = Frame { number: feed.number, raw_offset: feed.raw_offset, record };
            feed.number += 1;
            feed.raw_offset += u64::from(record.raw_len);
            if self.only.is_none_or(|only| only.has(frame.number)) {
                let way = feed.ways.of(&frame);
                tasks.push(Task { frame, way });
            }
        }
        let batch = feed.batch;
        feed.batch += 1;
        Ok((batch, tasks))
    }

    /// Those of `tasks` that must be brought.
    fn missing(&self, tasks: Vec<Task>, buffer: &mut Buffer) -> Result<Vec<Task>, Error> {
        let mut missing = Vec::new();
        for task in tasks {
            if self.halt.stopped() {
                break;
            }
            let frame = task.frame;
            let raw = u64::from(frame.record.raw_len);
            let target = buffer.get_mut(frame.record.raw_len as usize);
            let count = read_full(self.io, target, frame.raw_offset).map_err(Error::target("reading", self.path))?;
            let whole = count == target.len();
            match state(&frame.record, target, whole) {
                State::Right => self.meter.kept(raw),
                State::Missing => missing.push(task),
                State::MakeZero => {
                    self.io.zero(frame.raw_offset, raw).map_err(Error::target("writing", self.path))?;
                    self.meter.zeroed(raw);
                }
            }
        }
        Ok(missing)
    }
}

/// What a frame of the target needs.
enum State {
    Right,
    Missing,
    MakeZero,
}

fn state(record: &FrameRecord, target: &[u8], whole: bool) -> State {
    let zeros = whole && is_zero(target);
    match (record.zero, zeros) {
        (true, true) => State::Right,
        (true, false) => State::MakeZero,
        // An empty slot: no need to hash zeros.
        (false, true) => State::Missing,
        (false, false) if whole && Digest::of(target) == record.raw_sha256 => State::Right,
        (false, false) => State::Missing,
    }
}

/// Whether all bytes are zero; in pieces that the compiler turns into vector instructions.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(512).all(|piece| piece.iter().fold(0, |sum, byte| sum | byte) == 0)
}

/// Puts the batches in order again and plans requests.
fn collect(results: &mpsc::Receiver<Result<Batch, Error>>, emit: &mut dyn FnMut(Run) -> bool) -> Result<(), Error> {
    let mut planner = Planner::default();
    let mut early = BTreeMap::new();
    let mut next = 0;
    for result in results {
        let (number, tasks) = result?;
        early.insert(number, tasks);
        while let Some(tasks) = early.remove(&next) {
            next += 1;
            for run in tasks.into_iter().flat_map(|task| planner.add(task)).collect::<Vec<_>>() {
                if !emit(run) {
                    return Ok(());
                }
            }
        }
    }
    planner.finish().into_iter().all(emit);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::is_zero;

    #[test]
    fn zeros() {
        assert!(is_zero(&[]) && is_zero(&[0; 5000]));
        for place in [0, 511, 512, 4999] {
            let mut bytes = [0; 5000];
            bytes[place] = 1;
            assert!(!is_zero(&bytes));
        }
    }
}
