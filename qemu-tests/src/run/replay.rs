//! Power lost at flushes: the recorded disk as it stood there, read at all of them and booted at some.
//!
//! At every flush the boot loader's state is read from outside: a confirmed slot is there, and whatever can boot is
//! whole. Where that state changes (arm, tries, confirm, reject) machines are booted on the disk just before and just
//! after the change; each must end on a confirmed slot that holds a good release.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::Run;
use super::appliance::SYNCED;
use crate::blocklog::Replayed;
use crate::device::{self, Facts};
use crate::disk::{Disk, Partition, run as run_tool};
use crate::entries::Entry;
use crate::invariants::{DiskFacts, Sums, power_loss_safe};
use crate::machine::Machine;
use crate::qemu::disk_format;
use crate::scenario::Replay;
use crate::wait::{Look, until_slowly};

/// What the reading of all flushes found.
struct Survey {
    flushes: usize,
    /// Flushes at which the boot loader's state is another than before, and what it is.
    changes: Vec<(usize, String)>,
}

impl Run<'_> {
    pub(super) fn replay(&mut self, replay: &Replay) -> Result<()> {
        let log = self.here.spec.record.clone().context("nothing was recorded: the scenario needs `record_disk`")?;
        let sums = Sums::of(self.site)?;
        // QEMU counts what it recorded at each flush; ask for a last one.
        self.agent()?.exec(&["/bin/sync"], SYNCED)?.ok()?;
        // It stands still meanwhile: two machines at a time are enough for two processors.
        self.machine()?.qmp().command("stop", json!({}))?;
        let outcome = self.boot_places(&log, &sums, replay);
        self.machine()?.qmp().command("cont", json!({}))?;
        outcome
    }

    fn boot_places(&mut self, log: &Path, sums: &Sums, replay: &Replay) -> Result<()> {
        let raw = self.dir.path().join("replay.raw");
        self.fresh(&raw)?;
        let survey = self.survey(&raw, log, sums)?;
        self.timeline.note(&format!("{} flushes are safe; changes: {:?}", survey.flushes, survey.changes));
        let places = places(&survey, replay.boots);
        ensure!(places.len() >= 2, "the boot loader's state did not change: nothing was tested");
        self.fresh(&raw)?;
        let mut replayed = Replayed::new(&raw, log)?;
        for place in places {
            while replayed.flushes < place {
                replayed.next_flush()?.context("the record is shorter than it was")?;
            }
            let found = self.boot_replayed(&raw, place, Duration::from_secs(replay.within));
            self.timeline.note(&found.with_context(|| format!("power lost at flush {place}"))?);
        }
        Ok(())
    }

    /// The disk as it was when the recorded machine was switched on.
    fn fresh(&self, raw: &Path) -> Result<()> {
        let mut command = Command::new("qemu-img");
        command
            .args(["convert", "-f", disk_format(&self.here.spec.base)?, "-O", "raw"])
            .arg(&self.here.spec.base)
            .arg(raw);
        run_tool(&mut command).map(|_| ())
    }

    /// Reads the boot loader's state at every flush that touched it, and what can boot whenever that changed.
    fn survey(&self, raw: &Path, log: &Path, sums: &Sums) -> Result<Survey> {
        let disk = Disk::on(raw)?;
        let esp = disk.partition("esp")?.clone();
        let mut replayed = Replayed::new(raw, log)?;
        let (mut changes, mut last) = (Vec::new(), describe(&disk.entries()?));
        while let Some(written) = replayed.next_flush()? {
            if !touches(&written, &esp) {
                continue;
            }
            let at = || format!("disk as of flush {}", replayed.flushes);
            let state = describe(&disk.entries().with_context(at)?);
            if state != last {
                power_loss_safe(&DiskFacts::read(&disk, self.site)?, sums).with_context(at)?;
                changes.push((replayed.flushes, state.clone()));
                last = state;
            }
        }
        Ok(Survey { flushes: replayed.flushes, changes })
    }

    /// Boots the disk; tells where the machine ended.
    fn boot_replayed(&mut self, raw: &Path, place: usize, within: Duration) -> Result<String> {
        let mut spec = self.site.spec(self.name, &self.dir.path().join(format!("f{place}")), raw);
        spec.memory_mib = self.here.spec.memory_mib;
        let mut machine = Machine::start(spec)?;
        let outcome = until_slowly("a confirmed slot", within, || {
            if let Err(e) = machine.alive() {
                return Look::Hopeless(e);
            }
            match Facts::ask(machine.agent()) {
                Ok(facts) if facts.confirmed() && device::status(machine.agent()).is_ok() => Look::Done(facts),
                Ok(facts) => Look::NotYet(format!("slot {}, entries {:?}", facts.slot, facts.entries)),
                Err(e) => Look::NotYet(format!("{e:#}")),
            }
        });
        self.here.boots += 1;
        let serial = std::fs::read(machine.serial_log()).unwrap_or_default();
        machine.power_cut()?;
        let facts = outcome.with_context(|| tail(&serial))?;
        let release = self.site.releases().find(|r| r.version == facts.version).context("an unknown release runs")?;
        ensure!(!release.bad(), "{} is confirmed, and {}", release.name, release.what);
        Ok(format!("flush {place}: boots slot {}, {}, confirmed", facts.slot, facts.version))
    }
}

/// The boot loader's state in one line.
fn describe(entries: &[Entry]) -> String {
    let mut all: Vec<_> = entries.iter().map(|e| format!("{} v{}", e.file, e.version)).collect();
    all.sort();
    let left = |e: &Entry| e.tries_left.map_or("ok".to_owned(), |n| n.to_string());
    let mut slots: Vec<_> = entries.iter().map(|e| format!("{}={}", e.slot, left(e))).collect();
    slots.sort();
    format!("{} ({})", slots.join(" "), all.join(", "))
}

fn touches(written: &[(u64, u64)], partition: &Partition) -> bool {
    written.iter().any(|(from, to)| *from < partition.start + partition.length && *to > partition.start)
}

/// Flushes to boot at: before and after each change, thinned out evenly to `count`.
fn places(survey: &Survey, count: usize) -> Vec<usize> {
    let around = survey.changes.iter().flat_map(|(flush, _)| [flush.saturating_sub(1).max(1), *flush]);
    let all: Vec<_> = around.collect::<BTreeSet<_>>().into_iter().collect();
    if all.len() <= count || count < 2 {
        return all;
    }
    (0..count).filter_map(|n| all.get(n * (all.len() - 1) / (count - 1)).copied()).collect()
}

fn tail(serial: &[u8]) -> String {
    let text = String::from_utf8_lossy(serial);
    let lines: Vec<_> = text.lines().rev().take(12).collect();
    format!("the console said last:\n{}", lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_spread_over_the_changes() {
        let changes = [10, 20, 21, 50].map(|flush| (flush, String::new())).into();
        let survey = Survey { flushes: 60, changes };
        assert_eq!(places(&survey, 99), [9, 10, 19, 20, 21, 49, 50]);
        assert_eq!(places(&survey, 3), [9, 20, 50]);
    }

    #[test]
    fn only_writes_into_the_partition_count() {
        let esp = Partition { label: "esp".into(), start: 1000, length: 100 };
        assert!(touches(&[(0, 10), (1099, 1200)], &esp));
        assert!(!touches(&[(0, 1000), (1100, 1200)], &esp));
    }
}
