//! What must be true of every appliance after every scenario, whatever was done to it.
//!
//! The numbers are those of `docs/src/invariants.md`; here stands what of each can be seen from outside: from the disk,
//! and from what the appliance said last. Pure over [`World`].

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bundle::reason::Reason;
use serde_json::Value;

use crate::device::{Facts, settled};
use crate::disk::{Disk, sha256};
use crate::entries::{Entry, default_entry};
use crate::site::{Release, Site};

mod journal;

use journal::whole_copy;

/// Most memory the updater may ever have had, KiB. Its parts are bounded: document 1 MiB, one frame per worker (1 MiB
/// and its zstd window of 8 MiB), program and libraries.
const MEMORY_KIB: u64 = 96 * 1024;

/// What one slot holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotImages {
    /// SHA-256 of the root image found, by its length; images of several releases may differ in size.
    pub rootfs: BTreeMap<u64, String>,
    /// SHA-256 of each file its boot entry names, by the last part of the path.
    pub files: BTreeMap<String, String>,
    /// Places (bytes from the start of the partition) where the root partition holds what no release holds there.
    pub foreign: Vec<u64>,
}

/// A disk, reduced to what the invariants ask.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskFacts {
    /// Boot entries.
    pub entries: Vec<Entry>,
    /// Content by slot.
    pub slots: BTreeMap<String, SlotImages>,
}

impl DiskFacts {
    /// Reads a disk.
    ///
    /// # Errors
    /// It can not be read. A file that an entry names and that is not there is not an error here, but later.
    pub fn read(disk: &Disk, site: &Site) -> Result<Self> {
        let mut facts = Self { entries: disk.entries()?, ..Self::default() };
        let (mut lengths, mut images) = (Vec::new(), Vec::new());
        for release in site.releases() {
            let image = release.image("rootfs.img");
            lengths.push(std::fs::metadata(&image)?.len());
            images.push(image);
        }
        lengths.sort_unstable();
        lengths.dedup();
        for slot in ["a", "b"] {
            let slot_images = facts.slots.entry(slot.into()).or_default();
            slot_images.foreign = disk.foreign(&format!("root-{slot}"), &images)?;
            for length in &lengths {
                slot_images.rootfs.insert(*length, disk.sha256(&format!("root-{slot}"), *length)?);
            }
            for path in facts.entries.iter().filter(|e| e.slot == slot).flat_map(|e| &e.files) {
                if let (Ok(content), Some(name)) = (disk.esp_read(path), path.rsplit('/').next()) {
                    slot_images.files.insert(name.to_owned(), sha256(&mut content.as_slice())?);
                }
            }
        }
        Ok(facts)
    }

    /// Name of the release whose root image a slot holds from the first byte to the last, if there is one.
    #[must_use]
    pub fn whole_root<'s>(&self, slot: &str, sums: &'s Sums) -> Option<&'s str> {
        Self::root(self.slots.get(slot)?, sums).map(|(release, _)| release.name.as_str())
    }

    fn root<'s>(images: &SlotImages, sums: &'s Sums) -> Option<&'s (Release, ReleaseSums)> {
        sums.0.iter().find(|(_, sums)| images.rootfs.get(&sums.length) == Some(&sums.rootfs))
    }

    /// The release a slot holds whole: root image, kernel and initramfs.
    ///
    /// # Errors
    /// The slot holds none; the text says what is wrong.
    pub fn release<'s>(&self, slot: &str, sums: &'s Sums) -> Result<&'s Release> {
        let images = self.slots.get(slot).with_context(|| format!("no slot {slot}"))?;
        let found = Self::root(images, sums);
        let (release, sums) = found.with_context(|| format!("root-{slot} holds no known release"))?;
        for (name, want) in &sums.files {
            let is = images.files.get(name).with_context(|| format!("slot {slot}: {name} is missing"))?;
            ensure!(is == want, "slot {slot}: {name} is not that of {}", release.name);
        }
        Ok(release)
    }
}

/// Digests of all releases.
#[derive(Debug)]
pub struct Sums(Vec<(Release, ReleaseSums)>);

#[derive(Debug)]
struct ReleaseSums {
    length: u64,
    rootfs: String,
    files: BTreeMap<String, String>,
}

impl Sums {
    /// Hashes all releases of a site.
    ///
    /// # Errors
    /// One is not readable.
    pub fn of(site: &Site) -> Result<Self> {
        let mut all = Vec::new();
        for release in site.releases() {
            let mut files = BTreeMap::new();
            for file in ["vmlinuz", "initrd.img"] {
                files.insert(file.to_owned(), release.sha256(file)?);
            }
            let length = std::fs::metadata(release.image("rootfs.img"))?.len();
            all.push((release.clone(), ReleaseSums { length, rootfs: release.sha256("rootfs.img")?, files }));
        }
        Ok(Self(all))
    }
}

/// What the appliance said before its power went.
#[derive(Debug)]
pub struct Said {
    /// Facts of the booted system.
    pub facts: Facts,
    /// `flipside status --json`, or why it could not be had.
    pub status: Result<Value>,
    /// `flipside history --json`, or why it could not be had.
    pub history: Result<Value>,
    /// The copies of the journal that are there, by name.
    pub journal: Vec<(String, Option<Vec<u8>>)>,
    /// Most memory the running daemon had, KiB; `None` when it had left.
    pub memory_kib: Option<u64>,
    /// Programs the kernel killed for want of memory, the most that was seen in one boot.
    pub oom_kills: u64,
}

/// Everything the invariants may look at.
#[derive(Debug)]
pub struct World<'a> {
    /// Digests of the releases.
    pub sums: &'a Sums,
    /// The disk at the start.
    pub before: DiskFacts,
    /// The disk at the end.
    pub after: DiskFacts,
    /// What was said at the end.
    pub said: Said,
    /// Names of the releases that the region let this appliance take, with the right key, during the scenario.
    pub approved: BTreeSet<String>,
}

type Check = fn(&World) -> Result<()>;

/// All of them, by name.
pub const INVARIANTS: &[(&str, Check)] = &[
    ("invariant_01_booted_slot_is_whole", invariant_01_booted_slot_is_whole),
    ("invariant_02_every_block_is_genuine", invariant_02_every_block_is_genuine),
    ("invariant_03_bootable_slots_are_whole", invariant_03_bootable_slots_are_whole),
    ("invariant_04_default_is_confirmed", invariant_04_default_is_confirmed),
    ("invariant_05_bad_releases_are_not_confirmed", invariant_05_bad_releases_are_not_confirmed),
    ("invariant_06_told_and_stored_agree", invariant_06_told_and_stored_agree),
    ("invariant_07_fallen_back_is_not_repeated", invariant_07_fallen_back_is_not_repeated),
    ("invariant_08_counter_did_not_go_down", invariant_08_counter_did_not_go_down),
    ("invariant_09_no_approval_no_install", invariant_09_no_approval_no_install),
    ("invariant_10_memory_is_bounded", invariant_10_memory_is_bounded),
    ("invariant_11_reasons_are_codes", invariant_11_reasons_are_codes),
    ("invariant_12_journal_is_readable", invariant_12_journal_is_readable),
];

/// Checks all but the skipped ones.
///
/// # Errors
/// The text names every one that does not hold.
pub fn check_all(world: &World, skip: &[String]) -> Result<()> {
    let mut broken = Vec::new();
    for (name, check) in INVARIANTS.iter().filter(|(name, _)| !skip.iter().any(|s| s == name)) {
        if let Err(e) = check(world) {
            broken.push(format!("{name}: {e:#}"));
        }
    }
    if broken.is_empty() { Ok(()) } else { Err(anyhow!("invariants broken:\n  {}", broken.join("\n  "))) }
}

/// What must hold for a disk at any instant, power lost in the middle of an update included: a confirmed slot is
/// there, it boots by default as soon as no counted one has a try left, and whatever can boot is whole.
///
/// # Errors
/// It does not hold.
pub fn power_loss_safe(disk: &DiskFacts, sums: &Sums) -> Result<()> {
    let lasting: Vec<_> = disk.entries.iter().filter(|e| e.confirmed()).cloned().collect();
    let fallback = default_entry(&lasting).context("no confirmed slot")?;
    let release = disk.release(&fallback.slot, sums)?;
    ensure!(!release.bad(), "{} is confirmed with {}: {}", fallback.file, release.name, release.what);
    for entry in disk.entries.iter().filter(|e| e.tries_left != Some(0)) {
        // A release that was made not to mount holds what its bundle holds, so it is whole.
        disk.release(&entry.slot, sums).with_context(|| format!("{} can boot", entry.file))?;
    }
    Ok(())
}

fn invariant_01_booted_slot_is_whole(world: &World) -> Result<()> {
    world.after.release(&world.said.facts.slot, world.sums)?;
    // Nor does a write begin while the booted slot is on trial: a trial ends before.
    let mut on_trial = None;
    for outcome in outcomes(&world.said) {
        let version = outcome.pointer("/release/version").and_then(Value::as_str).unwrap_or_default();
        match (kind(outcome), on_trial) {
            ("trial", _) => on_trial = Some(version),
            ("healthy" | "rolled_back", _) => on_trial = None,
            ("started", Some(trial)) => bail!("a write of {version} began while {trial} was on trial"),
            _ => {}
        }
    }
    Ok(())
}

/// A block that no release has at its place came from somewhere else. Old and new may be mixed: an install that was
/// cut off leaves that, in a slot that can not boot.
fn invariant_02_every_block_is_genuine(world: &World) -> Result<()> {
    for (slot, images) in &world.after.slots {
        if let Some(first) = images.foreign.first() {
            bail!("root-{slot} holds {} blocks of no release, the first at {first}", images.foreign.len());
        }
    }
    Ok(())
}

fn invariant_03_bootable_slots_are_whole(world: &World) -> Result<()> {
    for entry in world.after.entries.iter().filter(|e| e.tries_left != Some(0)) {
        world.after.release(&entry.slot, world.sums).with_context(|| format!("{} can boot", entry.file))?;
    }
    Ok(())
}

fn invariant_04_default_is_confirmed(world: &World) -> Result<()> {
    let entry = default_entry(&world.after.entries).context("no boot entry at all")?;
    ensure!(entry.confirmed(), "{} boots by default and is not confirmed", entry.file);
    for slot in ["a", "b"] {
        let count = world.after.entries.iter().filter(|e| e.slot == slot).count();
        ensure!(count <= 1, "{count} entries for slot {slot}");
    }
    Ok(())
}

fn invariant_05_bad_releases_are_not_confirmed(world: &World) -> Result<()> {
    for entry in world.after.entries.iter().filter(|e| e.confirmed()) {
        let release = world.after.release(&entry.slot, world.sums)?;
        ensure!(!release.bad(), "{} is confirmed with {}: {}", entry.file, release.name, release.what);
    }
    // Each confirmation had a trial of its own.
    let mut on_trial = BTreeSet::new();
    for outcome in outcomes(&world.said) {
        let digest = outcome.pointer("/release/manifest_sha256").and_then(Value::as_str).unwrap_or_default();
        match kind(outcome) {
            "trial" => drop(on_trial.insert(digest)),
            "rolled_back" => drop(on_trial.remove(digest)),
            "healthy" => ensure!(on_trial.remove(digest), "{digest:?} was confirmed and not on trial before"),
            _ => {}
        }
    }
    Ok(())
}

/// When nothing is under way, no intent is left: what the updater tells of the slots is what the disk says.
fn invariant_06_told_and_stored_agree(world: &World) -> Result<()> {
    let Ok(status) = &world.said.status else { return Ok(()) };
    let text = |pointer: &str| status.pointer(pointer).and_then(Value::as_str);
    let booted = text("/booted_slot");
    ensure!(booted == Some(&world.said.facts.slot), "{booted:?} is told, {} runs", world.said.facts.slot);
    if !text("/state").is_some_and(settled) {
        return Ok(());
    }
    for slot in ["a", "b"] {
        let stored = match world.after.entries.iter().find(|e| e.slot == slot).map(|e| e.tries_left) {
            None => "empty",
            Some(None) => "confirmed",
            Some(Some(0)) => "exhausted",
            Some(Some(_)) => "trying",
        };
        let told = text(&format!("/slots/{slot}/boot/record")).context("the status tells no records")?;
        ensure!(told == stored, "slot {slot} is told to be {told}, on the disk it is {stored}");
    }
    Ok(())
}

/// After a release fell back it is neither started nor tried again.
fn invariant_07_fallen_back_is_not_repeated(world: &World) -> Result<()> {
    let mut fallen = BTreeSet::new();
    for outcome in outcomes(&world.said) {
        let text = |pointer: &str| outcome.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (kind, manifest) = (kind(outcome), text("/release/manifest_sha256"));
        if kind == "rolled_back" && !manifest.is_empty() {
            fallen.insert(manifest);
        }
        ensure!(
            !(matches!(kind, "started" | "trial") && fallen.contains(manifest)),
            "{} fell back and was {kind} again",
            text("/release/version")
        );
    }
    Ok(())
}

fn invariant_08_counter_did_not_go_down(world: &World) -> Result<()> {
    let counter = |disk: &DiskFacts| -> Result<u64> {
        let entry = default_entry(&disk.entries).context("no boot entry")?;
        Ok(disk.release(&entry.slot, world.sums)?.counter)
    };
    let (before, after) = (counter(&world.before)?, counter(&world.after)?);
    // Going back on this very device, by itself or by its operator, is what the fallback is for; it is in the history.
    let fell_back = outcomes(&world.said)
        .any(|o| o["kind"] == "rolled_back" && o.pointer("/release/counter").and_then(Value::as_u64) == Some(before));
    ensure!(after >= before || fell_back, "release counter fell from {before} to {after}");
    Ok(())
}

fn invariant_09_no_approval_no_install(world: &World) -> Result<()> {
    if world.approved.is_empty() && world.before != world.after {
        bail!("it was never let in, and yet slots or boot entries changed");
    }
    for (slot, images) in &world.after.slots {
        // What is not whole can not boot (invariant 3), and may be what is left of an install that was cut off.
        let Ok(release) = world.after.release(slot, world.sums) else { continue };
        let new = world.before.slots.get(slot) != Some(images)
            && world.before.release(slot, world.sums).map(|r| &r.name).ok() != Some(&release.name);
        ensure!(!new || world.approved.contains(&release.name), "slot {slot} holds {}, never approved", release.name);
    }
    Ok(())
}

fn invariant_10_memory_is_bounded(world: &World) -> Result<()> {
    // systemd starts a killed updater again, and the install goes on: only the kernel tells.
    ensure!(world.said.oom_kills == 0, "the kernel killed {} programs at their limit of memory", world.said.oom_kills);
    match world.said.memory_kib {
        Some(peak) if peak > MEMORY_KIB => bail!("the updater had {peak} KiB at its peak"),
        _ => Ok(()),
    }
}

fn invariant_11_reasons_are_codes(world: &World) -> Result<()> {
    let mut reasons = Vec::new();
    for told in [&world.said.history, &world.said.status].into_iter().flatten() {
        collect("reason", told, &mut reasons);
    }
    for reason in reasons.iter().filter(|r| !r.is_null()) {
        let code = reason.as_str().with_context(|| format!("a reason that is no text: {reason}"))?;
        let known = serde_json::from_value((*reason).clone()).unwrap_or(Reason::Unknown);
        ensure!(!matches!(known, Reason::Unknown | Reason::Internal), "{code:?} says nothing");
    }
    for outcome in outcomes(&world.said) {
        let ended_badly = matches!(kind(outcome), "rolled_back" | "failed" | "deferred");
        ensure!(!ended_badly || outcome.get("reason").is_some_and(Value::is_string), "no reason is told: {outcome}");
    }
    Ok(())
}

fn invariant_12_journal_is_readable(world: &World) -> Result<()> {
    for (name, answer) in [("status", &world.said.status), ("history", &world.said.history)] {
        if let Err(e) = answer {
            bail!("flipside {name}: {e:#}");
        }
    }
    // Who remembers something has written it down.
    let written = world.said.journal.iter().any(|(_, copy)| copy.is_some());
    ensure!(written || outcomes(&world.said).next().is_none(), "no copy of the journal can be read");
    for (name, copy) in world.said.journal.iter().filter_map(|(name, copy)| Some((name, copy.as_ref()?))) {
        whole_copy(copy).with_context(|| format!("{name} on the device"))?;
    }
    Ok(())
}

/// The outcomes of the history, oldest first; none when it could not be had (invariant 12 says so).
fn outcomes(said: &Said) -> impl Iterator<Item = &Value> {
    let history = said.history.as_ref().ok();
    history.and_then(|h| h.get("outcomes")?.as_array()).into_iter().flatten()
}

/// What an outcome is: `started`, `trial`, ...
fn kind(outcome: &Value) -> &str {
    outcome.get("kind").and_then(Value::as_str).unwrap_or_default()
}

/// All values under this key, at any depth.
fn collect<'v>(key: &str, value: &'v Value, found: &mut Vec<&'v Value>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| {
            if k == key {
                found.push(v);
            }
            collect(key, v, found);
        }),
        Value::Array(list) => list.iter().for_each(|v| collect(key, v, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
