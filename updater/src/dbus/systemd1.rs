//! What systemd knows about units and jobs. Reads only, save `reboot` and `start`.

use super::{Bus, BusError, Peer, arguments};

const MANAGER: Peer<'_> = Peer {
    name: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const SERVICE: &str = "org.freedesktop.systemd1.Service";

/// A unit as systemd lists it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnitState {
    /// Its name.
    pub name: String,
    /// `loaded`, `not-found`, `masked`…
    pub load: String,
    /// `active`, `activating`, `failed`, `inactive`…
    pub active: String,
    /// `running`, `auto-restart`…
    pub sub: String,
    /// Automatic restarts in this boot; 0 for what is not a service.
    pub restarts: u32,
}

/// A job of the manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The unit.
    pub unit: String,
    /// `start`, `stop`…
    pub kind: String,
    /// `running` or `waiting`.
    pub state: String,
}

type Listed =
    (String, String, String, String, String, String, zbus::OwnedObjectPath, u32, String, zbus::OwnedObjectPath);
type ListedJob = (u32, String, String, String, zbus::OwnedObjectPath, zbus::OwnedObjectPath);

impl Bus {
    /// The units in state `failed`.
    ///
    /// # Errors
    /// systemd does not answer.
    pub async fn failed_units(&self) -> Result<Vec<UnitState>, BusError> {
        let units: Vec<Listed> = self.call(MANAGER, "ListUnitsFiltered", arguments((vec!["failed"],))).await?;
        Ok(units.into_iter().map(|u| UnitState { name: u.0, load: u.2, active: u.3, sub: u.4, restarts: 0 }).collect())
    }

    /// One unit, loaded when it is not.
    ///
    /// # Errors
    /// systemd does not answer, or takes the name for no unit name.
    pub async fn unit(&self, name: &str) -> Result<UnitState, BusError> {
        let path: zbus::OwnedObjectPath = self.call(MANAGER, "LoadUnit", arguments((name,))).await?;
        let unit = Peer { path: path.as_str(), interface: UNIT, ..MANAGER };
        let restarts = if name.ends_with(".service") {
            // Older than systemd 235 there is no such property; then there is nothing to count.
            self.property(Peer { interface: SERVICE, ..unit }, "NRestarts").await.unwrap_or(0)
        } else {
            0
        };
        Ok(UnitState {
            name: name.to_owned(),
            load: self.property(unit, "LoadState").await?,
            active: self.property(unit, "ActiveState").await?,
            sub: self.property(unit, "SubState").await?,
            restarts,
        })
    }

    /// What systemd is starting and stopping.
    ///
    /// # Errors
    /// systemd does not answer.
    pub async fn jobs(&self) -> Result<Vec<Job>, BusError> {
        let jobs: Vec<ListedJob> = self.call(MANAGER, "ListJobs", None).await?;
        Ok(jobs.into_iter().map(|j| Job { unit: j.1, kind: j.2, state: j.3 }).collect())
    }

    /// Starts a unit without waiting for it.
    ///
    /// # Errors
    /// systemd does not answer or refuses.
    pub async fn start_unit(&self, name: &str) -> Result<(), BusError> {
        let _job: zbus::OwnedObjectPath = self.call(MANAGER, "StartUnit", arguments((name, "replace"))).await?;
        Ok(())
    }

    /// Reboots by systemd alone, for systems without logind.
    ///
    /// # Errors
    /// systemd does not answer or refuses.
    pub async fn reboot_by_systemd(&self) -> Result<(), BusError> {
        self.call(MANAGER, "StartUnit", arguments(("reboot.target", "replace-irreversibly")))
            .await
            .map(|_job: zbus::OwnedObjectPath| ())
    }
}
