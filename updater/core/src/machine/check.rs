//! Looking for a release, and asking the gate: Idle, Checking, Offered.

use std::time::Duration;

use bundle::reason::Reason;

use super::{Asked, Machine, Mood, Ordered, Out, Search};
use crate::effect::{Refusal, Work};
use crate::event::{Failure, Finished};
use crate::gate::select::{Choice, choose};
use crate::gate::{Candidate, Decision, Inputs, Lines, Point, Verdict, approval, ask, suits};
use crate::history::OutcomeKind;
use crate::journal::Phase;
use crate::now::Now;
use crate::policy::Mode;
use crate::release::{Source, Update, VerifiedManifest};
use crate::status::Finding;

/// Documents younger than this are not fetched again for the next question.
const FRESH: Duration = Duration::from_secs(60);
impl Machine {
    pub(super) fn tick_idle(&mut self, now: &Now, due: bool, out: &mut Out) {
        if due && self.policy().mode != Mode::Off {
            // A refusal shows in the status; nobody waits for an answer.
            let _ = self.begin_check(now, Search::default(), out);
        }
    }

    /// Starts to look for a release.
    pub(super) fn begin_check(&mut self, now: &Now, search: Search, out: &mut Out) -> Result<(), Refusal> {
        let Some(facts) = &self.facts else { return Err(super::refuse(Reason::BootControlError, "")) };
        if facts.booted.is_none() {
            return Err(super::refuse(Reason::SlotUnknown, Reason::SlotUnknown.sentence()));
        }
        if self.policy().mode == Mode::Off {
            self.wait_for(now, Reason::Disabled, "", None);
            return Err(super::refuse(Reason::Disabled, Reason::Disabled.sentence()));
        }
        if !search.by_operator && self.is_patient(now) {
            return Ok(());
        }
        self.enter(Phase::Idle, Mood::Checking(search));
        self.run(Ordered::Ask(None, Asked::Fetched), Work::Ask { point: None, fetch: true }, out);
        Ok(())
    }

    /// Asks the gate about the update at hand.
    pub(super) fn ask(&mut self, now: &Now, point: Point, out: &mut Out) {
        let busy = self.order.as_ref().is_some_and(|order| matches!(order.what, Ordered::Ask(..) | Ordered::Manifest));
        if busy && !self.is_free() {
            return;
        }
        let fetched = self.answers.as_ref().and_then(|(_, at)| *at);
        let fresh = fetched.is_some_and(|at| now.uptime.saturating_sub(at) <= FRESH);
        let asked = if fresh { Asked::Fresh } else { Asked::Fetched };
        self.run(Ordered::Ask(Some(point), asked), Work::Ask { point: Some(point), fetch: !fresh }, out);
    }

    pub(super) fn answered(
        &mut self,
        now: &Now,
        point: Option<Point>,
        asked: Asked,
        result: Result<Finished, Failure>,
        out: &mut Out,
    ) {
        match result {
            Ok(Finished::Answers(mut answers)) => {
                if let (Some(point), Asked::Around(occasion)) = (point, asked) {
                    return self.looked_around(now, point, occasion, *answers, out);
                }
                // When only the surroundings were asked for, the documents of a moment ago still count.
                if let Some((known, at)) = self.answers.take().filter(|_| asked == Asked::Fresh) {
                    answers.documents = known.documents;
                    self.answers = Some((answers, at));
                } else {
                    self.answers = Some((answers, (asked == Asked::Fetched).then_some(now.uptime)));
                }
                self.accept_documents(now);
                self.accept_recall();
                match point {
                    None if self.leave_recalled(now, out) => {}
                    None => self.choose_release(now, out),
                    Some(point) => self.decide(now, point, out),
                }
            }
            Ok(_) => self.check_failed(now, &Failure::new(Reason::Internal, "an answer to another question")),
            Err(failure) => self.check_failed(now, &failure),
        }
    }

    /// A check or question could not even be asked.
    fn check_failed(&mut self, now: &Now, failure: &Failure) {
        self.fail(now, failure);
        if matches!(self.mood, Mood::Checking(_)) {
            self.end_check(now, failure.reason, &failure.detail, true, failure.retry_after);
        } else {
            self.back_off(now, failure.retry_after);
        }
    }

    /// The documents are here: which release?
    fn choose_release(&mut self, now: &Now, out: &mut Out) {
        let Mood::Checking(search) = self.mood.clone() else { return };
        if let Some(source) = search.source {
            self.run(Ordered::Manifest, Work::ReadManifest { source, expected: None }, out);
            return;
        }
        match self.with_inputs(now, |inputs| choose(inputs, search.intent)) {
            None => self.end_check(now, Reason::Internal, "", true, None),
            Some(Err(nothing)) => {
                let failures = self.document_failure();
                let transient = matches!(nothing.reason, Reason::ApprovalMissing | Reason::ApprovalStale)
                    || failures.as_ref().is_some_and(|failure| failure.reason == nothing.reason);
                let retry_after = self.asked_for();
                if nothing.reason != Reason::NoUpdate {
                    let failure = Failure::new(nothing.reason, nothing.detail.clone());
                    self.fail(now, &failure);
                }
                self.end_check(now, nothing.reason, &nothing.detail, transient, retry_after);
            }
            Some(Ok(choice)) => self.read_manifest(search, choice, out),
        }
    }

    fn document_failure(&self) -> Option<Failure> {
        let documents = &self.answers.as_ref()?.0.documents;
        documents.approval_failures.first().or(documents.channel_failure.as_ref()).cloned()
    }

    fn read_manifest(&mut self, search: Search, choice: Choice, out: &mut Out) {
        let work = Work::ReadManifest { source: choice.source.clone(), expected: Some(choice.release.clone()) };
        self.enter(Phase::Idle, Mood::Checking(Search { choice: Some(Box::new(choice)), ..search }));
        self.run(Ordered::Manifest, work, out);
    }

    pub(super) fn manifest_read(&mut self, now: &Now, result: Result<Finished, Failure>, out: &mut Out) {
        let Mood::Checking(search) = self.mood.clone() else { return };
        let verified = match result {
            Ok(Finished::Manifest(verified)) => verified,
            Ok(_) => return self.check_failed(now, &Failure::new(Reason::Internal, "not a manifest")),
            Err(failure) => return self.check_failed(now, &failure),
        };
        let release = verified.release();
        if search.choice.as_ref().is_some_and(|choice| choice.release != release) {
            // A region that lies about the counter of a genuine release must not gain by it.
            let failure = Failure::new(Reason::Malformed, "the bundle is not the release that was approved");
            return self.check_failed(now, &failure);
        }
        let (Some(facts), Some(booted)) = (&self.facts, self.booted()) else { return };
        let installed = crate::gate::installed_counter(&self.journal, &self.setup.device, facts.booted).unwrap_or(0);
        let mut lines = Lines::default();
        suits(&mut lines, &self.setup.device, &self.journal, &verified.manifest, installed);
        if let Some(reason) = lines.decide().reason() {
            let lines = lines.into_vec();
            let line = lines.iter().find(|line| line.finding == Finding::Refuse);
            let failure = Failure::new(reason, line.map_or_else(String::new, |line| line.sentence.clone()));
            return self.check_failed(now, &failure);
        }
        let update = offer(now, &verified, search, booted.other());
        if self.journal.changes.get(&release.manifest_sha256).is_some_and(|count| *count > super::MAX_CHANGES) {
            self.block(now, &release, Reason::Internal, "it caused too many state changes");
        }
        self.admitted = false;
        self.enter(Phase::Offered(update), Mood::Plain);
        // Whoever named a bundle is told about that one, and not given another in its place.
        if let Some(verdict) = self.verdict(now, Point::Download) {
            self.obey(now, Point::Download, verdict, out);
        }
    }

    /// The gate's answer for the update at hand, with the documents at hand.
    pub(super) fn verdict(&self, now: &Now, point: Point) -> Option<Verdict> {
        self.with_candidate(now, |inputs, candidate| ask(inputs, point, candidate))
    }

    /// Gives `ask` the update at hand and what the gate may look at.
    pub(super) fn with_candidate<T>(&self, now: &Now, ask: impl FnOnce(&Inputs<'_>, &Candidate<'_>) -> T) -> Option<T> {
        let update = self.journal.phase.update()?;
        let over_network = matches!(update.source, Source::Urls(_));
        let candidate = Candidate { release: &update.release, intent: update.intent, over_network };
        self.with_inputs(now, |inputs| ask(inputs, &candidate))
    }

    fn decide(&mut self, now: &Now, point: Point, out: &mut Out) {
        let Some(verdict) = self.verdict(now, point) else { return };
        let refused = matches!(verdict.decision, Decision::Refuse { .. });
        if !self.superseded(now, refused, out) {
            self.obey(now, point, verdict, out);
        }
    }

    /// Goes on, waits or gives up, as the gate says.
    pub(super) fn obey(&mut self, now: &Now, point: Point, verdict: Verdict, out: &mut Out) {
        if let (Some(rollout), Some(update)) = (&verdict.rollout, self.journal.phase.update_mut()) {
            update.rollout = Some(rollout.clone());
        }
        match verdict.decision {
            Decision::Proceed => {
                self.waiting = None;
                match point {
                    Point::Download => self.download_allowed(out),
                    Point::Activate => self.activation_allowed(out),
                    Point::Reboot => self.reboot_allowed(out),
                }
            }
            Decision::Wait { until, reason } => {
                let detail = verdict.sentence();
                self.wait_for(now, reason, &detail, until);
                if point == Point::Download {
                    self.record_deferred(now, reason, &detail);
                }
                self.schedule_wait(now, reason, until);
                self.held_up(now, point, reason, false, out);
            }
            Decision::Refuse { reason } => {
                let detail = verdict.sentence();
                self.fail(now, &Failure::new(reason, detail.clone()));
                self.held_up(now, point, reason, true, out);
                self.wait_for(now, reason, &detail, None);
                if self.wake.is_none() {
                    self.wake_for_poll(now);
                }
            }
        }
    }

    /// A newer or more urgent release pushes one aside that is not switched to yet. One that an operator chose stays, as
    /// long as it may be installed at all.
    fn superseded(&mut self, now: &Now, refused: bool, out: &mut Out) -> bool {
        let Some(update) = self.journal.phase.update() else { return false };
        if (update.by_operator && !refused) || !self.may_be_pushed_aside() {
            return false;
        }
        let (current, intent) = (update.release.clone(), update.intent);
        let Some(Ok(choice)) = self.with_inputs(now, |inputs| choose(inputs, intent)) else { return false };
        if choice.release == current {
            if let Some(update) = self.journal.phase.update_mut() {
                update.source = choice.source;
                update.delta = choice.delta;
            }
            return false;
        }
        self.read_manifest(Search { intent, ..Search::default() }, choice, out);
        true
    }

    /// Not while bytes move or the boot loader is switched.
    fn may_be_pushed_aside(&self) -> bool {
        self.order.is_none()
            && self.letting_go().is_none()
            && matches!(
                self.journal.phase,
                Phase::Offered(_) | Phase::Approved(_) | Phase::Writing(_) | Phase::Staged(_)
            )
    }

    /// What a no means for the state.
    fn held_up(&mut self, now: &Now, point: Point, reason: Reason, refused: bool, out: &mut Out) {
        // Without a document in force it is not this release that is refused: wait for one where we are.
        let in_force = self.policy().standalone
            || self.with_inputs(now, |inputs| approval::newest(inputs).is_ok()).unwrap_or(false);
        let over = matches!(
            reason,
            Reason::Cancelled
                | Reason::BlockedAfterFallback
                | Reason::NoUpdate
                | Reason::CounterRollback
                | Reason::ApprovalMissing
                | Reason::Pinned
                | Reason::Recalled
        );
        match (&self.journal.phase, point) {
            (Phase::Offered(_) | Phase::Approved(_) | Phase::Writing(_) | Phase::Staged(_), _)
                if refused && !in_force =>
            {
                self.back_off(now, self.asked_for());
            }
            (Phase::Offered(_) | Phase::Approved(_), _) if refused => self.enter(Phase::Idle, Mood::Plain),
            // What is in the slot stays there and is not fetched again if the answer changes.
            (Phase::Writing(_), _) if refused => self.abandon(now, reason, "the gate closed", out),
            (Phase::Staged(_), _) if refused && over && in_force => self.enter(Phase::Idle, Mood::Plain),
            (Phase::Armed { .. }, _) if refused || !is_local(reason) => self.disarm(out),
            _ => {}
        }
    }

    /// Ends a check without a release.
    fn end_check(&mut self, now: &Now, reason: Reason, detail: &str, transient: bool, retry_after: Option<Duration>) {
        self.enter(Phase::Idle, Mood::Plain);
        if reason == Reason::NoUpdate {
            self.last_error = None;
        }
        self.wait_for(now, reason, detail, None);
        if transient {
            self.back_off(now, retry_after);
        } else {
            self.journal.retry = crate::journal::Retry::default();
            self.wake_for_poll(now);
        }
    }

    /// Gives `ask` what the gate may look at; none before the first answers.
    pub(super) fn with_inputs<T>(&self, now: &Now, ask: impl FnOnce(&Inputs<'_>) -> T) -> Option<T> {
        let (answers, facts) = (&self.answers.as_ref()?.0, self.facts.as_ref()?);
        Some(ask(&Inputs {
            now,
            device: &self.setup.device,
            policy: &self.setup.policy,
            journal: &self.journal,
            facts,
            documents: &answers.documents,
            surroundings: &answers.surroundings,
        }))
    }

    /// Gives up the update at hand without blocking it; the next check may offer it again.
    pub(super) fn abandon(&mut self, now: &Now, reason: Reason, detail: &str, out: &mut Out) {
        self.drop_order(out);
        let slot = self.journal.phase.update().map(|update| update.target);
        self.record(now, OutcomeKind::Failed, slot, Some((reason, detail)));
        self.enter(Phase::Idle, Mood::Plain);
        self.wait_for(now, reason, detail, None);
    }
}

/// Hindrances that pass by themselves or by somebody at the device; the region does not mind.
const fn is_local(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::NotifyOnly | Reason::WindowClosed | Reason::Metered | Reason::Inhibited | Reason::LowBattery
    )
}

fn offer(now: &Now, verified: &VerifiedManifest, search: Search, target: crate::slot::SlotId) -> Update {
    let (source, delta, rollout) = match search.choice {
        Some(choice) => (choice.source, choice.delta, choice.verdict.rollout),
        None => (search.source.unwrap_or_else(|| Source::Urls(Vec::new())), None, None),
    };
    Update {
        release: verified.release(),
        target,
        source,
        delta,
        rollout,
        intent: search.intent,
        by_operator: search.by_operator && search.intent.stage,
        state_schema: verified.manifest.state_schema,
        rollback_floor: verified.manifest.rollback_floor,
        size: verified.raw_size(),
        offered_at: Some(now.wall),
        network: Vec::new(),
    }
}
