//! Brings one image into its target: scan, fetch, decode and write overlap on all cores, with bounded memory.
//!
//! ```text
//! scan threads --runs--> fetchers (async) --frames--> writer threads --> device
//! ```
//!
//! Each arrow is a short queue, so the slowest part sets the pace and nothing piles up. The first failure stops all.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bundle::chunks::KnownChunks;
use bundle::digest::Digest;
use bundle::manifest::{Image, Manifest};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet, spawn_blocking};

use super::error::Error;
use super::fetch::{Fetcher, Job, Member, Pool};
use super::frames::FrameSet;
use super::halt::Halt;
use super::meter::Meter;
use super::plan::{From, Run};
use super::scan::{Expect, Scan};
use super::target::SlotIo;
use super::way::{ByChunks, ByRecipes, FromBundle, Way, Ways};
use super::writer::{Comparing, Decoded, Old, Writer};
use crate::http::retry::Patience;

/// Stored bytes that may be in flight in partly received frames.
const FETCH_BUDGET: usize = 4 << 20;
/// Raw bytes that may be in work at once in one kind of thread.
const WORK_BUDGET: usize = 4 << 20;
/// Bytes that threads may hold that make frames from recipes: each a frame three times and a prefix.
const PATCH_BUDGET: usize = 12 << 20;
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
        let most = WORK_BUDGET / frame_size.max(1);
        let cores = cores.clamp(1, 4);
        // One writer more than cores: while it waits for the device, another decodes.
        let writers = most.clamp(1, (cores + 1).min(4));
        Self { fetchers: (FETCH_BUDGET / frame_size.max(1)).clamp(1, 6), writers, scanners: most.clamp(1, cores) }
    }

    /// The same where recipes gather prefixes of at most `prefix` bytes.
    #[must_use]
    pub fn for_delta(frame_size: usize, prefix: usize, cores: usize) -> Self {
        let crew = Self::for_frames(frame_size, cores);
        let most = PATCH_BUDGET / (frame_size.max(1) * 3 + prefix);
        Self { writers: crew.writers.min(most.max(1)), ..crew }
    }
}

/// How the missing frames of an image come.
pub enum Plan {
    /// All from the bundle.
    Bundle,
    /// By the recipes of a delta.
    Delta {
        /// `delta.recipes`, checked.
        recipes: PathBuf,
        /// The manifest it belongs to.
        manifest: Arc<Manifest>,
        /// Digest of that.
        to: Digest,
        /// Position of the image in the manifest.
        position: u32,
    },
    /// By chunk addresses.
    Chunks {
        /// The addresses, as far as needed.
        addresses: PathBuf,
        /// What the running image has.
        known: Arc<KnownChunks>,
    },
}

/// Stored bytes that may be fetched from the bundle where a delta was offered.
#[derive(Debug)]
pub struct Allowance {
    left: AtomicU64,
}

impl Allowance {
    /// Up to `bytes`; none: any amount.
    #[must_use]
    pub fn new(bytes: Option<u64>) -> Self {
        Self { left: AtomicU64::new(bytes.unwrap_or(u64::MAX)) }
    }

    /// Uses up `bytes`; false when there is less.
    #[must_use]
    pub fn take(&self, bytes: u64) -> bool {
        self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(bytes)).is_ok()
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
    /// The payload in the bundle; none: frames only it has go into `left`.
    pub bundle: Option<Member>,
    /// The patch in the delta.
    pub delta: Option<Member>,
    /// The running image.
    pub old: Option<Old>,
    /// How frames come.
    pub plan: Plan,
    /// Only these frames; none: all.
    pub only: Option<Arc<FrameSet>>,
    /// What may be in the target.
    pub expect: Expect,
    /// Where frames are noted that could not be made.
    pub left: Arc<FrameSet>,
    /// What may be fetched from the bundle.
    pub allowance: Arc<Allowance>,
    /// Patience with servers.
    pub patience: Patience,
    /// Stops everybody.
    pub halt: Halt,
    /// Counts.
    pub meter: Meter,
    /// How many work on it.
    pub crew: Crew,
}

impl Work {
    /// The ways of this image's frames. What can not be used is said, and the bundle has it all.
    fn ways(&self) -> Box<dyn Ways + '_> {
        let unusable = |error: &(dyn std::error::Error + 'static)| {
            let error = crate::system::chain(error);
            tracing::warn!(error, image = self.image.name, "what could be made here is fetched from the bundle");
        };
        match &self.plan {
            Plan::Bundle => {}
            Plan::Delta { recipes, manifest, to, position } => {
                match ByRecipes::new(recipes, manifest, to, *position, self.frame_size as u64) {
                    Ok(ways) => return Box::new(ways),
                    Err(error) => unusable(&error),
                }
            }
            Plan::Chunks { addresses, known } => match ByChunks::new(addresses, &self.image, Arc::clone(known)) {
                Ok(ways) => return Box::new(ways),
                Err(error) => unusable(&error),
            },
        }
        Box::new(FromBundle)
    }
}

/// Makes the target hold the image, but for the frames noted in `left`; nothing is flushed yet.
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
        only: work.only.as_deref(),
        expect: work.expect,
        threads: work.crew.scanners,
    };
    let mut over = Ok(());
    let result = scan.run(work.ways().as_mut(), &mut |run| {
        let bytes = run.end() - run.start();
        if run.from == From::Bundle && work.bundle.is_some() && !work.allowance.take(bytes) {
            over = Err(Error::OverAllowance);
            return false;
        }
        sender.blocking_send(run).is_ok()
    });
    noted(work, over.and(result))
}

async fn fetch_all(
    work: &Work,
    runs: &tokio::sync::Mutex<mpsc::Receiver<Run>>,
    jobs: &mpsc::Sender<Job>,
    pool: &Pool,
) -> Result<(), Error> {
    let fetcher = Fetcher {
        bundle: work.bundle.as_ref(),
        delta: work.delta.as_ref(),
        patience: work.patience,
        image: &work.image.name,
        meter: &work.meter,
        pool,
        left: &work.left,
    };
    let fetching = async {
        loop {
            let run = runs.lock().await.recv().await;
            let Some(run) = run else { return Ok(()) };
            fetcher.run(run, jobs).await?;
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
        let frame = job.task.frame;
        match writer.place_task(work.io.as_ref(), &job.task, job.stored.borrowed(), work.old.as_ref()) {
            Ok(written) => {
                work.meter.placed(u64::from(frame.record.raw_len), written);
                if matches!(job.task.way, Way::Old(_)) {
                    work.meter.taken(u64::from(frame.record.raw_len));
                }
            }
            // One wrong byte of the running image costs the frames it is in, nothing more.
            Err(Decoded::Way(error)) => {
                tracing::debug!(%error, frame = frame.number, image = work.image.name, "not made here");
                work.left.add(frame.number);
            }
            Err(error) => return noted(work, Err(error.into_error(&work.image.name, &frame, &work.path))),
        }
        pool.give(job.stored.into_bytes());
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
        assert_eq!(Crew::for_frames(1 << 20, 2), Crew { fetchers: 4, writers: 3, scanners: 2 });
        assert_eq!(Crew::for_frames(4 << 20, 8), Crew { fetchers: 1, writers: 1, scanners: 1 });
        assert_eq!(Crew::for_frames(256 << 10, 16), Crew { fetchers: 6, writers: 4, scanners: 4 });
        assert_eq!(Crew::for_delta(1 << 20, 4 << 20, 8).writers, 1);
        assert_eq!(Crew::for_delta(1 << 20, 1 << 20, 8).writers, 3);
        assert_eq!(Crew::for_delta(4 << 20, 8 << 20, 8).writers, 1);
    }
}
