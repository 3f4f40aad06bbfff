//! Strict JSON: size, depth and duplicate keys are checked before a document is given a type.
//!
//! Two parsers that disagree about a duplicated key are a hole between signer and reader, and nesting is memory. So
//! every signed document passes here first. Only memory, no I/O.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;
use serde::de::{self, DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::reason::Reason;

/// What a document may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of text.
    pub bytes: usize,
    /// Nesting of arrays and objects; `serde_json` itself stops at 128.
    pub depth: usize,
}

/// The limits of every Flipside document: 1 MiB, 32 levels.
pub const DOCUMENT: Limits = Limits { bytes: 1 << 20, depth: 32 };

/// Why a text is not accepted as JSON of the wanted shape.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// Larger than the limit.
    #[error("the document has {actual} bytes, more than the {limit} allowed")]
    TooLarge {
        /// Its size.
        actual: usize,
        /// The limit.
        limit: usize,
    },
    /// Not JSON, nested too deeply, or with a key twice.
    #[error("not strict JSON")]
    Syntax(#[source] serde_json::Error),
    /// Well-formed, but fields are missing or of another kind.
    #[error("the document does not have the expected fields")]
    Shape(#[source] serde_json::Error),
}

impl JsonError {
    /// The reason code of this refusal.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        Reason::Malformed
    }
}

/// Reads `bytes` as one JSON document of type `T`.
///
/// # Errors
/// When it is too large, too deep, has a key twice in one object, has bytes after its end, or does not fit `T`.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8], limits: Limits) -> Result<T, JsonError> {
    check(bytes, limits)?;
    serde_json::from_slice(bytes).map_err(JsonError::Shape)
}

/// Only the checks of [`from_slice`], for any shape.
///
/// # Errors
/// As [`from_slice`], save for the shape.
pub fn check(bytes: &[u8], limits: Limits) -> Result<(), JsonError> {
    if bytes.len() > limits.bytes {
        return Err(JsonError::TooLarge { actual: bytes.len(), limit: limits.bytes });
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    Strict { depth_left: limits.depth }.deserialize(&mut deserializer).map_err(JsonError::Syntax)?;
    deserializer.end().map_err(JsonError::Syntax)
}

/// Anything as a JSON value.
///
/// By way of its text, as [`from_value`]: one serializer and one deserializer then serve all types, and those that write
/// into and read from values directly, a copy of them for each type, stay out of the device's binary.
///
/// # Errors
/// It can not be written as JSON: a map whose keys are no texts, say.
pub fn to_value(of: &impl Serialize) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(&serde_json::to_vec(of)?)
}

/// A JSON value as a type.
///
/// # Errors
/// It does not fit.
pub fn from_value<T: DeserializeOwned>(value: &Value) -> Result<T, serde_json::Error> {
    serde_json::from_slice(&serde_json::to_vec(value)?)
}

/// Visits every value without keeping any but the keys of the objects it stands in.
#[derive(Clone, Copy)]
struct Strict {
    depth_left: usize,
}

impl Strict {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        match self.depth_left.checked_sub(1) {
            Some(depth_left) => Ok(Self { depth_left }),
            None => Err(E::custom("nested too deeply")),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while seq.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        // Keys are compared after unescaping: "a" and "\u0061" are the same key.
        let mut seen = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if seen.contains(&key) {
                return Err(de::Error::custom(format_args!("the key {key:?} stands twice in one object")));
            }
            seen.insert(key);
            map.next_value_seed(inner)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(text: &str) -> bool {
        check(text.as_bytes(), DOCUMENT).is_ok()
    }

    #[test]
    fn plain_documents_pass() {
        for text in ["null", "[]", "{}", r#"{"a":[1,-2,3.5,"x",true,null,{"a":1}],"b":{}}"#, " [1 ]\n"] {
            assert!(ok(text), "{text}");
        }
    }

    #[test]
    fn a_key_twice_is_refused_however_it_is_written() {
        for text in [r#"{"a":1,"a":1}"#, r#"{"a":1,"\u0061":2}"#, r#"[{"x":{"b":1,"c":2,"b":3}}]"#] {
            assert!(!ok(text), "{text}");
        }
    }

    #[test]
    fn depth_and_size_are_bounded() {
        let nested = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(ok(&nested(32)));
        assert!(!ok(&nested(33)));
        assert!(!ok(&"[".repeat(100_000)));
        let big = format!("\"{}\"", "x".repeat(DOCUMENT.bytes));
        assert!(matches!(check(big.as_bytes(), DOCUMENT), Err(JsonError::TooLarge { .. })));
    }

    #[test]
    fn what_follows_the_document_is_refused() {
        for text in ["{} {}", "{}x", "", "{", "{\"a\"}", "[1,]", "\u{feff}{}", "NaN"] {
            assert!(!ok(text), "{text}");
        }
        assert!(!ok("\"\u{0}\""));
        assert!(check(b"\"\xff\"", DOCUMENT).is_err());
    }
}
