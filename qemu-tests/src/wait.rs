//! Waiting for a condition, with a deadline, saying what was seen last.
//!
//! No test of this crate sleeps a fixed time: under emulation the same step takes 3 or 60 seconds, and a fixed sleep is
//! either too short or wasted. A wait that runs out names what it waited for and the last thing it saw, which is most
//! of what one needs to know about a failure.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Pause between two looks. Short against a boot, long against a call to the guest agent.
const POLL: Duration = Duration::from_millis(200);

/// Shortest and longest pause between two looks that run programs in an emulated guest.
const SLOW_POLL: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];
/// Between them it is this many times as long as the look before it: a guest has better things to do than to answer.
const PAUSE_PER_LOOK: u32 = 3;

/// What one look saw.
#[derive(Debug)]
pub enum Look<T> {
    /// The condition holds.
    Done(T),
    /// Not yet; the text says what was seen instead.
    NotYet(String),
    /// It can not come true any more (the machine is gone): stop waiting.
    Hopeless(anyhow::Error),
}

/// A failed look (a guest in the middle of a reboot answers nothing) is a "not yet".
impl<T> From<Result<Look<T>>> for Look<T> {
    fn from(result: Result<Look<T>>) -> Self {
        result.unwrap_or_else(|e| Look::NotYet(format!("{e:#}")))
    }
}

/// A point in time after which nobody waits any longer.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    end: Instant,
    total: Duration,
}

impl Deadline {
    /// The point `total` from now.
    #[must_use]
    pub fn after(total: Duration) -> Self {
        Self { end: Instant::now() + total, total }
    }

    /// Time left, `None` when it has passed.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        self.end.checked_duration_since(Instant::now()).filter(|d| !d.is_zero())
    }

    /// Time left for a socket time-out (which must not be zero); an error when the deadline has passed.
    ///
    /// # Errors
    /// The deadline has passed.
    pub fn remaining(&self) -> Result<Duration> {
        match self.left() {
            Some(left) => Ok(left),
            None => bail!("no answer within {} s", self.total.as_secs_f32()),
        }
    }
}

/// Looks until the condition holds.
///
/// Looks at least once, even when `within` is zero.
///
/// # Errors
/// The deadline passed (the text holds `what` and what was seen last), or a look was hopeless.
pub fn until<T>(what: impl fmt::Display, within: Duration, look: impl FnMut() -> Look<T>) -> Result<T> {
    poll(what, within, |_| POLL, look)
}

/// As [`until`], for looks that cost the guest something.
///
/// # Errors
/// As [`until`].
pub fn until_slowly<T>(what: impl fmt::Display, within: Duration, look: impl FnMut() -> Look<T>) -> Result<T> {
    poll(what, within, pause_after, look)
}

/// The pause after a look that took this long.
fn pause_after(look: Duration) -> Duration {
    let [shortest, longest] = SLOW_POLL;
    (look * PAUSE_PER_LOOK).clamp(shortest, longest)
}

fn poll<T>(
    what: impl fmt::Display,
    within: Duration,
    pause: impl Fn(Duration) -> Duration,
    mut look: impl FnMut() -> Look<T>,
) -> Result<T> {
    let deadline = Deadline::after(within);
    loop {
        let began = Instant::now();
        let last = match look() {
            Look::Done(value) => return Ok(value),
            Look::Hopeless(e) => return Err(e.context(format!("while waiting for {what}"))),
            Look::NotYet(seen) => seen,
        };
        match deadline.left() {
            Some(left) => thread::sleep(left.min(pause(began.elapsed()))),
            None => bail!("waited {} s for {what}; last seen: {last}", within.as_secs_f32()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_at_once_when_the_condition_holds() {
        let start = Instant::now();
        assert_eq!(until("x", Duration::from_secs(60), || Look::Done(7)).unwrap(), 7);
        assert!(start.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_passed_deadline_tells_what_was_seen_last() {
        let mut n = 0;
        let e = until::<()>("the moon", Duration::from_millis(1), || {
            n += 1;
            Look::NotYet(format!("cloud {n}"))
        });
        let text = e.unwrap_err().to_string();
        assert!(text.contains("the moon") && text.contains(&format!("cloud {n}")), "{text}");
    }

    #[test]
    fn a_slow_guest_is_asked_less_often() {
        let after = |look| pause_after(Duration::from_millis(look)).as_millis();
        assert_eq!([10, 500, 4000].map(after), [1000, 1500, 3000]);
    }

    #[test]
    fn hopeless_ends_the_wait_before_the_deadline() {
        let start = Instant::now();
        let e = until::<()>("x", Duration::from_secs(60), || Look::Hopeless(anyhow::anyhow!("gone")));
        assert!(format!("{:#}", e.unwrap_err()).contains("gone"));
        assert!(start.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn an_error_while_looking_is_not_the_end() {
        let mut n = 0;
        let got = until("x", Duration::from_secs(60), || {
            n += 1;
            let result: Result<Look<u32>> = if n < 3 { Err(anyhow::anyhow!("rebooting")) } else { Ok(Look::Done(n)) };
            result.into()
        });
        assert_eq!(got.unwrap(), 3);
    }

    #[test]
    fn a_deadline_runs_out() {
        let d = Deadline::after(Duration::ZERO);
        assert!(d.left().is_none());
        assert!(d.remaining().is_err());
    }
}
