//! One virtual machine: its QEMU child, its disk, its sockets.
//!
//! Touches only its own folder: a qcow2 overlay (the disk it was made from is never written), a copy of the firmware's
//! variables, sockets, the serial log. The child ends with the value: no way out of a test leaves a machine behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::disk::run;
use crate::firmware::Watchdog;
use crate::qemu::{Firmware, Spec, prepare, said, spawn};
use crate::qmp::Qmp;
use crate::wait::{Look, until};

/// How long QEMU may take to open its control socket, or to end.
const START: Duration = Duration::from_secs(120);
/// How long a guest may take to power off when asked; systemd's own stop time-out is 90 s.
const POWER_OFF: Duration = Duration::from_secs(300);

/// A machine that has power.
#[derive(Debug)]
pub struct Machine {
    spec: Spec,
    child: Child,
    qmp: Qmp,
    agent: Agent,
    watchdog: Watchdog,
    /// Resets and events of the processes before this one, when its firmware hung.
    resets_before: usize,
    events_before: Vec<Value>,
}

impl Machine {
    /// Switches on: makes overlay and variables when there are none yet (a second start goes on where the first ended).
    ///
    /// QEMU dies with the *thread* that calls this; keep the machine on that thread.
    ///
    /// # Errors
    /// A tool or the firmware is missing, or QEMU does not start; the text holds what QEMU said.
    pub fn start(spec: Spec) -> Result<Self> {
        prepare(&spec)?;
        let child = spawn(&spec)?;
        // From here on the child must not be left behind by a failure.
        let mut guard = Guard(Some(child));
        let qmp = connect(&spec, &mut guard)?;
        if spec.resume.is_some() {
            resume(&qmp)?;
        }
        let agent = Agent::new(&spec.dir.join("qga"));
        let watchdog = Watchdog::new(&spec);
        let child = guard.0.take().context("QEMU is gone")?;
        Ok(Self { spec, child, qmp, agent, watchdog, resets_before: 0, events_before: Vec::new() })
    }

    /// What it is made of.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The guest agent.
    #[must_use]
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// The machine protocol.
    #[must_use]
    pub fn qmp(&self) -> &Qmp {
        &self.qmp
    }

    /// Everything the serial console printed, all boots since the first start.
    #[must_use]
    pub fn serial_log(&self) -> PathBuf {
        self.spec.serial_log()
    }

    /// Socket of the serial console, for people.
    #[must_use]
    pub fn console(&self) -> PathBuf {
        self.spec.dir.join("console")
    }

    /// Resets since [`Machine::start`]: reboots, panics with `panic=`, watchdog bites.
    #[must_use]
    pub fn resets(&self) -> usize {
        self.resets_before + self.qmp.count("RESET")
    }

    /// All that QEMU told since [`Machine::start`], oldest first.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        [self.events_before.clone(), self.qmp.events()].concat()
    }

    /// QEMU's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error when QEMU has ended by itself; for use in waits, which are hopeless then. A machine whose firmware hangs is
    /// started again.
    ///
    /// # Errors
    /// QEMU has ended.
    pub fn alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            return Err(anyhow!("QEMU ended ({status}): {}", said(&self.spec.dir)));
        }
        if self.watchdog.look(&self.spec, &self.qmp)? { self.start_again() } else { Ok(()) }
    }

    /// Takes the power away for a moment, in order: what the guest has written is kept. Counts as one reset.
    fn start_again(&mut self) -> Result<()> {
        if self.spec.record.is_some() {
            // What is recorded is one life of the disk, and of QEMU.
            return self.qmp.command("system_reset", json!({})).map(drop);
        }
        let (resets, bites) = (self.resets() + 1, self.watchdog.bites);
        self.quit()?;
        let events = self.events();
        *self = Self::start(Spec { resume: None, ..self.spec.clone() })?;
        (self.resets_before, self.events_before, self.watchdog.bites) = (resets, events, bites);
        Ok(())
    }

    /// Lets QEMU write down what it holds, and end.
    fn quit(&mut self) -> Result<()> {
        // QEMU does not promise to answer this one.
        let asked = self.qmp.command("quit", json!({}));
        until("QEMU to end", START, || match self.child.try_wait() {
            // Its last words are read as well.
            Ok(Some(_)) if self.qmp.closed() => Look::Done(()),
            Ok(_) => Look::NotYet(format!("running; asked to quit: {asked:?}")),
            Err(e) => Look::Hopeless(e.into()),
        })
    }

    /// Waits for a reset after the first `seen` of them; returns the new number.
    ///
    /// # Errors
    /// None within the time, or QEMU ended.
    pub fn wait_reset(&mut self, seen: usize, within: Duration) -> Result<usize> {
        until("the machine to reboot", within, || match (self.alive(), self.resets()) {
            (Err(e), _) => Look::Hopeless(e),
            (Ok(()), now) if now > seen => Look::Done(now),
            (Ok(()), now) => Look::NotYet(format!("{now} resets")),
        })
    }

    /// Waits until the firmware has handed over since the power came on: boot loader or kernel speaks.
    ///
    /// # Errors
    /// None within the time, or QEMU ended.
    pub fn wait_hand_over(&mut self, within: Duration) -> Result<()> {
        until("a boot loader or a kernel to speak", within, || {
            match (self.alive(), self.watchdog.handed_over(&self.spec)) {
                (Err(e), _) | (_, Err(e)) => Look::Hopeless(e),
                (Ok(()), Ok(true)) => Look::Done(()),
                (Ok(()), Ok(false)) => Look::NotYet("firmware".into()),
            }
        })
    }

    /// Waits for a guest that answers and whose boot id is not `old`; returns the new id.
    ///
    /// # Errors
    /// Not within the time, or QEMU ended.
    pub fn wait_boot(&mut self, old: Option<&str>, within: Duration) -> Result<String> {
        until("a new boot with a guest agent", within, || {
            if let Err(e) = self.alive() {
                return Look::Hopeless(e);
            }
            match self.agent.boot_id() {
                Ok(id) if Some(id.as_str()) == old => Look::NotYet("still the old boot".into()),
                Ok(id) => Look::Done(id),
                Err(e) => Look::NotYet(format!("{e:#}")),
            }
        })
    }

    /// Cuts the power: SIGKILL, nothing is flushed. What the guest wrote without a flush may or may not be in the
    /// overlay, as on a real disk.
    ///
    /// # Errors
    /// The child can not be killed or waited for.
    pub fn power_cut(mut self) -> Result<Spec> {
        self.child.kill().context("kill QEMU")?;
        self.child.wait().context("wait for QEMU")?;
        Ok(self.spec.clone())
    }

    /// Powers off in order and waits for the end.
    ///
    /// # Errors
    /// The guest does not follow within five minutes.
    pub fn power_off(mut self) -> Result<Spec> {
        // The agent is quicker and surer than the power button; a guest without it gets the button.
        if self.agent.call("guest-ping", json!({})).is_err() || self.ask_agent_to_power_off().is_err() {
            self.qmp.command("system_powerdown", json!({}))?;
        }
        until("the guest to power off", POWER_OFF, || match self.child.try_wait() {
            Ok(Some(_)) => Look::Done(()),
            Ok(None) => Look::NotYet("running".into()),
            Err(e) => Look::Hopeless(e.into()),
        })?;
        Ok(self.spec.clone())
    }

    /// Keeps the machine as it is, running programs included, in the folder `to` (`disk.qcow2`, `vars.fd`, `ram`), and
    /// ends it. [`Spec::resume`] goes on from there, any number of times.
    ///
    /// # Errors
    /// QEMU can not write the state.
    pub fn keep(mut self, to: &Path) -> Result<()> {
        fs::create_dir_all(to)?;
        self.qmp.command("stop", json!({}))?;
        // Nothing else wants the machine's bandwidth: it stands still.
        self.qmp.command("migrate-set-parameters", json!({"max-bandwidth": 1u64 << 40}))?;
        let ram = to.join("ram");
        self.qmp.command("migrate", json!({"uri": format!("exec:cat > '{}'", ram.display())}))?;
        migrated(&self.qmp)?;
        self.quit()?;
        if self.spec.firmware == Firmware::Uefi {
            fs::copy(self.spec.vars(), to.join("vars.fd"))?;
        }
        // Flat: the folder of this machine, with the disk its overlay is based on, goes away.
        let mut command = Command::new("qemu-img");
        command.args(["convert", "-f", "qcow2", "-O", "qcow2"]).arg(self.spec.overlay()).arg(to.join("disk.qcow2"));
        run(&mut command).map(|_| ())
    }

    fn ask_agent_to_power_off(&self) -> Result<Value> {
        self.agent.call("guest-exec", json!({"path": "/usr/bin/systemctl", "arg": ["poweroff", "--no-block"]}))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Kills QEMU when the start fails half-way.
struct Guard(Option<Child>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn connect(spec: &Spec, guard: &mut Guard) -> Result<Qmp> {
    let socket = spec.dir.join("qmp");
    until("QEMU's control socket", START, || {
        if let Some(child) = &mut guard.0
            && let Ok(Some(status)) = child.try_wait()
        {
            return Look::Hopeless(anyhow!("QEMU ended at once ({status}): {}", said(&spec.dir)));
        }
        match Qmp::connect(&socket) {
            Ok(qmp) => Look::Done(qmp),
            Err(e) => Look::NotYet(format!("{e:#}")),
        }
    })
}

/// Waits until a state is read whole, then lets the guest go on.
fn resume(qmp: &Qmp) -> Result<()> {
    migrated(qmp)?;
    qmp.command("cont", json!({})).map(|_| ())
}

fn migrated(qmp: &Qmp) -> Result<()> {
    until("the machine's state to be moved", Duration::from_secs(300), || {
        let info = match qmp.command("query-migrate", json!({})) {
            Ok(info) => info,
            Err(e) => return Look::Hopeless(e),
        };
        match info.get("status").and_then(Value::as_str) {
            Some("completed") => Look::Done(()),
            Some("failed" | "cancelled") => Look::Hopeless(anyhow!("{info}")),
            other => Look::NotYet(format!("{other:?}")),
        }
    })
}

#[cfg(test)]
mod tests;
