//! What the appliance's owner wants: files -> fragments -> one validated [`Config`].
//!
//! Reads files under an injected root, nothing else. Never fails: an updater that refuses to start can not receive its
//! own fix, so a broken file is skipped and reported as a [`Finding`] and the rest works.

pub mod fragment;
pub mod layers;
pub mod leaves;
pub mod policy;
mod validated;

use std::path::{Path, PathBuf};

pub use fragment::{ImageKind, NetworkChecks};
pub use layers::under;
pub use policy::RunningImage;
pub use updater_core::policy::Mode;
pub use validated::{Approval, Boot, Clock, Config, Device, Health, Image, Limits, Slots, Source, Windows, mode_word};

use fragment::Fragment;
use layers::Sources;
use leaves::{Leaves, Origins};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Something was ignored.
    Warning,
    /// Something that was asked for does not work.
    Error,
}

/// Something an operator should know about the configuration.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// The file it is about; `None` for the configuration as a whole.
    pub file: Option<PathBuf>,
    /// A sentence.
    pub message: String,
}

/// The configuration, where each value is from, and what is wrong with it.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What is in force.
    pub config: Config,
    /// Every value that some file set.
    pub values: Leaves,
    /// The file that set each of `values`.
    pub origins: Origins,
    /// What was ignored or does not work.
    pub findings: Vec<Finding>,
}

/// Reads the configuration of the system under `root` (`/` on the device).
#[must_use]
pub fn load(root: &Path) -> Loaded {
    load_from(&Sources::under(root))
}

/// Reads the configuration that lies in several places.
#[must_use]
pub fn load_from(sources: &Sources<'_>) -> Loaded {
    let mut table = toml::Table::new();
    let mut origins = Origins::new();
    let mut findings = Vec::new();
    for (file, text) in layers::read(sources) {
        let mut report = |severity, message| findings.push(Finding { severity, file: Some(file.clone()), message });
        let (fragment, written) = match text.and_then(|text| Fragment::parse(&text)) {
            Ok(read) => read,
            Err(problem) => {
                report(Severity::Error, format!("skipped: {problem}"));
                continue;
            }
        };
        // A file with one senseless value is skipped as a whole: half of what somebody meant can be worse than none.
        let nonsense = fragment.nonsense();
        if !nonsense.is_empty() {
            report(Severity::Error, format!("skipped: {}", nonsense.join("; ")));
            continue;
        }
        for key in leaves::of_table(&written).into_keys() {
            if Fragment::knows_key(&key) {
                origins.insert(key, file.clone());
            } else {
                report(Severity::Warning, format!("unknown key {key:?} ignored"));
            }
        }
        leaves::lay_over(&mut table, written);
    }
    let mut values = leaves::of_table(&table);
    values.retain(|key, _| Fragment::knows_key(key));
    let merged: Fragment = Fragment::typed(&table).unwrap_or_default();
    let (config, problems) = Config::from_merged(merged);
    findings.extend(problems.into_iter().map(|(severity, message)| Finding { severity, file: None, message }));
    Loaded { config, values, origins, findings }
}

#[cfg(test)]
mod tests;
