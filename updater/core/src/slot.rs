//! The two places a system can live in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One of the two slots; `a` and `b` in every document, path and label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlotId {
    /// Slot `a`.
    A,
    /// Slot `b`.
    B,
}

impl SlotId {
    /// Both, in order.
    pub const ALL: [SlotId; 2] = [SlotId::A, SlotId::B];

    /// The one that is not this one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            SlotId::A => SlotId::B,
            SlotId::B => SlotId::A,
        }
    }

    /// `a` or `b`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            SlotId::A => "a",
            SlotId::B => "b",
        }
    }
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is neither `a` nor `b`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a slot is `a` or `b`")]
pub struct ParseSlotError;

impl FromStr for SlotId {
    type Err = ParseSlotError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "a" => Ok(SlotId::A),
            "b" => Ok(SlotId::B),
            _ => Err(ParseSlotError),
        }
    }
}

/// One value per slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PerSlot<T> {
    /// Slot `a`'s.
    pub a: T,
    /// Slot `b`'s.
    pub b: T,
}

impl<T> PerSlot<T> {
    /// The value of `slot`.
    pub const fn get(&self, slot: SlotId) -> &T {
        match slot {
            SlotId::A => &self.a,
            SlotId::B => &self.b,
        }
    }

    /// The value of `slot`, to change it.
    pub const fn get_mut(&mut self, slot: SlotId) -> &mut T {
        match slot {
            SlotId::A => &mut self.a,
            SlotId::B => &mut self.b,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::SlotId;

    #[test]
    fn text_and_json_agree() {
        for slot in SlotId::ALL {
            assert_eq!(slot.as_str().parse::<SlotId>().unwrap(), slot);
            assert_eq!(serde_json::to_string(&slot).unwrap(), format!("\"{slot}\""));
            assert_eq!(slot.other().other(), slot);
        }
        assert!("A".parse::<SlotId>().is_err());
    }
}
