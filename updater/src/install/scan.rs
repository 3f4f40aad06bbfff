//! Finds which frames are right in the target already, and makes zeros where the image has zeros.
//!
//! This is how an interrupted install goes on, and how frames that two releases share are kept: nothing is remembered,
//! the device itself is asked. All cores read and hash; what is missing comes out in order, as requests, each frame with
//! its way.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;

use bundle::digest::Digest;
use bundle::frame::is_zero;
use bundle::index::IndexReader;
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

/// Frames in a row that were not right, after which only every so many of them is looked at.
const GIVE_UP_AFTER: u64 = 16;
/// One frame in this many is looked at while nothing is found.
const SAMPLE: u64 = 16;
/// Bytes of a target that should be zeros that are read before all of it is.
const FIRST_LOOK: usize = 64 << 10;

/// What is known of the target before it is scanned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// An interrupted install of this release may have written here: every frame is looked at.
    Begun,
    /// Some other release, or nothing: it is looked at as long as that finds something.
    Unknown,
    /// The frames asked for are known to be missing: nothing is read but where zeros belong.
    Missing,
}

/// Whether looking at the target pays; shared by all threads of a scan.
///
/// A release that shares frames with the one in the slot shares many in a row. In a slot that held something else,
/// reading and hashing all of it doubles the work of an install; there one frame in [`SAMPLE`] is looked at, and a
/// right one among them makes the scan look at all again.
#[derive(Debug)]
struct Looking {
    expect: Expect,
    /// Frames that were looked at since the last right one.
    wrong: AtomicU64,
}

impl Looking {
    fn at(&self, number: u64) -> bool {
        match self.expect {
            Expect::Begun => true,
            Expect::Missing => false,
            Expect::Unknown => self.wrong.load(Ordering::Relaxed) < GIVE_UP_AFTER || number.is_multiple_of(SAMPLE),
        }
    }

    fn found(&self, right: bool) {
        if right {
            self.wrong.store(0, Ordering::Relaxed);
        } else {
            self.wrong.fetch_add(1, Ordering::Relaxed);
        }
    }
}

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
    /// Bring only these; none: all.
    pub only: Option<&'a FrameSet>,
    /// What may be in the target.
    pub expect: Expect,
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
    /// Looks at the frames, as far as that pays; calls `emit` with each request as soon as it is complete, until that says stop (false).
    ///
    /// # Errors
    /// [`Error`] when the target or the index can not be read, or zeros can not be written.
    pub fn run(&self, ways: &mut dyn Ways, emit: &mut dyn FnMut(Run) -> bool) -> Result<(), Error> {
        let file = File::open(self.index).map_err(Error::spool(self.index))?;
        let records = IndexReader::new(BufReader::new(file), self.image).map_err(|source| self.index_error(source))?;
        let frame_size = records.header().frame_size as usize;
        let feed = Mutex::new(Feed { records, ways, number: 0, raw_offset: 0, batch: 0 });
        let looking = Looking { expect: self.expect, wrong: AtomicU64::new(0) };
        let (sender, results) = mpsc::sync_channel(self.threads);
        thread::scope(|scope| {
            for _ in 0..self.threads {
                let (sender, feed, looking) = (sender.clone(), &feed, &looking);
                scope.spawn(move || self.work(feed, frame_size, looking, &sender));
            }
            drop(sender);
            // Given away, so that it is gone when nobody listens any more: a thread whose batch finds no room would wait
            // for ever, and the scope for the thread.
            collect(results, emit)
        })
    }

    fn index_error(&self, source: bundle::index::IndexError) -> Error {
        Error::Index { image: self.image.name.clone(), source }
    }

    /// One thread: takes batches until there are no more or somebody stopped.
    fn work(
        &self,
        feed: &Mutex<Feed<'_>>,
        frame_size: usize,
        looking: &Looking,
        sender: &mpsc::SyncSender<Result<Batch, Error>>,
    ) {
        let mut buffer = Buffer::new(frame_size);
        while !self.halt.stopped() {
            let batch = self.take(feed);
            let result = match batch {
                Ok((_, frames)) if frames.is_empty() => return,
                Ok((number, frames)) => self.missing(frames, looking, &mut buffer).map(|missing| (number, missing)),
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
    fn missing(&self, tasks: Vec<Task>, looking: &Looking, buffer: &mut Buffer) -> Result<Vec<Task>, Error> {
        let mut missing = Vec::new();
        for task in tasks {
            if self.halt.stopped() {
                break;
            }
            let frame = task.frame;
            let raw = u64::from(frame.record.raw_len);
            // Zeros are not fetched, and not written where they are: that is worth a look always.
            if frame.record.zero {
                if self.holds_zeros(&frame, buffer)? {
                    self.meter.kept(raw);
                } else {
                    self.io.zero(frame.raw_offset, raw).map_err(Error::target("writing", self.path))?;
                    self.meter.zeroed(raw);
                }
                continue;
            }
            let right = looking.at(frame.number) && {
                let right = self.holds(&frame, buffer)?;
                looking.found(right);
                right
            };
            if right {
                self.meter.kept(raw);
            } else {
                missing.push(task);
            }
        }
        Ok(missing)
    }

    /// Whether the target has this frame.
    fn holds(&self, frame: &Frame, buffer: &mut Buffer) -> Result<bool, Error> {
        let target = buffer.get_mut(frame.record.raw_len as usize);
        let count = read_full(self.io, target, frame.raw_offset).map_err(Error::target("reading", self.path))?;
        // An empty slot: no need to hash zeros.
        Ok(count == target.len() && !is_zero(target) && Digest::of(target) == frame.record.raw_sha256)
    }

    /// Whether the target has zeros where this frame goes. What is not zero mostly shows at once.
    fn holds_zeros(&self, frame: &Frame, buffer: &mut Buffer) -> Result<bool, Error> {
        let target = buffer.get_mut(frame.record.raw_len as usize);
        let (first, rest) = target.split_at_mut(FIRST_LOOK.min(target.len()));
        let mut offset = frame.raw_offset;
        for piece in [first, rest] {
            let count = read_full(self.io, piece, offset).map_err(Error::target("reading", self.path))?;
            if count < piece.len() || !is_zero(piece) {
                return Ok(false);
            }
            offset += count as u64;
        }
        Ok(true)
    }
}

/// Puts the batches in order again and plans requests.
fn collect(results: mpsc::Receiver<Result<Batch, Error>>, emit: &mut dyn FnMut(Run) -> bool) -> Result<(), Error> {
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
    use super::*;
    use std::time::Duration;

    use bundle::index::{FrameRecord, IndexHeader};
    use bundle::manifest::{Blob, ImageKind};
    use tokio::sync::watch;
    use updater_core::status::ProgressPhase;

    use crate::install::faulty::Memory;
    use crate::install::way::FromBundle;
    use crate::seams::Cancel;

    const FRAME: u32 = 4 << 10;
    const FRAMES: u32 = 40 * BATCH as u32;

    /// An image of frames that no target holds, and its index.
    fn image() -> (Image, Vec<u8>) {
        let (size, sha256) = (u64::from(FRAMES * FRAME), Digest::of(b"x"));
        let header =
            IndexHeader { frame_size: FRAME, frame_count: FRAMES, image_size: size, payload_size: u64::from(FRAMES) };
        let mut index = header.to_bytes().to_vec();
        for offset in 0..u64::from(FRAMES) {
            let (stored_sha256, raw_sha256) = (sha256, sha256);
            let record = FrameRecord { offset, stored_len: 1, raw_len: FRAME, zero: false, stored_sha256, raw_sha256 };
            index.extend(record.to_bytes());
        }
        let blob = |size: u64| Blob { size, sha256 };
        let (name, kind, chunks) = ("rootfs".to_owned(), ImageKind::Block, None);
        let (index_blob, payload) = (blob(index.len() as u64), blob(u64::from(FRAMES)));
        (Image { name, kind, size, sha256, index: index_blob, chunks, payload, frame_size: None, level: None }, index)
    }

    /// Fetchers that failed early take no more requests, while most of the image is still to be looked at.
    #[test]
    fn a_scan_ends_when_nobody_takes_its_requests() {
        let (done, ended) = mpsc::channel();
        thread::spawn(move || {
            let (image, index) = image();
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("index");
            std::fs::write(&path, index).unwrap();
            let (sink, _seen) = watch::channel(None);
            let io = Memory::new(usize::try_from(image.size).unwrap());
            let scan = Scan {
                io: &io,
                path: Path::new("/dev/x"),
                index: &path,
                image: &image,
                halt: &Halt::new(&Cancel::new()),
                meter: &Meter::new(&sink, ProgressPhase::Writing, image.size),
                only: None,
                expect: Expect::Missing,
                threads: 1,
            };
            scan.run(&mut FromBundle, &mut |_| false).unwrap();
            done.send(()).unwrap();
        });
        ended.recv_timeout(Duration::from_secs(60)).expect("the scan waits for somebody who is gone");
    }

    #[test]
    fn a_strange_slot_is_sampled_and_a_known_one_read_whole() {
        let looking = |expect| Looking { expect, wrong: AtomicU64::new(0) };
        let looked = |looking: &Looking, right: &dyn Fn(u64) -> bool| {
            (0..640_u64).filter(|n| looking.at(*n)).inspect(|n| looking.found(right(*n))).count()
        };
        assert_eq!(looked(&looking(Expect::Begun), &|_| false), 640);
        assert_eq!(looked(&looking(Expect::Missing), &|_| true), 0);
        let strange = looking(Expect::Unknown);
        assert_eq!(looked(&strange, &|_| false), 16 + 39, "the first few, then one in sixteen");
        let shared = looking(Expect::Unknown);
        assert!(looked(&shared, &|n| n >= 320) >= 320, "what was found again is looked at in full");
    }
}
