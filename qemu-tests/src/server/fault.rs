//! What a server in the field does wrong, as data: scenario files name these.

use serde::{Deserialize, Serialize};

/// Bytes between two that [`Fault::Tamper`] flips.
pub(super) const TAMPER_EVERY: u64 = 64 << 10;

/// One way to misbehave. Byte counts are of the body sent in one response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// Send this many bytes, then nothing more, keeping the connection open.
    Stall(u64),
    /// Send this many bytes, then reset the connection.
    Reset(u64),
    /// Send this many bytes, then close in good order, although more was promised.
    Truncate(u64),
    /// Send at most this many bytes each second.
    Drip(u64),
    /// From this offset of the *file* on, flip a bit every 64 KiB: whatever part is asked for, it is wrong.
    Tamper(u64),
    /// Answer with this status and no useful body; 429 and 503 carry `Retry-After: 2`.
    Status(u16),
    /// Answer 200 with a web page, as captive portals do.
    Html,
    /// Ignore `Range` and send the whole file with 200.
    NoRanges,
    /// Give out another ETag with each response, as when the file is exchanged in mid-download.
    NewEtag,
}

/// A fault, where it applies, and for how many requests.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Path it applies to; a `*` stands for any characters. Default: every path.
    #[serde(default = "every_path")]
    pub path: String,
    /// What to do.
    pub fault: Fault,
    /// For this many requests; default: until the faults are cleared.
    pub times: Option<u32>,
}

fn every_path() -> String {
    "*".into()
}

impl Rule {
    /// Applies the fault to all requests.
    #[must_use]
    pub fn everywhere(fault: Fault) -> Self {
        Self { path: every_path(), fault, times: None }
    }

    /// Does it apply to this path now?
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        self.times != Some(0) && glob(&self.path, path)
    }
}

/// `*` matches any run of characters, `/` included.
#[must_use]
pub fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, rest)) => text
            .strip_prefix(head)
            .is_some_and(|tail| (0..=tail.len()).filter_map(|i| tail.get(i..)).any(|t| glob(rest, t))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        assert!(glob("*", "/x"));
        assert!(glob("/bundles/*.bundle", "/bundles/ab.bundle"));
        assert!(!glob("/bundles/*.bundle", "/bundles/ab.delta"));
        assert!(glob("/a/*/c*", "/a/b/b/cd"));
        assert!(!glob("/a", "/ab"));
    }

    #[test]
    fn a_rule_that_is_used_up_matches_no_more() {
        let mut rule = Rule { path: "/a*".into(), fault: Fault::Html, times: Some(1) };
        assert!(rule.matches("/ab"));
        rule.times = Some(0);
        assert!(!rule.matches("/ab"));
    }

    #[test]
    fn as_written_in_scenarios() {
        let rule: Rule = toml::from_str("path = '/b/*'\nfault = { status = 429 }\ntimes = 2").unwrap();
        assert_eq!(rule, Rule { path: "/b/*".into(), fault: Fault::Status(429), times: Some(2) });
        let rule: Rule = toml::from_str("fault = 'html'").unwrap();
        assert_eq!(rule, Rule::everywhere(Fault::Html));
        assert!(toml::from_str::<Rule>("fault = 'hmtl'").is_err());
    }
}
