//! Turns missing frames into few large requests. Pure.
//!
//! One request per missing piece is what makes other updaters slow on long lines (65 s where the whole takes 6):
//! neighbours go into one request, small gaps are fetched along, and requests have a size that lets several run at
//! once.

use bundle::index::FrameRecord;

use super::way::Way;

/// Bytes of a gap that are fetched along rather than cut out: about what a request costs in headers and waiting on a
/// line of 10 Mbit/s and 50 ms.
const MAX_GAP: u64 = 64 << 10;

/// Gaps of a request may be one part in this many of it: a promise of how much is fetched is kept.
const GAP_SHARE: u64 = 25;

/// Largest request to the bundle, stored bytes: large enough to make the round trip not matter, small enough to share
/// the work.
const MAX_RUN: u64 = 4 << 20;

/// Largest request to a delta: the whole is small, and several connections are faster than one that is still growing.
const MAX_DELTA_RUN: u64 = 1 << 20;

/// Frames made from what is here that go to one worker in a row.
const MAX_LOCAL: usize = 8;

/// Frames looked at before a request that has begun is sent: a small delta must not wait for the end of the scan.
const MAX_WAIT: u64 = 64;

/// A frame and where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Number in the image, from 0.
    pub number: u64,
    /// Offset in the raw image, bytes.
    pub raw_offset: u64,
    /// Its record in the index.
    pub record: FrameRecord,
}

/// A frame that is missing and how it comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Which.
    pub frame: Frame,
    /// How.
    pub way: Way,
}

/// Where the bytes of a run are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// In the payload member of the bundle.
    Bundle,
    /// In the patch member of the delta.
    Delta,
    /// In the running image: nothing is fetched.
    Here,
}

impl Task {
    /// Where its bytes are.
    #[must_use]
    pub const fn from(&self) -> From {
        match self.way {
            Way::Bundle => From::Bundle,
            Way::Plain { .. } | Way::Patch { .. } => From::Delta,
            Way::Old(_) => From::Here,
        }
    }

    /// First byte and length in the member they are fetched from.
    #[must_use]
    pub const fn place(&self) -> (u64, u32) {
        match self.way {
            Way::Bundle => (self.frame.record.offset, self.frame.record.stored_len),
            Way::Plain { offset, len } | Way::Patch { offset, len, .. } => (offset, len),
            Way::Old(_) => (0, 0),
        }
    }

    fn end(&self) -> u64 {
        let (start, len) = self.place();
        start + u64::from(len)
    }
}

/// Frames to bring with one request, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Where their bytes are.
    pub from: From,
    /// The frames.
    pub tasks: Vec<Task>,
    /// Bytes between them.
    gaps: u64,
}

impl Run {
    const fn new(from: From) -> Self {
        Self { from, tasks: Vec::new(), gaps: 0 }
    }

    /// First byte in its member.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.tasks.first().map_or(0, |task| task.place().0)
    }

    /// Behind the last byte in its member.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.tasks.last().map_or(0, Task::end)
    }

    /// Whether one request serves this task too.
    fn takes(&self, task: &Task) -> bool {
        if self.tasks.is_empty() {
            return true;
        }
        let most = match self.from {
            From::Here => return self.tasks.len() < MAX_LOCAL,
            From::Bundle => MAX_RUN,
            From::Delta => MAX_DELTA_RUN,
        };
        let (gap, len) = (task.place().0.saturating_sub(self.end()), task.end().saturating_sub(self.start()));
        gap <= MAX_GAP && len <= most && (self.gaps + gap) * GAP_SHARE <= len
    }
}

/// Collects missing frames, in order, into runs.
#[derive(Debug)]
pub struct Planner {
    runs: [Run; 3],
}

impl Default for Planner {
    fn default() -> Self {
        Self { runs: [From::Bundle, From::Delta, From::Here].map(Run::new) }
    }
}

impl Planner {
    /// Adds a missing frame; gives the runs that are complete by that.
    pub fn add(&mut self, task: Task) -> Vec<Run> {
        let (from, number) = (task.from(), task.frame.number);
        let mut finished = Vec::new();
        for run in &mut self.runs {
            let waited = run.tasks.first().is_some_and(|first| number - first.frame.number > MAX_WAIT);
            if waited || (run.from == from && !run.takes(&task)) {
                finished.extend(take(run));
            }
            if run.from == from {
                run.gaps += if run.tasks.is_empty() { 0 } else { task.place().0.saturating_sub(run.end()) };
                run.tasks.push(task.clone());
            }
        }
        finished
    }

    /// What is left.
    pub fn finish(&mut self) -> Vec<Run> {
        self.runs.iter_mut().filter_map(take).collect()
    }
}

fn take(run: &mut Run) -> Option<Run> {
    let taken = std::mem::replace(run, Run::new(run.from));
    (!taken.tasks.is_empty()).then_some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bundle::digest::Digest;
    use proptest::prelude::*;

    fn tasks(lengths: &[u32]) -> Vec<Task> {
        let digest = Digest::of(b"");
        let mut offset = 0;
        (0..)
            .zip(lengths)
            .map(|(number, len)| {
                let record = FrameRecord {
                    offset,
                    stored_len: *len,
                    raw_len: 1 << 20,
                    zero: false,
                    stored_sha256: digest,
                    raw_sha256: digest,
                };
                offset += u64::from(*len);
                Task { frame: Frame { number, raw_offset: number << 20, record }, way: Way::Bundle }
            })
            .collect()
    }

    fn plan(tasks: &[Task]) -> Vec<Run> {
        let mut planner = Planner::default();
        let mut runs: Vec<Run> = tasks.iter().flat_map(|task| planner.add(task.clone())).collect();
        runs.extend(planner.finish());
        runs
    }

    #[test]
    fn neighbours_and_small_gaps_are_one_request_large_gaps_two() {
        let all = tasks(&[200_000, 10_000, 200_000, 200_000, 1000, 10_000, 1000]);
        let of = |places: &[usize]| plan(&places.iter().map(|n| all[*n].clone()).collect::<Vec<_>>()).len();
        assert_eq!(of(&[0, 2]), 1, "a small gap");
        assert_eq!(of(&[2, 4]), 2, "a large gap");
        assert_eq!(of(&[4, 6]), 2, "a gap that is most of the request");
        assert_eq!(of(&[]), 0);
    }

    #[test]
    fn each_place_has_requests_of_its_own_and_none_waits_for_long() {
        let mut all = tasks(&[1000; 300]);
        for (n, task) in all.iter_mut().enumerate() {
            task.way = match n % 3 {
                0 => Way::Bundle,
                1 => Way::Plain { offset: n as u64 * 10, len: 10 },
                _ => Way::Old([].into()),
            };
        }
        let runs = plan(&all);
        assert!(runs.iter().all(|run| run.tasks.iter().all(|task| task.from() == run.from)));
        assert_eq!(runs.iter().map(|run| run.tasks.len()).sum::<usize>(), 300);
        let first = |from| runs.iter().position(|run| run.from == from).unwrap();
        assert!(first(From::Delta) < runs.len() / 2, "the delta is asked for before the scan is over");
    }

    proptest! {
        #[test]
        fn every_frame_once_in_order_within_limits(
            lengths in proptest::collection::vec(40_u32..1_100_000, 0..60),
            missing in proptest::collection::vec(any::<bool>(), 60),
        ) {
            let all: Vec<Task> = tasks(&lengths).into_iter().zip(missing).filter_map(|(f, m)| m.then_some(f)).collect();
            let runs = plan(&all);
            let again: Vec<Task> = runs.iter().flat_map(|run| run.tasks.clone()).collect();
            prop_assert_eq!(again, all);
            for run in runs {
                let useful: u64 = run.tasks.iter().map(|task| u64::from(task.place().1)).sum();
                prop_assert!(run.end() - run.start() <= MAX_RUN);
                prop_assert!((run.end() - run.start() - useful) * GAP_SHARE <= run.end() - run.start());
            }
        }
    }
}
