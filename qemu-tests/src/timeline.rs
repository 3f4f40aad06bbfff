//! What a scenario did and when: one line per step, on the console when asked for, in the evidence when it failed.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// The record of one scenario.
#[derive(Debug)]
pub struct Timeline {
    start: Instant,
    text: String,
    /// Prefix of lines printed as they happen; `None`: kept only.
    live: Option<String>,
}

impl Timeline {
    /// Starts the clock. `FLIPSIDE_VM_VERBOSE=1` shows each line as it happens.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let verbose = std::env::var("FLIPSIDE_VM_VERBOSE").is_ok_and(|v| v == "1");
        Self { start: Instant::now(), text: String::new(), live: verbose.then(|| name.to_owned()) }
    }

    /// Adds a line.
    pub fn note(&mut self, what: &str) {
        let line = format!("{:7.1} s  {what}", self.start.elapsed().as_secs_f32());
        if let Some(name) = &self.live {
            eprintln!("{name}: {line}");
        }
        let _ = writeln!(self.text, "{line}");
    }

    /// Everything so far.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}
