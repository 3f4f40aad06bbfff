//! What is around the device: who must not be interrupted, the link, the battery, the time zone.
//!
//! Asks logind and NetworkManager, reads `/sys` and `/etc/localtime` under the root.

use std::fs;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use updater_core::event::Surroundings;

use super::battery;
use crate::dbus::Bus;
use crate::dbus::login1::{Inhibitor, WHO};
use crate::seams::{BoxFuture, SurroundingsProbe};
use crate::system::chain;

/// Looks around.
#[derive(Debug, Clone)]
pub struct SystemSurroundings {
    /// Where logind and NetworkManager are asked.
    pub bus: Option<Bus>,
    /// `/` on the device.
    pub root: PathBuf,
}

impl SurroundingsProbe for SystemSurroundings {
    fn look(&self) -> BoxFuture<'_, Surroundings> {
        Box::pin(async move {
            let (mut inhibitors, mut metered) = (Vec::new(), false);
            if let Some(bus) = &self.bus {
                match bus.inhibitors().await {
                    Ok(all) => inhibitors = all.iter().filter_map(who_forbids).collect(),
                    Err(e) => tracing::debug!(error = chain(&e), "inhibitors are not known"),
                }
                metered = bus.metered().await;
            }
            Surroundings { inhibitors, metered, battery: battery::charge(&self.root), zone: zone(&self.root) }
        })
    }
}

/// Block locks of others against shutdown, also those that would not bind root: an update has time. Delay locks are
/// logind's to wait for.
fn who_forbids(lock: &Inhibitor) -> Option<String> {
    let shutdown = lock.what.split(':').any(|what| what == "shutdown");
    let blocks = matches!(lock.mode.as_str(), "block" | "block-weak");
    (shutdown && blocks && lock.who != WHO).then(|| format!("{}: {}", lock.who, lock.why))
}

/// The device's time zone; UTC when it does not say. Read as a file, so that no zone database is needed.
#[must_use]
pub fn zone(root: &Path) -> TimeZone {
    let read = fs::read(root.join("etc/localtime")).ok();
    read.and_then(|bytes| TimeZone::tzif("Local", &bytes).ok()).unwrap_or(TimeZone::UTC)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(what: &str, who: &str, mode: &str) -> Inhibitor {
        Inhibitor { what: what.into(), who: who.into(), why: "printing".into(), mode: mode.into() }
    }

    #[test]
    fn only_block_locks_of_others_against_shutdown_count() {
        assert_eq!(who_forbids(&lock("sleep:shutdown", "Press", "block")), Some("Press: printing".into()));
        assert_eq!(who_forbids(&lock("shutdown", "Press", "block-weak")), Some("Press: printing".into()));
        assert_eq!(who_forbids(&lock("shutdown", "Press", "delay")), None);
        assert_eq!(who_forbids(&lock("handle-power-key", "Press", "block")), None);
        assert_eq!(who_forbids(&lock("shutdown", WHO, "block")), None);
    }

    #[test]
    fn the_zone_is_read_from_the_file_and_utc_without_one() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(zone(root.path()), TimeZone::UTC);
        fs::create_dir_all(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/localtime"), "not a zone").unwrap();
        assert_eq!(zone(root.path()), TimeZone::UTC);
        // Version 1 TZif: one type, +02:00, abbreviation "X".
        let mut tzif = b"TZif\0".to_vec();
        tzif.extend([0; 15]);
        tzif.extend([0u32, 0, 0, 0, 1, 2].map(u32::to_be_bytes).concat());
        tzif.extend(7200i32.to_be_bytes());
        tzif.extend([0, 0, b'X', 0]);
        fs::write(root.path().join("etc/localtime"), &tzif).unwrap();
        let noon: jiff::Timestamp = "2026-11-20T12:00:00Z".parse().unwrap();
        assert_eq!(zone(root.path()).to_offset(noon).seconds(), 7200);
    }

    #[tokio::test]
    async fn without_a_bus_nothing_hinders() {
        let root = tempfile::tempdir().unwrap();
        let seen = SystemSurroundings { bus: None, root: root.path().to_owned() }.look().await;
        assert!(seen.inhibitors.is_empty() && !seen.metered && seen.battery.is_none());
    }
}
