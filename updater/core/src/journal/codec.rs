//! The journal's bytes.
//!
//! Every top-level field is read by itself: what one updater wrote and another can not understand costs that field
//! only, so a fallback to an older updater keeps the block list, floors and history even when the newer one's state is
//! beyond it. Fields this version does not know are kept and written back, for the newer updater to find again.

use std::collections::BTreeMap;

use bundle::digest::Digest;
use bundle::json;
use bundle::reason::Reason;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{JOURNAL_FORMAT, Journal, Phase};

/// What was read, and what was lost on the way.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The journal; what could not be read is at its default, and the phase `Idle` (go on from facts).
    pub journal: Journal,
    /// What was lost, for the log; empty: nothing.
    pub lost: Vec<Loss>,
}

/// A part of the journal that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("journal: {field}: {detail}")]
pub struct Loss {
    /// `format_too_new` or `malformed`.
    pub reason: Reason,
    /// Which field; `journal` for the whole.
    pub field: String,
    /// What was wrong.
    pub detail: String,
}

/// The journal could not be written as JSON. Cannot happen for one that this crate made.
#[derive(Debug, thiserror::Error)]
#[error("the journal can not be put into JSON")]
pub struct EncodeError(#[source] serde_json::Error);

/// The bytes to store.
///
/// # Errors
/// Never, for a journal that this crate made.
pub fn encode(journal: &Journal) -> Result<Vec<u8>, EncodeError> {
    let mut fields = journal.extra.clone();
    // A struct is always an object.
    if let Value::Object(known) = json::to_value(journal).map_err(EncodeError)? {
        fields.extend(known);
    }
    serde_json::to_vec(&fields).map_err(EncodeError)
}

/// Reads stored bytes. Never fails: the boot loader tells the rest.
#[must_use]
pub fn decode(bytes: &[u8]) -> Decoded {
    let mut lost = Vec::new();
    let mut fields = match serde_json::from_slice::<Map<String, Value>>(bytes) {
        Ok(fields) => fields,
        Err(error) => {
            lost.push(Loss { reason: Reason::Malformed, field: "journal".into(), detail: error.to_string() });
            return Decoded { journal: Journal::default(), lost };
        }
    };
    let format = take::<u32>(&mut fields, "format", &mut lost).unwrap_or(JOURNAL_FORMAT);
    let mut reader = Reader { fields, lost, newer: format > JOURNAL_FORMAT };
    let mut journal = Journal {
        format: JOURNAL_FORMAT,
        phase: reader.field("phase"),
        slots: reader.field("slots"),
        floor: reader.field("floor"),
        blocked: reader.map("blocked"),
        recalls: reader.field("recalls"),
        letting_go: reader.field("letting_go"),
        changes: reader.field("changes"),
        retry: reader.field("retry"),
        history: reader.list("history"),
        outbox: reader.list("outbox"),
        next_report: reader.field("next_report"),
        blind_reboots: reader.field("blind_reboots"),
        phase_lost: false,
        extra: Map::new(),
    };
    if reader.newer && journal.phase != Phase::Idle {
        // A newer format may mean something else by the same words.
        reader.lost.push(Loss {
            reason: Reason::FormatTooNew,
            field: "phase".into(),
            detail: format!("format {format}, this updater knows {JOURNAL_FORMAT}"),
        });
        journal.phase = Phase::Idle;
    }
    journal.phase_lost = reader.lost.iter().any(|loss| loss.field == "phase");
    journal.extra = reader.fields;
    Decoded { journal, lost: reader.lost }
}

struct Reader {
    fields: Map<String, Value>,
    lost: Vec<Loss>,
    newer: bool,
}

impl Reader {
    fn field<T: DeserializeOwned + Default>(&mut self, name: &str) -> T {
        take(&mut self.fields, name, &mut self.lost).unwrap_or_default()
    }

    /// One bad entry costs that entry only: a block list that is lost lets a bad release in again.
    fn map<V: DeserializeOwned>(&mut self, name: &str) -> BTreeMap<Digest, V> {
        let values: Map<String, Value> = self.field(name);
        let mut read = BTreeMap::new();
        for (key, value) in values {
            match (key.parse(), json::from_value(&value)) {
                (Ok(key), Ok(value)) => {
                    read.insert(key, value);
                }
                (_, Err(error)) => self.lost.push(loss(name, &error)),
                (Err(_), _) => self.lost.push(Loss {
                    reason: Reason::Malformed,
                    field: name.to_owned(),
                    detail: format!("{key:?} is no digest"),
                }),
            }
        }
        read
    }

    /// One bad entry costs that entry only.
    fn list<T: DeserializeOwned>(&mut self, name: &str) -> Vec<T> {
        let values: Vec<Value> = self.field(name);
        let mut read = Vec::with_capacity(values.len());
        for value in values {
            match json::from_value(&value) {
                Ok(value) => read.push(value),
                Err(error) => self.lost.push(loss(name, &error)),
            }
        }
        read
    }
}

/// Removes and reads a field; none when it is missing or, noted as lost, unreadable.
fn take<T: DeserializeOwned>(fields: &mut Map<String, Value>, name: &str, lost: &mut Vec<Loss>) -> Option<T> {
    match json::from_value(&fields.remove(name)?) {
        Ok(value) => Some(value),
        Err(error) => {
            lost.push(loss(name, &error));
            None
        }
    }
}

fn loss(name: &str, error: &serde_json::Error) -> Loss {
    Loss { reason: Reason::Malformed, field: name.to_owned(), detail: error.to_string() }
}

#[cfg(test)]
mod tests;
