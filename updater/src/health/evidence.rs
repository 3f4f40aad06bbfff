//! Keeps what tells why a boot failed: on the data partition, bounded, because the journal of the failed boot may be
//! volatile and gone after the fallback.
//!
//! Writes `<state>/evidence/<time>-<slot>/`: `request.json` (reason and checks), `journal.txt`, `units.txt`.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use updater_core::effect::EvidenceRequest;

use super::program;
use crate::seams::{BoxFuture, Evidence};

/// Failed boots remembered; older ones are removed.
const KEEP: usize = 8;
/// For each program that is asked.
const PATIENCE: Duration = Duration::from_secs(10);

/// Evidence in a folder.
#[derive(Debug, Clone)]
pub struct EvidenceFolder {
    /// `/var/lib/flipside/evidence` on the device.
    pub folder: PathBuf,
    /// Programs to ask, with the file their output goes to.
    pub programs: Vec<(&'static str, Vec<&'static str>)>,
}

impl EvidenceFolder {
    /// What a systemd system can tell.
    #[must_use]
    pub fn of_systemd(state: &Path) -> Self {
        let ask = |file, command: &[&'static str]| (file, command.to_vec());
        Self {
            folder: state.join("evidence"),
            programs: vec![
                ask("journal.txt", &["journalctl", "-b", "-n", "400", "--no-pager", "-o", "short-monotonic"]),
                ask(
                    "errors.txt",
                    &["journalctl", "-b", "-p", "err", "-n", "100", "--no-pager", "-o", "short-monotonic"],
                ),
                ask("units.txt", &["systemctl", "--no-pager", "--plain", "--failed"]),
                ask("jobs.txt", &["systemctl", "--no-pager", "--plain", "list-jobs"]),
            ],
        }
    }

    /// What a simulated device can tell: nothing but the request itself.
    #[must_use]
    pub fn of_simulation(state: &Path) -> Self {
        Self { folder: state.join("evidence"), programs: Vec::new() }
    }

    async fn save(&self, request: &EvidenceRequest) -> Result<(), String> {
        let name = format!("{}-{}", jiff::Timestamp::now().as_second(), request.slot);
        let mut files = vec![("request.json", serde_json::to_string_pretty(request).map_err(|e| e.to_string())?)];
        for (file, command) in &self.programs {
            if let Some((program, arguments)) = command.split_first() {
                files.push((file, program::run_for_text(program, arguments, PATIENCE).await));
            }
        }
        let folder = self.folder.clone();
        let write = move || write_folder(&folder, &name, &files).map_err(|e| format!("{}: {e}", folder.display()));
        tokio::task::spawn_blocking(write).await.map_err(|e| e.to_string())?
    }
}

impl Evidence for EvidenceFolder {
    fn keep<'a>(&'a self, request: &'a EvidenceRequest) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(self.save(request))
    }
}

/// A folder appears whole or not at all: the next thing that happens is a reboot.
fn write_folder(base: &Path, name: &str, files: &[(&str, String)]) -> io::Result<()> {
    fs::create_dir_all(base)?;
    let temporary = base.join(format!(".{name}"));
    let _ = fs::remove_dir_all(&temporary);
    fs::create_dir(&temporary)?;
    for (file, text) in files {
        let mut file = fs::File::create(temporary.join(file))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
    }
    fs::File::open(&temporary)?.sync_all()?;
    let target = base.join(name);
    let _ = fs::remove_dir_all(&target);
    fs::rename(&temporary, &target)?;
    fs::File::open(base)?.sync_all()?;
    prune(base)
}

fn prune(base: &Path) -> io::Result<()> {
    let mut names: Vec<_> = fs::read_dir(base)?.flatten().map(|e| e.file_name()).collect();
    // Names begin with the time, so they sort by age; a leftover of a torn write begins with a dot and goes first.
    names.sort();
    for name in names.iter().rev().skip(KEEP) {
        fs::remove_dir_all(base.join(name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bundle::reason::Reason;
    use updater_core::slot::SlotId;

    fn request() -> EvidenceRequest {
        EvidenceRequest { slot: SlotId::B, release: None, reason: Reason::HealthFailed, health: None }
    }

    #[tokio::test]
    async fn evidence_is_there_as_a_whole() {
        let state = tempfile::tempdir().unwrap();
        let evidence = EvidenceFolder {
            programs: vec![("said.txt", vec!["/bin/sh", "-c", "echo hello"]), ("gone.txt", vec!["/nonexistent"])],
            ..EvidenceFolder::of_simulation(state.path())
        };
        evidence.keep(&request()).await.unwrap();
        let folder = fs::read_dir(state.path().join("evidence")).unwrap().next().unwrap().unwrap().path();
        assert!(fs::read_to_string(folder.join("request.json")).unwrap().contains("health_failed"));
        assert_eq!(fs::read_to_string(folder.join("said.txt")).unwrap(), "hello\n");
        assert!(fs::read_to_string(folder.join("gone.txt")).unwrap().contains("can not be run"));
    }

    #[test]
    fn only_the_last_failed_boots_are_kept() {
        let state = tempfile::tempdir().unwrap();
        for n in 0..KEEP + 3 {
            write_folder(state.path(), &format!("{}-b", 1_700_000_000 + n), &[("x", "y".into())]).unwrap();
        }
        let mut names: Vec<_> = fs::read_dir(state.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names.len(), KEEP);
        assert_eq!(names[0], "1700000003-b");
    }

    #[tokio::test]
    async fn a_full_disk_is_a_sentence_not_a_hang() {
        let state = tempfile::tempdir().unwrap();
        fs::write(state.path().join("evidence"), "in the way").unwrap();
        let said = EvidenceFolder::of_simulation(state.path()).keep(&request()).await.unwrap_err();
        assert!(said.contains("evidence"), "{said}");
    }
}
