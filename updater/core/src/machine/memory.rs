//! What the machine remembers about releases: outcomes, blocks, changes; and what it shows about failures.

use bundle::approval::ReleaseRef;
use bundle::reason::Reason;
use jiff::Timestamp;

use super::{MAX_CHANGES, Machine};
use crate::event::Failure;
use crate::gate::Inputs;
use crate::history::{HISTORY_LIMIT, Outcome, OutcomeKind, Report};
use crate::journal::{ApprovalFloor, Blocked, Journal, Phase};
use crate::now::Now;
use crate::release::Update;
use crate::slot::SlotId;
use crate::status::Problem;

/// Blocked releases and change counters kept; far more than a device meets.
const MEMORY_LIMIT: usize = 64;
/// Reports waiting for the spool.
const OUTBOX_LIMIT: usize = 64;

impl Journal {
    /// Keeps every list short: the journal is rewritten at each step and read into memory at each start.
    pub(super) fn bound(&mut self) {
        let excess = self.history.len().saturating_sub(HISTORY_LIMIT);
        self.history.drain(..excess);
        let excess = self.outbox.len().saturating_sub(OUTBOX_LIMIT);
        self.outbox.drain(..excess);
        while self.blocked.len() > MEMORY_LIMIT {
            // The lowest counter is the least likely to be offered again.
            let lowest = self.blocked.iter().min_by_key(|(_, blocked)| blocked.counter).map(|(digest, _)| *digest);
            let Some(lowest) = lowest else { break };
            self.blocked.remove(&lowest);
        }
        while self.changes.len() > MEMORY_LIMIT {
            let least = self.changes.iter().min_by_key(|(_, count)| **count).map(|(digest, _)| *digest);
            let Some(least) = least else { break };
            self.changes.remove(&least);
        }
    }
}

impl Phase {
    /// The update on its way, where there is one.
    #[must_use]
    pub const fn update(&self) -> Option<&Update> {
        match self {
            Phase::Idle | Phase::RolledBack { .. } => None,
            Phase::Offered(update)
            | Phase::Approved(update)
            | Phase::Writing(update)
            | Phase::Verifying(update)
            | Phase::Staged(update)
            | Phase::Armed { update, .. } => Some(update),
            Phase::Trying(trial) => trial.update.as_ref(),
            Phase::Reverting(reversal) => reversal.update.as_ref(),
        }
    }

    /// The same, to change it.
    pub const fn update_mut(&mut self) -> Option<&mut Update> {
        match self {
            Phase::Idle | Phase::RolledBack { .. } => None,
            Phase::Offered(update)
            | Phase::Approved(update)
            | Phase::Writing(update)
            | Phase::Verifying(update)
            | Phase::Staged(update)
            | Phase::Armed { update, .. } => Some(update),
            Phase::Trying(trial) => trial.update.as_mut(),
            Phase::Reverting(reversal) => reversal.update.as_mut(),
        }
    }
}

impl Machine {
    /// Counts a state change against its release.
    pub(super) fn count_change(&mut self) {
        if let Some(digest) = self.journal.phase.update().map(|update| update.release.manifest_sha256) {
            let count = self.journal.changes.entry(digest).or_default();
            *count = count.saturating_add(1);
        }
    }

    /// True once a release has caused more state changes than any sane course of events does.
    pub(super) fn is_looping(&self) -> bool {
        let digest = self.journal.phase.update().map(|update| update.release.manifest_sha256);
        digest.and_then(|digest| self.journal.changes.get(&digest)).is_some_and(|count| *count > MAX_CHANGES)
    }

    /// Remembers that a release is not to be tried again.
    pub(super) fn block(&mut self, now: &Now, release: &ReleaseRef, reason: Reason, detail: &str) {
        let blocked = Blocked { counter: release.counter, reason, detail: short(detail), at: Some(now.wall) };
        self.journal.blocked.insert(release.manifest_sha256, blocked);
    }

    /// Writes down what happened, for the operator and for the fleet host.
    pub(super) fn record(&mut self, now: &Now, kind: OutcomeKind, slot: Option<SlotId>, why: Option<(Reason, &str)>) {
        let update = self.journal.phase.update();
        let known = slot.and_then(|slot| self.journal.slots.get(slot).as_ref()).map(|record| &record.release);
        let release = update.map(|update| &update.release).or(known).cloned();
        let began = update.and_then(|update| update.offered_at);
        let from_slot = update.map(|update| update.target.other()).or(slot.map(SlotId::other));
        let from =
            from_slot.and_then(|slot| self.journal.slots.get(slot).as_ref()).map(|record| record.release.clone());
        let approval = self.journal.floor.approvals.get(&crate::gate::approval::key(self.policy()));
        let outcome = Outcome {
            at: now.wall,
            clock_trusted: now.wall_trusted,
            kind,
            release,
            from,
            slot,
            reason: why.map(|(reason, _)| reason),
            detail: why.map(|(_, detail)| short(detail)).unwrap_or_default(),
            seconds: began.and_then(|began| u64::try_from(now.wall.duration_since(began).as_secs()).ok()),
            approval: approval.map(|floor| (floor.epoch, floor.version)),
        };
        let sequence = self.journal.next_report;
        self.journal.next_report = sequence.saturating_add(1);
        self.journal.outbox.push(Report { sequence, outcome: outcome.clone() });
        self.journal.history.push(outcome);
    }

    /// Like `record`, unless the newest entry already says the same: waiting is one event, not one per look.
    pub(super) fn record_deferred(&mut self, now: &Now, reason: Reason, detail: &str) {
        let release = self.journal.phase.update().map(|update| &update.release);
        let said = self.journal.history.last().is_some_and(|last| {
            last.kind == OutcomeKind::Deferred && last.reason == Some(reason) && last.release.as_ref() == release
        });
        if !said {
            let slot = self.journal.phase.update().map(|update| update.target);
            self.record(now, OutcomeKind::Deferred, slot, Some((reason, detail)));
        }
    }

    /// Shows a failure.
    pub(super) fn fail(&mut self, now: &Now, failure: &Failure) {
        self.last_error = Some(problem(now, failure.reason, &failure.detail, None));
    }

    /// Boot control did not pass its test at the start. Shown; nothing follows from it before a slot is to be written, and
    /// then it is tested again.
    pub fn doubt_boot_control(&mut self, now: &Now, failure: &Failure) {
        // What came to light at the start, why it fell back say, is the greater news.
        if self.last_error.is_none() {
            self.fail(now, failure);
        }
    }

    /// Shows why it is not going on.
    pub(super) fn wait_for(&mut self, now: &Now, reason: Reason, detail: &str, until: Option<Timestamp>) {
        self.waiting = Some(problem(now, reason, detail, until));
    }

    /// Raises what never goes down to what valid documents say. The documents were verified; whether they let anything
    /// in does not matter here.
    pub(super) fn accept_documents(&mut self, now: &Now) {
        let Some((answers, _)) = &self.answers else { return };
        self.journal.lift_replaced(&answers.documents.release_keys);
        let Some(facts) = &self.facts else { return };
        let inputs = Inputs {
            now,
            device: &self.setup.device,
            policy: &self.setup.policy,
            journal: &self.journal,
            facts,
            documents: &answers.documents,
            surroundings: &answers.surroundings,
        };
        let at = inputs.trusted().at;
        let seen = crate::gate::approval::candidate(&inputs);
        let known = crate::gate::approval::floor(&inputs);
        let seen_before = |digest| known.filter(|floor| floor.digest == digest).and_then(|floor| floor.seen);
        let floor = seen.map(|seen| ApprovalFloor {
            epoch: seen.approval.epoch,
            version: seen.approval.version,
            digest: seen.digest,
            issued: seen.approval.issued,
            seen: if seen.live { Some(at) } else { seen_before(seen.digest) },
            keys: answers.documents.region_keys.clone(),
        });
        let key = crate::gate::approval::key(&self.setup.policy);
        let channel = answers.documents.channel.as_ref().filter(|channel| channel.channel == self.setup.policy.channel);
        let channel = channel.map(|channel| (channel.version, channel.issued));
        if let Some(floor) = floor {
            self.journal.floor.approvals.insert(key, floor);
        }
        if let Some((version, issued)) = channel {
            let known = self.journal.floor.channels.entry(self.setup.policy.channel.clone()).or_default();
            *known = version.max(*known);
            self.journal.floor.signed_time = self.journal.floor.signed_time.max(Some(issued));
        }
    }
}

fn problem(now: &Now, reason: Reason, detail: &str, until: Option<Timestamp>) -> Problem {
    let detail = if detail.is_empty() { reason.sentence().to_owned() } else { short(detail) };
    Problem { reason, detail, at: Some(now.wall), until }
}

/// At most a few lines: the journal is not a log.
fn short(text: &str) -> String {
    text.chars().take(600).collect()
}
