//! Benchmarks of a release, and whether they are worse than those of the release before.
//!
//! Two forms are read: an object of numbers, `{"boot_s": 4.2}`, where less is better, and the list that continuous
//! benchmark services use, `[{"name": "boot", "unit": "s", "value": 4.2, "better": "lower"}]`.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// Benchmarks one gate may have: they travel in the manifest.
const MAX: usize = 1000;

/// One measure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Benchmark {
    /// What was measured.
    pub value: f64,
    /// In what.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unit: String,
    /// Which way is good.
    #[serde(default)]
    pub better: Better,
}

/// Which way is good.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Times, sizes.
    #[default]
    Lower,
    /// Rates.
    Higher,
}

/// Measures by name.
pub type Measures = BTreeMap<String, Benchmark>;

/// An entry of the list form.
#[derive(Deserialize)]
struct Named {
    name: String,
    value: f64,
    #[serde(default)]
    unit: String,
    #[serde(default)]
    better: Better,
}

/// Reads a report.
///
/// # Errors
/// When it is neither form, has a name twice, or measures nothing.
pub fn read(text: &str) -> Result<Measures> {
    bundle::json::check(text.as_bytes(), bundle::json::DOCUMENT)?;
    let whole: serde_json::Value = serde_json::from_str(text).context("not JSON")?;
    let named = match &whole {
        serde_json::Value::Object(object) => {
            let number = |(name, value): (&String, &serde_json::Value)| {
                let value = value.as_f64().with_context(|| format!("{name:?} is not a number"))?;
                Ok(Named { name: name.clone(), value, unit: String::new(), better: Better::Lower })
            };
            object.iter().map(number).collect::<Result<Vec<_>>>()?
        }
        serde_json::Value::Array(list) => {
            let entry = |value: &serde_json::Value| Named::deserialize(value).with_context(|| format!("in {value}"));
            list.iter().map(entry).collect::<Result<Vec<_>>>()?
        }
        _ => bail!("neither an object of numbers nor a list of benchmarks"),
    };
    ensure!(!named.is_empty(), "it measures nothing");
    ensure!(named.len() <= MAX, "{} benchmarks, at most {MAX} are possible", named.len());
    let mut measures = Measures::new();
    for Named { name, value, unit, better } in named {
        let benchmark = Benchmark { value, unit, better };
        ensure!(!name.is_empty() && name.len() <= 256, "the name {name:?} has not 1 to 256 bytes");
        ensure!(measures.insert(name.clone(), benchmark).is_none(), "{name:?} stands there twice");
    }
    Ok(measures)
}

/// What is worse than before by more than `tolerance` percent, a sentence each. A measure that is gone is worse: else
/// deleting it would be the way past the gate.
pub fn worse(before: &Measures, now: &Measures, tolerance: f64) -> Vec<String> {
    let worse = |(name, old): (&String, &Benchmark)| {
        let Some(new) = now.get(name) else {
            return Some(format!("{name} was {} and is not measured any more", old.value));
        };
        if (new.better, &new.unit) != (old.better, &old.unit) {
            return Some(format!("{name} is measured in another unit or direction than before"));
        }
        let room = old.value.abs() * tolerance / 100.0;
        let bad = match old.better {
            Better::Lower => new.value > old.value + room,
            Better::Higher => new.value < old.value - room,
        };
        let unit = if old.unit.is_empty() { String::new() } else { format!(" {}", old.unit) };
        bad.then(|| format!("{name} is {}{unit}, was {}{unit}", new.value, old.value))
    };
    before.iter().filter_map(worse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let object = read(r#"{"boot": 4.5, "size": 3}"#).unwrap();
        assert_eq!(object["boot"], Benchmark { value: 4.5, unit: String::new(), better: Better::Lower });
        let list = read(r#"[{"name":"rate","unit":"MB/s","value":12,"better":"higher","range":"1"}]"#).unwrap();
        assert_eq!(list["rate"], Benchmark { value: 12.0, unit: "MB/s".to_owned(), better: Better::Higher });
        for bad in ["", "{}", "[]", "3", r#"{"a":"x"}"#, r#"[{"name":"a"}]"#, r#"{"":1}"#] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(read(r#"[{"name":"a","value":1},{"name":"a","value":2}]"#).is_err());
    }

    #[test]
    fn worse_is_beyond_the_tolerance_in_the_bad_direction() {
        let before = read(r#"[{"name":"t","value":10},{"name":"rate","value":100,"better":"higher"}]"#).unwrap();
        let now = |t: f64, rate: f64| {
            read(&format!(r#"[{{"name":"t","value":{t}}},{{"name":"rate","value":{rate},"better":"higher"}}]"#))
                .unwrap()
        };
        assert!(worse(&before, &now(10.0, 100.0), 0.0).is_empty());
        assert!(worse(&before, &now(1.0, 900.0), 0.0).is_empty());
        assert_eq!(worse(&before, &now(10.1, 99.9), 0.0).len(), 2);
        assert!(worse(&before, &now(10.5, 95.0), 5.0).is_empty());
        assert_eq!(worse(&before, &now(10.6, 94.0), 5.0).len(), 2);
    }

    #[test]
    fn a_measure_that_is_gone_or_turned_around_is_worse() {
        let before = read(r#"[{"name":"t","value":10}]"#).unwrap();
        assert_eq!(worse(&before, &read(r#"{"u": 1}"#).unwrap(), 1000.0).len(), 1);
        let turned = read(r#"[{"name":"t","value":1,"better":"higher"}]"#).unwrap();
        assert_eq!(worse(&before, &turned, 1000.0).len(), 1);
        assert!(worse(&Measures::new(), &before, 0.0).is_empty());
    }
}
