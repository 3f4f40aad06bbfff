//! What systemd-boot would do with the entries on the ESP. Pure.
//!
//! An executable reading of the Boot Loader Specification, independent of the updater's: a test that asked the updater
//! which slot boots next would believe the same mistake twice.

use std::cmp::{Ordering, Reverse};

/// One boot loader entry of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// File name, with counter and `.conf`.
    pub file: String,
    /// Slot it boots: `a` or `b`.
    pub slot: String,
    /// Tries left; `None`: no counter in the name, so it is confirmed.
    pub tries_left: Option<u32>,
    /// The entry's `version`.
    pub version: String,
    /// The entry's `sort-key`.
    pub sort_key: String,
    /// Paths of `linux` and `initrd`, as written.
    pub files: Vec<String>,
}

impl Entry {
    /// Reads one entry from its file name and content; `None` when it is not one of a slot.
    #[must_use]
    pub fn parse(file: &str, content: &str) -> Option<Self> {
        let stem = file.strip_suffix(".conf")?;
        let (base, counter) = match stem.rsplit_once('+') {
            Some((base, counter)) => (base, Some(counter)),
            None => (stem, None),
        };
        let slot = base.strip_prefix("flipside-")?.to_owned();
        let tries_left = match counter {
            None => None,
            Some(text) => Some(text.split('-').next()?.parse().ok()?),
        };
        let value = |key: &str| {
            content
                .lines()
                .find_map(|l| l.trim().strip_prefix(key)?.strip_prefix([' ', '\t']).map(|v| v.trim().to_owned()))
        };
        Some(Self {
            file: file.to_owned(),
            slot,
            tries_left,
            version: value("version").unwrap_or_default(),
            sort_key: value("sort-key").unwrap_or_default(),
            files: ["linux", "initrd"].into_iter().filter_map(value).collect(),
        })
    }

    /// Confirmed: no counter in its name.
    #[must_use]
    pub fn confirmed(&self) -> bool {
        self.tries_left.is_none()
    }

    /// The loader's order, first boots: exhausted entries last, then sort key, then the higher version.
    fn order(&self, other: &Self) -> Ordering {
        let exhausted = |e: &Self| e.tries_left == Some(0);
        exhausted(self)
            .cmp(&exhausted(other))
            .then_with(|| self.sort_key.cmp(&other.sort_key))
            .then_with(|| Reverse(number(&self.version)).cmp(&Reverse(number(&other.version))))
            .then_with(|| other.file.cmp(&self.file))
    }
}

/// Our versions are zero-padded numbers; one that is not sorts as text after none.
fn number(version: &str) -> (u64, &str) {
    (version.parse().unwrap_or(0), version)
}

/// The entry that boots when nobody touches the keyboard.
#[must_use]
pub fn default_entry(entries: &[Entry]) -> Option<&Entry> {
    entries.iter().min_by(|a, b| a.order(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(file: &str, version: u32) -> Entry {
        Entry::parse(file, &format!("title x\nsort-key flipside\nversion {version:010}\nlinux /flipside/x/vmlinuz\n"))
            .unwrap()
    }

    #[test]
    fn names_tell_slot_and_tries() {
        let e = entry("flipside-b+2-1.conf", 7);
        assert_eq!((e.slot.as_str(), e.tries_left, e.version.as_str()), ("b", Some(2), "0000000007"));
        assert_eq!(e.files, ["/flipside/x/vmlinuz"]);
        assert!(entry("flipside-a.conf", 1).confirmed());
        assert!(!entry("flipside-a+0-3.conf", 1).confirmed());
        for other in ["debian.conf", "flipside-a.conf.tmp", "flipside-a+x.conf"] {
            assert!(Entry::parse(other, "").is_none(), "{other}");
        }
    }

    #[test]
    fn the_newest_with_tries_left_boots_and_an_exhausted_one_does_not() {
        let boots = |list: &[Entry]| default_entry(list).unwrap().file.clone();
        assert_eq!(boots(&[entry("flipside-a.conf", 1), entry("flipside-b+3.conf", 2)]), "flipside-b+3.conf");
        assert_eq!(boots(&[entry("flipside-a.conf", 1), entry("flipside-b+0-3.conf", 2)]), "flipside-a.conf");
        assert_eq!(boots(&[entry("flipside-a.conf", 9), entry("flipside-b.conf", 10)]), "flipside-b.conf");
        assert!(default_entry(&[]).is_none());
    }
}
