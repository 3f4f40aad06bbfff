//! Reading without a daemon: the journal and the boot loader's state, as they are on disk. Changes nothing.

use updater_core::event::Failure;
use updater_core::history::Outcome;
use updater_core::journal::{self, Journal};
use updater_core::machine::Machine;
use updater_core::status::{Explanation, Status};

use bundle::reason::Reason;

use crate::daemon::device::Device;
use crate::seams::{BootControl, Clock, JournalStore};

/// What the daemon would say if it started now.
pub fn picture(device: &Device) -> (Status, Explanation) {
    let boot = device.boot_control();
    let facts = boot.facts().map_err(|e| Failure::new(Reason::BootControlError, e.to_string()));
    let now = device.clock().now();
    // The effects of this start are dropped: they are the daemon's to run.
    let (machine, _effects) = Machine::start(device.setup(), journal(device), facts, &now);
    (machine.status(&now), machine.explain(&now))
}

/// The last outcomes, oldest first.
pub fn history(device: &Device) -> Vec<Outcome> {
    journal(device).history
}

fn journal(device: &Device) -> Journal {
    match device.journal().load() {
        Ok(Some(bytes)) => journal::decode(&bytes).journal,
        _ => Journal::default(),
    }
}
