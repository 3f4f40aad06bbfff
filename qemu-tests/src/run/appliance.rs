//! One appliance of a scenario: its machine with and without power, and what is remembered of it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bundle::bucket::bucket;

use crate::device::{self, Facts};
use crate::evidence;
use crate::invariants::Said;
use crate::machine::Machine;
use crate::qemu::Spec;
use crate::scenario::Within;

/// How long a last question may take on a machine that is still busy with what the scenario did.
pub(super) const SYNCED: Duration = Duration::from_secs(300);

/// An appliance, as a scenario sees it.
pub(super) struct Appliance {
    /// What the scenario calls it.
    pub name: String,
    /// Percent of the fleet that is let in before it, where the scenario says so.
    pub bucket: Option<u16>,
    /// Its id, once it was given one for that place.
    pub id: Option<String>,
    /// Its settings, TOML.
    pub settings: String,
    /// What the machine is switched on with; the overlay in its folder is the disk.
    pub spec: Spec,
    /// `None`: no power.
    pub machine: Option<Machine>,
    /// Names of the releases the region ever let it take, with the right key.
    pub approved: BTreeSet<String>,
    /// The boot last seen.
    pub boot_id: Option<String>,
    /// Boots seen, for the summary.
    pub boots: usize,
    /// Programs the kernel killed for want of memory, the most that was seen in one boot.
    pub oom_kills: u64,
}

impl Appliance {
    pub fn new(name: &str, bucket: Option<u16>, settings: String, spec: Spec) -> Self {
        let name = name.to_owned();
        let (id, machine, boot_id) = (None, None, None);
        Self { name, bucket, id, settings, spec, machine, approved: BTreeSet::new(), boot_id, boots: 0, oom_kills: 0 }
    }

    /// The machine, which must have power.
    pub fn machine(&mut self) -> Result<&mut Machine> {
        self.machine.as_mut().context("the machine has no power: a `boot` step is missing")
    }

    /// Gives it an id that has its place in the rollout with this salt.
    pub fn identify(&mut self, salt: &[u8]) -> Result<()> {
        let Some(percent) = self.bucket else { return Ok(()) };
        let id = device_at(salt, percent).with_context(|| format!("no device has a bucket of {percent} %"))?;
        let mut settings: toml::Table = toml::from_str(&self.settings)?;
        super::merge(&mut settings, &toml::from_str(&format!("[device]\nid = {id:?}\n"))?);
        self.settings = toml::to_string(&settings)?;
        self.id = Some(id);
        Ok(())
    }

    /// Power on, until the guest agent answers.
    pub fn boot(&mut self, within: Within) -> Result<()> {
        ensure!(self.machine.is_none(), "the machine has power already");
        self.switch_on()?;
        self.boot_id = Some(self.machine()?.wait_boot(None, within.duration())?);
        Ok(())
    }

    /// Power on.
    pub fn switch_on(&mut self) -> Result<()> {
        let machine = Machine::start(self.spec.clone())?;
        let resumed = self.spec.resume.take().is_some();
        if resumed {
            device::adjust(machine.agent(), &self.settings)?;
        }
        self.machine = Some(machine);
        // Going on from a kept state is no boot.
        self.boots += usize::from(!resumed);
        Ok(())
    }

    /// The machine, to be switched off; how often it restarted is counted here.
    pub fn take_machine(&mut self) -> Result<Machine> {
        let machine = self.machine.take().context("the machine has no power")?;
        self.boots += machine.resets();
        Ok(machine)
    }

    /// What the appliance says at the end.
    pub fn said(&mut self) -> Result<Said> {
        let agent = &self.machine()?.agent().patient();
        let memory = "p=$(pidof flipside) && for i in $p; do grep VmHWM /proc/$i/status; done | sort -k2n | tail -n 1";
        let peak = agent.shell(memory, SYNCED)?.stdout;
        let facts = Facts::ask(agent)?;
        // Whole or not there, at any moment: they are replaced by renaming.
        let journal = ["journal.0", "journal.1"];
        let journal = journal.map(|name| (name.to_owned(), agent.read_file(&format!("/var/lib/flipside/{name}")).ok()));
        Ok(Said {
            oom_kills: self.oom_kills.max(facts.oom_kills),
            facts,
            status: device::status(agent),
            history: device::history(agent),
            journal: journal.into(),
            memory_kib: peak.split_whitespace().nth(1).and_then(|n| n.parse().ok()),
        })
    }

    /// Ends the machine so that its disk can be read; keeps it in the folder when one is given. A sync and a power cut
    /// instead of a shutdown: it saves half a minute in each scenario.
    pub fn end(&mut self, keep: Option<&Path>) -> Result<()> {
        let machine = self.take_machine()?;
        machine.agent().patient().exec(&["/bin/sync"], SYNCED)?.ok()?;
        match keep {
            Some(folder) => machine.keep(folder),
            None => machine.power_cut().map(|_| ()),
        }
    }

    /// Saves what the machine and its disk tell, and switches it off.
    pub fn leave_evidence(&mut self, folder: &Path) {
        if let Some(machine) = self.machine.take() {
            evidence::of_machine(&machine, folder);
        }
        evidence::of_disk(&self.spec.dir, &self.spec.overlay(), folder);
    }
}

/// The first of many device ids whose bucket lies in this percent of the fleet.
fn device_at(salt: &[u8], percent: u16) -> Option<String> {
    (0..10_000).map(|n| format!("device-{n:04}")).find(|id| bucket(salt, id) / 100 == percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_a_rollout_is_found() {
        for (salt, percent) in [([1; 32], 0), ([2; 32], 20), ([3; 32], 99)] {
            let id = device_at(&salt, percent).unwrap();
            assert!((percent * 100..percent * 100 + 100).contains(&bucket(&salt, &id)), "{id}");
        }
        assert_eq!(device_at(&[1; 32], 100), None);
    }
}
