//! The evidence that belongs to an outcome: the folder the failed boot left behind, and what failed in it. Reads only.

use std::fs;
use std::path::{Path, PathBuf};

use bundle::json;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::Value;
use updater_core::effect::EvidenceRequest;
use updater_core::event::{HealthCheck, Verdict};
use updater_core::history::{Outcome, OutcomeKind};
use updater_core::slot::SlotId;

use crate::health::evidence::{FOLDER, REQUEST};

/// The system that comes back may note the fallback some time before it has saved what the lost one left, and its clock may
/// be a little behind that of the failed one.
const SLACK: SignedDuration = SignedDuration::from_mins(5);

/// What was saved about a failed boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Where.
    pub folder: PathBuf,
    /// The required checks that did not pass; empty for who may not read them.
    pub checks: Vec<HealthCheck>,
}

/// One outcome with its evidence.
#[derive(Debug)]
pub struct Told {
    /// What happened.
    pub outcome: Outcome,
    /// What was saved about it.
    pub evidence: Option<Kept>,
}

impl Told {
    /// As `history --json` shows it: the outcome's fields, and `evidence` where there is some.
    pub fn document(&self) -> Value {
        let mut document = json::to_value(&self.outcome).unwrap_or_default();
        if let (Value::Object(fields), Some(kept)) = (&mut document, &self.evidence) {
            fields.insert("evidence".into(), json::to_value(kept).unwrap_or_default());
        }
        document
    }
}

/// Outcomes, oldest first, each fallback with what is kept below `state` about it.
pub fn beside(outcomes: Vec<Outcome>, state: &Path) -> Vec<Told> {
    let folders = folders(&state.join(FOLDER));
    // A folder belongs to one fallback, so that of a later one is newer.
    let mut after = Timestamp::MIN;
    let mut told = Vec::with_capacity(outcomes.len());
    for outcome in outcomes {
        let fell_back = outcome.kind == OutcomeKind::RolledBack;
        let found = fell_back.then(|| of(&outcome, after, &folders)).flatten();
        if fell_back {
            after = found.as_ref().map_or(outcome.at, |(at, _)| *at);
        }
        told.push(Told { outcome, evidence: found.map(|(_, kept)| kept) });
    }
    told
}

/// The newest folder about that slot and release, saved after `after` and until this fallback was noted.
fn of(outcome: &Outcome, after: Timestamp, folders: &[(Timestamp, SlotId, PathBuf)]) -> Option<(Timestamp, Kept)> {
    let until = outcome.at.saturating_add(SLACK).unwrap_or(Timestamp::MAX);
    let (at, _, folder, request) = folders
        .iter()
        .rev()
        .filter(|(at, slot, _)| outcome.slot == Some(*slot) && *at > after && *at <= until)
        .map(|(at, slot, folder)| (*at, slot, folder, request(folder)))
        .find(|(.., request)| is_about(request.as_ref(), outcome))?;
    let checks = request.and_then(|request| request.health).map(|health| failed(health.checks)).unwrap_or_default();
    Some((at, Kept { folder: folder.clone(), checks }))
}

/// Who may not read what was asked for goes by slot and time.
fn is_about(request: Option<&EvidenceRequest>, outcome: &Outcome) -> bool {
    request.is_none_or(|request| request.release.is_none() || request.release == outcome.release)
}

fn failed(checks: Vec<HealthCheck>) -> Vec<HealthCheck> {
    checks.into_iter().filter(|check| check.required && check.verdict != Verdict::Passed).collect()
}

fn request(folder: &Path) -> Option<EvidenceRequest> {
    serde_json::from_slice(&fs::read(folder.join(REQUEST)).ok()?).ok()
}

/// Time, slot and path of each folder, oldest first.
fn folders(base: &Path) -> Vec<(Timestamp, SlotId, PathBuf)> {
    let mut found: Vec<_> = fs::read_dir(base)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let (at, slot) = name.to_str()?.split_once('-')?;
            let at = Timestamp::from_second(at.parse().ok()?).ok()?;
            Some((at, slot.parse().ok()?, entry.path()))
        })
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dbus::testing::outcome;
    use bundle::reason::Reason;
    use updater_core::event::HealthReport;

    fn keep(state: &Path, at: i64, slot: SlotId) -> PathBuf {
        let check = |name: &str, required, verdict| HealthCheck {
            name: name.into(),
            required,
            verdict,
            detail: format!("{name} says so"),
            restarts: 0,
        };
        let checks = vec![
            check("program:10-app", true, Verdict::Failed),
            check("unit:demo.service", true, Verdict::Passed),
            check("program:20-net", false, Verdict::Failed),
        ];
        let health = Some(HealthReport { checks });
        let request = EvidenceRequest { slot, release: None, reason: Reason::HealthFailed, health, armed_in: None };
        let folder = state.join(format!("evidence/{at}-{slot}"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(REQUEST), serde_json::to_vec(&request).unwrap()).unwrap();
        folder
    }

    #[test]
    fn each_fallback_is_shown_with_its_own_evidence() {
        let state = tempfile::tempdir().unwrap();
        let at = outcome().at.as_second();
        let first = keep(state.path(), at - 60, SlotId::B);
        keep(state.path(), at - 30, SlotId::A);
        let second = keep(state.path(), at + 86_400 + 2, SlotId::B);
        let third = keep(state.path(), at + 86_400 + 400, SlotId::B);
        keep(state.path(), at + 200_000, SlotId::B);
        let later = |seconds| Timestamp::from_second(at + seconds).unwrap();
        let outcomes = vec![
            outcome(),
            Outcome { kind: OutcomeKind::Healthy, ..outcome() },
            Outcome { at: later(86_400), ..outcome() },
            Outcome { at: later(86_400 + 410), ..outcome() },
            Outcome { at: later(100_000), ..outcome() },
        ];
        let told = beside(outcomes, state.path());
        let folder = |n: usize| told[n].evidence.as_ref().map(|kept| kept.folder.clone());
        let found = [folder(0), folder(1), folder(2), folder(3), folder(4)];
        assert_eq!(found, [Some(first), None, Some(second), Some(third), None]);
        let checks = &told[0].evidence.as_ref().unwrap().checks;
        assert_eq!(checks.iter().map(|check| check.name.as_str()).collect::<Vec<_>>(), ["program:10-app"]);
        assert_eq!(told[0].document()["evidence"]["checks"][0]["verdict"], "failed");
        assert_eq!(told[1].document().get("evidence"), None);
    }

    #[test]
    fn who_may_not_read_it_is_told_where_it_is() {
        let state = tempfile::tempdir().unwrap();
        let folder = keep(state.path(), outcome().at.as_second(), SlotId::B);
        fs::remove_file(folder.join(REQUEST)).unwrap();
        let kept = beside(vec![outcome()], state.path()).remove(0).evidence.unwrap();
        assert_eq!(kept, Kept { folder, checks: Vec::new() });
    }
}
