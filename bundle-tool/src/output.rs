//! Facts on standard output: for people, or as JSON.

use anyhow::Result;
use serde::Serialize;

/// Prints `facts` as pretty JSON.
pub fn json(facts: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(facts)?);
    Ok(())
}

/// Text that a stranger wrote, for a terminal: what would move the cursor, colour, erase or turn the line around is
/// shown as `\u{1b}`.
pub fn harmless(text: &str) -> String {
    let bad = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    let escape = |c: char| if bad(c) { c.escape_unicode().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
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
    use super::{bytes, harmless};

    #[test]
    fn text_of_strangers_does_nothing_to_a_terminal() {
        assert_eq!(harmless("Käse 1.0 \u{1b}[2J\r\n"), r"Käse 1.0 \u{1b}[2J\u{d}\u{a}");
        assert_eq!(harmless("a\u{9b}b\u{202e}c\u{7f}"), r"a\u{9b}b\u{202e}c\u{7f}");
    }

    #[test]
    fn bytes_for_people() {
        for (n, text) in [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_999, "1.0 MB"), (29_200_000, "29.2 MB")] {
            assert_eq!(bytes(n), text);
        }
    }
}
