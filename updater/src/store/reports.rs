//! The report spool: outcomes for a fleet host, one JSON line each, bounded.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;
use updater_core::history::Report;

use super::durable;
use crate::seams::{BoxFuture, ReportSpool};

/// Lines kept; the oldest go first. A host that was away for months needs the recent ones.
const MAX_LINES: usize = 256;

/// The spool file.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    /// One writer at a time: every change reads and replaces the file.
    writer: Mutex<()>,
    /// Told of every new line.
    pub news: Notify,
}

impl Spool {
    /// The spool at `path`.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), writer: Mutex::new(()), news: Notify::new() }
    }

    fn add(&self, report: &Report) -> io::Result<()> {
        let line = serde_json::to_string(report).map_err(io::Error::other)?;
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let present = self.read()?;
        let mut lines: Vec<&str> = present.lines().filter(|present| *present != line).collect();
        lines.push(&line);
        let kept = lines.get(lines.len().saturating_sub(MAX_LINES)..).unwrap_or_default();
        durable::replace(&self.path, (kept.join("\n") + "\n").as_bytes())?;
        self.news.notify_one();
        Ok(())
    }

    fn read(&self) -> io::Result<String> {
        match fs::read_to_string(&self.path) {
            Ok(text) => Ok(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            // Not UTF-8 means damage; a new spool is better than none.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(String::new()),
            Err(error) => Err(error),
        }
    }

    /// The oldest reports, at most `limit`. A damaged line is left out.
    ///
    /// # Errors
    /// As the file system says.
    pub fn oldest(&self, limit: usize) -> io::Result<Vec<Report>> {
        let text = self.read()?;
        Ok(text.lines().filter_map(|line| serde_json::from_slice(line.as_bytes()).ok()).take(limit).collect())
    }

    /// Forgets reports that the host has.
    ///
    /// # Errors
    /// As the file system says; they are then sent again, and the host drops the repeats.
    pub fn forget(&self, delivered: &[Report]) -> io::Result<()> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let text = self.read()?;
        let stays = |line: &&str| {
            serde_json::from_slice::<Report>(line.as_bytes()).is_ok_and(|report| !delivered.contains(&report))
        };
        let rest: String = text.lines().filter(stays).flat_map(|line| [line, "\n"]).collect();
        durable::replace(&self.path, rest.as_bytes())
    }
}

impl ReportSpool for Spool {
    fn append<'a>(&'a self, report: &'a Report) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move { self.add(report).map_err(|error| format!("{}: {error}", self.path.display())) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use updater_core::history::{Outcome, OutcomeKind};

    #[test]
    fn bounded_and_repeats_change_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::new(&dir.path().join("reports.jsonl"));
        let report = |sequence| Report {
            sequence,
            outcome: Outcome {
                at: "2026-01-01T00:00:00Z".parse().unwrap(),
                clock_trusted: true,
                kind: OutcomeKind::Healthy,
                release: None,
                from: None,
                slot: None,
                reason: None,
                detail: String::new(),
                seconds: None,
                approval: None,
            },
        };
        for sequence in 0..300 {
            spool.add(&report(sequence)).unwrap();
            spool.add(&report(sequence)).unwrap();
        }
        let text = fs::read_to_string(&spool.path).unwrap();
        assert_eq!(text.lines().count(), MAX_LINES);
        let last: Report = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(last.sequence, 299);
    }
}
