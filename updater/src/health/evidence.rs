//! Keeps what tells why a boot failed: on the data partition, bounded, because the journal of the failed boot may be
//! volatile and gone after the fallback.
//!
//! Writes `<state>/evidence/<time>-<slot>/`: `request.json` (reason and checks) first, then what programs say, each file
//! when it is there. Of a boot that is over `journal.txt` and `errors.txt` are those of the boot before (or
//! `no-journal.txt` says that it left none), and `pstore-*` what the kernel left behind.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bundle::json;
use tokio::task::JoinSet;
use updater_core::effect::EvidenceRequest;
use updater_core::slot::SlotId;

use super::program;
use crate::seams::{BoxFuture, Evidence};
use crate::store::durable;
use crate::system::chain;

/// Failed boots remembered; older ones are removed.
const KEEP: usize = 8;
/// For each program that is asked; all of them are asked at once. Well below what the engine waits.
const PATIENCE: Duration = Duration::from_secs(10);
/// Crash records kept of one boot, the newest ones, and bytes of each: a kernel's last words are some 64 KiB.
const RECORDS: usize = 16;
const RECORD_LIMIT: u64 = 128 << 10;

/// Written instead of the log of a boot that left none: it ended before journald wrote, in the kernel or the initramfs.
const NO_LOG: &str = "no-journal.txt";
const NO_LOG_SAYS: &[u8] = b"The failed boot left no journal: it ended before its log reached the disk.\n";

/// Below the state folder.
pub const FOLDER: &str = "evidence";
/// What was asked for, in each folder.
pub const REQUEST: &str = "request.json";

/// A file and the command whose output goes there.
type Asked = (&'static str, Vec<&'static str>);

/// Evidence in a folder.
#[derive(Debug, Clone)]
pub struct EvidenceFolder {
    /// `/var/lib/flipside/evidence` on the device.
    pub folder: PathBuf,
    /// The slot that runs; a boot of the other one is over.
    pub booted: Option<SlotId>,
    /// What tells about the boot that is going on.
    pub present: Vec<Asked>,
    /// What tells about the boot before.
    pub past: Vec<Asked>,
    /// What tells that boot's id, if there is something.
    pub past_id: Vec<&'static str>,
    /// Where the kernel's crash records are, and where systemd moves them to.
    pub pstore: Vec<PathBuf>,
}

impl EvidenceFolder {
    /// What a systemd system that runs `booted` can tell.
    #[must_use]
    pub fn of_systemd(state: &Path, root: &Path, booted: Option<SlotId>) -> Self {
        let ask = |file, command: &[&'static str]| (file, command.to_vec());
        let journal = |boot: &'static str| {
            let common = ["--no-pager", "-o", "short-monotonic"];
            let with = |what: &[&'static str]| [&["journalctl", boot], what, &common].concat();
            [("journal.txt", with(&["-n", "400"])), ("errors.txt", with(&["-p", "err", "-n", "100"]))]
        };
        let [journal_now, errors_now] = journal("--boot=0");
        Self {
            booted,
            present: vec![
                journal_now,
                errors_now,
                ask("units.txt", &["systemctl", "--no-pager", "--plain", "--failed"]),
                ask("jobs.txt", &["systemctl", "--no-pager", "--plain", "list-jobs"]),
            ],
            past: journal("--boot=-1").to_vec(),
            past_id: vec!["journalctl", "--boot=-1", "-n", "1", "-o", "cat", "--output-fields=_BOOT_ID"],
            pstore: vec![root.join("sys/fs/pstore"), root.join("var/lib/systemd/pstore")],
            ..Self::of_simulation(state)
        }
    }

    /// What a simulated device can tell: nothing but the request itself.
    #[must_use]
    pub fn of_simulation(state: &Path) -> Self {
        Self {
            folder: state.join(FOLDER),
            booted: None,
            present: Vec::new(),
            past: Vec::new(),
            past_id: Vec::new(),
            pstore: Vec::new(),
        }
    }

    /// True when the boot in question is not this one: it was lost before anybody could look at its health, and the other
    /// slot runs.
    fn is_past(&self, request: &EvidenceRequest) -> bool {
        request.health.is_none() && self.booted.is_some_and(|booted| booted != request.slot)
    }

    /// Whether the newest log is not that of the boot that failed but of the one that armed it.
    async fn left_no_log(&self, request: &EvidenceRequest) -> bool {
        let (Some((program, arguments)), Some(armed_in)) = (self.past_id.split_first(), &request.armed_in) else {
            return false;
        };
        let id = program::run_for_text(program, arguments, PATIENCE / 3).await;
        // The kernel writes it with dashes, journald without.
        id.trim() == armed_in.0.replace('-', "")
    }

    async fn save(&self, request: &EvidenceRequest) -> Result<(), String> {
        let name = format!("{}-{}", jiff::Timestamp::now().as_second(), request.slot);
        let text = json::to_value(request)
            .and_then(|value| serde_json::to_string_pretty(&value))
            .map_err(|e| e.to_string())?;
        let base = self.folder.clone();
        // First, and durable: whatever hangs below, this much is there.
        let begun = move || begin(&base, &name, &text).map_err(|e| format!("{}: {e}", base.display()));
        let folder = blocking(begun).await??;
        let past = self.is_past(request);
        let mut at_work = JoinSet::new();
        let asked = match past {
            true if self.left_no_log(request).await => Vec::new(),
            true => self.past.clone(),
            false => self.present.clone(),
        };
        if asked.is_empty() && past {
            let at = folder.join(NO_LOG);
            at_work.spawn(async move { blocking(move || written(&at, NO_LOG_SAYS)).await? });
        }
        for (file, command) in asked {
            let at = folder.join(file);
            at_work.spawn(async move {
                let (program, arguments) = command.split_first().ok_or("no program")?;
                let said = program::run_for_text(program, arguments, PATIENCE).await;
                blocking(move || written(&at, said.as_bytes())).await?
            });
        }
        if past {
            let pstore = self.pstore.clone();
            at_work.spawn(async move { blocking(move || crash_records(&pstore, &folder)).await? });
        }
        let mut result = Ok(());
        while let Some(ended) = at_work.join_next().await {
            result = result.and(ended.unwrap_or_else(|e| Err(e.to_string())));
        }
        result
    }
}

impl Evidence for EvidenceFolder {
    fn keep<'a>(&'a self, request: &'a EvidenceRequest) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(self.save(request))
    }
}

async fn blocking<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(run).await.map_err(|e| e.to_string())
}

/// A folder with `request.json` in it appears whole or not at all.
fn begin(base: &Path, name: &str, request: &str) -> io::Result<PathBuf> {
    fs::create_dir_all(base)?;
    let temporary = base.join(format!(".{name}"));
    let _ = fs::remove_dir_all(&temporary);
    // A journal is not for everybody's eyes.
    fs::DirBuilder::new().mode(0o700).create(&temporary)?;
    let mut file = fs::File::create(temporary.join(REQUEST))?;
    file.write_all(request.as_bytes())?;
    file.sync_all()?;
    fs::File::open(&temporary)?.sync_all()?;
    let target = base.join(name);
    let _ = fs::remove_dir_all(&target);
    fs::rename(&temporary, &target)?;
    fs::File::open(base)?.sync_all()?;
    prune(base)?;
    Ok(target)
}

fn written(path: &Path, bytes: &[u8]) -> Result<(), String> {
    // The next thing that happens may be a reboot.
    durable::replace(path, bytes).map_err(|e| format!("{}: {}", path.display(), chain(&e)))
}

/// Copies the newest crash records. What can not be read is left out: they are hints.
fn crash_records(places: &[PathBuf], folder: &Path) -> Result<(), String> {
    let mut records: Vec<_> = places.iter().flat_map(|place| files_below(place)).collect();
    records.sort_by_key(|(changed, ..)| std::cmp::Reverse(*changed));
    for (_, path, name) in records.iter().take(RECORDS) {
        let mut bytes = Vec::new();
        if fs::File::open(path).and_then(|file| file.take(RECORD_LIMIT).read_to_end(&mut bytes)).is_ok() {
            written(&folder.join(format!("pstore-{name}")), &bytes)?;
        }
    }
    Ok(())
}

/// Time, path and name of the files in a folder and the folders in it: systemd makes one for each crash.
fn files_below(folder: &Path) -> Vec<(SystemTime, PathBuf, String)> {
    let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found = Vec::new();
    for entry in entries(folder) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let inner = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let nested = entries(&entry.path()).filter(|_| inner);
        let named = nested.map(|file| (format!("{name}-{}", file.file_name().to_string_lossy()), file));
        for (name, file) in named.collect::<Vec<_>>().into_iter().chain((!inner).then_some((name.clone(), entry))) {
            let regular = file.metadata().ok().filter(fs::Metadata::is_file);
            found.extend(regular.and_then(|facts| facts.modified().ok()).map(|at| (at, file.path(), name)));
        }
    }
    found
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
    use updater_core::facts::BootId;
    use updater_core::slot::SlotId;

    fn request() -> EvidenceRequest {
        EvidenceRequest { slot: SlotId::B, release: None, reason: Reason::HealthFailed, health: None, armed_in: None }
    }

    #[tokio::test]
    async fn evidence_is_there_as_a_whole() {
        let state = tempfile::tempdir().unwrap();
        let evidence = EvidenceFolder {
            present: vec![("said.txt", vec!["/bin/sh", "-c", "echo hello"]), ("gone.txt", vec!["/nonexistent"])],
            ..EvidenceFolder::of_simulation(state.path())
        };
        evidence.keep(&request()).await.unwrap();
        let folder = fs::read_dir(state.path().join("evidence")).unwrap().next().unwrap().unwrap().path();
        assert!(fs::read_to_string(folder.join("request.json")).unwrap().contains("health_failed"));
        assert_eq!(fs::read_to_string(folder.join("said.txt")).unwrap(), "hello\n");
        assert!(fs::read_to_string(folder.join("gone.txt")).unwrap().contains("can not be run"));
    }

    fn only_folder(state: &Path) -> PathBuf {
        fs::read_dir(state.join("evidence")).unwrap().next().unwrap().unwrap().path()
    }

    /// A boot that never got to say anything is over when this one looks: its log is the one before this.
    #[tokio::test]
    async fn of_a_lost_boot_its_own_log_and_the_kernels_last_words_are_kept() {
        let state = tempfile::tempdir().unwrap();
        let pstore = state.path().join("pstore");
        fs::create_dir_all(pstore.join("1700000000")).unwrap();
        fs::write(pstore.join("dmesg-efi-1"), "Kernel panic").unwrap();
        fs::write(pstore.join("1700000000/dmesg.txt"), vec![b'x'; 1 << 20]).unwrap();
        let evidence = EvidenceFolder {
            booted: Some(SlotId::A),
            present: vec![("journal.txt", vec!["echo", "this boot"])],
            past: vec![("journal.txt", vec!["echo", "the boot before"])],
            pstore: vec![pstore, "/nonexistent".into()],
            ..EvidenceFolder::of_simulation(state.path())
        };
        evidence.keep(&EvidenceRequest { reason: Reason::DidNotBoot, ..request() }).await.unwrap();
        let folder = only_folder(state.path());
        let read = |name: &str| fs::read(folder.join(name)).unwrap();
        assert_eq!(read("journal.txt"), b"the boot before\n");
        assert_eq!(read("pstore-dmesg-efi-1"), b"Kernel panic");
        assert_eq!(read("pstore-1700000000-dmesg.txt").len() as u64, RECORD_LIMIT);

        // Unless it never had one: then the newest log is that of the boot it was armed in.
        let id = vec!["echo", "27f3abcd"];
        let silent = EvidenceFolder { past_id: id, ..evidence.clone() };
        for (armed_in, has) in [("27f3-abcd", "no-journal.txt"), ("0000-abcd", "journal.txt")] {
            fs::remove_dir_all(state.path().join("evidence")).unwrap();
            let armed_in = Some(BootId(armed_in.into()));
            silent.keep(&EvidenceRequest { armed_in, ..request() }).await.unwrap();
            let logs = ["no-journal.txt", "journal.txt"].into_iter();
            let there = logs.filter(|name| only_folder(state.path()).join(name).exists());
            assert_eq!(there.collect::<Vec<_>>(), [has]);
        }

        fs::remove_dir_all(state.path().join("evidence")).unwrap();
        let running = EvidenceFolder { booted: Some(SlotId::B), ..evidence };
        running.keep(&request()).await.unwrap();
        let folder = only_folder(state.path());
        assert_eq!(fs::read(folder.join("journal.txt")).unwrap(), b"this boot\n");
        assert!(!folder.join("pstore-dmesg-efi-1").exists());
    }

    #[test]
    fn a_systemd_system_is_asked_about_the_right_boot() {
        let asked = EvidenceFolder::of_systemd(Path::new("/state"), Path::new("/"), Some(SlotId::A));
        let command = |asked: &[Asked], file: &str| asked.iter().find(|(name, _)| *name == file).unwrap().1.join(" ");
        let journal = "-n 400 --no-pager -o short-monotonic";
        assert_eq!(command(&asked.past, "journal.txt"), format!("journalctl --boot=-1 {journal}"));
        assert_eq!(command(&asked.present, "journal.txt"), format!("journalctl --boot=0 {journal}"));
    }

    /// The engine waits a few seconds only: one program that hangs must not cost what the others say, nor the reason.
    #[tokio::test]
    async fn what_hangs_costs_nothing_of_the_rest() {
        let state = tempfile::tempdir().unwrap();
        let evidence = EvidenceFolder {
            present: vec![("hangs.txt", vec!["sleep", "1000"]), ("said.txt", vec!["echo", "hello"])],
            ..EvidenceFolder::of_simulation(state.path())
        };
        let said = state.path().join("evidence");
        let has_said = async || {
            while !said.exists() || !only_folder(state.path()).join("said.txt").exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let request = request();
        tokio::select! {
            done = evidence.save(&request) => panic!("{done:?}"),
            () = has_said() => {}
        }
        assert!(only_folder(state.path()).join("request.json").exists());
    }

    #[test]
    fn only_the_last_failed_boots_are_kept() {
        let state = tempfile::tempdir().unwrap();
        for n in 0..KEEP + 3 {
            begin(state.path(), &format!("{}-b", 1_700_000_000 + n), "{}").unwrap();
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
