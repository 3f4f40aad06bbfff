//! Judges a gate that has run: what it showed, and whether that is enough.
//!
//! A gate passes only on evidence. No report, an old report, half a report, no test at all: each is a gate that could
//! not run, and so one that failed. Reads the files that the gate wrote.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::benchmarks::{self, Measures};
use super::counts::{self, Counts};
use super::run::{Ended, Logs};
use super::{Gate, TestFormat, Tests};

/// Largest report, bytes: of a big suite it has some MB.
const MAX_REPORT: u64 = 256 << 20;

/// What a gate showed, as it is signed in the manifest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// Its tests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tests: Option<Counts>,
    /// Percent of them that must pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_pass_rate: Option<f64>,
    /// Its measures.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub benchmarks: Measures,
    /// Percent by which they may be worse than before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
    /// The release they were compared with; none: there was none before with these measures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared_with: Option<String>,
}

/// Measures of an earlier release, and which one that was.
#[derive(Debug, Clone)]
pub struct Before {
    /// Version and counter, for people.
    pub release: String,
    /// Its measures under this gate.
    pub measures: Measures,
}

/// Files that a gate has to write, and when they were last written before it ran.
#[derive(Debug)]
pub struct Reports(BTreeMap<PathBuf, SystemTime>);

impl Reports {
    /// Before the gate runs.
    pub fn before(gate: &Gate, folder: &Path) -> Self {
        let tests = gate.tests.as_ref().and_then(|tests| tests.report.as_deref());
        let benchmarks = gate.benchmarks.as_ref().map(|benchmarks| benchmarks.report.as_path());
        let files = tests.into_iter().chain(benchmarks).filter_map(|path| files_of(&folder.join(path)).ok());
        let dated = files.flatten().filter_map(|file| Some((file.clone(), modified(&file).ok()?)));
        Self(dated.collect())
    }

    /// The text of the reports at `path`, all of them written by this run.
    fn read(&self, path: &Path) -> Result<Vec<String>> {
        let files = files_of(path).with_context(|| format!("no report {}", path.display()))?;
        ensure!(!files.is_empty(), "no .xml file in {}", path.display());
        let read = |file: &PathBuf| {
            // A report of last week would let a gate pass whose command no longer does anything.
            let old = self.0.get(file).is_some_and(|before| modified(file).is_ok_and(|now| now == *before));
            ensure!(!old, "{} was there before and was not written by this run; remove it", file.display());
            let what = || format!("reading {}", file.display());
            ensure!(fs::metadata(file).with_context(what)?.len() <= MAX_REPORT, "{} is too large", file.display());
            fs::read_to_string(file).with_context(what)
        };
        files.iter().map(read).collect()
    }
}

fn modified(path: &Path) -> std::io::Result<SystemTime> {
    fs::metadata(path)?.modified()
}

/// A file, or the XML files of a folder in the order of their names.
fn files_of(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path()));
    let mut files = entries.collect::<std::io::Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "xml"));
    files.sort();
    Ok(files)
}

/// What the gate showed.
///
/// # Errors
/// When it did not pass: the message says why.
pub fn judge(
    gate: &Gate,
    ended: Ended,
    logs: &Logs,
    folder: &Path,
    reports: &Reports,
    before: Option<&Before>,
) -> Result<Shown> {
    match ended {
        Ended::TimedOut => bail!("it was still running after {} s and was ended", gate.timeout.as_secs()),
        Ended::Signal(signal) => bail!("it was ended by signal {signal}"),
        Ended::Exit(126 | 127) => bail!("the command could not be run"),
        Ended::Exit(_) => {}
    }
    let mut shown = Shown::default();
    if let Some(tests) = &gate.tests {
        let counts = count(tests, logs, folder, reports)?;
        ensure!(counts.ran() > 0, "no test ran");
        // Test runners exit with an error when one test of a thousand fails; that is what the rate is for. An error
        // that no failed test explains is something else.
        ensure!(ended == Ended::Exit(0) || counts.failed > 0, "{counts}, but the command failed ({})", code(ended));
        let min = tests.min_pass_bp as f64 / 100.0;
        ensure!(counts.pass(tests.min_pass_bp), "{counts}, at least {min} % must");
        (shown.tests, shown.min_pass_rate) = (Some(counts), Some(min));
    } else {
        ensure!(ended == Ended::Exit(0), "the command failed ({})", code(ended));
    }
    if let Some(wanted) = &gate.benchmarks {
        let path = folder.join(&wanted.report);
        let text = reports.read(&path)?.concat();
        let measures = benchmarks::read(&text).with_context(|| path.display().to_string())?;
        if let Some(before) = before {
            let worse = benchmarks::worse(&before.measures, &measures, wanted.tolerance);
            let (than, percent) = (&before.release, wanted.tolerance);
            ensure!(worse.is_empty(), "worse than {than} by more than {percent} %: {}", worse.join("; "));
        }
        shown.compared_with = before.map(|before| before.release.clone());
        (shown.benchmarks, shown.tolerance) = (measures, Some(wanted.tolerance));
    }
    Ok(shown)
}

fn count(tests: &Tests, logs: &Logs, folder: &Path, reports: &Reports) -> Result<Counts> {
    let own = |path: &Path| -> Result<String> {
        let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let texts = match &tests.report {
        Some(path) => reports.read(&folder.join(path))?,
        None => vec![own(&logs.stdout)?],
    };
    let stderr = own(&logs.stderr)?;
    let mut total = Counts::default();
    for text in &texts {
        total += match tests.format {
            TestFormat::Junit => counts::junit(text)?,
            TestFormat::Cargo => counts::cargo(text, &stderr)?,
            TestFormat::Tap => counts::tap(text)?,
        };
    }
    Ok(total)
}

fn code(ended: Ended) -> String {
    match ended {
        Ended::Exit(code) => format!("exit code {code}"),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
#[path = "verdict/tests.rs"]
mod tests;
