//! Shows how far an install is: one line that moves on a terminal, a line now and then elsewhere.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Where no line can move, one this often is enough to see that it goes on.
const PLAIN_EVERY: Duration = Duration::from_secs(3);
/// Characters of the bar.
const WIDTH: usize = 28;

/// One moment of an install.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Moment {
    /// `writing`, `verifying`, or the updater's state when nothing is counted.
    pub phase: String,
    /// Bytes that are right in the target slot.
    pub done: u64,
    /// Bytes in all; 0: nothing is counted now.
    pub total: u64,
    /// Bytes per second, as the updater measures it.
    pub rate: u64,
}

impl Moment {
    /// Reads the answer of `flipside status --json`.
    pub fn of(status: &Value) -> Self {
        let text = |pointer: &str| status.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let number = |pointer: &str| status.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
        let state = text("/state").unwrap_or_default();
        Self {
            phase: text("/progress/phase").unwrap_or(state),
            done: number("/progress/bytes_done"),
            total: number("/progress/bytes_total"),
            rate: number("/progress/bytes_per_second"),
        }
    }

    /// As one line, without a line end.
    pub fn line(&self, with_bar: bool) -> String {
        let mut line = format!("     {:<10}", self.phase);
        if self.total == 0 {
            return line.trim_end().to_owned();
        }
        let done = self.done.min(self.total);
        if with_bar {
            let filled = usize::try_from(done * WIDTH as u64 / self.total).unwrap_or(0);
            let _ = write!(line, " [{}{}]", "#".repeat(filled), ".".repeat(WIDTH - filled.min(WIDTH)));
        }
        let _ = write!(line, " {:3} %  {} of {} MiB", done * 100 / self.total, mib(done), mib(self.total));
        if let Some(left) = (self.total - done).checked_div(self.rate) {
            let _ = write!(line, "  {} MiB/s  {} left", mib(self.rate), seconds(left));
        }
        line
    }
}

/// MiB with one decimal.
fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

/// `75` as `1 min 15 s`.
pub fn seconds(s: u64) -> String {
    if s < 60 { format!("{s} s") } else { format!("{} min {:02} s", s / 60, s % 60) }
}

/// Prints moments.
#[derive(Debug)]
pub struct Progress {
    terminal: bool,
    last: Option<(Moment, Instant)>,
}

impl Progress {
    /// For standard output.
    pub fn new() -> Self {
        Self { terminal: io::stdout().is_terminal(), last: None }
    }

    /// Shows this moment, where it is worth a line.
    pub fn show(&mut self, moment: Moment) {
        if self.terminal {
            print!("\r\x1b[K{}", moment.line(true));
            let _ = io::stdout().flush();
        } else if self.worth_a_line(&moment) {
            println!("{}", moment.line(false));
        } else {
            return;
        }
        self.last = Some((moment, Instant::now()));
    }

    fn worth_a_line(&self, moment: &Moment) -> bool {
        match &self.last {
            None => true,
            Some((last, _)) if last.phase != moment.phase => true,
            Some((last, at)) => last != moment && at.elapsed() >= PLAIN_EVERY,
        }
    }

    /// Ends the moving line.
    pub fn end(&mut self) {
        if self.terminal && self.last.is_some() {
            println!();
        }
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_moment_says_how_far_how_fast_and_how_long() {
        let status = json!({"state": "writing", "progress": {"phase": "writing", "bytes_done": 50 << 20,
            "bytes_total": 100 << 20, "bytes_per_second": 2 << 20}});
        let line = Moment::of(&status).line(true);
        assert_eq!(line.matches('#').count(), WIDTH / 2);
        for part in ["writing", "50 %", "50.0 of 100.0 MiB", "2.0 MiB/s", "25 s left"] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
    }

    #[test]
    fn without_counts_the_state_is_told() {
        let moment = Moment::of(&json!({"state": "checking", "progress": null}));
        assert_eq!(moment.line(true).trim(), "checking");
        assert_eq!(Moment::of(&json!({})).line(true).trim(), "");
    }

    #[test]
    fn more_than_all_is_all() {
        let moment = Moment { phase: "x".into(), done: 9, total: 3, rate: 1 };
        assert!(moment.line(true).contains("100 %"));
    }

    #[test]
    fn plain_lines_come_with_a_new_phase_only_or_after_a_while() {
        let mut progress = Progress { terminal: false, last: None };
        let writing = Moment { phase: "writing".into(), ..Moment::default() };
        assert!(progress.worth_a_line(&writing));
        progress.last = Some((writing.clone(), Instant::now()));
        assert!(!progress.worth_a_line(&Moment { done: 1, ..writing.clone() }));
        assert!(progress.worth_a_line(&Moment { phase: "verifying".into(), ..writing }));
    }

    #[test]
    fn long_times_are_told_in_minutes() {
        assert_eq!((seconds(5), seconds(75)), ("5 s".into(), "1 min 15 s".into()));
    }
}
