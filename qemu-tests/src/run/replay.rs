//! Power lost at flushes: the recorded disk as it stood there, read at all of them and booted at some.
//!
//! At every flush that touched it the boot loader's state is read from outside: a confirmed slot is there, and whatever
//! can boot is whole. At *every* flush it is looked whether it changed a slot that could boot before it, its root
//! partition or its kernel and initramfs on the ESP: such a slot is whole no longer, whatever the boot loader's state
//! becomes. Just before and just after the last arm, the last
//! confirm and the last reject of the record machines are booted on the disk; each must end on a confirmed slot that
//! holds a good release.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::Run;
use super::appliance::SYNCED;
use crate::blocklog::Replayed;
use crate::device::{self, Facts};
use crate::disk::{Disk, Partition, run as run_tool, sha256};
use crate::entries::Entry;
use crate::evidence;
use crate::invariants::{DiskFacts, Sums, power_loss_safe};
use crate::machine::Machine;
use crate::qemu::disk_format;
use crate::scenario::Replay;
use crate::wait::{Look, until_slowly};

/// What the reading of all flushes found.
struct Survey {
    flushes: usize,
    /// Flushes at which the boot loader's state is another than before.
    changes: Vec<Change>,
}

/// A change of the boot loader's state.
#[derive(Debug)]
struct Change {
    flush: usize,
    kinds: BTreeSet<Kind>,
    /// The new state, for the timeline.
    state: String,
}

/// What a change was to a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// It can be tried now.
    Arm,
    /// A try was used.
    Try,
    /// Its counter is gone: it boots for ever.
    Confirm,
    /// It could be tried, and can no more.
    Reject,
    /// It booted for ever, and does no more.
    Clear,
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
        self.timeline.note(&format!("{} flushes are safe", survey.flushes));
        for Change { flush, kinds, state } in &survey.changes {
            self.timeline.note(&format!("  flush {flush}: {kinds:?}: {state}"));
        }
        let places = places(&survey)?;
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

    /// Looks at every flush whether a slot that can boot was written; reads the boot loader's state at those that
    /// touched it, and what can boot whenever that changed. Kernels and initramfs are compared each time: they share the
    /// ESP with that state.
    fn survey(&self, raw: &Path, log: &Path, sums: &Sums) -> Result<Survey> {
        let disk = Disk::on(raw)?;
        let esp = disk.partition("esp")?.clone();
        let roots = ["a", "b"].map(|slot| disk.partition(&format!("root-{slot}")).cloned());
        let roots = roots.into_iter().collect::<Result<Vec<_>>>()?;
        let mut replayed = Replayed::new(raw, log)?;
        let (mut changes, mut last) = (Vec::new(), disk.entries()?);
        let mut kernels = kernels(&disk, &last)?;
        while let Some(written) = replayed.next_flush()? {
            untouched(&written, &roots, &last).with_context(|| format!("flush {}", replayed.flushes))?;
            if !touches(&written, &esp) {
                continue;
            }
            let at = || format!("disk as of flush {}", replayed.flushes);
            ensure!(
                kernels == self::kernels(&disk, &last).with_context(at)?,
                "{}: a kernel that can boot changed",
                at()
            );
            let entries = disk.entries().with_context(at)?;
            if describe(&entries) != describe(&last) {
                power_loss_safe(&DiskFacts::read(&disk, self.site)?, sums).with_context(at)?;
                let (flush, kinds) = (replayed.flushes, kinds(&last, &entries));
                changes.push(Change { flush, kinds, state: describe(&entries) });
                last = entries;
                kernels = self::kernels(&disk, &last).with_context(at)?;
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
        self.here.boots += 1 + machine.resets();
        // The evidence of the scenario is that of the recorded machine.
        let evidence = match &outcome {
            Ok(_) => None,
            Err(_) => {
                let name = format!("{}-{}-flush-{place}", self.site.variant, self.name);
                let folder = evidence::folder(&self.site.evidence, &name)?;
                evidence::of_machine(&machine, &folder);
                Some(folder)
            }
        };
        let spec = machine.power_cut()?;
        if let Some(folder) = &evidence {
            evidence::of_disk(&spec.dir, &spec.overlay(), folder);
        }
        let told = || format!("its evidence: {}", evidence.as_deref().unwrap_or(Path::new("")).display());
        let facts = outcome.with_context(told)?;
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

/// Digests of the files that the entries of bootable slots name, by path; none for one that can not be read.
fn kernels(disk: &Disk, entries: &[Entry]) -> Result<BTreeMap<String, Option<String>>> {
    let bootable = entries.iter().filter(|e| e.tries_left != Some(0));
    let digest = |path: &String| {
        let content = disk.esp_read(path).ok();
        Ok((path.clone(), content.map(|content| sha256(&mut content.as_slice())).transpose()?))
    };
    bootable.flat_map(|e| &e.files).map(digest).collect()
}

fn touches(written: &[(u64, u64)], partition: &Partition) -> bool {
    written.iter().any(|(from, to)| *from < partition.start + partition.length && *to > partition.start)
}

/// Fails when something was written into the root partition of a slot that the boot loader could choose meanwhile:
/// invariants 1 and 3. Where power is lost before the flush, nobody knows which of the writes are there.
fn untouched(written: &[(u64, u64)], roots: &[Partition], before: &[Entry]) -> Result<()> {
    for entry in before.iter().filter(|e| e.tries_left != Some(0)) {
        let root = format!("root-{}", entry.slot);
        let hit = roots.iter().any(|partition| partition.label == root && touches(written, partition));
        ensure!(!hit, "{root} was written while {} could boot", entry.file);
    }
    Ok(())
}

/// What became of the slots from one state to the next.
fn kinds(before: &[Entry], after: &[Entry]) -> BTreeSet<Kind> {
    // Not there, no tries left: it does not boot. `Some(None)`: it boots for ever.
    let left = |entries: &[Entry], slot: &str| {
        let entry = entries.iter().find(|e| e.slot == slot);
        entry.map(|e| e.tries_left).filter(|left| *left != Some(0))
    };
    let kind = |slot: &&str| match (left(before, slot), left(after, slot)) {
        (Some(None), Some(None)) | (None, None) => None,
        (None | Some(None), Some(Some(_))) => Some(Kind::Arm),
        (Some(Some(had)), Some(Some(has))) => (had != has).then_some(if has < had { Kind::Try } else { Kind::Arm }),
        (Some(Some(_)) | None, Some(None)) => Some(Kind::Confirm),
        (Some(Some(_)), None) => Some(Kind::Reject),
        (Some(None), None) => Some(Kind::Clear),
    };
    ["a", "b"].iter().filter_map(kind).collect()
}

/// Flushes to boot at: just before and just after the last change of each kind that decides what boots.
fn places(survey: &Survey) -> Result<BTreeSet<usize>> {
    let mut places = BTreeSet::new();
    for kind in [Kind::Arm, Kind::Confirm, Kind::Reject] {
        let last = survey.changes.iter().rev().find(|change| change.kinds.contains(&kind));
        let flush = last.with_context(|| format!("the record has no {kind:?}: it is not tested"))?.flush;
        places.extend([flush.saturating_sub(1).max(1), flush]);
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_arm_confirm_and_reject_are_among_the_places() {
        let change = |(flush, kind)| Change { flush, kinds: [kind].into(), state: String::new() };
        let all = [
            (10, Kind::Arm),
            (20, Kind::Try),
            (30, Kind::Confirm),
            (40, Kind::Clear),
            (50, Kind::Arm),
            (60, Kind::Try),
            (61, Kind::Reject),
        ];
        let survey =
            |kinds: &[(usize, Kind)]| Survey { flushes: 70, changes: kinds.iter().copied().map(change).collect() };
        assert_eq!(places(&survey(&all)).unwrap(), [29, 30, 49, 50, 60, 61].into());
        assert!(places(&survey(&all[..6])).unwrap_err().to_string().contains("no Reject"));
    }

    fn entries(names: &[&str]) -> Vec<Entry> {
        names.iter().map(|name| Entry::parse(name, "sort-key flipside").unwrap()).collect()
    }

    #[test]
    fn changes_are_told_by_what_they_do_to_a_slot() {
        let (a, armed, tried) = ("flipside-a.conf", "flipside-b+3.conf", "flipside-b+2-1.conf");
        let (b, exhausted) = ("flipside-b.conf", "flipside-b+0-3.conf");
        for (before, after, kind) in [
            (vec![a], vec![a, armed], Kind::Arm),
            (vec![a, exhausted], vec![a, armed], Kind::Arm),
            (vec![a, armed], vec![a, tried], Kind::Try),
            (vec![a, tried], vec![a, b], Kind::Confirm),
            (vec![a, tried], vec![a, exhausted], Kind::Reject),
            (vec![a, tried], vec![a], Kind::Reject),
            (vec![a, b], vec![a], Kind::Clear),
        ] {
            assert_eq!(kinds(&entries(&before), &entries(&after)), [kind].into(), "{before:?} {after:?}");
        }
        assert_eq!(kinds(&entries(&[a, exhausted]), &entries(&[a])), BTreeSet::new());
    }

    #[test]
    fn a_write_into_a_slot_that_can_boot_is_seen() {
        let root = |label: &str, start| Partition { label: label.into(), start, length: 100 };
        let roots = [root("root-a", 1000), root("root-b", 2000)];
        let check = |names: &[&str], at| untouched(&[(0, 8), (at, at + 8)], &roots, &entries(names));
        assert!(check(&["flipside-a.conf"], 2000).is_ok());
        assert!(check(&["flipside-a.conf", "flipside-b+0-3.conf"], 2000).is_ok());
        assert!(check(&["flipside-a.conf"], 1000).is_err());
        assert!(check(&["flipside-a.conf", "flipside-b+3.conf"], 2000).unwrap_err().to_string().contains("root-b"));
    }

    #[test]
    fn only_writes_into_the_partition_count() {
        let esp = Partition { label: "esp".into(), start: 1000, length: 100 };
        assert!(touches(&[(0, 10), (1099, 1200)], &esp));
        assert!(!touches(&[(0, 1000), (1100, 1200)], &esp));
    }
}
