//! TOML tables as flat `a.b.c = value` lists, merged value by value with the origin of each. Pure.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Dotted key to value; arrays are values.
pub type Leaves = BTreeMap<String, toml::Value>;

/// Flattens a table. Empty tables vanish.
#[must_use]
pub fn of_table(table: &toml::Table) -> Leaves {
    fn walk(prefix: &str, table: &toml::Table, into: &mut Leaves) {
        for (key, value) in table {
            let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            match value {
                toml::Value::Table(inner) => walk(&path, inner, into),
                other => {
                    into.insert(path, other.clone());
                }
            }
        }
    }
    let mut leaves = Leaves::new();
    walk("", table, &mut leaves);
    leaves
}

/// Lays `over` on `base`: tables are merged, everything else is replaced as a whole.
pub fn lay_over(base: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => lay_over(below, above),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// Which file each value came from.
pub type Origins = BTreeMap<String, PathBuf>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_merge_value_by_value() {
        let mut base: toml::Table = "a = 1\n[t]\nx = [1, 2]\ny = 2\n".parse().unwrap();
        lay_over(&mut base, "[t]\nx = [3]\nz = 4\n".parse().unwrap());
        let leaves = of_table(&base);
        let json = serde_json::to_value(leaves).unwrap();
        assert_eq!(json, serde_json::json!({"a": 1, "t.x": [3], "t.y": 2, "t.z": 4}));
    }
}
