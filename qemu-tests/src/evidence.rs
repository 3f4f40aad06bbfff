//! What a failed scenario leaves behind: enough to understand it without running it again.

use std::fs;
use std::iter;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::agent::Agent;
use crate::bootstate::{GRUBENV, UBOOT_ENV};
use crate::disk::Disk;
use crate::firmware::HUNG;
use crate::machine::Machine;

/// How long a guest in an unknown state is asked for each file.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asked from a guest that still answers: file name and command.
const QUESTIONS: &[(&str, &str)] = &[
    // Without the harness's own questions, which the agent logs one by one.
    (
        "journal.txt",
        "journalctl --no-pager -o short-iso-precise -n 40000 | \
         awk '/ qemu-ga\\[/ { skip = 1; next } /^[0-9-]*T/ { skip = 0 } !skip'",
    ),
    ("status.json", "flipside status --json"),
    ("history.json", "flipside history --json"),
    ("explain.txt", "flipside explain"),
    ("config.txt", "flipside config show; ls -lR /etc/flipside /usr/lib/flipside; cat /etc/flipside/*.d/*.toml"),
    (
        "units.txt",
        "systemctl --no-pager list-units --all; systemctl --no-pager list-jobs; systemctl status 'flipside*'",
    ),
    (
        "files.txt",
        "cat /proc/cmdline; ls -lR /efi /var/lib/flipside; lsblk -o NAME,SIZE,PARTLABEL,MOUNTPOINTS; df; date",
    ),
    (
        "updater-journal.txt",
        "cd /var/lib/flipside && for f in $(find . -type f -size -64k); do echo \"== $f\"; cat $f; echo; done",
    ),
];

/// Saves what a machine that still has power can tell. Never fails: what can not be had is noted in its file.
pub fn of_machine(machine: &Machine, folder: &Path) {
    let events: Vec<_> = machine.events().iter().map(ToString::to_string).collect();
    note(folder, "qmp-events.jsonl", Ok(events.join("\n").into_bytes()));
    note(folder, "registers.txt", machine.qmp().registers().map(String::into_bytes));
    let agent = machine.agent();
    if agent.wait(Duration::from_secs(10)).is_err() {
        note(folder, "agent.txt", Ok(b"the guest agent did not answer\n".to_vec()));
        return;
    }
    for (name, command) in QUESTIONS {
        note(folder, name, ask(agent, command));
    }
}

fn ask(agent: &Agent, command: &str) -> Result<Vec<u8>> {
    let output = agent.shell(command, PATIENCE)?;
    Ok(format!("{}{}(exit code {:?})\n", output.stdout, output.stderr, output.code).into_bytes())
}

/// Saves what the machine's folder and its disk tell. The machine should be off.
pub fn of_disk(dir: &Path, overlay: &Path, folder: &Path) {
    for name in ["serial.log", "qemu.err", HUNG] {
        let _ = fs::copy(dir.join(name), folder.join(name));
    }
    match Disk::copy_of(overlay) {
        Ok(disk) => {
            note(folder, "disk.txt", describe(&disk));
            data(&disk, folder);
        }
        Err(e) => note(folder, "disk.txt", Err(e)),
    }
}

fn describe(disk: &Disk) -> Result<Vec<u8>> {
    let mut text = String::new();
    for p in disk.partitions() {
        text += &format!("{:<8} start {:>12} length {:>12}\n", p.label, p.start, p.length);
    }
    text += &format!("\nthe boot loader's state, as read: {:#?}\n", disk.entries());
    for name in disk.esp_list("/loader/entries").unwrap_or_default() {
        let content = disk.esp_read(&format!("/loader/entries/{name}"))?;
        text += &format!("\n== {name}\n{}", String::from_utf8_lossy(&content));
    }
    for path in iter::once(GRUBENV).chain(UBOOT_ENV) {
        if let Ok(content) = disk.esp_read(&format!("/{path}")) {
            text += &format!("\n== {path}\n{}\n", content.escape_ascii());
        }
    }
    for folder in ["/flipside/a", "/flipside/b"] {
        text += &format!("\n{folder}: {:?}\n", disk.esp_list(folder));
    }
    text += &disk.data_list("/lib/flipside")?;
    Ok(text.into_bytes())
}

/// The updater's state, and the journal of a guest that could not be asked for it.
fn data(disk: &Disk, folder: &Path) {
    note(folder, "state-folder.txt", disk.data_dump("/lib/flipside", folder).map(|()| Vec::new()));
    if folder.join("journal.txt").exists() || disk.data_dump("/log/journal", folder).is_err() {
        return;
    }
    let mut command = Command::new("journalctl");
    command.args(["--no-pager", "-o", "short-iso-precise", "-n", "20000", "-D"]).arg(folder.join("journal"));
    note(folder, "journal.txt", command.output().map(|o| o.stdout).map_err(Into::into));
}

fn note(folder: &Path, name: &str, content: Result<Vec<u8>>) {
    let bytes = content.unwrap_or_else(|e| format!("could not be had: {e:#}\n").into_bytes());
    if !bytes.is_empty() {
        let _ = fs::write(folder.join(name), bytes);
    }
}

/// An empty folder for the evidence of one scenario; that of the last run is removed.
///
/// # Errors
/// The folder can not be made.
pub fn folder(root: &Path, name: &str) -> Result<PathBuf> {
    let folder = root.join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_starts_with_an_empty_folder() {
        let dir = tempfile::tempdir().unwrap();
        let one = folder(dir.path(), "x").unwrap();
        note(&one, "a", Ok(b"1".to_vec()));
        assert!(one.join("a").exists());
        assert!(!folder(dir.path(), "x").unwrap().join("a").exists());
    }

    #[test]
    fn what_can_not_be_had_is_noted() {
        let dir = tempfile::tempdir().unwrap();
        of_disk(dir.path(), &dir.path().join("none.qcow2"), dir.path());
        assert!(fs::read_to_string(dir.path().join("disk.txt")).unwrap().contains("could not be had"));
    }
}
