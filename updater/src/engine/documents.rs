//! Gathers what the gate needs: documents from the network or the stored copy, verified here, and the surroundings.
//!
//! Nothing that did not verify against the trust root leaves this file; what failed leaves it as a reason. Expiry,
//! rollback and staleness are the core's to judge.

use bundle::digest::Digest;
use bundle::dsse;
use bundle::open::{OpenError, open_approval, open_channel, open_recall};
use bundle::recall::Recall;
use updater_core::event::{Answers, Documents, Failure, SeenApproval};
use updater_core::policy::Policy;

use super::Seams;
use crate::seams::{DocumentError, Envelope};

/// Documents and surroundings. With `fetch: false` only the stored approval and a look around.
pub(super) async fn gather(seams: &Seams, policy: &Policy, fetch: bool) -> Answers {
    let (documents, surroundings) = tokio::join!(documents(seams, policy, fetch), seams.surroundings.look());
    Answers { documents, surroundings }
}

async fn documents(seams: &Seams, policy: &Policy, fetch: bool) -> Documents {
    if fetch {
        follow_trust(seams).await;
    }
    let trust = seams.trust.current();
    let mut documents = Documents {
        trust_expires: Some(trust.expires),
        region_keys: trust.region_keys(&policy.region).0.iter().map(|key| key.id().to_string()).collect(),
        release_keys: trust.release_keys().0.iter().map(|key| key.id().to_string()).collect(),
        ..Documents::default()
    };
    if fetch {
        match seams.releases.channel(&policy.channel).await {
            Ok(envelope) => match open_channel(&envelope.bytes, &trust, &policy.channel) {
                Ok(channel) => documents.channel = Some(channel),
                Err(error) => documents.channel_failure = Some(refused(&envelope, &error)),
            },
            Err(error) => documents.channel_failure = Some(missing(error)),
        }
        documents.recall = recall(seams, policy, &trust).await;
    }
    if policy.standalone {
        return documents;
    }
    approvals(seams, policy, &trust, fetch, &mut documents).await;
    documents
}

/// None to be had is the rule, and no failure of the check: what was accepted once is in the journal.
async fn recall(seams: &Seams, policy: &Policy, trust: &bundle::trust::TrustRoot) -> Option<Recall> {
    let envelope = seams.releases.recall(&policy.channel).await.ok()?;
    open_recall(&envelope.bytes, trust, &policy.channel)
        .inspect_err(|error| {
            let error = crate::system::chain(error);
            tracing::warn!(origin = envelope.origin, error, "a recall was offered and refused");
        })
        .ok()
}

async fn approvals(
    seams: &Seams,
    policy: &Policy,
    trust: &bundle::trust::TrustRoot,
    fetch: bool,
    documents: &mut Documents,
) {
    let (envelopes, failures) = seams.approvals.approvals(&policy.region, &policy.channel, fetch).await;
    let mut newest: Option<((u64, u64, bool), Envelope)> = None;
    for envelope in envelopes {
        match open_approval(&envelope.bytes, trust, &policy.region, &policy.channel) {
            Ok(approval) => {
                let rank = (approval.epoch, approval.version, envelope.live);
                let digest = payload_digest(&envelope.bytes);
                documents.approvals.push(SeenApproval { approval, digest, live: envelope.live });
                if newest.as_ref().is_none_or(|(best, _)| *best < rank) {
                    newest = Some((rank, envelope));
                }
            }
            // A forged or foreign document tells more than a dead mirror: it comes first.
            Err(error) => documents.approval_failures.push(refused(&envelope, &error)),
        }
    }
    documents.approval_failures.extend(failures.into_iter().map(missing));
    if let Some((_, envelope)) = newest.filter(|(_, envelope)| envelope.live)
        && let Err(error) = seams.approvals.keep(&envelope).await
    {
        tracing::warn!(%error, "the approval could not be stored; it is used, but not when the host vanishes");
    }
}

/// Follows the trust root as far as the server has newer ones. Failing to is no failure of the check: the root in force
/// goes on counting.
async fn follow_trust(seams: &Seams) {
    // Each step is one version; a server that invents versions for ever is left after a few.
    for _ in 0..32 {
        let version = seams.trust.current().version.saturating_add(1);
        let Ok(envelope) = seams.releases.trust(version).await else { return };
        match seams.trust.adopt(&envelope.bytes, &envelope.origin) {
            Ok(()) => tracing::info!(version, "a newer trust root is in force"),
            Err(error) => {
                tracing::warn!(reason = %error.reason(), %error, "a trust root was offered and refused");
                return;
            }
        }
    }
}

/// What identifies the document, whatever signatures are on it.
fn payload_digest(bytes: &[u8]) -> Digest {
    dsse::Envelope::parse(bytes).map_or_else(|_| Digest::of(bytes), |envelope| Digest::of(&envelope.payload))
}

fn refused(envelope: &Envelope, error: &OpenError) -> Failure {
    Failure::new(error.reason(), format!("{}: {}", envelope.origin, crate::system::chain(error)))
}

fn missing(error: DocumentError) -> Failure {
    Failure { reason: error.reason, detail: error.detail, retry_after: error.retry_after }
}
