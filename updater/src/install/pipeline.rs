//! Brings one image into its target: scan, fetch, decode and write overlap on all cores, with bounded memory.
//!
//! ```text
//! scan threads --runs--> fetchers (async) --frames--> writer threads --> device
//! ```
//!
//! Each arrow is a short queue, so the slowest part sets the pace and nothing piles up. The first failure stops all.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bundle::manifest::Image;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet, spawn_blocking};

use super::error::Error;
use super::fetch::{Fetcher, Job, Pool};
use super::halt::Halt;
use super::meter::Meter;
use super::plan::Run;
use super::scan::Scan;
use super::target::SlotIo;
use super::writer::{Comparing, Writer};
use crate::http::retry::Patience;
use crate::http::source::RangeSource;

/// Stored bytes that may be in flight in partly received frames.
const FETCH_BUDGET: usize = 4 << 20;
/// Raw bytes that may be in work at once in one kind of thread.
const WORK_BUDGET: usize = 4 << 20;
/// Frames that wait for a writer.
const WAITING_FRAMES: usize = 1;
/// Requests that wait for a fetcher.
const WAITING_RUNS: usize = 4;

/// How many of each part work on an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crew {
    /// Requests in flight.
    pub fetchers: usize,
    /// Threads that decode and write.
    pub writers: usize,
    /// Threads that read and hash the target.
    pub scanners: usize,
}

impl Crew {
    /// As many as memory allows for frames of this size, on `cores` cores.
    #[must_use]
    pub fn for_frames(frame_size: usize, cores: usize) -> Self {
        let threads = (WORK_BUDGET / frame_size.max(1)).clamp(1, cores.clamp(1, 4));
        Self { fetchers: (FETCH_BUDGET / frame_size.max(1)).clamp(1, 6), writers: threads, scanners: threads }
    }
}

/// One image on its way.
pub struct Work {
    /// The target.
    pub io: Arc<dyn SlotIo>,
    /// Its path, for messages.
    pub path: PathBuf,
    /// The image.
    pub image: Image,
    /// Its index, already checked.
    pub index: PathBuf,
    /// Raw bytes of a frame.
    pub frame_size: usize,
    /// Where the bundle is.
    pub source: Arc<dyn RangeSource>,
    /// Patience with it.
    pub patience: Patience,
    /// Where the image's payload starts in the bundle.
    pub base: u64,
    /// Stops everybody.
    pub halt: Halt,
    /// Counts.
    pub meter: Meter,
    /// How many work on it.
    pub crew: Crew,
}

/// Makes the target hold the image; nothing is flushed yet.
///
/// # Errors
/// The first failure of any part.
pub async fn bring(work: Work) -> Result<(), Error> {
    let work = Arc::new(work);
    let (run_sender, runs) = mpsc::channel(WAITING_RUNS);
    let (job_sender, jobs) = mpsc::channel(WAITING_FRAMES);
    let (runs, jobs) = (Arc::new(tokio::sync::Mutex::new(runs)), Arc::new(Mutex::new(jobs)));
    let (pool, comparing) = (Arc::new(Pool::new(work.frame_size)), Arc::<Comparing>::default());

    let mut parts = JoinSet::new();
    let scan = Arc::clone(&work);
    parts.spawn(async move { flatten(spawn_blocking(move || scan_all(&scan, &run_sender)).await) });
    for _ in 0..work.crew.fetchers {
        let (work, runs, sender, pool) = (Arc::clone(&work), Arc::clone(&runs), job_sender.clone(), Arc::clone(&pool));
        parts.spawn(async move { fetch_all(&work, &runs, &sender, &pool).await });
    }
    // Only fetchers hold the other ends now: when they are done, so are the writers; when they die, so does the scan.
    drop((runs, job_sender));
    for _ in 0..work.crew.writers {
        let (work, jobs, pool) = (Arc::clone(&work), Arc::clone(&jobs), Arc::clone(&pool));
        let writer = Writer::new(work.frame_size, Arc::clone(&comparing));
        parts.spawn(async move { flatten(spawn_blocking(move || write_all(&work, &jobs, writer, &pool)).await) });
    }
    drop(jobs);
    while let Some(part) = parts.join_next().await {
        if let Err(error) = flatten(part) {
            work.halt.fail(error);
        }
    }
    // Asked once more, so that a cancel in the last moment is not taken for success.
    let _ = work.halt.stopped();
    work.halt.result()
}

fn flatten(joined: Result<Result<(), Error>, JoinError>) -> Result<(), Error> {
    joined.unwrap_or_else(|error| Err(Error::Lost(error.to_string())))
}

fn scan_all(work: &Work, sender: &mpsc::Sender<Run>) -> Result<(), Error> {
    let scan = Scan {
        io: work.io.as_ref(),
        path: &work.path,
        index: &work.index,
        image: &work.image,
        halt: &work.halt,
        meter: &work.meter,
        threads: work.crew.scanners,
    };
    let result = scan.run(&mut |run| sender.blocking_send(run).is_ok());
    noted(work, result)
}

async fn fetch_all(
    work: &Work,
    runs: &tokio::sync::Mutex<mpsc::Receiver<Run>>,
    jobs: &mpsc::Sender<Job>,
    pool: &Pool,
) -> Result<(), Error> {
    let fetcher = Fetcher {
        source: work.source.as_ref(),
        patience: work.patience,
        base: work.base,
        image: &work.image.name,
        meter: &work.meter,
        pool,
    };
    let fetching = async {
        loop {
            let run = runs.lock().await.recv().await;
            let Some(run) = run else { return Ok(()) };
            fetcher.run(&run, jobs).await?;
        }
    };
    let result = tokio::select! {
        result = fetching => result,
        () = work.halt.wait() => Ok(()),
    };
    noted(work, result)
}

fn write_all(work: &Work, jobs: &Mutex<mpsc::Receiver<Job>>, mut writer: Writer, pool: &Pool) -> Result<(), Error> {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        let Some(job) = job else { return Ok(()) };
        if work.halt.stopped() {
            return Ok(());
        }
        let placed = writer.place(work.io.as_ref(), &job.frame, &job.stored);
        match placed {
            Ok(written) => work.meter.placed(u64::from(job.frame.record.raw_len), written),
            Err(error) => return noted(work, Err(error.into_error(&work.image.name, &job.frame, &work.path))),
        }
        pool.give(job.stored);
    }
}

/// A failure stops the others at once, not only when somebody joins this part.
fn noted(work: &Work, result: Result<(), Error>) -> Result<(), Error> {
    if let Err(error) = result {
        work.halt.fail(error);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Crew;

    #[test]
    fn large_frames_get_a_small_crew() {
        assert_eq!(Crew::for_frames(1 << 20, 2), Crew { fetchers: 4, writers: 2, scanners: 2 });
        assert_eq!(Crew::for_frames(4 << 20, 8), Crew { fetchers: 1, writers: 1, scanners: 1 });
        assert_eq!(Crew::for_frames(256 << 10, 16), Crew { fetchers: 6, writers: 4, scanners: 4 });
    }
}
