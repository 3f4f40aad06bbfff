//! Live progress: one line that is rewritten on a terminal, plain lines elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use bundle::json;
use bundle::reason::Reason;
use jiff::tz::TimeZone;
use rustix::termios::tcgetwinsize;
use updater_core::status::{Problem, StateName, Status};

use super::status::progress_line;
use super::text::Reader;
use crate::dbus::values::timeless;

/// Cells of the bar itself; none of it where fewer than the second number have room.
const CELLS: (usize, usize) = (24, 8);

/// Where progress is shown.
pub enum Bar {
    /// Rewritten in place on standard error.
    Terminal {
        /// The reader's.
        zone: TimeZone,
    },
    /// One line per change of state, and per tenth part.
    Lines {
        /// What was printed last.
        last: String,
        /// The reader's.
        zone: TimeZone,
    },
    /// Not at all.
    Silent,
    /// JSON lines on standard output.
    Json {
        /// What was printed last.
        last: Option<Box<Status>>,
    },
}

impl Bar {
    /// As the caller and the terminal are; `zone`: where the reader lives.
    #[must_use]
    pub fn new(json: bool, zone: TimeZone) -> Self {
        if json {
            Self::Json { last: None }
        } else if io::stderr().is_terminal() {
            Self::Terminal { zone }
        } else {
            Self::Lines { last: String::new(), zone }
        }
    }

    /// Shows a picture.
    pub fn show(&mut self, status: &Status) {
        match self {
            Self::Terminal { zone } => {
                let line = live_line(status, zone, columns());
                // Back to the margin, then everything behind the new text is erased.
                let _ = write!(io::stderr(), "\r{line}\x1b[K");
                let _ = io::stderr().flush();
            }
            Self::Lines { last, zone } => {
                let line = coarse_line(status, zone);
                if *last != line {
                    let _ = writeln!(io::stderr(), "{line}");
                    *last = line;
                }
            }
            Self::Silent => {}
            Self::Json { last } => {
                let picture = timeless(status);
                if last.as_deref() != Some(&picture) {
                    let event = serde_json::json!({"format": 1, "event": "status", "status": json::to_value(status).unwrap_or_default()});
                    let _ = writeln!(io::stdout(), "{event}");
                    *last = Some(Box::new(picture));
                }
            }
        }
    }

    /// How long to look away between two pictures: nobody reads a log four times a second, and each look costs the
    /// device something.
    #[must_use]
    pub const fn pause(&self) -> Duration {
        match self {
            Self::Terminal { .. } | Self::Silent => Duration::ZERO,
            Self::Lines { .. } | Self::Json { .. } => Duration::from_millis(750),
        }
    }

    /// Leaves the line.
    pub fn end(&mut self) {
        if matches!(self, Self::Terminal { .. }) {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// What a line may be wide: a full one would break, and leave a row behind each time it is written again.
fn columns() -> usize {
    let columns = tcgetwinsize(io::stderr()).map_or(0, |size| usize::from(size.ws_col));
    // A serial console does not know.
    (if columns == 0 { 80 } else { columns }) - 1
}

fn live_line(status: &Status, zone: &TimeZone, columns: usize) -> String {
    let (word, held) = (word(status), held(status, zone));
    let line = match (status.progress.filter(|p| p.bytes_total > 0), progress_line(status)) {
        (Some(p), Some(line)) => {
            let line = format!("{line}{held}");
            let (most, least) = CELLS;
            let room = columns.saturating_sub("verifying   ".len() + line.chars().count()).min(most);
            let part = u128::from(p.bytes_done) * room as u128 / u128::from(p.bytes_total);
            let full = usize::try_from(part).unwrap_or(room).min(room);
            let bar: String = (0..room).map(|n| if n < full { '█' } else { '·' }).collect();
            if room < least { format!("{word:10} {line}") } else { format!("{word:10} {bar} {line}") }
        }
        _ if held.is_empty() => format!("{word} …"),
        _ => format!("{word}{held}"),
    };
    line.chars().take(columns).collect()
}

fn coarse_line(status: &Status, zone: &TimeZone) -> String {
    let (word, held) = (word(status), held(status, zone));
    match status.progress.filter(|p| p.bytes_total > 0) {
        Some(p) => {
            let tenth = u128::from(p.bytes_done) * 10 / u128::from(p.bytes_total) * 10;
            format!("{word} {tenth} %{held}")
        }
        None => format!("{word}{held}"),
    }
}

/// What keeps an update that is on its way, and until when where that is known: `, waits: network`.
fn held(status: &Status, zone: &TimeZone) -> String {
    let waiting = status.waiting.as_ref().filter(|_| status.operation.is_none() && status.release.is_some());
    match waiting {
        // What was asked for, and a notice that keeps nothing.
        None | Some(Problem { reason: Reason::NoUpdate | Reason::NotifyOnly | Reason::Recalled, .. }) => String::new(),
        Some(Problem { reason, until: None, .. }) => format!(", waits: {reason}"),
        Some(Problem { reason, until: Some(until), .. }) => {
            let reader = Reader { now: *until, zone: zone.clone() };
            format!(", waits: {reason}, until {}", reader.date(*until))
        }
    }
}

fn word(status: &Status) -> &'static str {
    match status.state {
        StateName::Idle => "idle",
        StateName::Checking => "checking",
        StateName::Offered => "offered",
        StateName::Approved => "approved",
        StateName::Writing => "writing",
        StateName::Verifying => "verifying",
        StateName::Staged => "staged",
        StateName::Armed => "switched",
        StateName::Trying => "on trial",
        StateName::Good => "confirmed",
        StateName::Reverting => "going back",
        StateName::RolledBack => "rolled back",
        StateName::Degraded => "degraded",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bundle::approval::ReleaseRef;
    use updater_core::status::{Progress, ProgressPhase};

    #[test]
    fn the_bar_fills_and_lines_come_in_tenths() {
        let mut status = crate::dbus::testing::status();
        status.state = StateName::Writing;
        status.progress = Some(Progress {
            phase: ProgressPhase::Writing,
            bytes_done: 59,
            bytes_total: 100,
            bytes_reused: 0,
            bytes_per_second: 0,
        });
        assert_eq!(live_line(&status, &TimeZone::UTC, 79), "writing    ██████████████·········· 59 %, 59 B of 100 B");
        assert_eq!(coarse_line(&status, &TimeZone::UTC), "writing 50 %");
        status.progress = None;
        assert_eq!(coarse_line(&status, &TimeZone::UTC), "writing");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let mut status = crate::dbus::testing::status();
        status.state = StateName::Verifying;
        status.progress = Some(Progress {
            phase: ProgressPhase::Verifying,
            bytes_done: 250_000_000,
            bytes_total: 400_000_000,
            bytes_reused: 12_000_000,
            bytes_per_second: 10_000_000,
        });
        let line = |columns| live_line(&status, &TimeZone::UTC, columns);
        let all = "62 %, 250.0 MB of 400.0 MB (12.0 MB reused), 10.0 MB/s, 15 s left";
        assert_eq!(line(199), format!("verifying  ███████████████········· {all}"));
        assert_eq!(line(87), format!("verifying  ██████···· {all}"));
        assert_eq!(line(79), format!("verifying  {all}"));
        assert_eq!((line(40).chars().count(), line(0)), (40, String::new()));
    }

    #[test]
    fn both_lines_say_what_an_update_waits_for() {
        let mut status = crate::dbus::testing::status();
        status.state = StateName::Writing;
        let digest = "ab".repeat(32).parse().unwrap();
        status.release = Some(ReleaseRef { version: "2.4.1".parse().unwrap(), counter: 57, manifest_sha256: digest });
        assert_eq!(live_line(&status, &TimeZone::UTC, 79), "writing …");
        let until = Some("2026-11-22T02:00:00Z".parse().unwrap());
        status.waiting = Some(Problem { reason: Reason::Network, detail: "no route".into(), at: None, until });
        let line = "writing, waits: network, until 2026-11-22 02:00";
        assert_eq!(live_line(&status, &TimeZone::UTC, 79), line);
        assert_eq!(coarse_line(&status, &TimeZone::UTC), line);
        status.operation = Some("writing".into());
        assert_eq!(coarse_line(&status, &TimeZone::UTC), "writing", "it goes on");
        status.operation = None;
        status.waiting = Some(Problem { reason: Reason::Recalled, detail: String::new(), at: None, until: None });
        assert_eq!(coarse_line(&status, &TimeZone::UTC), "writing", "a notice");
    }
}
