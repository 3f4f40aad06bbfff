//! Work spread over threads, results in the order of the input, a bounded number of pieces in memory.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// A worker ended without an answer, which only a panic can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a worker stopped unexpectedly")]
pub struct Stopped;

/// Takes pieces from `produce` (until it gives none), works on them on `workers` threads, and hands the results to
/// `consume` in the order they were produced. At most `workers + 3` pieces exist at any time.
///
/// `produce` runs on a thread of its own, `consume` on the caller's.
///
/// # Errors
/// The first error of `produce`, `work` or `consume`, in that order of the pieces; everything stops then.
pub fn in_order<I: Send, O: Send, E: Send + From<Stopped>>(
    workers: usize,
    mut produce: impl FnMut() -> Option<Result<I, E>> + Send,
    work: impl Fn(I) -> Result<O, E> + Sync,
    mut consume: impl FnMut(O) -> Result<(), E>,
) -> Result<(), E> {
    let workers = workers.max(1);
    // Each piece brings its own reply channel; the queue of those is what keeps the order and bounds the memory.
    let (jobs, queue) = sync_channel::<(I, SyncSender<Result<O, E>>)>(1);
    let (order, replies) = sync_channel::<Receiver<Result<O, E>>>(workers);
    let queue = Mutex::new(queue);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((piece, reply)) = queue.lock().ok().and_then(|queue| queue.recv().ok()) {
                    // Nobody listens any more when the consumer failed: then the result does not matter.
                    let _ = reply.send(work(piece));
                }
            });
        }
        scope.spawn(move || {
            while let Some(piece) = produce() {
                let (reply, result) = sync_channel(1);
                let stop = piece.is_err();
                if order.send(result).is_err() {
                    return;
                }
                let sent = match piece {
                    Ok(piece) => jobs.send((piece, reply)).is_ok(),
                    Err(error) => reply.send(Err(error)).is_ok(),
                };
                if stop || !sent {
                    return;
                }
            }
        });
        // Moved in, so that an early return hangs up and the producer stops.
        let replies = replies;
        for result in &replies {
            consume(result.recv().map_err(|_| E::from(Stopped))??)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn order_is_kept_at_any_number_of_workers() {
        for workers in [1, 2, 7] {
            let mut input = 0..500u64;
            let mut output = Vec::new();
            let slow_for_some = |n: u64| {
                std::hint::black_box((0..(n % 7) * 1000).fold(0, |sum, n| sum ^ n));
                Ok::<_, Stopped>(n * 2)
            };
            let consume = |n| {
                output.push(n);
                Ok(())
            };
            in_order(workers, || input.next().map(Ok), slow_for_some, consume).unwrap();
            assert_eq!(output, (0..500).map(|n| n * 2).collect::<Vec<_>>());
        }
    }

    #[test]
    fn errors_stop_it_wherever_they_come_from() {
        let setting = || Err(Stopped);
        let mut endless = 0..;
        assert!(in_order(2, || endless.next().map(Ok), |_: u64| setting(), |(): ()| Ok(())).is_err());
        assert!(in_order(2, || endless.next().map(Ok), |_: u64| Ok(()), |()| setting()).is_err());
        assert!(in_order(2, || Some(setting()), |(): ()| Ok(()), |()| Ok(())).is_err());
    }

    #[test]
    fn the_number_of_pieces_in_memory_is_bounded() {
        let (alive, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let mut input = 0..1000;
        let produce = || {
            most.fetch_max(alive.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            input.next().map(Ok)
        };
        let consume = |_| {
            alive.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        };
        in_order(2, produce, |n: u32| Ok::<_, Stopped>(n), consume).unwrap();
        assert!(most.load(Ordering::SeqCst) <= 5, "{most:?}");
    }
}
