//! Boot Loader Specification entries of type 1, as systemd-boot counts them.
//!
//! Pure text: file names with boot counters (`flipside-b+2-1.conf`) and the few lines inside. Source: the Boot
//! Loader Specification and "Automatic Boot Assessment" of systemd.

use updater_core::slot::SlotId;

/// What every entry of ours starts with.
const STEM: &str = "flipside-";

/// An entry's file name, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryName {
    /// The slot it boots.
    pub slot: SlotId,
    /// Tries left and tries done; none: counting is over, the slot is confirmed.
    pub count: Option<(u32, u32)>,
}

impl EntryName {
    /// Takes `flipside-<slot>[+LEFT[-DONE]].conf` apart; `None` when it is none of ours.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let stem = name.strip_prefix(STEM)?.strip_suffix(".conf")?;
        let (slot, count) = match stem.split_once('+') {
            None => (stem, None),
            Some((slot, count)) => {
                let (left, done) = count.split_once('-').unwrap_or((count, "0"));
                (slot, Some((number(left)?, number(done)?)))
            }
        };
        let slot = match slot {
            "a" => SlotId::A,
            "b" => SlotId::B,
            _ => return None,
        };
        Some(Self { slot, count })
    }

    /// The file name. `DONE` is left out while zero, as systemd-boot does.
    #[must_use]
    pub fn file_name(self) -> String {
        match self.count {
            None => format!("{STEM}{}.conf", self.slot),
            Some((left, 0)) if left > 0 => format!("{STEM}{}+{left}.conf", self.slot),
            Some((left, done)) => format!("{STEM}{}+{left}-{done}.conf", self.slot),
        }
    }
}

/// Decimal digits only: `parse` alone would take `+3` too.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// What stands in an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryText {
    /// The slot it boots.
    pub slot: SlotId,
    /// The activation number: systemd-boot takes the highest first.
    pub version: u64,
    /// Kernel command line from config, without `flipside.slot=`; `%s` stands for the slot.
    pub options: String,
}

impl EntryText {
    /// The file's content.
    #[must_use]
    pub fn render(&self) -> String {
        let (slot, version) = (self.slot, self.version);
        let options = self.options.replace("%s", &slot.to_string());
        format!(
            "title Flipside {slot}\nsort-key flipside\nversion {version:010}\nlinux /flipside/{slot}/vmlinuz\n\
             initrd /flipside/{slot}/initrd.img\noptions {} flipside.slot={slot}\n",
            options.trim()
        )
    }
}

/// The activation number in an entry's content; 0 when there is none, so that anything newer sorts before it.
#[must_use]
pub fn version_of(content: &[u8]) -> u64 {
    String::from_utf8_lossy(content)
        .lines()
        .find_map(|line| line.strip_prefix("version")?.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_strangers_are_left_alone() {
        for (name, slot, count) in [
            ("flipside-a.conf", SlotId::A, None),
            ("flipside-a+3.conf", SlotId::A, Some((3, 0))),
            ("flipside-b+2-1.conf", SlotId::B, Some((2, 1))),
            ("flipside-b+0-3.conf", SlotId::B, Some((0, 3))),
        ] {
            let parsed = EntryName::parse(name).unwrap();
            assert_eq!(parsed, EntryName { slot, count });
            assert_eq!(parsed.file_name(), name);
        }
        for stranger in [
            "debian.conf",
            "flipside-c.conf",
            "flipside-a+x.conf",
            "flipside-a++3.conf",
            "flipside-a.conf.tmp",
            "flipside-a+3-.conf2",
        ] {
            assert_eq!(EntryName::parse(stranger), None, "{stranger}");
        }
    }

    #[test]
    fn content_carries_slot_and_number() {
        let text = EntryText { slot: SlotId::B, version: 7, options: "root=PARTLABEL=root-%s ro".into() }.render();
        assert!(text.contains("\nversion 0000000007\n"));
        assert!(text.contains("\nlinux /flipside/b/vmlinuz\n"));
        assert!(text.ends_with("\noptions root=PARTLABEL=root-b ro flipside.slot=b\n"));
        assert_eq!(version_of(text.as_bytes()), 7);
        assert_eq!(version_of(b"title x\n"), 0);
    }
}
