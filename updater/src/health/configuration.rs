//! Could the running system receive its next update? Not with a configuration of its own that it can not read.
//!
//! Reads metadata of configuration files. A broken file that came with the system is the release's fault, and going back
//! mends it. A broken file from elsewhere (the data partition) was there before, and going back mends nothing: it is told,
//! and keeps no update from being confirmed.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use updater_core::event::{HealthCheck, Verdict};

use crate::config::{Finding, Severity};

/// A check for each file that had to be skipped; one that passed when there is none.
#[must_use]
pub fn judge(root: &Path, findings: &[Finding]) -> Vec<HealthCheck> {
    let broken = findings.iter().filter(|finding| finding.severity == Severity::Error);
    let checks: Vec<HealthCheck> = broken
        .map(|finding| {
            let file = finding.file.as_deref();
            let required = file.is_some_and(|file| came_with_system(root, file));
            let detail = file.map_or_else(String::new, |file| format!("{}: ", file.display())) + &finding.message;
            check(required, Verdict::Failed, detail)
        })
        .collect();
    if checks.is_empty() { vec![check(true, Verdict::Passed, String::new())] } else { checks }
}

fn check(required: bool, verdict: Verdict, detail: String) -> HealthCheck {
    HealthCheck { name: "configuration".into(), required, verdict, detail, restarts: 0 }
}

/// Whether a file (as seen from `root`) is in the file system of the slot, which its `/usr` is in, too.
#[must_use]
pub fn came_with_system(root: &Path, file: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
    let file = root.join(file.strip_prefix("/").unwrap_or(file));
    device(&file).is_some_and(|found| device(&root.join("usr")).or_else(|| device(root)) == Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn finding(severity: Severity, file: &str) -> Finding {
        Finding { severity, file: Some(PathBuf::from(file)), message: "skipped: x".into() }
    }

    #[test]
    fn what_came_with_the_system_must_be_readable() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc/flipside")).unwrap();
        fs::write(root.path().join("etc/flipside/flipside.toml"), "= [").unwrap();
        assert_eq!(judge(root.path(), &[])[0].verdict, Verdict::Passed);
        let warned = [finding(Severity::Warning, "/etc/flipside/flipside.toml")];
        assert_eq!(judge(root.path(), &warned)[0].verdict, Verdict::Passed);
        let broken = judge(root.path(), &[finding(Severity::Error, "/etc/flipside/flipside.toml")]);
        assert!(broken[0].required && broken[0].verdict == Verdict::Failed, "{broken:?}");
        assert_eq!(broken[0].detail, "/etc/flipside/flipside.toml: skipped: x");
        // Another file system stands for the data partition.
        std::os::unix::fs::symlink("/proc/self/status", root.path().join("etc/flipside/local.toml")).unwrap();
        let local = judge(root.path(), &[finding(Severity::Error, "/etc/flipside/local.toml")]);
        assert!(!local[0].required && local[0].verdict == Verdict::Failed, "{local:?}");
    }
}
