//! Turns missing frames into few large requests. Pure.
//!
//! One request per missing piece is what makes other updaters slow on long lines (65 s where the whole takes 6):
//! neighbours go into one request, small gaps are fetched along, and requests have a size that lets several run at
//! once.

use bundle::index::FrameRecord;

/// Bytes of a gap that are fetched along rather than cut out: about what a request costs in headers and waiting on a
/// line of 10 Mbit/s and 50 ms.
const MAX_GAP: u64 = 64 << 10;

/// Largest request, stored bytes: large enough to make the round trip not matter, small enough to share the work.
const MAX_RUN: u64 = 4 << 20;

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

/// Frames to fetch with one request, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Run {
    /// The frames; `record.offset` counts from the start of the payload.
    pub frames: Vec<Frame>,
}

impl Run {
    /// First byte, from the start of the payload.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.frames.first().map_or(0, |frame| frame.record.offset)
    }

    /// Behind the last byte, from the start of the payload.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.frames.last().map_or(0, |frame| frame.record.offset + u64::from(frame.record.stored_len))
    }
}

/// Collects missing frames, in order, into runs.
#[derive(Debug, Default)]
pub struct Planner {
    run: Run,
}

impl Planner {
    /// Adds a missing frame; gives the run before it when the frame does not belong to that.
    pub fn add(&mut self, frame: Frame) -> Option<Run> {
        let end = frame.record.offset + u64::from(frame.record.stored_len);
        let belongs = self.run.frames.is_empty()
            || (frame.record.offset.saturating_sub(self.run.end()) <= MAX_GAP && end - self.run.start() <= MAX_RUN);
        let finished = if belongs { None } else { self.finish() };
        self.run.frames.push(frame);
        finished
    }

    /// The last run, if there is one.
    pub fn finish(&mut self) -> Option<Run> {
        let run = std::mem::take(&mut self.run);
        (!run.frames.is_empty()).then_some(run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bundle::digest::Digest;
    use proptest::prelude::*;

    fn frames(lengths: &[u32]) -> Vec<Frame> {
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
                Frame { number, raw_offset: number << 20, record }
            })
            .collect()
    }

    fn plan(frames: &[Frame]) -> Vec<Run> {
        let mut planner = Planner::default();
        let mut runs: Vec<Run> = frames.iter().filter_map(|frame| planner.add(*frame)).collect();
        runs.extend(planner.finish());
        runs
    }

    #[test]
    fn neighbours_and_small_gaps_are_one_request_large_gaps_two() {
        let all = frames(&[1000, 50, 1000, 200_000, 1000]);
        assert_eq!(plan(&[all[0], all[2]]).len(), 1);
        assert_eq!(plan(&[all[2], all[4]]).len(), 2);
        assert_eq!(plan(&[]).len(), 0);
    }

    proptest! {
        #[test]
        fn every_frame_once_in_order_within_limits(
            lengths in proptest::collection::vec(40_u32..1_100_000, 0..60),
            missing in proptest::collection::vec(any::<bool>(), 60),
        ) {
            let all: Vec<Frame> = frames(&lengths).into_iter().zip(missing).filter_map(|(f, m)| m.then_some(f)).collect();
            let runs = plan(&all);
            let again: Vec<Frame> = runs.iter().flat_map(|run| run.frames.clone()).collect();
            prop_assert_eq!(again, all);
            for run in runs {
                prop_assert!(run.end() - run.start() <= MAX_RUN);
            }
        }
    }
}
