//! `flipside history` and `flipside explain`, for people. Pure.

use updater_core::event::HealthCheck;
use updater_core::status::{Explanation, Finding};

use super::evidence::Told;
use super::status::{outcome_line, release_line};
use super::text::{self, Reader};

/// Outcomes, newest first, each fallback with what is kept about it.
#[must_use]
pub fn render(outcomes: &[Told], reader: &Reader) -> String {
    if outcomes.is_empty() {
        return "Nothing happened yet.\n".to_owned();
    }
    let rows: Vec<_> = outcomes
        .iter()
        .rev()
        .flat_map(|Told { outcome: o, evidence }| {
            // A clock that was not to be trusted gives no date.
            let date = if o.clock_trusted { reader.date(o.at) } else { format!("{}?", reader.date(o.at)) };
            let outcome = outcome_line(o, reader);
            let mut rows = vec![vec![date, outcome.clone()]];
            let mut under = |text: String| rows.push(vec![String::new(), text]);
            if let Some(kept) = evidence {
                let said = |check: &HealthCheck| format!("{}: {}", check.name, text::one_line(&check.detail));
                // The first of them is often what the outcome says itself.
                for check in kept.checks.iter().map(said).filter(|check| !outcome.contains(check)) {
                    under(format!("  {check}"));
                }
                under(format!("  evidence: {}", kept.folder.display()));
            }
            rows
        })
        .collect();
    text::table(&rows)
}

/// The gate's questions and answers.
#[must_use]
pub fn render_explanation(explanation: &Explanation, reader: &Reader) -> String {
    let mut page = format!("{}\n", explanation.summary);
    if let Some(release) = &explanation.release {
        page.push_str(&format!("Release: {}\n", release_line(release)));
    }
    if explanation.lines.is_empty() {
        return page;
    }
    page.push('\n');
    let rows: Vec<_> = explanation
        .lines
        .iter()
        .map(|line| {
            let mark = match line.finding {
                Finding::Passed => "ok",
                Finding::Wait => "wait",
                Finding::Refuse => "no",
            };
            let mut sentence = line.sentence.clone();
            if let Some(reason) = line.reason {
                sentence.push_str(&format!(" ({reason})"));
            }
            if let Some(until) = line.until {
                sentence.push_str(&format!(", until {}", reader.moment(until)));
            }
            vec![format!("  {mark}"), line.subject.clone(), sentence]
        })
        .collect();
    page.push_str(&text::table(&rows));
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::evidence::Kept;
    use bundle::reason::Reason;
    use updater_core::event::Verdict;
    use updater_core::status::{ExplainLine, StateName};

    fn reader() -> Reader {
        Reader { now: "2026-11-21T12:00:00Z".parse().unwrap(), zone: jiff::tz::TimeZone::UTC }
    }

    #[test]
    fn the_newest_outcome_comes_first() {
        let (old, mut new) = (crate::dbus::testing::outcome(), crate::dbus::testing::outcome());
        new.at = "2026-11-21T11:00:00Z".parse().unwrap();
        new.clock_trusted = false;
        let told = |outcome| Told { outcome, evidence: None };
        let page = render(&[told(old), told(new)], &reader());
        assert!(page.starts_with("2026-11-21 11:00?"), "{page}");
        assert_eq!(page.lines().count(), 2);
    }

    #[test]
    fn a_fallback_says_what_failed_and_where_the_rest_is() {
        let check = HealthCheck {
            name: "program:10-app".into(),
            required: true,
            verdict: Verdict::Failed,
            detail: "exit code 1: dead\nand more".into(),
            restarts: 0,
        };
        let folder = "/var/lib/flipside/evidence/1-b".into();
        let told =
            Told { outcome: crate::dbus::testing::outcome(), evidence: Some(Kept { folder, checks: vec![check] }) };
        let page = render(std::slice::from_ref(&told), &reader());
        let lines: Vec<_> = page.lines().skip(1).map(str::trim_start).collect();
        assert_eq!(
            lines,
            ["program:10-app: exit code 1: dead …", "evidence: /var/lib/flipside/evidence/1-b"],
            "{page}"
        );
        // What the outcome says already is not said again.
        let detail = "program:10-app: exit code 1: dead\nand more".into();
        let outcome = updater_core::history::Outcome { detail, ..told.outcome.clone() };
        let page = render(&[Told { outcome, evidence: told.evidence }], &reader());
        assert_eq!(page.matches("program:10-app").count(), 1, "{page}");
    }

    #[test]
    fn every_question_has_a_line() {
        let explanation = Explanation {
            summary: "Not now: the rollout has not reached this device.".into(),
            state: StateName::Idle,
            release: None,
            lines: vec![
                ExplainLine {
                    subject: "approval".into(),
                    finding: Finding::Passed,
                    reason: None,
                    sentence: "version 412".into(),
                    until: None,
                },
                ExplainLine {
                    subject: "bucket".into(),
                    finding: Finding::Wait,
                    reason: Some(Reason::BucketClosed),
                    sentence: "bucket 4643, threshold 150".into(),
                    until: None,
                },
            ],
        };
        let page = render_explanation(&explanation, &reader());
        assert!(page.contains("  ok    approval  version 412\n"), "{page}");
        assert!(page.contains("  wait  bucket    bucket 4643, threshold 150 (bucket_closed)\n"), "{page}");
    }
}
