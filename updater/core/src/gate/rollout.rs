//! Questions about the region's rollout: state, holds, bucket.

use bundle::approval::{Entry, Match, RolloutState};
use bundle::reason::Reason;
use bundle::{bucket, pattern};

use super::{Inputs, Lines};
use crate::policy::Device;

pub(super) fn state(lines: &mut Lines, entry: &Entry) {
    let name = &entry.rollout;
    match entry.state {
        RolloutState::Rolling => lines.pass("rollout", format!("rollout {name} is rolling")),
        RolloutState::Paused => {
            lines.wait("rollout", Reason::RolloutPaused, format!("the region has paused rollout {name}"), None);
        }
        RolloutState::Halted => {
            lines.refuse("rollout", Reason::RolloutHalted, format!("the region has stopped rollout {name}"));
        }
    }
}

pub(super) fn holds(lines: &mut Lines, inputs: &Inputs<'_>, entry: &Entry) {
    match entry.holds.iter().find(|hold| matches(&hold.matches, inputs.device)) {
        None => lines.pass("hold", "no hold is on devices like this one"),
        Some(hold) => {
            lines.refuse("hold", Reason::Held, format!("held back for devices like this one: {}", hold.reason))
        }
    }
}

pub(super) fn bucket(lines: &mut Lines, inputs: &Inputs<'_>, entry: &Entry) {
    let Some(salt) = entry.salt_bytes() else {
        return lines.refuse("bucket", Reason::Malformed, "the rollout's salt is not 32 bytes of base64");
    };
    let bucket = bucket::bucket(&salt, &inputs.device.id);
    let rule = entry.rules.iter().find(|rule| matches(&rule.matches, inputs.device));
    let threshold = rule.map_or(entry.threshold_bp, |rule| rule.threshold_bp);
    let which = if rule.is_some() { "the threshold for devices like this one" } else { "the threshold" };
    if bucket::admits(bucket, threshold) {
        lines.pass("bucket", format!("bucket {bucket} is below {which}, {threshold}"));
    } else {
        lines.wait("bucket", Reason::BucketClosed, format!("bucket {bucket} is not below {which}, {threshold}"), None);
    }
}

/// Whether a rule or hold means this device: all named conditions hold; an empty one means every device.
#[must_use]
pub fn matches(condition: &Match, device: &Device) -> bool {
    let Match { ring, hardware, labels, ids } = condition;
    ring.as_ref().is_none_or(|ring| device.ring.as_ref() == Some(ring))
        && hardware.as_ref().is_none_or(|hardware| pattern::matches(hardware, &device.hardware))
        && labels.iter().all(|(key, value)| device.labels.get(key) == Some(value))
        && (ids.is_empty() || ids.contains(&device.id))
}
