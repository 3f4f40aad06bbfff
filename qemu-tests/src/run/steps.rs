//! What each word of a scenario does.

use std::iter;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::Run;
use crate::agent::Agent;
use crate::device;
use crate::disk::{Disk, zero};
use crate::invariants::{DiskFacts, Sums};
use crate::scenario::{
    Approve, Check, Destroy, Fetched, History, PowerCut, Publish, Run as Command, Step, Within, patience,
};
use crate::wait::{Look, until_slowly};

/// Time for what has none of its own in the plan, see [`patience`].
const PATIENCE: Duration = Duration::from_secs(patience());

impl Run<'_> {
    pub(super) fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Publish(publish) => self.publish(publish),
            Step::Approve(approve) => self.approve(approve),
            Step::WithdrawApproval {} => self.workshop.withdraw_approval(),
            Step::ServeApproval { version } => self.workshop.serve_approval(*version),
            Step::RotateReleaseKey { to } => self.workshop.rotate_release_key(to),
            Step::Boot(within) => self.boot(*within),
            Step::Timer { every } => device::set_timer(&self.agent()?, *every),
            Step::Look {} => self.look_for_updates(),
            Step::Check(check) => self.check(check),
            Step::Wait(wait) => self.wait_for(&wait.until, Duration::from_secs(wait.within)),
            Step::Expect(condition) => self.expect(condition),
            Step::PowerCut(cut) => self.power_cut(cut),
            Step::Destroy(what) => self.destroy(what),
            Step::Configure {} => self.configure(),
            Step::Replay(replay) => self.replay(replay),
            Step::PowerCycle(within) => self.power_cycle(*within),
            Step::ExpectHistory(history) => self.expect_history(history),
            Step::WaitReport(report) => self.wait_report(report),
            Step::NotTriedAgain { release, reason } => self.not_tried_again(release, reason),
            Step::Run(command) => self.command(command),
            Step::RunUntil(command) => self.command_until(command),
            Step::Fault(_) | Step::NoFaults {} | Step::ServerGone {} | Step::ServerBack {} => self.server_changes(step),
            Step::Fetched(bounds) => self.fetched(bounds),
        }
    }

    /// The server changes its ways.
    fn server_changes(&mut self, step: &Step) -> Result<()> {
        self.sent_before = self.server.counts();
        match step {
            Step::Fault(rule) => self.server.add_fault(rule.clone()),
            Step::ServerGone {} => self.server.vanish(),
            Step::ServerBack {} => return self.server.come_back(),
            _ => self.server.clear_faults(),
        }
        Ok(())
    }

    /// The guest agent, for questions that are asked once.
    pub(super) fn agent(&mut self) -> Result<Agent> {
        Ok(self.machine()?.agent().patient())
    }

    fn publish(&mut self, publish: &Publish) -> Result<()> {
        let published = self.workshop.publish(self.site.release(&publish.release)?, publish)?;
        self.published.push(published);
        Ok(())
    }

    fn approve(&mut self, approve: &Approve) -> Result<()> {
        let release = self.site.release(&approve.release)?;
        self.workshop.approve(release, approve)?;
        let published = self.published.iter().rev().find(|p| p.release == approve.release);
        let rolls = approve.key == "region" && approve.state == "rolling" && published.is_none_or(|p| p.fit);
        for appliance in iter::once(&mut self.here).chain(&mut self.others) {
            if rolls && approve.percent > u32::from(appliance.bucket.unwrap_or(0)) {
                appliance.approved.insert(approve.release.clone());
            }
        }
        Ok(())
    }

    fn boot(&mut self, within: Within) -> Result<()> {
        if self.here.bucket.is_some() && self.here.id.is_none() {
            let salt = self.workshop.salt().context("a place in a rollout needs an approval before the first boot")?;
            self.here.identify(&salt)?;
            let (name, id) = (&self.here.name, self.here.id.as_deref().unwrap_or_default());
            self.timeline.note(&format!("the {name} machine is {id}"));
        }
        self.here.boot(within)
    }

    fn configure(&mut self) -> Result<()> {
        let settings = self.here.settings.clone();
        device::adjust(&self.agent()?, &settings)
    }

    fn look_for_updates(&mut self) -> Result<()> {
        device::flipside(&self.agent()?, &["check"], PATIENCE)?.ok().map(|_| ())
    }

    fn check(&mut self, check: &Check) -> Result<()> {
        let within = Duration::from_secs(check.within);
        let output = device::flipside(&self.agent()?, &["check", "--wait", "--json"], within)?;
        let last: Value = serde_json::from_str(output.stdout.lines().last().unwrap_or_default()).unwrap_or_default();
        let told = format!("exit code {:?}, {last}{}", output.code, output.stderr.trim());
        ensure!(output.code == Some(check.code), "expected exit code {}, got {told}", check.code);
        if let Some(reason) = &check.reason {
            ensure!(last.get("reason").and_then(Value::as_str) == Some(reason), "expected reason {reason}, got {told}");
        }
        Ok(())
    }

    fn power_cut(&mut self, cut: &PowerCut) -> Result<()> {
        for _ in 0..cut.times {
            if cut.in_boot {
                self.here.machine()?.wait_hand_over(Duration::from_secs(cut.within))?;
            } else {
                self.wait_for(&cut.until, Duration::from_secs(cut.within))?;
            }
            if let Some(slot) = &cut.half_written {
                self.wait_for_writes(slot)?;
            }
            self.here.take_machine()?.power_cut()?;
            self.timeline.note("power cut");
            if let Some(slot) = &cut.half_written {
                self.half_written(slot)?;
            }
            self.here.spec.clock.clone_from(&cut.clock);
            self.here.switch_on()?;
        }
        Ok(())
    }

    /// Until something went into the slot's root since the guest booted, and is flushed: what it did not flush is lost with
    /// the machine, and it may be all of it.
    fn wait_for_writes(&mut self, slot: &str) -> Result<()> {
        let device = format!("/dev/disk/by-partlabel/root-{slot}");
        // Field 7: sectors written (Documentation/block/stat.rst).
        let count = format!("set -- $(cat /sys/class/block/$(basename $(readlink -f {device}))/stat) && echo $7");
        let agent = self.agent()?;
        until_slowly(format!("the first write into slot {slot}"), PATIENCE, || {
            let asked = agent.shell(&count, PATIENCE).and_then(|said| Ok(said.stdout.trim().parse::<u64>()?));
            match asked {
                Ok(1..) => Look::Done(()),
                other => Look::NotYet(format!("{other:?} sectors")),
            }
        })?;
        agent.exec(&["sync", &device], PATIENCE)?.ok().map(drop)
    }

    fn half_written(&self, slot: &str) -> Result<()> {
        let read = |path: &Path| DiskFacts::read(&Disk::copy_of(path)?, self.site);
        let (before, now) = (read(&self.here.spec.base)?, read(&self.here.spec.overlay())?);
        ensure!(before.slots.get(slot) != now.slots.get(slot), "nothing was written into slot {slot} yet");
        let sums = Sums::of(self.site)?;
        let whole = now.whole_root(slot, &sums);
        ensure!(whole.is_none(), "slot {slot} holds {whole:?} whole already");
        Ok(())
    }

    fn destroy(&mut self, what: &Destroy) -> Result<()> {
        self.here.take_machine()?.power_cut()?;
        let disk = Disk::copy_of(&self.here.spec.overlay())?;
        let partition = disk.partition(&what.partition)?;
        let (start, length) = (what.from_mib << 20, what.mib << 20);
        ensure!(start + length <= partition.length, "{} is not that long", what.partition);
        zero(&self.here.spec.overlay(), partition.start + start, length)?;
        self.here.switch_on()
    }

    fn power_cycle(&mut self, within: Within) -> Result<()> {
        self.here.take_machine()?.power_off()?;
        self.here.boot(within)
    }

    fn expect_history(&mut self, wanted: &History) -> Result<()> {
        let version = self.site.release(&wanted.release)?.version.clone();
        let history = device::history(&self.agent()?)?;
        if device::told(&history, &version, &wanted.outcome, wanted.reason.as_deref()) {
            return Ok(());
        }
        bail!("no such line in the history: {history}")
    }

    fn wait_report(&mut self, wanted: &History) -> Result<()> {
        let version = &self.site.release(&wanted.release)?.version;
        until_slowly("the report", PATIENCE, || {
            let reports = Value::Array(self.server.reports(self.here.id.as_deref()));
            match device::told(&reports, version, &wanted.outcome, wanted.reason.as_deref()) {
                true => Look::Done(()),
                false => Look::NotYet(reports.to_string()),
            }
        })
    }

    fn not_tried_again(&mut self, release: &str, reason: &str) -> Result<()> {
        let bundle = self.published.iter().rev().find(|p| p.release == release);
        let path = bundle.with_context(|| format!("{release} was not published"))?.path.clone();
        let before = (self.server.count(&path).bytes, self.machine()?.resets());
        self.check(&Check { code: 3, reason: Some(reason.to_owned()), within: patience() })?;
        let after = (self.server.count(&path).bytes, self.machine()?.resets());
        ensure!(before == after, "(bytes fetched, resets) went from {before:?} to {after:?}");
        Ok(())
    }

    fn command_until(&mut self, command: &Command) -> Result<()> {
        until_slowly("the command to end as wanted", Duration::from_secs(command.within), || {
            match (self.machine().and_then(|m| m.alive()), self.command(command)) {
                (Err(e), _) => Look::Hopeless(e),
                (Ok(()), Err(e)) => Look::NotYet(format!("{e:#}")),
                (Ok(()), Ok(())) => Look::Done(()),
            }
        })
    }

    /// Runs a command; `@URL@` in it stands for the server, `@BUNDLE@` for the path of the last bundle there.
    fn command(&mut self, command: &Command) -> Result<()> {
        let within = Duration::from_secs(command.within);
        let bundle = self.published.last().map_or("", |p| p.path.as_str());
        let script = command.command.replace("@URL@", &self.server.guest_url()).replace("@BUNDLE@", bundle);
        let argv = match command.user.as_str() {
            "root" => vec!["/bin/sh", "-c", &script],
            user => {
                let become_user = ["/usr/bin/setpriv", "--reuid", user, "--regid", user, "--init-groups", "--"];
                [&become_user[..], &["/bin/sh", "-c", &script]].concat()
            }
        };
        let resets = self.machine()?.resets();
        let ended = self.agent()?.start(&argv, None)?.finish(within);
        if command.restarts {
            self.machine()?.wait_reset(resets, within)?;
        }
        let output = match ended {
            Err(e) if command.restarts => {
                self.timeline.note(&format!("the restart took the answer with it: {e:#}"));
                return Ok(());
            }
            ended => ended?,
        };
        let told = format!("exit code {:?}, {}{}", output.code, output.stdout.trim(), output.stderr.trim());
        ensure!((output.code == Some(0)) == command.succeeds, "{told}");
        if let Some(says) = &command.says {
            ensure!(output.stdout.contains(says) || output.stderr.contains(says), "{says:?} is not in: {told}");
        }
        Ok(())
    }

    fn fetched(&mut self, bounds: &Fetched) -> Result<()> {
        let bytes = self.server.count(&bounds.path).bytes;
        let mut told = format!("{bytes} bytes of {} were fetched", bounds.path);
        ensure!(bytes >= bounds.at_least && bounds.at_most.is_none_or(|most| bytes <= most), "{told}");
        if let Some(percent) = bounds.at_most_percent {
            let there = self.server.size(&bounds.path)?;
            told = format!("{told}, of {there} that are there");
            ensure!(bytes * 100 <= there * percent, "{told}");
        }
        self.timeline.note(&told);
        Ok(())
    }
}
