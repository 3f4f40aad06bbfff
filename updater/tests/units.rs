//! The units as shipped: what they promise to people is in them, and the sandbox is as tight as said.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may fail loudly"
)]

#[path = "common/skip.rs"]
#[allow(dead_code, reason = "one of its words is used")]
mod skip;

use std::path::PathBuf;
use std::process::Command;

fn path(unit: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../systemd/usr/lib/systemd/system").join(unit)
}

/// The values of a directive, comments left out.
fn values(unit: &str, directive: &str) -> Vec<String> {
    let text = std::fs::read_to_string(path(unit)).unwrap();
    text.lines().filter_map(|line| line.strip_prefix(directive)?.strip_prefix('=')).map(str::to_owned).collect()
}

#[test]
fn the_service_waits_for_its_state_and_is_watched() {
    let of = |directive| values("flipside.service", directive);
    assert_eq!(of("RequiresMountsFor"), ["/var/lib/flipside"]);
    assert_eq!(of("Type"), ["notify"]);
    assert!(!of("WatchdogSec").is_empty() && of("Restart") == ["on-failure"]);
}

#[test]
fn the_lock_outlives_a_stop_and_is_off_the_data_partition() {
    let of = |directive| values("flipside.service", directive);
    assert_eq!((of("RuntimeDirectory"), of("RuntimeDirectoryPreserve")), (vec!["flipside".into()], vec!["yes".into()]));
}

#[test]
fn checks_are_spread_and_made_up_for() {
    let of = |directive| values("flipside-check.timer", directive);
    assert!(!of("RandomizedDelaySec").is_empty(), "the fleet must not ask in step");
    assert_eq!(of("Persistent"), ["yes"]);
}

#[test]
fn the_boot_is_complete_only_when_the_slot_is_proven() {
    assert!(values("flipside-confirm.service", "Before").iter().any(|unit| unit == "boot-complete.target"));
    assert!(values("flipside-confirm.service", "RequiredBy").iter().any(|unit| unit == "boot-complete.target"));
}

#[test]
fn the_net_below_the_updater_does_not_need_it() {
    for (unit, directive) in [("flipside-unproven.timer", "OnBootSec"), ("flipside-unproven.service", "ExecStart")] {
        assert_eq!(values(unit, directive).len(), 1);
        for relation in ["Requires", "Requisite", "BindsTo", "PartOf", "After", "RequiresMountsFor"] {
            assert!(!values(unit, relation).iter().any(|units| units.contains("flipside")), "{unit}: {relation}");
        }
    }
    assert!(path("timers.target.wants/flipside-unproven.timer").is_symlink(), "enabled by the package");
}

#[test]
fn the_sandbox_is_as_tight_as_said() {
    for (unit, most) in [
        ("flipside.service", 4.0),
        ("flipside-check.service", 2.0),
        ("flipside-confirm.service", 2.0),
        ("flipside-unproven.service", 2.0),
    ] {
        let run =
            Command::new("systemd-analyze").args(["security", "--no-pager", "--offline=yes"]).arg(path(unit)).output();
        let Ok(output) = run else {
            return skip::skipped("no systemd-analyze here (Debian: systemd)");
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let number =
            text.lines().rev().find_map(|line| line.split_once(": ")?.1.split(' ').next()?.parse::<f64>().ok());
        let number = number.unwrap_or_else(|| panic!("{unit}: {text} {}", String::from_utf8_lossy(&output.stderr)));
        eprintln!("{unit}: {number}");
        assert!(number < most, "{unit}: exposure {number}, not below {most}");
    }
}
