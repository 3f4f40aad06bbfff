//! Releases that the vendor took back: never installed, and left where the other slot still holds the named one.
//!
//! A recall is signed by the release keys, so it needs no region; when the device reboots for it is the device's own
//! matter. A mirror that withholds one changes nothing for the worse: what was accepted once stays in the journal.

use bundle::digest::Digest;
use bundle::reason::Reason;

use super::{Machine, Out};
use crate::gate::{Candidate, ask_to_leave};
use crate::journal::{RecalledHere, Recalls};
use crate::now::Now;
use crate::release::Intent;
use crate::slot::SlotId;
use crate::status::Finding;

/// Recalled releases kept; the highest counters stay, for they are the ones still to come.
const RECALL_LIMIT: usize = 64;

impl Machine {
    /// Notes a recall that is newer than the one known.
    pub(super) fn accept_recall(&mut self) {
        let Some((answers, _)) = &self.answers else { return };
        let Some(recall) = &answers.documents.recall else { return };
        let known = &self.journal.recalls;
        let news = recall.channel != known.channel || recall.version > known.version;
        if recall.channel != self.setup.policy.channel || !news {
            return;
        }
        let lowest = SlotId::ALL.into_iter().filter_map(|slot| self.journal.slots.get(slot).as_ref());
        let lowest = lowest.map(|record| record.release.counter).min().unwrap_or(0);
        let mut entries: Vec<_> = recall.recalls.iter().filter(|each| each.release.counter >= lowest).collect();
        entries.sort_by_key(|each| std::cmp::Reverse(each.release.counter));
        entries.truncate(RECALL_LIMIT);
        let releases = entries.into_iter().map(|each| {
            let here = RecalledHere {
                counter: each.release.counter,
                go_back_to: each.go_back_to.as_ref().map(|to| to.manifest_sha256),
                words: each.reason.clone(),
            };
            (each.release.manifest_sha256, here)
        });
        self.journal.recalls =
            Recalls { channel: recall.channel.clone(), version: recall.version, releases: releases.collect() };
    }

    /// Goes back when the running release was taken back and the other slot holds the one to go back to.
    pub(super) fn leave_recalled(&mut self, now: &Now, out: &mut Out) -> bool {
        let Some((slot, words)) = self.recalled() else { return false };
        if self.stays_because(now, slot).is_some() {
            return false;
        }
        self.revert(now, slot, None, Reason::Recalled, &words, out);
        true
    }

    /// What to tell about a running release that was taken back.
    pub(super) fn recall_notice(&self, now: &Now) -> Option<String> {
        let (slot, words) = self.recalled()?;
        let release = self.journal.slots.get(slot).as_ref().map(|record| record.release.version.to_string());
        let stays = self.stays_because(now, slot).unwrap_or_else(|| "it goes back at the next check".to_owned());
        Some(format!("the vendor took the running release {} back: {words}; {stays}", release.unwrap_or_default()))
    }

    /// The running slot and the vendor's words, when what runs was taken back.
    fn recalled(&self) -> Option<(SlotId, String)> {
        let slot = self.facts.as_ref()?.confirmed_booted()?;
        let running = self.journal.slots.get(slot).as_ref()?.release.manifest_sha256;
        Some((slot, self.recall_of(&running)?.words.clone()))
    }

    pub(super) fn recall_of(&self, manifest: &Digest) -> Option<&RecalledHere> {
        let recalls = Some(&self.journal.recalls).filter(|recalls| recalls.channel == self.setup.policy.channel)?;
        recalls.releases.get(manifest)
    }

    /// Why the recalled release in `slot` is not left now; none: it can be.
    fn stays_because(&self, now: &Now, slot: SlotId) -> Option<String> {
        let record = |slot| self.journal.slots.get(slot).as_ref().map(|record| &record.release);
        let wanted = record(slot).and_then(|running| self.recall_of(&running.manifest_sha256)?.go_back_to);
        let Some(held) = record(slot.other()).filter(|held| Some(held.manifest_sha256) == wanted) else {
            return Some("the other slot does not hold the release to go back to, so it waits for a newer one".into());
        };
        if let Err(refusal) = self.can_go_back() {
            return Some(refusal.detail);
        }
        let candidate = Candidate { release: held, intent: Intent::default(), over_network: false };
        let lines = self.with_inputs(now, |inputs| ask_to_leave(inputs, &candidate))?.into_vec();
        let no = lines.into_iter().find(|line| line.finding != Finding::Passed)?;
        Some(format!("going back has to wait: {}", no.sentence))
    }
}

#[cfg(test)]
mod tests;
