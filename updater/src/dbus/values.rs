//! Our data as D-Bus values. Pure.
//!
//! Dictionaries have the field names of the JSON output, so that both are documented once: an absent field is left
//! out, times are RFC 3339 texts, numbers without sign are `t`.

use std::collections::HashMap;

use bundle::json;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use updater_core::status::{ProgressPhase, Status};
use zbus::{OwnedVariant, Variant};

/// `a{sv}`
pub type Dict = HashMap<String, OwnedVariant>;

/// `(stttt)`: phase, bytes done, bytes total, bytes reused, bytes per second.
pub type Progress = (String, u64, u64, u64, u64);

/// "Not known" for numbers of type `t`.
pub const UNKNOWN: u64 = u64::MAX;

/// Anything that serialises to a JSON object, as a dictionary; empty for everything else (`null` above all).
#[must_use]
pub fn dict(of: &impl Serialize) -> Dict {
    match json::to_value(of) {
        Ok(Value::Object(fields)) => {
            fields.into_iter().filter_map(|(name, value)| Some((name, owned(variant(value)?)?))).collect()
        }
        _ => Dict::new(),
    }
}

fn owned(value: Variant<'_>) -> Option<OwnedVariant> {
    // Fails only for file descriptors that can not be duplicated; there are none in JSON.
    OwnedVariant::try_from(value).ok()
}

fn variant(value: Value) -> Option<Variant<'static>> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(b) => b.into(),
        Value::Number(n) => match (n.as_u64(), n.as_i64()) {
            (Some(u), _) => u.into(),
            (_, Some(i)) => i.into(),
            _ => n.as_f64()?.into(),
        },
        Value::String(s) => s.into(),
        Value::Array(items) => items.into_iter().filter_map(variant).collect::<Vec<Variant<'static>>>().into(),
        Value::Object(fields) => {
            let dict: HashMap<String, Variant<'static>> =
                fields.into_iter().filter_map(|(name, value)| Some((name, variant(value)?))).collect();
            dict.into()
        }
    })
}

/// The `Progress` property.
#[must_use]
pub fn progress(status: &Status) -> Progress {
    status.progress.map_or_else(Progress::default, |p| {
        let phase = match p.phase {
            ProgressPhase::Preparing => "preparing",
            ProgressPhase::Writing => "writing",
            ProgressPhase::Verifying => "verifying",
        };
        (phase.to_owned(), p.bytes_done, p.bytes_total, p.bytes_reused, p.bytes_per_second)
    })
}

/// The `NextCheck` property: seconds since 1970, [`UNKNOWN`] when the daemon does not look by itself.
#[must_use]
pub fn next_check(status: &Status) -> u64 {
    status.next_check.and_then(|at| u64::try_from(at.as_second()).ok()).unwrap_or(UNKNOWN)
}

/// Names of all properties that can change, in the order of the interface.
pub const CHANGING: [&str; 10] = [
    "State",
    "Operation",
    "Progress",
    "BootedSlot",
    "Slots",
    "Release",
    "LastError",
    "LastOutcome",
    "NextCheck",
    "ApprovalAge",
];

/// The value of a property of [`CHANGING`].
#[must_use]
pub fn property(status: &Status, name: &str) -> Option<Variant<'static>> {
    Some(match name {
        "State" => status.state.as_str().into(),
        "Operation" => operation(status).into(),
        "Progress" => Variant::new(progress(status)),
        "BootedSlot" => booted_slot(status).into(),
        "Slots" => as_variant(dict(&status.slots)),
        "Release" => as_variant(dict(&status.release)),
        "LastError" => as_variant(dict(&last_error(status))),
        "LastOutcome" => as_variant(dict(&status.last_outcome)),
        "NextCheck" => next_check(status).into(),
        "ApprovalAge" => status.approval_age.unwrap_or(UNKNOWN).into(),
        _ => return None,
    })
}

fn as_variant(dict: Dict) -> Variant<'static> {
    dict.into_iter().map(|(k, v)| (k, Variant::from(v))).collect::<HashMap<_, _>>().into()
}

/// The `Operation` property: empty when nothing is done.
#[must_use]
pub fn operation(status: &Status) -> String {
    status.operation.clone().unwrap_or_default()
}

/// The `BootedSlot` property: empty when it is not certain.
#[must_use]
pub fn booted_slot(status: &Status) -> String {
    status.booted_slot.map(|s| s.to_string()).unwrap_or_default()
}

/// The `LastError` property: what holds an update up now, else what went wrong last.
#[must_use]
pub fn last_error(status: &Status) -> Option<updater_core::status::Problem> {
    status.waiting.clone().or_else(|| status.last_error.clone())
}

/// A picture without what time alone changes. Ages and countdowns are read when somebody looks, a notice is dated anew
/// with every picture, and the moment of the next look is reckoned from two clocks.
#[must_use]
pub fn timeless(status: &Status) -> Status {
    let mut status = status.clone();
    (status.approval_age, status.trial_seconds_left) = (None, None);
    status.next_check = status.next_check.and_then(|at| Timestamp::from_second(at.as_second()).ok());
    if let Some(waiting) = &mut status.waiting {
        waiting.at = None;
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_becomes_typed_values() {
        let value = serde_json::json!({"n": 1, "m": -1, "t": "x", "l": ["a"], "d": {"e": true}, "z": null});
        let dict = dict(&value);
        assert_eq!(dict.len(), 5);
        let signature = |name: &str| dict[name].value_signature().to_string();
        assert_eq!(["n", "m", "t", "l", "d"].map(signature), ["t", "x", "s", "av", "a{sv}"]);
    }

    #[test]
    fn every_changing_property_has_a_value() {
        let status = crate::dbus::testing::status();
        for name in CHANGING {
            assert!(property(&status, name).is_some(), "{name}");
        }
    }
}
