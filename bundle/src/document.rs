//! What all signed documents share: strict parsing, `crit`, and one error.
//!
//! A document of a newer Flipside must be refused as "newer", never as "malformed", so `crit` is looked at before the
//! typed parse: the field it names may well have a shape this version does not know. Only memory.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::json::{self, JsonError};
use crate::reason::Reason;

/// Why a document is refused.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Not strict JSON of the expected shape.
    #[error("the document can not be read")]
    Json(#[from] JsonError),
    /// It needs a newer reader.
    #[error("the document needs a newer reader: {0}")]
    TooNew(String),
    /// It contradicts itself or breaks a rule of the format.
    #[error("the document breaks its own rules: {0}")]
    Invalid(String),
}

impl DocumentError {
    /// The reason code of this refusal.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Json(_) | Self::Invalid(_) => Reason::Malformed,
            Self::TooNew(_) => Reason::FormatTooNew,
        }
    }
}

#[derive(Deserialize)]
struct Probe {
    #[serde(default)]
    crit: Vec<String>,
}

/// Strict JSON whose critical fields are all among `known`.
pub(crate) fn check(bytes: &[u8], known: &[&str]) -> Result<(), DocumentError> {
    json::check(bytes, json::DOCUMENT)?;
    let probe: Probe = typed(bytes)?;
    match probe.crit.iter().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(DocumentError::TooNew(format!("critical field {name:?}"))),
        None => Ok(()),
    }
}

/// Gives a checked document its type.
pub(crate) fn typed<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DocumentError> {
    Ok(serde_json::from_slice(bytes).map_err(JsonError::Shape)?)
}

/// Reads a document whose critical fields must all be among `known`.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8], known: &[&str]) -> Result<T, DocumentError> {
    check(bytes, known)?;
    typed(bytes)
}

/// As the bytes that are signed: compact, fields in the order of the type, so the same document is the same bytes.
pub(crate) fn to_bytes<T: serde::Serialize>(document: &T) -> Result<Vec<u8>, DocumentError> {
    Ok(serde_json::to_vec(document).map_err(JsonError::Shape)?)
}

/// A rule of a format: `Err(Invalid(message))` unless it holds.
pub(crate) fn rule(holds: bool, message: impl FnOnce() -> String) -> Result<(), DocumentError> {
    if holds { Ok(()) } else { Err(DocumentError::Invalid(message())) }
}

/// Whether `name` is `[a-z0-9][a-z0-9._-]{0,63}`: safe as a file name, in a URL, and on a terminal.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 64
        && name.bytes().next().is_some_and(plain)
        && name.bytes().all(|c| plain(c) || matches!(c, b'.' | b'_' | b'-'))
}

/// Whether `text` is 1 to 256 bytes without control characters: safe to show and to log.
pub(crate) fn is_label(text: &str) -> bool {
    !text.is_empty() && text.len() <= 256 && !text.chars().any(char::is_control)
}

/// Whether these are at most 16 plausible places to fetch from (their scheme is the fetcher's business).
pub(crate) fn are_urls(urls: &[String]) -> bool {
    urls.len() <= 16
        && urls.iter().all(|url| !url.is_empty() && url.len() <= 2048 && url.bytes().all(|c| c.is_ascii_graphic()))
}

/// Whether no element stands twice.
pub(crate) fn all_different<T: Ord>(items: impl IntoIterator<Item = T>) -> bool {
    let mut seen = std::collections::BTreeSet::new();
    items.into_iter().all(|item| seen.insert(item))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "rootfs", "0.x_y-z", &"a".repeat(64)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", ".hidden", "-x", "Root", "a/b", "a b", "ä", &"a".repeat(65), ".."] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn an_unknown_critical_field_means_newer_even_in_another_shape() {
        #[derive(Debug, Deserialize)]
        struct Doc {
            #[expect(dead_code, reason = "only its shape matters")]
            a: u8,
        }
        let newer = parse::<Doc>(br#"{"a":{"new":1},"crit":["a2"]}"#, &["a"]).unwrap_err();
        assert_eq!(newer.reason(), Reason::FormatTooNew);
        let wrong = parse::<Doc>(br#"{"a":{"new":1},"crit":["a"]}"#, &["a"]).unwrap_err();
        assert_eq!(wrong.reason(), Reason::Malformed);
        assert!(parse::<Doc>(br#"{"a":1,"z":2,"crit":["a"]}"#, &["a"]).is_ok());
    }
}
