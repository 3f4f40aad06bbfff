//! The report spool: outcomes for a fleet host, one JSON line each, bounded.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use updater_core::history::Report;

use super::durable;
use crate::seams::{BoxFuture, ReportSpool};

/// Lines kept; the oldest go first. A host that was away for months needs the recent ones.
const MAX_LINES: usize = 256;

/// The spool file.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
}

impl Spool {
    /// The spool at `path`.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    fn add(&self, report: &Report) -> io::Result<()> {
        let line = serde_json::to_string(report).map_err(io::Error::other)?;
        let present = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            // Not UTF-8 means damage; a new spool is better than none.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => String::new(),
            Err(error) => return Err(error),
        };
        let mut lines: Vec<&str> = present.lines().filter(|present| *present != line).collect();
        lines.push(&line);
        let kept = lines.get(lines.len().saturating_sub(MAX_LINES)..).unwrap_or_default();
        durable::replace(&self.path, (kept.join("\n") + "\n").as_bytes())
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
