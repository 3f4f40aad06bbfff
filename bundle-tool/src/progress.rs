//! Progress on standard error: a bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::bytes;

/// Seconds between two lines where there is no terminal: a CI log wants signs of life, not a flood.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Bytes done of one piece of work after the other.
pub struct Progress(Option<Sink>);

enum Sink {
    Bar(ProgressBar),
    Lines(Mutex<Lines>),
}

struct Lines {
    what: String,
    total: u64,
    done: u64,
    started: Instant,
    printed: Instant,
}

impl Progress {
    /// Shown unless `quiet`.
    pub fn new(quiet: bool) -> Self {
        if quiet {
            return Self(None);
        }
        if !std::io::stderr().is_terminal() {
            let now = Instant::now();
            let lines = Lines { what: String::new(), total: 0, done: 0, started: now, printed: now };
            return Self(Some(Sink::Lines(Mutex::new(lines))));
        }
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        let template = "{msg:12} [{bar:30}] {bytes:>10} / {total_bytes:10} {bytes_per_sec:>12}  {eta:>4} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self(Some(Sink::Bar(bar)))
    }

    /// A new piece of work of `total` bytes.
    pub fn begin(&self, what: &str, total: u64) {
        match &self.0 {
            None => {}
            Some(Sink::Bar(bar)) => {
                bar.reset();
                bar.set_length(total);
                bar.set_message(what.to_owned());
            }
            Some(Sink::Lines(lines)) => {
                if let Ok(mut lines) = lines.lock() {
                    let now = Instant::now();
                    *lines = Lines { what: what.to_owned(), total, done: 0, started: now, printed: now };
                }
            }
        }
    }

    /// That many more bytes are done.
    pub fn advance(&self, by: u64) {
        match &self.0 {
            None => {}
            Some(Sink::Bar(bar)) => bar.inc(by),
            Some(Sink::Lines(lines)) => {
                if let Ok(mut lines) = lines.lock() {
                    lines.advance(by, Instant::now());
                }
            }
        }
    }

    /// All done: the bar goes away.
    pub fn finish(&self) {
        if let Some(Sink::Bar(bar)) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

impl Lines {
    fn advance(&mut self, by: u64, now: Instant) {
        self.done += by;
        if now.duration_since(self.printed) < LINE_EVERY {
            return;
        }
        self.printed = now;
        let seconds = now.duration_since(self.started).as_secs_f64();
        let rate = self.done as f64 / seconds.max(0.001);
        let left = self.total.saturating_sub(self.done) as f64 / rate.max(1.0);
        let (done, total, rate) = (bytes(self.done), bytes(self.total), bytes(rate as u64));
        eprintln!("{}: {done} of {total}, {rate}/s, {left:.0} s left", self.what);
    }
}
