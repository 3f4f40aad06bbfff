//! logind: reboot, our own inhibitor lock, the locks of others.

use std::os::fd::OwnedFd;

use super::{Bus, BusError, Peer, arguments};

const MANAGER: Peer<'_> = Peer {
    name: "org.freedesktop.login1",
    path: "/org/freedesktop/login1",
    interface: "org.freedesktop.login1.Manager",
};

/// Who we are in the list of inhibitors.
pub const WHO: &str = "Flipside";

/// `RebootWithFlags` in spite of all locks (org.freedesktop.login1(5), since systemd 257).
const SKIP_INHIBITORS: u64 = 1 << 4;

/// An inhibitor lock as logind lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inhibitor {
    /// What it forbids, `:`-separated: `shutdown`, `sleep`…
    pub what: String,
    /// Who holds it.
    pub who: String,
    /// Why.
    pub why: String,
    /// `block`, `block-weak` (does not bind root) or `delay`.
    pub mode: String,
}

impl Bus {
    /// Reboots the machine in an orderly way.
    ///
    /// # Errors
    /// logind does not answer or refuses.
    pub async fn reboot_by_logind(&self) -> Result<(), BusError> {
        // false: never ask a person for a password.
        self.call(MANAGER, "Reboot", arguments((false,))).await
    }

    /// Reboots in an orderly way, block locks of others or not.
    ///
    /// # Errors
    /// logind does not answer, or is too old to know the flag; such a one lets root past the locks anyway.
    pub async fn reboot_past_inhibitors(&self) -> Result<(), BusError> {
        self.call(MANAGER, "RebootWithFlags", arguments((SKIP_INHIBITORS,))).await
    }

    /// Takes a lock against shutdown and sleep; released when the descriptor is closed.
    ///
    /// # Errors
    /// logind does not answer or refuses.
    pub async fn inhibit(&self, why: &str) -> Result<OwnedFd, BusError> {
        let fd: zbus::OwnedFd = self.call(MANAGER, "Inhibit", arguments(("shutdown:sleep", WHO, why, "block"))).await?;
        Ok(fd.into())
    }

    /// All locks.
    ///
    /// # Errors
    /// logind does not answer.
    pub async fn inhibitors(&self) -> Result<Vec<Inhibitor>, BusError> {
        let all: Vec<(String, String, String, String, u32, u32)> = self.call(MANAGER, "ListInhibitors", None).await?;
        Ok(all.into_iter().map(|i| Inhibitor { what: i.0, who: i.1, why: i.2, mode: i.3 }).collect())
    }
}
