//! Which approval counts: the newest valid one, never older than any accepted before.

use bundle::approval::Approval;
use bundle::reason::Reason;

use super::{Inputs, Lines};
use crate::event::SeenApproval;
use crate::journal::{ApprovalFloor, all_may_sign};
use crate::policy::Policy;

/// A no with a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct No {
    /// The code.
    pub reason: Reason,
    /// The sentence.
    pub detail: String,
}

/// Where the floor of this region and channel is kept in the journal. Names hold no slash, so keys can not collide.
#[must_use]
pub fn key(policy: &Policy) -> String {
    format!("{}/{}", policy.region, policy.channel)
}

/// The floor that counts now: none once a key that could approve then may no longer.
///
/// A stolen region key can sign a document with the highest possible epoch, version and date, and so lock out every
/// later one. Replacing the key in the trust root is the cure, so it also lifts what that key had set (the recovery
/// from fast-forward attacks of The Update Framework, section 5.3.11).
#[must_use]
pub fn floor<'a>(inputs: &Inputs<'a>) -> Option<&'a ApprovalFloor> {
    let floor = inputs.journal.floor.approvals.get(&key(inputs.policy))?;
    all_may_sign(&floor.keys, &inputs.documents.region_keys).then_some(floor)
}

/// The newest of those that are for us and not below the floor; expiry and age are not looked at.
#[must_use]
pub fn candidate<'a>(inputs: &Inputs<'a>) -> Option<&'a SeenApproval> {
    let floor = floor(inputs);
    let fits = |seen: &&SeenApproval| is_ours(inputs.policy, &seen.approval) && !is_rollback(floor, seen);
    let rank = |seen: &&SeenApproval| (seen.approval.epoch, seen.approval.version, seen.live);
    inputs.documents.approvals.iter().filter(fits).max_by_key(rank)
}

/// The approval in force, or why there is none.
///
/// # Errors
/// The most telling reason: an approval that is not good enough before one that could not be had at all.
pub fn newest<'a>(inputs: &Inputs<'a>) -> Result<&'a SeenApproval, No> {
    let no = |reason, detail: String| Err(No { reason, detail });
    let Some(seen) = candidate(inputs) else { return Err(missing(inputs)) };
    let (approval, at) = (&seen.approval, inputs.trusted().at);
    let name = format!("approval {} of {}", approval.version, approval.region);
    if approval.expires <= at {
        return no(Reason::ApprovalExpired, format!("{name} expired at {}", approval.expires));
    }
    if seen.live {
        return Ok(seen);
    }
    let last = floor(inputs).filter(|floor| floor.digest == seen.digest).and_then(|floor| floor.seen);
    let age = last.map(|last| at.duration_since(last).as_secs().max(0).unsigned_abs());
    match age {
        Some(age) if age <= approval.max_stale_seconds => Ok(seen),
        Some(age) => no(
            Reason::ApprovalStale,
            format!("{name} was last confirmed {age} s ago, it may be used for {} s", approval.max_stale_seconds),
        ),
        None => no(Reason::ApprovalStale, format!("{name} is a stored copy that no mirror has confirmed")),
    }
}

fn missing(inputs: &Inputs<'_>) -> No {
    let documents = inputs.documents;
    if let Some(seen) = documents.approvals.iter().find(|seen| is_ours(inputs.policy, &seen.approval)) {
        let detail = format!("approval {} is older than one already seen", seen.approval.version);
        return No { reason: Reason::ApprovalRollback, detail };
    }
    if let Some(seen) = documents.approvals.first() {
        let detail = format!("the approval is for {}/{}", seen.approval.region, seen.approval.channel);
        return No { reason: Reason::RegionMismatch, detail };
    }
    // A document that was there but not good says more than a mirror that did not answer.
    let telling = |reason| !matches!(reason, Reason::Network | Reason::ServerError | Reason::Truncated);
    let failures = &documents.approval_failures;
    let first = failures.iter().find(|failure| telling(failure.reason));
    let reason = first.map_or(Reason::ApprovalMissing, |failure| failure.reason);
    let detail = first.or_else(|| failures.first()).map_or_else(
        || format!("no approval of {} was found", key(inputs.policy)),
        |failure| format!("no approval of {}: {}", key(inputs.policy), failure.detail),
    );
    No { reason, detail }
}

fn is_ours(policy: &Policy, approval: &Approval) -> bool {
    approval.region == policy.region && approval.channel == policy.channel
}

fn is_rollback(floor: Option<&ApprovalFloor>, seen: &SeenApproval) -> bool {
    floor.is_some_and(|floor| {
        let (new, old) = ((seen.approval.epoch, seen.approval.version), (floor.epoch, floor.version));
        // Two documents with one number: somebody signs two truths. The first one seen stays.
        new < old || (new == old && seen.digest != floor.digest)
    })
}

pub(super) fn line(lines: &mut Lines, inputs: &Inputs<'_>, approval: Option<&Approval>) {
    match approval {
        None => lines.pass("approval", "the configuration says standalone: no approval is needed"),
        Some(approval) => {
            let age = inputs.trusted().at.duration_since(approval.issued).as_secs().max(0);
            lines.pass(
                "approval",
                format!(
                    "approval {} (epoch {}) of {}/{}, signed {age} s ago, valid until {}",
                    approval.version, approval.epoch, approval.region, approval.channel, approval.expires
                ),
            );
        }
    }
}
