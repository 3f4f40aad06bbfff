//! Small notations of the command line: durations, shares, sizes.

use anyhow::{Context as _, Result, bail};
use jiff::{SignedDuration, Timestamp};

/// Seconds of `90s`, `15m`, `6h`, `7d`, `2w`, `10y` (365 days each).
pub fn seconds(text: &str) -> Result<u64> {
    let what = || format!("{text:?} is not a duration like 90s, 15m, 6h, 7d, 2w, 10y");
    let unit = text.chars().next_back().with_context(what)?;
    let number: u64 = text.strip_suffix(unit).unwrap_or_default().parse().with_context(what)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 7 * 86_400,
        'y' => 365 * 86_400,
        _ => bail!(what()),
    };
    number.checked_mul(factor).with_context(what)
}

/// A point in time: RFC 3339, or a duration from `now`.
pub fn time(text: &str, now: Timestamp) -> Result<Timestamp> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let seconds = i64::try_from(seconds(text)?).with_context(|| format!("{text:?} is too long"))?;
    // Whole seconds: a document is not more exact for nine more digits.
    let now = Timestamp::from_second(now.as_second())?;
    now.checked_add(SignedDuration::from_secs(seconds)).with_context(|| format!("{text:?} is too long"))
}

/// Basis points of `1.5%` (150), `100%`, or a plain number of basis points `150bp`.
pub fn share(text: &str) -> Result<u16> {
    let what = || format!("{text:?} is not a share like 1.5%, 100% or 150bp");
    let value = match (text.strip_suffix('%'), text.strip_suffix("bp")) {
        (Some(percent), _) => {
            let (whole, part) = percent.split_once('.').unwrap_or((percent, ""));
            let digits = part.len() <= 2 && part.bytes().all(|c| c.is_ascii_digit());
            let part: u16 = if digits { format!("{part:0<2}").parse().with_context(what)? } else { bail!(what()) };
            whole.parse::<u16>().ok().and_then(|whole| whole.checked_mul(100)?.checked_add(part)).with_context(what)?
        }
        (None, Some(points)) => points.parse().with_context(what)?,
        (None, None) => bail!(what()),
    };
    anyhow::ensure!(value <= 10_000, "{text:?} is more than everybody");
    Ok(value)
}

/// Bytes of `4096`, `64KiB`, `1MiB`.
pub fn size(text: &str) -> Result<u32> {
    let what = || format!("{text:?} is not a size like 65536, 64KiB or 1MiB");
    let (number, factor) = match (text.strip_suffix("KiB"), text.strip_suffix("MiB")) {
        (Some(number), _) => (number, 1 << 10),
        (_, Some(number)) => (number, 1 << 20),
        _ => (text, 1),
    };
    number.parse::<u32>().ok().and_then(|number| number.checked_mul(factor)).with_context(what)
}

/// `name=value`, both not empty.
pub fn pair(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => bail!("{text:?} is not NAME=VALUE"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_times() {
        assert_eq!(seconds("7d").unwrap(), 604_800);
        assert_eq!(seconds("90s").unwrap(), 90);
        for bad in ["", "d", "7", "-1d", "7x", "99999999999999999999y", "1ä"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
        let now: Timestamp = "2026-11-20T00:00:00Z".parse().unwrap();
        assert_eq!(time("1h", now).unwrap().to_string(), "2026-11-20T01:00:00Z");
        assert_eq!(time("2027-01-01T00:00:00Z", now).unwrap().to_string(), "2027-01-01T00:00:00Z");
        assert!(time("999999999y", now).is_err());
    }

    #[test]
    fn shares() {
        for (text, points) in [("0%", 0), ("1.5%", 150), ("0.01%", 1), ("100%", 10_000), ("150bp", 150)] {
            assert_eq!(share(text).unwrap(), points, "{text}");
        }
        for bad in ["", "%", "100.01%", "101%", "1.555%", "-1%", "50", "1.-5%", "700%"] {
            assert!(share(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_and_pairs() {
        assert_eq!((size("4096").unwrap(), size("64KiB").unwrap(), size("1MiB").unwrap()), (4096, 65_536, 1 << 20));
        assert!(size("5000MiB").is_err() && size("1MB").is_err());
        assert_eq!(pair("a=b=c").unwrap(), ("a".to_owned(), "b=c".to_owned()));
        assert!(pair("a=").is_err() && pair("=b").is_err() && pair("ab").is_err());
    }
}
