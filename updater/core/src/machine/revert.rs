//! Going back: Reverting, RolledBack; and staying put when that is not possible: Degraded.
//!
//! Nothing here asks the gate, the network or the clock on the wall: they never block a fallback.

use std::time::Duration;

use bundle::reason::Reason;

use super::{MAX_REJECTS, Machine, Mood, Occasion, Ordered, Out, TrialRun, Trouble};
use crate::effect::{Effect, EvidenceRequest, Work};
use crate::event::{Failure, Finished};
use crate::facts::{BootFacts, BootId, SlotBoot};
use crate::gate::Point;
use crate::history::OutcomeKind;
use crate::journal::{Phase, Reversal, Trial};
use crate::now::Now;
use crate::release::Update;
use crate::slot::SlotId;

/// Tries at rejecting before the reboot is left to the boot loader's own counting.
const REJECT_TRIES: u32 = 5;

/// How soon to look again at a system that was to be left and has nothing to fall back to.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Tries a boot loader may have been given. By whom, with what configuration, is not known to a system in the dark.
pub(super) const MOST_TRIES: u8 = 7;

impl Machine {
    /// The trial failed: go back, if there is something to go back to.
    pub(super) fn trial_failed(&mut self, now: &Now, reason: Reason, detail: &str, out: &mut Out) {
        let Phase::Trying(trial) = &self.journal.phase else { return };
        let (slot, update) = (trial.slot, trial.update.clone());
        let fallback = self.facts.as_ref().is_some_and(|facts| facts.slot(slot.other()).is_confirmed());
        if !fallback || self.is_looping() {
            self.drop_order(out);
            self.fail(now, &Failure::new(reason, detail));
            self.enter(self.journal.phase.clone(), Mood::Degraded(Trouble::NoFallback));
            return self.wake_in(now, LOOK_AGAIN);
        }
        self.revert(now, slot, update, reason, detail, out);
    }

    /// Notes why, then leaves the running slot.
    pub(super) fn revert(
        &mut self,
        now: &Now,
        slot: SlotId,
        update: Option<Update>,
        reason: Reason,
        detail: &str,
        out: &mut Out,
    ) {
        let Some(boot) = self.facts.as_ref().map(|facts| facts.boot_id.clone()) else { return };
        self.drop_order(out);
        let record = self.journal.slots.get(slot).as_ref().map(|record| record.release.clone());
        let release = update.as_ref().map(|update| update.release.clone()).or(record);
        self.fail(now, &Failure::new(reason, detail));
        if let Some(release) = &release {
            // Already here: if the journal is all that survives, it must say so.
            self.block(now, release, reason, detail);
        }
        let detail = detail.to_owned();
        let reversal =
            Reversal { slot, update, reason, detail, boot, attempts: 0, rejected_in: None, hopes: 0, hoped_in: None };
        // From here on this is what says so.
        self.journal.letting_go = None;
        self.enter(Phase::Reverting(reversal), Mood::Plain);
        let health = self.trial.last.take();
        self.trial = TrialRun::default();
        out.push(Effect::KeepEvidence(Box::new(EvidenceRequest { slot, release, reason, health, armed_in: None })));
        self.reject(now, out);
    }

    pub(super) fn reject(&mut self, now: &Now, out: &mut Out) {
        let Phase::Reverting(reversal) = &self.journal.phase else { return };
        let slot = reversal.slot;
        if self.facts.as_ref().is_some_and(|facts| !facts.slot(slot.other()).is_choosable()) {
            return self.stay_alone(now);
        }
        self.run(Ordered::Reject, Work::Reject { slot }, out);
    }

    /// What there was to go back to was taken away meanwhile: a restart would end where nothing boots.
    fn stay_alone(&mut self, now: &Now) {
        let (Phase::Reverting(reversal), Some(facts)) = (&self.journal.phase, &self.facts) else { return };
        let (slot, update, boot) = (reversal.slot, reversal.update.clone(), facts.boot_id.clone());
        let confirmed = facts.slot(slot).is_confirmed();
        let detail = format!("slot {} holds no system to go back to; staying in slot {slot}", slot.other());
        self.record(now, OutcomeKind::Failed, Some(slot), Some((Reason::BootControlError, &detail)));
        self.fail(now, &Failure::new(Reason::BootControlError, detail));
        if !confirmed {
            // As a trial that failed with nothing to fall back to: it may get well.
            let trial = Trial { slot, update, boot, since_ms: now.uptime_ms() };
            self.enter(Phase::Trying(trial), Mood::Degraded(Trouble::NoFallback));
            return self.wake_in(now, LOOK_AGAIN);
        }
        self.go_on_after_all(now, slot);
    }

    /// A good system that was to be left, and is not: it goes on, and its release is no bad one.
    fn go_on_after_all(&mut self, now: &Now, slot: SlotId) {
        if let Some(record) = self.journal.slots.get(slot) {
            self.journal.blocked.remove(&record.release.manifest_sha256);
        }
        self.enter(Phase::Idle, Mood::Plain);
        self.wake_for_poll(now);
    }

    /// The slot that is being left came up again, or the daemon restarted.
    pub(super) fn reject_again(&mut self, now: &Now, out: &mut Out) {
        let (Some(facts), Phase::Reverting(reversal)) = (&self.facts, &mut self.journal.phase) else { return };
        if reversal.boot != facts.boot_id {
            reversal.boot = facts.boot_id.clone();
            self.count_change();
        }
        self.reject(now, out);
    }

    pub(super) fn rejected(&mut self, now: &Now, result: Result<Finished, Failure>, out: &mut Out) {
        let Phase::Reverting(reversal) = &self.journal.phase else { return };
        let slot = reversal.slot;
        let alone = self.facts.as_ref().is_some_and(|facts| !facts.slot(slot.other()).is_choosable());
        let failure = match result {
            _ if alone => return self.stay_alone(now),
            Ok(Finished::Facts(facts)) if is_left(&facts, slot) => return self.leave(out),
            Ok(_) => {
                Failure::new(Reason::BootControlError, "rejected, but the boot loader would still choose the slot")
            }
            Err(failure) => failure,
        };
        self.fail(now, &failure);
        self.stumbles = self.stumbles.saturating_add(1);
        let delay = self.short_backoff(now);
        self.wake_in(now, delay);
    }

    /// The boot loader chooses the other slot now.
    fn leave(&mut self, out: &mut Out) {
        let Phase::Reverting(reversal) = &mut self.journal.phase else { return };
        // Counted only now, and once: a boot in which power was lost first, or a reboot that is held up, says nothing
        // about the boot loader.
        once_a_boot(&mut reversal.attempts, &mut reversal.rejected_in, &reversal.boot);
        self.run(Ordered::Reboot, Work::Reboot, out);
    }

    /// After a failure, or a reboot that did not come: what failed may have taken effect.
    pub(super) fn seen_while_reverting(&mut self, now: &Now, result: Result<Finished, Failure>, out: &mut Out) {
        let Phase::Reverting(reversal) = &self.journal.phase else { return };
        let (slot, was_rejected) = (reversal.slot, reversal.rejected_in.as_ref() == Some(&reversal.boot));
        let is_last_try = |facts: &BootFacts| matches!(facts.slot(slot), SlotBoot::Trying { .. });
        match result {
            Ok(Finished::Facts(facts)) if !facts.slot(slot.other()).is_choosable() => return self.stay_alone(now),
            // What was done for sure in this boot or counted by the boot loader, or what failed and shows all the same: until
            // the next boot, perhaps.
            Ok(Finished::Facts(facts)) if is_left(&facts, slot) && (was_rejected || is_last_try(&facts)) => {
                return self.leave(out);
            }
            Ok(Finished::Facts(facts)) if is_left(&facts, slot) => return self.hope(now, out),
            _ if self.stumbles < REJECT_TRIES => return self.reject(now, out),
            _ => self.stumbles = 0,
        }
        if self.facts.as_ref().is_some_and(|facts| facts.slot(slot).is_confirmed()) {
            let detail = self.last_error.as_ref().map_or_else(String::new, |error| error.detail.clone());
            let failure = Failure::new(Reason::BootControlError, format!("staying in slot {slot}: {detail}"));
            self.record(now, OutcomeKind::Failed, Some(slot), Some((failure.reason, &failure.detail)));
            self.fail(now, &failure);
            return self.go_on_after_all(now, slot);
        }
        self.hope(now, out);
    }

    /// Restarts although the boot loader may not have been told. Every boot of an unconfirmed slot costs it a try, so the
    /// boot loader leaves it without our help; one that can not count either does not.
    fn hope(&mut self, now: &Now, out: &mut Out) {
        let Phase::Reverting(reversal) = &mut self.journal.phase else { return };
        let slot = reversal.slot;
        once_a_boot(&mut reversal.hopes, &mut reversal.hoped_in, &reversal.boot);
        if reversal.hopes > u32::from(MOST_TRIES) {
            return self.stay_up(now, &format!("the boot loader neither rejects slot {slot} nor counts its boots"));
        }
        self.run(Ordered::Reboot, Work::Reboot, out);
    }

    /// The boot loader does not listen.
    fn stay_up(&mut self, now: &Now, detail: &str) {
        self.record(now, OutcomeKind::Failed, self.booted(), Some((Reason::BootControlError, detail)));
        self.fail(now, &Failure::new(Reason::BootControlError, detail));
        self.enter(self.journal.phase.clone(), Mood::Degraded(Trouble::Ignored));
    }

    /// The old system says what became of the new one.
    pub(super) fn rolled_back(&mut self, now: &Now, reason: Reason, phase_lost: bool, out: &mut Out) {
        let (slot, detail) = match &self.journal.phase {
            Phase::Armed { update, .. } => (update.target, String::new()),
            Phase::Trying(trial) => (trial.slot, String::new()),
            Phase::Reverting(reversal) => (reversal.slot, reversal.detail.clone()),
            Phase::Idle if phase_lost => match self.booted() {
                Some(slot) => (slot.other(), "the updater that was tried wrote a journal of a newer format".to_owned()),
                None => return,
            },
            _ => return,
        };
        let known = self.journal.slots.get(slot).as_ref().map(|record| record.release.clone());
        let release = self.journal.phase.update().map(|update| update.release.clone()).or(known);
        let evidence = !matches!(self.journal.phase, Phase::Reverting(_));
        let armed_in = match &self.journal.phase {
            Phase::Armed { boot, .. } => Some(boot.clone()),
            _ => None,
        };
        if let Some(release) = &release {
            self.block(now, release, reason, &detail);
        }
        self.record(now, OutcomeKind::RolledBack, Some(slot), Some((reason, &detail)));
        self.fail(now, &Failure::new(reason, detail));
        self.enter(Phase::RolledBack { slot, reason }, Mood::Plain);
        if evidence {
            // It never got to save anything itself: the kernel's crash store is all there is.
            out.push(Effect::KeepEvidence(Box::new(EvidenceRequest { slot, release, reason, health: None, armed_in })));
        }
        let facts = self.facts.clone();
        match facts {
            // Somebody chose the old slot by hand, or power was lost at the right instant: make sure that the failed one
            // does not come back at the next boot.
            Some(facts) if facts.confirmed_booted().is_some() && facts.slot(slot).is_choosable() => {
                self.let_go(slot, out);
            }
            Some(facts) if facts.confirmed_booted().is_none() => self.follow_facts(now, out),
            _ => {}
        }
        if self.state() == crate::status::StateName::RolledBack {
            self.wake_for_poll(now);
        }
    }

    /// Goes on as the boot loader says.
    pub(super) fn follow_facts(&mut self, now: &Now, out: &mut Out) {
        let Some(facts) = &self.facts else { return };
        match facts.booted {
            Some(slot) if !facts.slot(slot).is_confirmed() => {
                let update = self.update_in(slot);
                self.begin_trial(now, slot, update, out);
            }
            _ => {
                self.enter(Phase::Idle, Mood::Plain);
                self.wake_for_poll(now);
            }
        }
    }

    /// Goes on from what journal and boot loader say: at the start, and when the boot loader can be read again.
    pub(super) fn resume(&mut self, now: &Now, facts: Result<BootFacts, Failure>, out: &mut Out) {
        use super::reconcile::{Resume, reconcile};
        let facts = match facts {
            Ok(facts) => facts,
            Err(failure) => {
                self.blind(now, &failure);
                return self.leave_the_dark(now, out);
            }
        };
        let resume = reconcile(&self.journal, &facts);
        self.facts = Some(facts);
        if resume == Resume::Unknown {
            return self.blind(now, &Failure::new(Reason::SlotUnknown, Reason::SlotUnknown.sentence()));
        }
        (self.journal.blind_reboots, self.dark) = (0, None);
        let lost = std::mem::take(&mut self.journal.phase_lost);
        if matches!(self.mood, Mood::Degraded(_)) {
            let from = self.state();
            self.mood = Mood::Plain;
            self.passed.push(super::Passage { from, to: self.state() });
        }
        self.wake = None;
        if self.came_up_unwanted(now, out) {
            return;
        }
        self.note_owed();
        match resume {
            Resume::Unknown => {}
            // Comes first, at the end of this step.
            Resume::AskAgain | Resume::VerifyAgain if self.letting_go().is_some() => self.fresh = false,
            Resume::Facts => {
                self.keep_proof(now);
                self.follow_facts(now, out);
            }
            Resume::AskAgain => self.ask_again(now, out),
            // A daemon that starts is no reason to ask a server sooner than it said.
            Resume::Rewrite if self.is_patient(now) => {}
            Resume::Rewrite => self.rewrite(now, out),
            Resume::VerifyAgain => self.verify_again(out),
            Resume::ArmAgain => self.arm(out),
            Resume::BeginTrial => self.armed_slot_came_up(now, out),
            Resume::GoOnTrying => self.go_on_trying(now, out),
            Resume::WasConfirmed => self.good(now, out),
            Resume::FellBack(reason) => self.rolled_back(now, reason, lost, out),
            Resume::RejectAgain => self.reject_again(now, out),
            Resume::StayUp => {
                self.stay_up(
                    now,
                    &format!("the boot loader keeps booting a slot that was rejected {MAX_REJECTS} times"),
                );
            }
            Resume::LeaveAlone => self.leave_alone(now),
            Resume::StayRolledBack => self.wake_for_poll(now),
        }
    }

    fn armed_slot_came_up(&mut self, now: &Now, out: &mut Out) {
        let Phase::Armed { update, .. } = &self.journal.phase else { return };
        let update = update.clone();
        self.begin_trial(now, update.target, Some(update), out);
    }

    /// Nothing has been touched yet.
    fn ask_again(&mut self, now: &Now, out: &mut Out) {
        if matches!(self.journal.phase, Phase::Offered(_)) {
            self.look_around(Point::Download, Occasion::Start, out);
        } else if !self.is_patient(now) {
            // Let in, and about to be written.
            self.ask(now, Point::Download, out);
        }
    }

    /// Staged, or Armed without the boot loader knowing: the slot is whole, but is read back before it is used.
    fn verify_again(&mut self, out: &mut Out) {
        let Some(update) = self.journal.phase.update().cloned() else { return };
        self.fresh = false;
        self.enter(Phase::Staged(update), Mood::Plain);
        self.look_around(Point::Activate, Occasion::Start, out);
    }

    fn leave_alone(&mut self, now: &Now) {
        let detail = "the running slot was never written to its end; it is left alone and not confirmed";
        self.fail(now, &Failure::new(Reason::BootedSlotUnconfirmed, detail));
        self.enter(self.journal.phase.clone(), Mood::Degraded(Trouble::Incomplete));
    }
}

/// Counts a boot, unless it is the last one that was counted.
fn once_a_boot(count: &mut u32, last: &mut Option<BootId>, boot: &BootId) {
    if last.as_ref() != Some(boot) {
        *last = Some(boot.clone());
        *count = count.saturating_add(1);
    }
}

/// Whether the boot loader will choose the other slot at the next boot.
fn is_left(facts: &BootFacts, slot: SlotId) -> bool {
    !facts.slot(slot).is_choosable() && facts.slot(slot.other()).is_choosable()
}
