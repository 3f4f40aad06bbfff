//! The shell's part: effects in order, one piece of work at a time, results and timers as events.

use std::time::Duration;

use bundle::approval::RolloutState;
use bundle::reason::Reason;
use updater_core::effect::{Effect, Work};
use updater_core::event::{
    Answers, Command, Event, Failure, Finished, HealthCheck, HealthReport, SeenApproval, Transfer, Verdict,
};
use updater_core::journal::{self, Phase};
use updater_core::machine::transitions::is_known;
use updater_core::release::Source;

use super::action::{Fault, Quality};
use super::device::{Content, Job, TIMER, World};
use super::invariants;
use super::region::manifest;

/// Restarts that follow each other sooner are a loop, when they do not end.
const A_WHILE: Duration = Duration::from_secs(900);

impl World {
    /// Hands an event to the machine. Effects that are still waiting are run first, as the shell does.
    pub fn event(&mut self, event: Event) {
        while !self.effects.is_empty() {
            self.run_effect();
        }
        let is_command = matches!(event, Event::Command(_));
        let now = self.now();
        let effects = self.machine.step(&now, event);
        let answers = effects.iter().filter(|effect| matches!(effect, Effect::Answer(_))).count();
        if answers != usize::from(is_command) {
            self.violate(format!("every command is answered once: {answers} answers"));
        }
        self.take(effects);
    }

    pub fn take(&mut self, effects: Vec<Effect>) {
        if let Err(violation) = invariants::persist_first(&effects) {
            self.violate(violation);
        }
        for passage in self.machine.take_passages() {
            *self.passages.entry((passage.from, passage.to)).or_default() += 1;
            self.story.push(format!("{} -> {}", passage.from, passage.to));
            if !is_known(passage.from, passage.to) {
                self.violate(format!("{} -> {} is not in the table of transitions", passage.from, passage.to));
            }
        }
        self.effects.extend(effects);
    }

    /// The next thing that happens by itself.
    pub fn go(&mut self) {
        if !self.effects.is_empty() {
            return self.run_effect();
        }
        if let Some(job) = self.jobs.front_mut().filter(|job| !job.hangs || job.stopped) {
            if job.begun {
                return self.finish_work(None);
            }
            job.begun = true;
            let work = job.work.clone();
            return self.begin(&work);
        }
        match self.machine.wake_at().filter(|wake| *wake <= self.timer) {
            Some(wake) => {
                self.pass(wake.saturating_sub(self.uptime));
                self.event(Event::Tick);
            }
            // Nothing to do, or not before the timer comes round.
            None => {
                self.pass(self.timer.saturating_sub(self.uptime));
                self.timer = self.uptime + TIMER;
                self.event(Event::Command(Command::Check { by_operator: false }));
            }
        }
    }

    fn run_effect(&mut self) {
        match self.effects.pop_front() {
            None => {}
            Some(Effect::Persist { journal, vital }) => {
                if !self.disk_broken {
                    let bytes = journal::encode(&journal).unwrap();
                    self.store(Some(bytes));
                }
                if self.disk_broken || self.disk_lies {
                    if vital {
                        self.effects.clear();
                        self.found_armed = matches!(self.stored().phase, Phase::Armed { .. });
                    }
                    // One that lies: what is durable is ahead of what anybody goes by, until it is written again.
                    self.untold = !vital || !self.disk_broken;
                    self.story.push("the journal can not be written".into());
                    let now = self.now();
                    let failure = Failure::new(Reason::WriteError, "read-only file system");
                    let effects = self.machine.step(&now, Event::PersistFailed { vital, failure });
                    if !effects.is_empty() {
                        self.violate("an order that the shell does not take: the journal could not be written");
                    }
                    self.take(effects);
                }
            }
            Some(Effect::Run { ticket, work }) => {
                self.jobs.push_back(Job { ticket, work, begun: false, stopped: false, hangs: false });
            }
            Some(Effect::Stop(ticket)) => {
                self.jobs.retain(|job| job.begun || job.ticket != ticket);
                self.jobs.iter_mut().filter(|job| job.ticket == ticket).for_each(|job| job.stopped = true);
            }
            Some(Effect::Report(report)) => {
                let now = self.now();
                let effects = self.machine.step(&now, Event::Reported { sequence: report.sequence });
                self.take(effects);
            }
            Some(Effect::Answer(answer)) => self.story.push(format!("answer {answer:?}")),
            Some(Effect::KeepEvidence(_)) => {}
        }
    }

    /// Work begins: what it may not do is checked here, and its first byte is written.
    fn begin(&mut self, work: &Work) {
        let name = format!("{work:?}").chars().take(60).collect::<String>();
        self.story.push(format!("begins {name}"));
        if let Err(violation) = invariants::before_work(self, work) {
            self.violate(violation);
        }
        if let Work::Install { update } = work {
            *self.disk.get_mut(update.target) = Content::Partial;
            *self.read_back.get_mut(update.target) = false;
        }
    }

    pub fn fail_work(&mut self, fault: Fault) {
        let Some(job) = self.jobs.front_mut().filter(|job| job.begun) else { return };
        if fault == Fault::Hang {
            job.hangs = matches!(job.work, Work::CheckHealth { .. });
        } else {
            if fault == Fault::After && is_change(&job.work) {
                let work = job.work.clone();
                self.do_boot_control(&work);
            }
            let reason = match fault {
                Fault::Hang => Reason::Internal,
                Fault::After => Reason::BootControlError,
                Fault::Network => Reason::Network,
                Fault::Local => Reason::WriteError,
                Fault::Content => Reason::FrameMismatch,
            };
            self.finish_work(Some(Failure::new(reason, "a fault was injected")));
        }
    }

    fn finish_work(&mut self, fault: Option<Failure>) {
        let Some(job) = self.jobs.pop_front() else { return };
        self.pass(Duration::from_secs(1));
        let result = match (fault, job.stopped) {
            (Some(failure), _) => Err(failure),
            // The shell lets a change of the boot loader's state come to its end.
            (None, true) if !is_change(&job.work) => Err(Failure::new(Reason::Cancelled, "stopped")),
            (None, _) => self.perform(&job.work),
        };
        if matches!((&job.work, &result), (Work::Reboot, Ok(_))) {
            // In a while somebody has had a look.
            self.reboots += u32::from(self.uptime < A_WHILE);
            if self.reboots > 12 {
                self.violate("the device does not reboot for ever");
            }
            return self.boot(None);
        }
        if let Err(failure) = &result {
            self.story.push(format!("fails: {}", failure.reason));
        }
        self.event(Event::Done { ticket: job.ticket, result });
    }

    /// Changes of the boot loader's state: atomic.
    pub fn do_boot_control(&mut self, work: &Work) {
        if self.boot_broken || self.leaves_nothing(work) {
            return;
        }
        match work {
            Work::Clear { slot, .. } => self.loader.clear(*slot),
            Work::Arm { slot, tries } => self.loader.arm(*slot, *tries),
            Work::Confirm { slot } => self.loader.confirm(*slot),
            Work::Reject { slot } => self.loader.reject(*slot),
            _ => {}
        }
    }

    /// Boot control refuses to reject the only system that can boot.
    fn leaves_nothing(&self, work: &Work) -> bool {
        let Work::Reject { slot } = work else { return false };
        *slot == self.booted && !self.loader.slots.get(slot.other()).boot.is_choosable()
    }

    fn perform(&mut self, work: &Work) -> Result<Finished, Failure> {
        if self.leaves_nothing(work) {
            return Err(Failure::new(Reason::BootControlError, "nothing would be left to boot"));
        }
        if self.boot_broken && is_change(work) {
            return Err(Failure::new(Reason::BootControlError, "read-only file system"));
        }
        self.do_boot_control(work);
        match work {
            _ if self.blind && (is_change(work) || *work == Work::ReadFacts) => self.read_facts().map(Finished::Facts),
            Work::ReadFacts | Work::Clear { .. } | Work::Arm { .. } | Work::Confirm { .. } | Work::Reject { .. } => {
                Ok(Finished::Facts(self.facts()))
            }
            Work::Ask { fetch, .. } => Ok(Finished::Answers(Box::new(self.answers(*fetch)))),
            Work::ReadManifest { source, .. } => self.read_manifest(source),
            Work::Install { update } => {
                let counter = update.release.counter;
                if self.region.releases.get(&counter) == Some(&Quality::Corrupt) {
                    return Err(Failure::new(Reason::FrameMismatch, "frame 7"));
                }
                *self.disk.get_mut(update.target) = Content::Whole(counter);
                Ok(Finished::Installed(Transfer::default()))
            }
            Work::Verify { update } => {
                if *self.disk.get(update.target) != Content::Whole(update.release.counter) {
                    return Err(Failure::new(Reason::ImageMismatch, "rootfs"));
                }
                if self.region.releases.get(&update.release.counter) == Some(&Quality::Unfit) {
                    return Err(Failure::new(Reason::HealthFailed, "its own updater: no trust root"));
                }
                *self.read_back.get_mut(update.target) = true;
                Ok(Finished::Verified)
            }
            Work::CheckHealth { .. } => Ok(Finished::Health(self.health())),
            Work::CheckNetwork => Ok(Finished::Health(HealthReport { checks: vec![self.network()] })),
            Work::Reboot => Ok(Finished::Rebooting),
        }
    }

    fn answers(&mut self, fetch: bool) -> Answers {
        let mut documents = self.region.documents(self.time);
        if !fetch {
            // A copy by a key that may approve no more is not handed on.
            let copy = self.copy.iter().filter(|(key, _)| *key == self.region.key);
            documents.approvals = copy.map(|(_, seen)| SeenApproval { live: false, ..seen.clone() }).collect();
            documents.channel = None;
            documents.recall = None;
        } else {
            let number = |seen: &SeenApproval| (seen.approval.epoch, seen.approval.version);
            for seen in &documents.approvals {
                let newer = self
                    .copy
                    .as_ref()
                    .is_none_or(|(key, known)| (*key, number(known)) <= (self.region.key, number(seen)));
                if newer {
                    self.copy = Some((self.region.key, seen.clone()));
                }
            }
            let rolling = documents.approvals.iter().flat_map(|seen| &seen.approval.entries);
            let rolling = rolling.filter(|entry| entry.state == RolloutState::Rolling);
            self.let_in = rolling.map(|entry| entry.release.counter).collect();
        }
        Answers { documents, surroundings: self.around.clone() }
    }

    fn read_manifest(&self, source: &Source) -> Result<Finished, Failure> {
        let Source::Urls(urls) = source else { return Err(Failure::new(Reason::Truncated, "no such file")) };
        if self.region.weather == super::action::Weather::Silent {
            return Err(Failure::new(Reason::Network, "no route"));
        }
        // Whatever a document said about it, what lies at an address is what the release keys signed.
        let there = urls.iter().find_map(|url| url.strip_suffix(".bundle")?.parse().ok());
        let counter = there.unwrap_or(self.region.newest());
        if !self.region.releases.contains_key(&counter) {
            return Err(Failure::new(Reason::KeyUnknown, "not signed by the release keys"));
        }
        Ok(Finished::Manifest(Box::new(manifest(counter))))
    }

    fn health(&mut self) -> HealthReport {
        let verdict = match self.quality(self.booted) {
            Some(Quality::Good | Quality::Corrupt) => Verdict::Passed,
            Some(Quality::Slow) => Verdict::Pending,
            Some(Quality::Sick | Quality::NoBoot | Quality::Unfit) | None => Verdict::Failed,
        };
        let network = self.network();
        let asked = self.stored().phase.update().is_some_and(|update| update.network.contains(&network.name));
        self.well = verdict == Verdict::Passed && (!asked || network.verdict == Verdict::Passed);
        let checks = vec![check("unit:app", true, verdict), network, check("script:cloud", false, Verdict::Failed)];
        HealthReport { checks }
    }

    fn network(&self) -> HealthCheck {
        let silent = self.region.weather == super::action::Weather::Silent;
        check("network", false, if silent { Verdict::Failed } else { Verdict::Passed })
    }
}

const fn is_change(work: &Work) -> bool {
    matches!(work, Work::Clear { .. } | Work::Arm { .. } | Work::Confirm { .. } | Work::Reject { .. })
}

fn check(name: &str, required: bool, verdict: Verdict) -> HealthCheck {
    HealthCheck { name: name.into(), required, verdict, detail: String::new(), restarts: 0 }
}
