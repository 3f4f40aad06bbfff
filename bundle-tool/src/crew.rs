//! How many threads read frames: one for each core as far as 32 MB allow, and none at all where one frame fills them.

use anyhow::{Error, Result};
use bundle::build::in_order;

/// Pieces that wait while every thread has one, as the pipeline has it.
const WAITING: usize = 3;

/// Threads for work that takes `each` bytes for each of them while pieces of `waiting` bytes queue up, within `budget`.
///
/// As many as were `asked` for, else as there are cores, but never more than fit: the promise is about memory.
pub fn threads(asked: Option<usize>, budget: usize, each: usize, waiting: usize) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, Into::into);
    let fit = budget.saturating_sub(WAITING * waiting) / each.max(1);
    asked.unwrap_or_else(cores).min(fit)
}

/// Works on pieces on that many threads; on none, here, one after the other.
pub fn run<I: Send, O: Send>(
    threads: usize,
    mut produce: impl FnMut() -> Option<Result<I>> + Send,
    work: impl Fn(I) -> Result<O> + Sync,
    mut consume: impl FnMut(O) -> Result<()>,
) -> Result<()> {
    if threads > 0 {
        return in_order::<I, O, Error>(threads, produce, work, consume);
    }
    while let Some(piece) = produce() {
        consume(work(piece?)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_fit_or_there_are_none() {
        let mib = 1 << 20;
        assert_eq!(threads(Some(64), 24 * mib, 2 * mib, 2 * mib), 9);
        assert_eq!(threads(Some(2), 24 * mib, 2 * mib, 2 * mib), 2);
        assert_eq!(threads(Some(64), 24 * mib, 8 * mib, 8 * mib), 0);
        assert_eq!(threads(Some(64), mib, 8 * mib, 8 * mib), 0);
        assert!(threads(None, 24 * mib, 1, 1) >= 1);
    }

    #[test]
    fn none_do_the_same_work() {
        for n in [0, 3] {
            let (mut input, mut output) = (0..100, Vec::new());
            let consume = |n| {
                output.push(n);
                Ok(())
            };
            run(n, || input.next().map(Ok), |n: i32| Ok(n * 2), consume).unwrap();
            assert_eq!(output, (0..100).map(|n| n * 2).collect::<Vec<_>>());
            assert!(run(n, || Some(Err(Error::msg("no"))), |n: i32| Ok(n), |_| Ok(())).is_err());
        }
    }
}
