//! Weekly hours in the device's time zone.
//!
//! A window opens at a local wall-clock time and stays open for a number of real minutes, so a night in which the
//! clocks change neither shortens nor doubles it. A start that does not exist that night (clocks go forward) opens
//! when the clocks have moved on; one that exists twice opens the first time.

use bundle::approval::{Weekday, Window};
use jiff::civil;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

/// What windows say about a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hours {
    /// Open until then.
    Open(Timestamp),
    /// Closed; opens then. None: never (no window is well-formed).
    Closed(Option<Timestamp>),
}

/// Days to look back and ahead: a window lasts at most a week and comes round every week.
const DAYS: i64 = 8;

/// Whether any of `windows` is open at `at`, and until or from when. No windows: never asked (the caller means
/// "always").
#[must_use]
pub fn hours(windows: &[Window], zone: &TimeZone, at: Timestamp) -> Hours {
    let mut closes = None;
    let mut opens = None;
    for (open, close) in windows.iter().flat_map(|window| occurrences(window, zone, at)) {
        if open <= at && at < close {
            closes = closes.max(Some(close));
        } else if open > at {
            opens = Some(opens.map_or(open, |earliest: Timestamp| earliest.min(open)));
        }
    }
    closes.map_or(Hours::Closed(opens), Hours::Open)
}

/// The window's openings around `at`.
fn occurrences(window: &Window, zone: &TimeZone, at: Timestamp) -> Vec<(Timestamp, Timestamp)> {
    let today = zone.to_datetime(at).date();
    let start = window.start_minute();
    (-DAYS..=DAYS)
        .filter_map(|offset| {
            let date = today.checked_add(offset.days()).ok()?;
            if !window.days.contains(&weekday(date)) {
                return None;
            }
            let start = start?;
            let time = civil::time(i8::try_from(start / 60).ok()?, i8::try_from(start % 60).ok()?, 0, 0);
            // "Compatible" is jiff's default: a gap moves forward, a fold takes the first.
            let open = zone.to_ambiguous_timestamp(date.to_datetime(time)).compatible().ok()?;
            let close = open.checked_add(SignedDuration::from_mins(i64::from(window.minutes))).ok()?;
            Some((open, close))
        })
        .collect()
}

const fn weekday_of(day: civil::Weekday) -> Weekday {
    match day {
        civil::Weekday::Monday => Weekday::Mon,
        civil::Weekday::Tuesday => Weekday::Tue,
        civil::Weekday::Wednesday => Weekday::Wed,
        civil::Weekday::Thursday => Weekday::Thu,
        civil::Weekday::Friday => Weekday::Fri,
        civil::Weekday::Saturday => Weekday::Sat,
        civil::Weekday::Sunday => Weekday::Sun,
    }
}

fn weekday(date: civil::Date) -> Weekday {
    weekday_of(date.weekday())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(days: &[Weekday], start: &str, minutes: u32) -> Window {
        Window { days: days.to_vec(), start: start.into(), minutes }
    }

    fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    fn ask(window: Window, at: &str) -> Hours {
        hours(&[window], &berlin(), at.parse().unwrap())
    }

    fn open(until: &str) -> Hours {
        Hours::Open(until.parse().unwrap())
    }

    fn closed(until: &str) -> Hours {
        Hours::Closed(Some(until.parse().unwrap()))
    }

    #[test]
    fn opens_and_closes_in_local_time() {
        // 2026-11-23 is a Monday; Berlin is UTC+1.
        let nightly = || window(&[Weekday::Mon, Weekday::Tue], "01:00", 180);
        assert_eq!(ask(nightly(), "2026-11-22T23:59:59Z"), closed("2026-11-23T00:00:00Z"));
        assert_eq!(ask(nightly(), "2026-11-23T00:00:00Z"), open("2026-11-23T03:00:00Z"));
        assert_eq!(ask(nightly(), "2026-11-23T03:00:00Z"), closed("2026-11-24T00:00:00Z"));
        assert_eq!(ask(nightly(), "2026-11-24T03:00:00Z"), closed("2026-11-30T00:00:00Z"));
    }

    #[test]
    fn crosses_midnight_and_the_week() {
        let late = || window(&[Weekday::Sun], "23:00", 120);
        assert_eq!(ask(late(), "2026-11-22T23:30:00Z"), open("2026-11-23T00:00:00Z"));
        let all_week = || window(&[Weekday::Wed], "00:00", 10_080);
        assert!(matches!(ask(all_week(), "2026-11-23T12:00:00Z"), Hours::Open(_)));
    }

    #[test]
    fn a_start_that_the_clocks_skip_opens_after_the_gap() {
        // 2026-03-29, 02:00 -> 03:00 local.
        let gap = || window(&[Weekday::Sun], "02:30", 60);
        assert_eq!(ask(gap(), "2026-03-29T01:29:00Z"), closed("2026-03-29T01:30:00Z"));
        assert_eq!(ask(gap(), "2026-03-29T01:30:00Z"), open("2026-03-29T02:30:00Z"));
    }

    #[test]
    fn a_start_that_comes_twice_opens_once() {
        // 2026-10-25, 03:00 -> 02:00 local: 02:30 is 00:30Z and again 01:30Z.
        let fold = || window(&[Weekday::Sun], "02:30", 30);
        assert_eq!(ask(fold(), "2026-10-25T00:30:00Z"), open("2026-10-25T01:00:00Z"));
        assert_eq!(ask(fold(), "2026-10-25T01:30:00Z"), closed("2026-11-01T01:30:00Z"));
    }

    #[test]
    fn lasts_its_real_minutes_through_a_change() {
        let night = || window(&[Weekday::Sun], "01:00", 180);
        assert_eq!(ask(night(), "2026-03-29T00:30:00Z"), open("2026-03-29T03:00:00Z"));
    }

    #[test]
    fn several_windows_are_open_together_and_a_broken_one_never() {
        let zone = TimeZone::UTC;
        let at = "2026-11-23T12:00:00Z".parse().unwrap();
        let two = [window(&[Weekday::Mon], "11:00", 120), window(&[Weekday::Mon], "12:00", 600)];
        assert_eq!(hours(&two, &zone, at), open("2026-11-23T22:00:00Z"));
        assert_eq!(hours(&[window(&[Weekday::Mon], "25:00", 60)], &zone, at), Hours::Closed(None));
        assert_eq!(hours(&[window(&[], "01:00", 60)], &zone, at), Hours::Closed(None));
    }
}
