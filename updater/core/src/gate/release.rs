//! Questions about the release itself: newer, not known bad, not pinned away, made for this device.

use bundle::approval::ReleaseRef;
use bundle::manifest::Manifest;
use bundle::reason::Reason;

use super::{Candidate, Inputs, Lines};
use crate::journal::Journal;
use crate::policy::{Device, Pin};
use crate::slot::SlotId;

/// The counter of what runs: the slot's record, else what the image says. None: nobody knows.
#[must_use]
pub fn installed_counter(journal: &Journal, device: &Device, booted: Option<SlotId>) -> Option<u64> {
    let record = booted.and_then(|slot| journal.slots.get(slot).as_ref());
    record.map(|record| record.release.counter).or(device.image_counter)
}

pub(super) fn counter(lines: &mut Lines, inputs: &Inputs<'_>, release: &ReleaseRef) {
    let installed = installed_counter(inputs.journal, inputs.device, inputs.facts.booted);
    let running = inputs.facts.booted.and_then(|slot| inputs.journal.slots.get(slot).as_ref());
    let (new, floor) = (release.counter, inputs.journal.floor.counter);
    let same = running.is_some_and(|record| record.release.manifest_sha256 == release.manifest_sha256);
    let other = running.filter(|record| record.release.counter == new && !same);
    if let Some(other) = other {
        // A release is what its digest says, whatever it calls itself.
        let text = format!("counter {new} is that of {}, which runs and is another release", other.release.version);
        lines.refuse("counter", Reason::CounterRollback, text);
    } else if same || installed == Some(new) {
        lines.refuse("counter", Reason::NoUpdate, format!("release {} is the one that runs", release.version));
    } else if new < floor {
        let text = format!("counter {new} is below {floor}, the lowest this device may go back to");
        lines.refuse("counter", Reason::CounterRollback, text);
    } else if let Some(installed) = installed.filter(|installed| *installed > new) {
        lines.refuse("counter", Reason::CounterRollback, format!("counter {new} is below the running {installed}"));
    } else {
        let installed = installed.map_or_else(|| "unknown".to_owned(), |counter| counter.to_string());
        lines.pass("counter", format!("counter {new} is above the running one ({installed})"));
    }
}

pub(super) fn channel(lines: &mut Lines, inputs: &Inputs<'_>, candidate: &Candidate<'_>) {
    let Some(index) = channel_index(inputs) else {
        lines.pass("channel", "there is no channel index at hand; the bundle itself proves that it is genuine");
        return;
    };
    let listed = index.releases.iter().any(|each| each.release == *candidate.release);
    if listed || !candidate.over_network {
        lines.pass("channel", format!("channel {} (index {})", index.channel, index.version));
    } else {
        let text = format!("release {} is not in channel {}", candidate.release.version, index.channel);
        lines.refuse("channel", Reason::RegionMismatch, text);
    }
}

/// The channel index, when it is ours and not older than one accepted before.
pub(super) fn channel_index<'a>(inputs: &Inputs<'a>) -> Option<&'a bundle::channel::Channel> {
    let ours = &inputs.policy.channel;
    let floor = inputs.journal.floor.channels.get(ours).copied().unwrap_or(0);
    inputs.documents.channel.as_ref().filter(|index| index.channel == *ours && index.version >= floor)
}

pub(super) fn blocked(lines: &mut Lines, inputs: &Inputs<'_>, release: &ReleaseRef) {
    match inputs.journal.blocked.get(&release.manifest_sha256) {
        None => lines.pass("history", "it has not failed on this device"),
        // Said by the line about the recall, for as long as it stands.
        Some(blocked) if blocked.reason == Reason::Recalled => {
            lines.pass("history", format!("release {} was left because of a recall", release.version));
        }
        Some(blocked) if blocked.reason == Reason::Cancelled => lines.refuse(
            "history",
            Reason::Cancelled,
            format!(
                "release {} was cancelled or rejected here{}{}; `flipside retry` allows it",
                release.version,
                if blocked.detail.is_empty() { "" } else { ": " },
                blocked.detail
            ),
        ),
        Some(blocked) => lines.refuse(
            "history",
            Reason::BlockedAfterFallback,
            format!("release {} failed here before: {} {}", release.version, blocked.reason, blocked.detail).trim_end(),
        ),
    }
}

pub(super) fn recalled(lines: &mut Lines, inputs: &Inputs<'_>, release: &ReleaseRef) {
    let recalls = Some(&inputs.journal.recalls).filter(|recalls| recalls.channel == inputs.policy.channel);
    match recalls.and_then(|recalls| recalls.releases.get(&release.manifest_sha256)) {
        None => lines.pass("recall", "the vendor has not taken it back"),
        Some(recalled) => {
            let text = format!("the vendor took release {} back: {}", release.version, recalled.words);
            lines.refuse("recall", Reason::Recalled, text);
        }
    }
}

pub(super) fn pin(lines: &mut Lines, inputs: &Inputs<'_>, release: &ReleaseRef) {
    let (fits, to) = match &inputs.policy.pin {
        None => (true, None),
        Some(Pin::Version(version)) => (*version == release.version, Some(version.to_string())),
        Some(Pin::Manifest(digest)) => (*digest == release.manifest_sha256, Some(digest.short())),
    };
    match to {
        None => lines.pass("pin", "this device is not pinned"),
        Some(to) if fits => lines.pass("pin", format!("this device is pinned to {to}")),
        Some(to) => lines.refuse("pin", Reason::Pinned, format!("this device is pinned to {to}")),
    }
}

/// Whether a genuine release suits this device: product, hardware, stepping stones, data formats. Asked once its
/// manifest was read, before anything is written.
pub fn suits(lines: &mut Lines, device: &Device, journal: &Journal, manifest: &Manifest, from: u64) {
    if manifest.is_for(&device.compatible) {
        lines.pass("product", format!("made for {}", manifest.compatible));
    } else {
        let text = format!("made for {}, this is {}", manifest.compatible, device.compatible);
        lines.refuse("product", Reason::Incompatible, text);
    }
    if manifest.supports(&device.hardware) {
        lines.pass("hardware", format!("runs on {}", device.hardware));
    } else {
        let text = format!("made for {}, this is {}", manifest.hardware.join(", "), device.hardware);
        lines.refuse("hardware", Reason::HardwareMismatch, text);
    }
    if manifest.accepts_from(from) {
        lines.pass("stepping stone", format!("can be installed from counter {from}"));
    } else {
        let text = format!("can not be installed from counter {from}; a release in between is needed");
        lines.refuse("stepping stone", Reason::SteppingStoneRequired, text);
    }
    data_format(lines, journal, manifest);
}

/// The new system must be able to read what is on the data partition today. A fallback that could not is refused here,
/// before the install, not met after it.
fn data_format(lines: &mut Lines, journal: &Journal, manifest: &Manifest) {
    let (Some(range), Some(data)) = (manifest.state_schema, journal.floor.data_schema) else {
        return lines.pass("data format", "no data format is declared");
    };
    let text = format!("it reads data formats {} to {}, this device's data has {data}", range.min, range.max);
    if data < range.min {
        lines.refuse("data format", Reason::SteppingStoneRequired, text);
    } else if data > range.max {
        lines.refuse("data format", Reason::CounterRollback, text);
    } else {
        lines.pass("data format", text);
    }
}
