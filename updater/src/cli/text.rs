//! Numbers, times and tables for people. Pure.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// `1.5 MB`: powers of 1000, as storage is sold.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut units = UNITS.iter();
    let mut unit = units.next().unwrap_or(&"");
    // 999.95 would be shown as "1000.0".
    while value >= 999.95 {
        let Some(next) = units.next() else { break };
        (value, unit) = (value / 1000.0, next);
    }
    if *unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") }
}

/// `45 s`, `3 min`, `2 h 05 min`, `4 days`.
#[must_use]
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} days", seconds / 86400),
    }
}

/// What "now" is for output, and where the reader lives.
#[derive(Debug, Clone)]
pub struct Reader {
    /// This moment.
    pub now: Timestamp,
    /// The device's zone.
    pub zone: TimeZone,
}

impl Reader {
    /// `2026-11-21 14:05 (in 35 min)`
    #[must_use]
    pub fn moment(&self, at: Timestamp) -> String {
        format!("{} ({})", self.date(at), self.distance(at))
    }

    /// `2026-11-21 14:05`, local time.
    #[must_use]
    pub fn date(&self, at: Timestamp) -> String {
        let local = at.to_zoned(self.zone.clone());
        format!("{:04}-{:02}-{:02} {:02}:{:02}", local.year(), local.month(), local.day(), local.hour(), local.minute())
    }

    /// `in 35 min`, `3 days ago`, `now`.
    #[must_use]
    pub fn distance(&self, at: Timestamp) -> String {
        let seconds = at.as_second().saturating_sub(self.now.as_second());
        match (seconds, seconds.unsigned_abs()) {
            (_, 0) => "now".to_owned(),
            (1.., n) => format!("in {}", duration(n)),
            (_, n) => format!("{} ago", duration(n)),
        }
    }
}

/// Columns as wide as their widest cell, two spaces between.
#[must_use]
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column| rows.iter().filter_map(|r| r.get(column)).map(|c: &String| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let line: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// The first line of a text, for places that hold one line.
#[must_use]
pub fn one_line(text: &str) -> String {
    let mut lines = text.trim().lines();
    let first = lines.next().unwrap_or_default();
    if lines.next().is_some() { format!("{first} …") } else { first.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 999, 1000, 999_960, 412_345_678].map(bytes), ["0 B", "999 B", "1.0 kB", "1.0 MB", "412.3 MB"]);
        assert_eq!([0, 119, 120, 7260, 200_000].map(duration), ["0 s", "119 s", "2 min", "2 h 01 min", "2 days"]);
    }

    #[test]
    fn moments_are_local_and_relative() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let reader = Reader { now: at("2026-11-21T12:00:00Z"), zone: jiff::tz::Offset::constant(1).to_time_zone() };
        assert_eq!(reader.moment(at("2026-11-21T12:35:00Z")), "2026-11-21 13:35 (in 35 min)");
        assert_eq!(reader.distance(at("2026-11-18T11:00:00Z")), "3 days ago");
    }

    #[test]
    fn tables_line_up() {
        let rows = [["a", "long"], ["longer", "b"]].map(|r| r.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "a       long\nlonger  b\n");
    }
}
