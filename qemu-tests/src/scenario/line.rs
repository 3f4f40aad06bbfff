//! A line of the plan: what is done, and on which machine.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::{FIRST, Step};

/// One line of a scenario, `{ on = "second", boot = {} }`.
#[derive(Debug, Clone)]
pub struct Line {
    /// The machine; `None`: the first.
    pub on: Option<String>,
    /// What.
    pub step: Step,
}

impl Line {
    /// Name of the machine it is about.
    #[must_use]
    pub fn machine(&self) -> &str {
        self.on.as_deref().unwrap_or(FIRST)
    }
}

impl<'de> Deserialize<'de> for Line {
    /// By hand: serde's `flatten` would let unknown and doubled words pass.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut words = toml::Table::deserialize(deserializer)?;
        let on = words.remove("on").map(String::deserialize).transpose().map_err(D::Error::custom)?;
        let text = words.to_string();
        let step = Step::deserialize(toml::Value::Table(words));
        Ok(Self { on, step: step.map_err(|e| D::Error::custom(format!("{}: {e}", text.trim())))? })
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.on {
            Some(machine) => write!(f, "{machine}: {}", self.step),
            None => self.step.fmt(f),
        }
    }
}

impl fmt::Display for Step {
    /// As in the file, without what was left out: for timelines and errors.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        strip(&mut value);
        write!(f, "{value}")
    }
}

fn strip(value: &mut serde_json::Value) {
    if let Some(map) = value.as_object_mut() {
        map.retain(|_, v| !v.is_null());
        map.values_mut().for_each(strip);
    }
}
