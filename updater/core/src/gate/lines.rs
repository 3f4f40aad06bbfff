//! Collects the gate's answers and draws the conclusion.

use bundle::reason::Reason;
use jiff::Timestamp;

use super::Decision;
use crate::status::{ExplainLine, Finding};

/// The questions answered so far.
#[derive(Debug, Default)]
pub struct Lines(Vec<ExplainLine>);

impl Lines {
    /// Nothing against it.
    pub fn pass(&mut self, subject: &str, sentence: impl Into<String>) {
        self.push(subject, Finding::Passed, None, sentence.into(), None);
    }

    /// Not now.
    pub fn wait(&mut self, subject: &str, reason: Reason, sentence: impl Into<String>, until: Option<Timestamp>) {
        self.push(subject, Finding::Wait, Some(reason), sentence.into(), until);
    }

    /// No.
    pub fn refuse(&mut self, subject: &str, reason: Reason, sentence: impl Into<String>) {
        self.push(subject, Finding::Refuse, Some(reason), sentence.into(), None);
    }

    fn push(
        &mut self,
        subject: &str,
        finding: Finding,
        reason: Option<Reason>,
        sentence: String,
        until: Option<Timestamp>,
    ) {
        let sentence = match reason {
            Some(reason) if sentence.is_empty() => reason.sentence().to_owned(),
            _ => sentence,
        };
        self.0.push(ExplainLine { subject: subject.to_owned(), finding, reason, sentence, until });
    }

    /// Any refusal refuses; else anything to wait for waits, until the last of them that is known has passed.
    #[must_use]
    pub fn decide(&self) -> Decision {
        let first = |finding| self.0.iter().find(|line| line.finding == finding).and_then(|line| line.reason);
        if let Some(reason) = first(Finding::Refuse) {
            return Decision::Refuse { reason };
        }
        let Some(reason) = first(Finding::Wait) else { return Decision::Proceed };
        // One wait without a known end makes the whole end unknown: the next check asks again.
        let waits = self.0.iter().filter(|line| line.finding == Finding::Wait);
        let until =
            waits.map(|line| line.until).try_fold(None, |latest, until| until.map(|until| latest.max(Some(until))));
        Decision::Wait { until: until.flatten(), reason }
    }

    /// The answers in the order asked.
    #[must_use]
    pub fn into_vec(self) -> Vec<ExplainLine> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Option<Timestamp> {
        Some(Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn a_refusal_outweighs_any_wait() {
        let mut lines = Lines::default();
        assert_eq!(lines.decide(), Decision::Proceed);
        lines.pass("mode", "on");
        lines.wait("window", Reason::WindowClosed, "", at(100));
        assert_eq!(lines.decide(), Decision::Wait { until: at(100), reason: Reason::WindowClosed });
        lines.wait("window", Reason::WindowClosed, "", at(300));
        assert_eq!(lines.decide(), Decision::Wait { until: at(300), reason: Reason::WindowClosed });
        lines.wait("link", Reason::Metered, "", None);
        assert_eq!(lines.decide(), Decision::Wait { until: None, reason: Reason::WindowClosed });
        lines.refuse("rollout", Reason::RolloutHalted, "");
        assert_eq!(lines.decide(), Decision::Refuse { reason: Reason::RolloutHalted });
        assert!(lines.into_vec().iter().all(|line| !line.sentence.is_empty()));
    }
}
