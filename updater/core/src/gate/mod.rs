//! May this go on now? Asked before the download, before activation and before the reboot.
//!
//! Pure and stateless: documents (already verified by the shell), surroundings, journal and configuration in, an
//! answer out. Every question is asked and answered even when an earlier one said no, because `explain` shows them
//! all. It fails closed: what is missing is a no with a reason. It is never asked about confirming or falling back.

use bundle::approval::{Approval, Entry, ReleaseRef};
use bundle::reason::Reason;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::event::{Documents, Surroundings};
use crate::facts::BootFacts;
use crate::journal::Journal;
use crate::now::Now;
use crate::policy::{Device, Policy};
use crate::release::Intent;
use crate::status::{ExplainLine, Finding};

pub mod approval;
mod lines;
mod local;
mod release;
mod rollout;
pub mod select;
pub mod time;
pub mod window;

pub use lines::Lines;
pub use release::{installed_counter, suits};

/// Where the gate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Point {
    /// Before bytes are fetched and the other slot is written.
    Download,
    /// Before the boot loader is switched.
    Activate,
    /// Before the reboot.
    Reboot,
}

/// The gate's answer. There is no yes without an approval and no no without a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Go on.
    Proceed,
    /// Not now.
    Wait {
        /// When it may change, where that is known; otherwise ask again at the next check.
        until: Option<Timestamp>,
        /// Why.
        reason: Reason,
    },
    /// Not this release, unless something outside changes.
    Refuse {
        /// Why.
        reason: Reason,
    },
}

impl Decision {
    /// The reason of a no.
    #[must_use]
    pub const fn reason(self) -> Option<Reason> {
        match self {
            Decision::Proceed => None,
            Decision::Wait { reason, .. } | Decision::Refuse { reason } => Some(reason),
        }
    }
}

/// Everything the gate may look at.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The moment.
    pub now: &'a Now,
    /// Who this device is.
    pub device: &'a Device,
    /// What it may do.
    pub policy: &'a Policy,
    /// What it remembers.
    pub journal: &'a Journal,
    /// What the boot loader says.
    pub facts: &'a BootFacts,
    /// What was signed.
    pub documents: &'a Documents,
    /// What is around it.
    pub surroundings: &'a Surroundings,
}

/// A release in front of the gate.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Which.
    pub release: &'a ReleaseRef,
    /// What an operator added.
    pub intent: Intent,
    /// Whether its bytes come over the network.
    pub over_network: bool,
}

/// The gate's answer with all the questions that led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The answer.
    pub decision: Decision,
    /// Every question, in the order asked.
    pub lines: Vec<ExplainLine>,
    /// The rollout whose entry was decisive; none: none names the release, or standalone.
    pub rollout: Option<String>,
}

impl Verdict {
    /// The sentence of the question that decided, for people.
    #[must_use]
    pub fn sentence(&self) -> String {
        let decisive = |line: &&ExplainLine| line.finding != Finding::Passed && line.reason == self.decision.reason();
        self.lines.iter().find(decisive).map_or_else(String::new, |line| line.sentence.clone())
    }
}

/// Asks every question about `candidate` at `point`.
#[must_use]
pub fn ask(inputs: &Inputs<'_>, point: Point, candidate: &Candidate<'_>) -> Verdict {
    if inputs.policy.standalone {
        return ask_entry(inputs, point, candidate, Ok(None));
    }
    let newest = approval::newest(inputs);
    let Ok(seen) = newest else {
        return ask_entry(inputs, point, candidate, newest.map(|_| None));
    };
    // Several rollouts may name one release; any of them may let the device in, the highest priority first.
    let mut best: Option<Verdict> = None;
    for entry in entries_for(&seen.approval, candidate.release) {
        let verdict = ask_entry(inputs, point, candidate, Ok(Some((&seen.approval, entry))));
        if best.as_ref().is_none_or(|best| rank(verdict.decision) < rank(best.decision)) {
            best = Some(verdict);
        }
    }
    best.unwrap_or_else(|| {
        let detail = format!("approval {} does not name release {}", seen.approval.version, candidate.release.version);
        ask_entry(inputs, point, candidate, Err(approval::No { reason: Reason::ApprovalMissing, detail }))
    })
}

/// Asks whether this device may leave its slot now of its own accord, for `candidate` in the other one: its own mode,
/// hours and surroundings. No region is asked.
#[must_use]
pub fn ask_to_leave(inputs: &Inputs<'_>, candidate: &Candidate<'_>) -> Lines {
    let mut lines = Lines::default();
    local::mode(&mut lines, inputs, Point::Reboot, candidate);
    local::windows(&mut lines, inputs, Point::Reboot, candidate, None);
    local::surroundings(&mut lines, inputs, Point::Reboot, candidate);
    lines
}

/// Asks only what needs no document: this device's mode, slot, clock, hours and surroundings. A no here makes it needless
/// to ask anybody else.
#[must_use]
pub fn ask_here(inputs: &Inputs<'_>, point: Point, candidate: &Candidate<'_>) -> Verdict {
    let mut lines = Lines::default();
    local::mode(&mut lines, inputs, point, candidate);
    local::slot(&mut lines, inputs);
    if !inputs.policy.standalone {
        time::clock(&mut lines, inputs);
    }
    local::windows(&mut lines, inputs, point, candidate, None);
    local::surroundings(&mut lines, inputs, point, candidate);
    Verdict { decision: lines.decide(), rollout: None, lines: lines.into_vec() }
}

/// The entries that name exactly this release, highest priority first.
fn entries_for<'a>(approval: &'a Approval, release: &ReleaseRef) -> Vec<&'a Entry> {
    let mut entries: Vec<_> = approval.entries.iter().filter(|entry| entry.release == *release).collect();
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.priority));
    entries
}

const fn rank(decision: Decision) -> u8 {
    match decision {
        Decision::Proceed => 0,
        Decision::Wait { .. } => 1,
        Decision::Refuse { .. } => 2,
    }
}

fn ask_entry(
    inputs: &Inputs<'_>,
    point: Point,
    candidate: &Candidate<'_>,
    entry: Result<Option<(&Approval, &Entry)>, approval::No>,
) -> Verdict {
    let mut lines = Lines::default();
    local::mode(&mut lines, inputs, point, candidate);
    local::slot(&mut lines, inputs);
    if !inputs.policy.standalone {
        time::clock(&mut lines, inputs);
        time::trust_root(&mut lines, inputs);
    }
    let entry = match entry {
        Ok(entry) => {
            approval::line(&mut lines, inputs, entry.map(|(approval, _)| approval));
            entry.map(|(_, entry)| entry)
        }
        Err(no) => {
            lines.refuse("approval", no.reason, no.detail);
            None
        }
    };
    release::counter(&mut lines, inputs, candidate.release);
    release::channel(&mut lines, inputs, candidate);
    release::blocked(&mut lines, inputs, candidate.release);
    release::recalled(&mut lines, inputs, candidate.release);
    release::pin(&mut lines, inputs, candidate.release);
    if let Some(entry) = entry {
        rollout::state(&mut lines, entry);
        rollout::holds(&mut lines, inputs, entry);
        rollout::bucket(&mut lines, inputs, entry);
    }
    local::windows(&mut lines, inputs, point, candidate, entry);
    local::surroundings(&mut lines, inputs, point, candidate);
    Verdict { decision: lines.decide(), rollout: entry.map(|entry| entry.rollout.clone()), lines: lines.into_vec() }
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
