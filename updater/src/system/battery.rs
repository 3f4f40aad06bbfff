//! Battery charge, from `/sys/class/power_supply` under an injected root. Reads only.

use std::fs;
use std::path::Path;

/// Charge in percent when the device runs on battery; `None` on mains power or without a battery.
///
/// With several batteries the fullest counts: they feed the same device.
#[must_use]
pub fn charge(root: &Path) -> Option<u8> {
    let mut best = None;
    for supply in fs::read_dir(root.join("sys/class/power_supply")).ok()?.flatten() {
        let read = |name: &str| fs::read_to_string(supply.path().join(name)).unwrap_or_default().trim().to_owned();
        // `scope` Device: the battery of a mouse.
        if read("scope") == "Device" {
            continue;
        }
        match read("type").as_str() {
            "Mains" | "USB" if read("online") == "1" => return None,
            "Battery" if read("present") != "0" => best = best.max(read("capacity").parse().ok()),
            _ => {}
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supply(root: &Path, name: &str, files: &[(&str, &str)]) {
        let folder = root.join("sys/class/power_supply").join(name);
        fs::create_dir_all(&folder).unwrap();
        for (file, text) in files {
            fs::write(folder.join(file), format!("{text}\n")).unwrap();
        }
    }

    #[test]
    fn only_a_battery_that_feeds_the_device_counts() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(charge(root.path()), None);
        supply(root.path(), "BAT0", &[("type", "Battery"), ("capacity", "17")]);
        supply(root.path(), "mouse", &[("type", "Battery"), ("capacity", "99"), ("scope", "Device")]);
        supply(root.path(), "AC", &[("type", "Mains"), ("online", "0")]);
        assert_eq!(charge(root.path()), Some(17));
        supply(root.path(), "AC", &[("type", "Mains"), ("online", "1")]);
        assert_eq!(charge(root.path()), None);
    }
}
