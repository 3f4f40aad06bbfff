//! Facts on standard output: for people, or as JSON.

use anyhow::Result;
use serde::Serialize;

/// Prints `facts` as pretty JSON.
pub fn json(facts: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(facts)?);
    Ok(())
}

/// A number of bytes for people: `12.3 MB` (decimal, as sold and as billed).
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let unit = UNITS.get(unit).copied().unwrap_or_default();
    if unit == "B" { format!("{n} B") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn bytes_for_people() {
        for (n, text) in [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_999, "1.0 MB"), (29_200_000, "29.2 MB")] {
            assert_eq!(bytes(n), text);
        }
    }
}
