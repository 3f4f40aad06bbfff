//! What operators may do, in each state. Every command is answered exactly once, after what it begins is durable.

use bundle::digest::Digest;
use bundle::reason::Reason;

use super::{Machine, Mood, Occasion, Out, Search, Trouble, refuse};
use crate::effect::{Effect, Refusal};
use crate::event::Command;
use crate::gate::Point;
use crate::history::OutcomeKind;
use crate::journal::Phase;
use crate::now::Now;
use crate::release::{Intent, Source};
use crate::slot::SlotId;

impl Machine {
    pub(super) fn command(&mut self, now: &Now, command: Command, out: &mut Out) {
        let mut follow = Vec::new();
        let answer = match command {
            Command::Check { by_operator } => self.command_check(now, by_operator, &mut follow),
            Command::Install { source, intent } => self.command_install(now, source, intent, &mut follow),
            Command::Activate { slot } => self.command_activate(now, slot, &mut follow),
            Command::Reboot => self.command_reboot(now, &mut follow),
            Command::Confirm => self.command_confirm(now, &mut follow),
            Command::Rollback { reason } => self.command_rollback(now, &reason, &mut follow),
            Command::Reject { slot, reason } => self.command_reject(now, slot, &reason, &mut follow),
            Command::Retry { manifest } => {
                self.command_retry(manifest);
                Ok(())
            }
            Command::Cancel => self.command_cancel(now, &mut follow),
        };
        // Before the work: a reboot may be the first thing that follows, and the caller wants to know.
        out.push(Effect::Answer(answer));
        out.extend(follow);
    }

    /// Asks about the update at hand: whoever wants news is not content with what was fetched a moment ago, and a timer
    /// waits out a backoff.
    pub(super) fn ask_for_news(&mut self, now: &Now, by_operator: bool, out: &mut Out) {
        if by_operator {
            self.answers = None;
        }
        if by_operator || !self.is_patient(now) {
            self.ask(now, self.point(), out);
        }
    }

    fn command_check(&mut self, now: &Now, by_operator: bool, out: &mut Out) -> Result<(), Refusal> {
        self.not_degraded()?;
        if matches!(self.mood, Mood::Checking(_)) {
            return Ok(());
        }
        if self.letting_go().is_some() {
            self.let_go_now();
            self.check_owed = Some(by_operator || self.check_owed == Some(true));
            return Ok(());
        }
        match self.journal.phase {
            Phase::Idle | Phase::RolledBack { .. } => {
                self.begin_check(now, Search { by_operator, ..Search::default() }, out)?;
            }
            Phase::Offered(_) | Phase::Approved(_) | Phase::Staged(_) | Phase::Armed { .. } if self.is_free() => {
                self.ask_for_news(now, by_operator, out);
            }
            Phase::Writing(_) if by_operator && self.is_free() => self.rewrite(now, out),
            // A timer does not cut a backoff short; where nothing else wakes the device, it must.
            Phase::Writing(_) if self.wake.is_none() => self.look_around(Point::Download, Occasion::Wait, out),
            Phase::Trying(_) | Phase::Reverting(_) => {
                return Err(refuse(Reason::BootedSlotUnconfirmed, Reason::BootedSlotUnconfirmed.sentence()));
            }
            _ => {}
        }
        Ok(())
    }

    /// Where the update at hand stands in front of the gate.
    pub(super) const fn point(&self) -> Point {
        match self.journal.phase {
            Phase::Staged(_) => Point::Activate,
            Phase::Armed { .. } => Point::Reboot,
            _ => Point::Download,
        }
    }

    fn command_install(
        &mut self,
        now: &Now,
        source: Option<Source>,
        intent: Intent,
        out: &mut Out,
    ) -> Result<(), Refusal> {
        self.not_degraded()?;
        if matches!(self.mood, Mood::Checking(_)) {
            return Err(refuse(Reason::Busy, "a check is under way"));
        }
        self.not_taking_back()?;
        let intent = Intent { stage: true, ..intent };
        match &self.journal.phase {
            Phase::Trying(_) | Phase::Reverting(_) => {
                Err(refuse(Reason::BootedSlotUnconfirmed, Reason::BootedSlotUnconfirmed.sentence()))
            }
            Phase::Approved(_) | Phase::Writing(_) | Phase::Verifying(_) | Phase::Armed { .. } => {
                Err(refuse(Reason::Busy, "an update is under way; cancel it first"))
            }
            Phase::Offered(_) | Phase::Staged(_) if source.is_none() => {
                self.add_intent(intent);
                self.ask_unless_busy(now, out);
                Ok(())
            }
            Phase::Idle | Phase::RolledBack { .. } | Phase::Offered(_) | Phase::Staged(_) => {
                self.begin_check(now, Search { source, intent, by_operator: true, choice: None }, out)
            }
        }
    }

    fn add_intent(&mut self, more: Intent) {
        let Some(update) = self.journal.phase.update_mut() else { return };
        let had = update.intent;
        update.by_operator = true;
        update.intent = Intent {
            stage: had.stage || more.stage,
            activate: had.activate || more.activate,
            reboot: had.reboot || more.reboot,
            force: had.force || more.force,
        };
    }

    fn ask_unless_busy(&mut self, now: &Now, out: &mut Out) {
        if self.is_free() {
            self.ask(now, self.point(), out);
        }
    }

    fn command_activate(&mut self, now: &Now, slot: SlotId, out: &mut Out) -> Result<(), Refusal> {
        self.not_degraded()?;
        self.not_taking_back()?;
        match &self.journal.phase {
            Phase::Staged(update) if update.target == slot => {
                self.add_intent(Intent { activate: true, ..Intent::default() });
                self.ask_unless_busy(now, out);
                Ok(())
            }
            Phase::Armed { update, .. } if update.target == slot => Ok(()),
            _ => Err(refuse(Reason::NoUpdate, format!("nothing is staged in slot {slot}"))),
        }
    }

    fn command_reboot(&mut self, now: &Now, out: &mut Out) -> Result<(), Refusal> {
        self.not_degraded()?;
        self.not_taking_back()?;
        match &self.journal.phase {
            Phase::Staged(_) | Phase::Armed { .. } => {
                self.add_intent(Intent { activate: true, reboot: true, ..Intent::default() });
                self.ask_unless_busy(now, out);
                Ok(())
            }
            _ => Err(refuse(Reason::NoUpdate, "no update is waiting for a reboot")),
        }
    }

    /// Never blindly: what confirms is a look at the health, in this boot.
    fn command_confirm(&mut self, now: &Now, out: &mut Out) -> Result<(), Refusal> {
        let stuck = match self.mood {
            Mood::Degraded(Trouble::Blind) => return self.not_degraded(),
            Mood::Degraded(trouble) => Some(trouble),
            _ => None,
        };
        match (&self.journal.phase, stuck) {
            (Phase::Trying(_), _) => {
                if self.order.is_none() {
                    self.look(out);
                }
                Ok(())
            }
            (Phase::Reverting(reversal), Some(_)) => {
                let (slot, update) = (reversal.slot, reversal.update.clone());
                self.begin_trial(now, slot, update, out);
                Ok(())
            }
            (_, Some(_)) => {
                // An operator vouches for a slot that was booted by hand; the checks still decide.
                let Some(slot) = self.booted() else { return self.not_degraded() };
                self.begin_trial(now, slot, None, out);
                Ok(())
            }
            (Phase::Reverting(_), None) => Err(refuse(Reason::Busy, "the device is going back")),
            (_, None) => Ok(()),
        }
    }

    fn command_rollback(&mut self, now: &Now, words: &str, out: &mut Out) -> Result<(), Refusal> {
        if matches!(self.journal.phase, Phase::Reverting(_)) && !matches!(self.mood, Mood::Degraded(_)) {
            return Ok(());
        }
        let slot = self.can_go_back()?;
        // An update of an older attempt says nothing about the running slot.
        let update = self.update_in(slot);
        self.revert(now, slot, update, Reason::Cancelled, words, out);
        Ok(())
    }

    /// The slot to leave, when there is another to go to.
    pub(super) fn can_go_back(&self) -> Result<SlotId, Refusal> {
        let Some((facts, slot)) = self.facts.as_ref().zip(self.booted()) else {
            return Err(refuse(Reason::SlotUnknown, Reason::SlotUnknown.sentence()));
        };
        let other = slot.other();
        let writing = matches!(&self.journal.phase, Phase::Writing(update) | Phase::Verifying(update)
            if update.target == other);
        if writing {
            // Whatever its boot record said before: clearing it may be under way.
            return Err(refuse(Reason::Busy, format!("slot {other} is being written: there is nothing to go back to")));
        }
        if self.journal.letting_go.as_ref().is_some_and(|letting_go| letting_go.slot == other) {
            return Err(refuse(
                Reason::NoUpdate,
                format!("slot {other} is being taken from the boot loader: there is nothing to go back to"),
            ));
        }
        if !facts.slot(other).is_confirmed() {
            return Err(refuse(Reason::NoUpdate, format!("slot {other} holds no confirmed system to go back to")));
        }
        if let Some(record) = self.journal.slots.get(other) {
            let floor = &self.journal.floor;
            if record.release.counter < floor.counter {
                let text = format!("release {} is below what this device may go back to", record.release.version);
                return Err(refuse(Reason::CounterRollback, text));
            }
            let readable = record.state_schema.zip(floor.data_schema);
            if readable.is_some_and(|(range, data)| data < range.min || data > range.max) {
                let text = format!("release {} can not read this device's data", record.release.version);
                return Err(refuse(Reason::CounterRollback, text));
            }
        }
        Ok(slot)
    }

    fn command_reject(&mut self, now: &Now, slot: SlotId, words: &str, out: &mut Out) -> Result<(), Refusal> {
        if self.booted() == Some(slot) {
            return self.command_rollback(now, words, out);
        }
        self.not_degraded()?;
        match &self.journal.phase {
            Phase::Trying(_) | Phase::Reverting(_) => {
                return Err(refuse(Reason::BootedSlotUnconfirmed, Reason::BootedSlotUnconfirmed.sentence()));
            }
            Phase::Approved(_) | Phase::Writing(_) | Phase::Verifying(_) => {
                return Err(refuse(Reason::Busy, "the slot is being written; cancel that first"));
            }
            Phase::Staged(_) | Phase::Armed { .. } => return self.command_cancel(now, out),
            Phase::Idle | Phase::Offered(_) | Phase::RolledBack { .. } => {}
        }
        if self.letting_go() == Some(slot) {
            self.let_go_now();
            return Ok(());
        }
        if self.order.is_some() {
            return Err(refuse(Reason::Busy, "a check is under way"));
        }
        if let Some(record) = self.journal.slots.get(slot).clone() {
            self.block(now, &record.release, Reason::Cancelled, words);
        }
        self.let_go(slot, out);
        Ok(())
    }

    fn command_retry(&mut self, manifest: Option<Digest>) {
        match manifest {
            Some(digest) => {
                self.journal.blocked.remove(&digest);
                self.journal.changes.remove(&digest);
            }
            None => {
                self.journal.blocked.clear();
                self.journal.changes.clear();
            }
        }
        self.journal.retry = crate::journal::Retry::default();
    }

    fn command_cancel(&mut self, now: &Now, out: &mut Out) -> Result<(), Refusal> {
        self.not_degraded()?;
        if matches!(self.mood, Mood::Checking(_)) {
            self.drop_order(out);
            self.enter(Phase::Idle, Mood::Plain);
            self.wait_for(now, Reason::Cancelled, "", None);
            self.wake_for_poll(now);
            return Ok(());
        }
        match &self.journal.phase {
            Phase::Idle | Phase::RolledBack { .. } => Err(refuse(Reason::NoUpdate, "there is nothing to cancel")),
            Phase::Trying(_) | Phase::Reverting(_) => {
                Err(refuse(Reason::Busy, "the new system is already running; use rollback"))
            }
            Phase::Armed { update, .. } => {
                let target = update.target;
                self.block_current(now, Reason::Cancelled, "");
                self.record(now, OutcomeKind::Failed, Some(target), Some((Reason::Cancelled, "")));
                self.disarm(out);
                Ok(())
            }
            Phase::Staged(update) if self.letting_go().is_some() => {
                let (target, manifest) = (update.target, update.release.manifest_sha256);
                if !self.journal.blocked.contains_key(&manifest) {
                    self.block_current(now, Reason::Cancelled, "");
                    self.record(now, OutcomeKind::Failed, Some(target), Some((Reason::Cancelled, "")));
                }
                self.let_go_now();
                Ok(())
            }
            _ => {
                // Remembered, or the next check would begin it again.
                self.block_current(now, Reason::Cancelled, "");
                self.abandon(now, Reason::Cancelled, "", out);
                self.wake_for_poll(now);
                Ok(())
            }
        }
    }

    fn not_taking_back(&self) -> Result<(), Refusal> {
        let Some(slot) = self.letting_go() else { return Ok(()) };
        Err(refuse(
            Reason::Busy,
            format!("slot {slot} is being taken from the boot loader; `flipside status` shows when it is"),
        ))
    }

    fn not_degraded(&self) -> Result<(), Refusal> {
        if !matches!(self.mood, Mood::Degraded(_)) {
            return Ok(());
        }
        let error = self.last_error.as_ref();
        let reason = error.map_or(Reason::BootControlError, |error| error.reason);
        Err(refuse(reason, error.map_or_else(|| reason.sentence().to_owned(), |error| error.detail.clone())))
    }
}
