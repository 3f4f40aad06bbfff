//! Installs from a bundle that can only be read once from start to end: a pipe, or a server without ranges.
//!
//! Every byte has to be read anyway, so nothing is planned: index members are kept as they pass, frames go to the
//! writers, which write only what differs. Runs on threads of its own.

use std::io::{self, Read, Write as _};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use bundle::digest::Hashed;
use bundle::index::IndexReader;
use bundle::layout::MemberKind;
use bundle::manifest::Image;
use bundle::sequential::{ReadError, SequentialReader};

use super::error::Error;
use super::fetch::{Job, Pool};
use super::halt::Halt;
use super::head::Spool;
use super::meter::Meter;
use super::pipeline::Crew;
use super::plan::{Frame, Task};
use super::target::SlotIo;
use super::way::Way;
use super::writer::{Comparing, Writer};
use crate::http::FetchError;

/// A bundle being read from start to end.
pub type Stream = SequentialReader<Box<dyn Read + Send>>;

/// What a sequential install works with.
pub struct Pass<'a> {
    /// Positioned behind the envelope, manifest accepted.
    pub stream: &'a mut Stream,
    /// Where indexes are kept.
    pub spool: &'a Spool<'a>,
    /// Stops everybody.
    pub halt: &'a Halt,
    /// Counts.
    pub meter: &'a Meter,
    /// Cores to use.
    pub cores: usize,
}

impl Pass<'_> {
    /// Reads the bundle to its end. `open` gives the target of each image when its payload comes, `close` gets it back
    /// when it is complete.
    ///
    /// # Errors
    /// The first failure.
    pub fn run<T>(
        &mut self,
        images: &[Image],
        mut open: impl FnMut(usize) -> Result<(T, Arc<dyn SlotIo>), Error>,
        mut close: impl FnMut(usize, T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        while let Some(member) = self.stream.next_member().map_err(unwrapped)? {
            let Some((position, image)) = member.image.and_then(|n| Some((n, images.get(n)?))) else { continue };
            match member.kind {
                MemberKind::Index => self.index(image)?,
                MemberKind::Payload => {
                    let (target, io) = open(position)?;
                    self.payload(image, io.as_ref())?;
                    close(position, target)?;
                }
                // What a full install does not need; of a newer kind, too.
                _ => {}
            }
        }
        Ok(())
    }

    fn index(&mut self, image: &Image) -> Result<(), Error> {
        let mut file = self.spool.begin(image)?;
        let mut piece = vec![0; 64 << 10];
        loop {
            let count = self.stream.read(&mut piece).map_err(|error| unwrapped(error.into()))?;
            if count == 0 {
                break;
            }
            self.meter.fetched(count as u64);
            file.write_all(piece.get(..count).unwrap_or_default()).map_err(Error::spool(&self.spool.path(image)))?;
        }
        self.spool.finish(image, &file).map(|_| ())
    }

    fn payload(&mut self, image: &Image, io: &dyn SlotIo) -> Result<(), Error> {
        let path = self.spool.path(image);
        let index_error = |source| Error::Index { image: image.name.clone(), source };
        let file = std::fs::File::open(&path).map_err(Error::spool(&path))?;
        let mut records = IndexReader::new(io::BufReader::new(file), image).map_err(index_error)?;
        let frame_size = records.header().frame_size as usize;
        let (pool, comparing) = (Pool::new(frame_size), Arc::<Comparing>::default());
        let (sender, jobs) = mpsc::sync_channel::<Job>(2);
        let jobs = Mutex::new(jobs);
        let (halt, meter) = (self.halt, self.meter);
        thread::scope(|scope| {
            for _ in 0..Crew::for_frames(frame_size, self.cores).writers {
                let writer = Writer::new(frame_size, Arc::clone(&comparing));
                let (jobs, pool) = (&jobs, &pool);
                scope.spawn(move || write_all(writer, image, io, jobs, pool, halt, meter));
            }
            let (mut number, mut raw_offset) = (0, 0);
            let result = records.try_for_each(|record| {
                let record = record.map_err(index_error)?;
                let mut stored = pool.take();
                stored.resize(record.stored_len as usize, 0);
                self.stream.read_exact(&mut stored).map_err(|error| unwrapped(error.into()))?;
                meter.fetched(u64::from(record.stored_len));
                let task = Task { frame: Frame { number, raw_offset, record }, way: Way::Bundle };
                let job = Job { task, stored: Hashed::new(stored) };
                number += 1;
                raw_offset += u64::from(record.raw_len);
                // A closed queue means that a writer failed; it has noted why.
                if sender.send(job).is_err() || halt.stopped() { Err(Error::Cancelled) } else { Ok(()) }
            });
            drop(sender);
            if let Err(error) = result {
                halt.fail(error);
            }
        });
        if halt.stopped() {
            halt.result()?;
            return Err(Error::Cancelled);
        }
        Ok(())
    }
}

fn write_all(
    mut writer: Writer,
    image: &Image,
    io: &dyn SlotIo,
    jobs: &Mutex<mpsc::Receiver<Job>>,
    pool: &Pool,
    halt: &Halt,
    meter: &Meter,
) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        // After a failure the queue is still emptied, so that the reader never waits for a dead writer.
        let Ok(job) = job else { return };
        if halt.stopped() {
            continue;
        }
        match writer.place(io, &job.task.frame, job.stored.borrowed()) {
            Ok(written) => meter.placed(u64::from(job.task.frame.record.raw_len), written),
            Err(error) => halt.fail(error.into_error(&image.name, &job.task.frame, std::path::Path::new(&image.name))),
        }
        pool.give(job.stored.into_bytes());
    }
}

/// Finds the network's own error again inside what a reader made of it.
pub(super) fn unwrapped(error: ReadError) -> Error {
    match error {
        ReadError::Io(io) => match io.downcast::<FetchError>() {
            Ok(fetch) => Error::Fetch(fetch),
            Err(io) => Error::Read(ReadError::Io(io)),
        },
        other => Error::Read(other),
    }
}
