//! Which release to go for: the best that the documents offer this device.

use std::cmp::Reverse;

use bundle::approval::ReleaseRef;
use bundle::reason::Reason;

use super::{Candidate, Decision, Inputs, Point, Verdict, approval, ask, release};
use crate::release::{DeltaOffer, Intent, Source};
use crate::status::Finding;

/// What the documents offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The release.
    pub release: ReleaseRef,
    /// Where it is.
    pub source: Source,
    /// A delta from the running release.
    pub delta: Option<DeltaOffer>,
    /// The gate's answer for the download.
    pub verdict: Verdict,
}

/// Why nothing is offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nothing {
    /// The code: `no_update` when all is well.
    pub reason: Reason,
    /// A sentence.
    pub detail: String,
    /// The release that came nearest, for `explain`.
    pub best: Option<Box<Choice>>,
}

/// The release to go for: among those that let the device in (now or later) the highest priority, then the highest
/// counter.
///
/// # Errors
/// When there is none: the reason of the newest one named, or why there are no documents.
pub fn choose(inputs: &Inputs<'_>, intent: Intent) -> Result<Choice, Nothing> {
    let mut offers: Vec<(i64, Choice)> = named(inputs)?
        .into_iter()
        .map(|(priority, release, urls)| {
            let candidate = Candidate { release: &release, intent, over_network: true };
            let verdict = ask(inputs, Point::Download, &candidate);
            let delta = delta(inputs, &release);
            (priority, Choice { source: Source::Urls(urls), delta, verdict, release })
        })
        .collect();
    // Priority counts among those that the region lets in; of the others the newest is the one worth telling about.
    offers.sort_by_key(|(priority, choice)| {
        let admission = admission(&choice.verdict);
        let priority = if admission == Admission::LetIn { *priority } else { 0 };
        (admission, Reverse(priority), Reverse(choice.release.counter))
    });
    let Some((_, best)) = offers.into_iter().next() else {
        return Err(Nothing { reason: Reason::NoUpdate, detail: "no release is offered".into(), best: None });
    };
    match (admission(&best.verdict), best.verdict.decision.reason()) {
        (Admission::LetIn, _) | (_, None) if best.source == Source::Urls(Vec::new()) => Err(nowhere(inputs, best)),
        (Admission::LetIn, _) | (_, None) => Ok(best),
        (_, Some(reason)) => Err(Nothing { reason, detail: best.verdict.sentence(), best: Some(Box::new(best)) }),
    }
}

/// The region lets a release in and nothing says where it is: then it is the channel index that is missing.
fn nowhere(inputs: &Inputs<'_>, best: Choice) -> Nothing {
    let release = &best.release.version;
    let (reason, detail) = match &inputs.documents.channel_failure {
        Some(failure) => (failure.reason, failure.detail.clone()),
        // One that is older than what was accepted before, or none at all.
        None => (Reason::ServerError, format!("no current channel index says where release {release} is")),
    };
    Nothing { reason, detail, best: Some(Box::new(best)) }
}

/// How far the region lets a release in, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Admission {
    /// Now, or as soon as this device is ready (hours, link, an operator).
    LetIn,
    /// Not yet.
    Later,
    /// No.
    Never,
}

fn admission(verdict: &Verdict) -> Admission {
    let is_local = |reason| {
        matches!(
            reason,
            Reason::NotifyOnly | Reason::WindowClosed | Reason::Metered | Reason::Inhibited | Reason::LowBattery
        )
    };
    let mut waits = verdict.lines.iter().filter(|line| line.finding == Finding::Wait).filter_map(|line| line.reason);
    match verdict.decision {
        Decision::Proceed => Admission::LetIn,
        Decision::Wait { .. } if waits.all(is_local) => Admission::LetIn,
        Decision::Wait { .. } => Admission::Later,
        Decision::Refuse { .. } => Admission::Never,
    }
}

/// Every release that the approval names (or, standalone, the channel), with its priority and addresses.
fn named(inputs: &Inputs<'_>) -> Result<Vec<(i64, ReleaseRef, Vec<String>)>, Nothing> {
    let index = release::channel_index(inputs);
    if inputs.policy.standalone {
        let Some(index) = index else {
            let failure = inputs.documents.channel_failure.as_ref();
            let reason = failure.map_or(Reason::NoUpdate, |failure| failure.reason);
            let detail =
                failure.map_or_else(|| "there is no channel index".to_owned(), |failure| failure.detail.clone());
            return Err(Nothing { reason, detail, best: None });
        };
        return Ok(index.releases.iter().map(|each| (0, each.release.clone(), each.urls.clone())).collect());
    }
    let seen = approval::newest(inputs).map_err(|no| Nothing { reason: no.reason, detail: no.detail, best: None })?;
    let with_urls = |entry: &bundle::approval::Entry| {
        let mut urls = entry.urls.clone();
        let listed = index.and_then(|index| index.find(&entry.release.manifest_sha256));
        urls.extend(listed.into_iter().flat_map(|each| each.urls.iter().cloned()));
        (entry.priority, entry.release.clone(), urls)
    };
    Ok(seen.approval.entries.iter().map(with_urls).collect())
}

fn delta(inputs: &Inputs<'_>, release: &ReleaseRef) -> Option<DeltaOffer> {
    let running = inputs.journal.slots.get(inputs.facts.booted?).as_ref()?.release.manifest_sha256;
    let listed = release::channel_index(inputs)?.find(&release.manifest_sha256)?;
    let delta = listed.deltas.iter().find(|delta| delta.from == running)?;
    let bundle::channel::ChannelDelta { from, size, urls, recipes_sha256 } = delta.clone();
    Some(DeltaOffer { from, size, urls, recipes_sha256 })
}
