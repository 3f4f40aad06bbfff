//! What the log says of the machine: each state that is reached, with what is at stake, and each reason once.

use updater_core::machine::Passage;
use updater_core::status::{Problem, Status};

use crate::system::messages;

/// What was said last, so that it is said once.
#[derive(Debug, Default)]
pub(super) struct Told {
    error: Option<Problem>,
    waiting: Option<Problem>,
    /// Version and slot of what was on its way.
    stake: Stake,
}

type Stake = (Option<String>, Option<&'static str>);

impl Told {
    /// Logs `passages` and what is new in `status`.
    pub(super) fn log(&mut self, passages: &[Passage], status: &Status) {
        let error = news(&mut self.error, status.last_error.as_ref());
        let waiting = news(&mut self.waiting, status.waiting.as_ref());
        let version = status.release.as_ref().map(|release| release.version.to_string());
        let now = (version, status.target.map(|slot| slot.as_str()));
        // When it is given up it is no longer in the picture, and the line is about it all the same.
        let before = std::mem::replace(&mut self.stake, now.clone());
        let (version, slot) = (now.0.or(before.0), now.1.or(before.1));
        let version = version.as_deref();
        for (at, passage) in passages.iter().enumerate() {
            // What came to pass in one step has one reason; it is that of the last state.
            let why = error.filter(|_| at + 1 == passages.len());
            tracing::info!(
                from = passage.from.as_str(),
                to = passage.to.as_str(),
                version,
                slot,
                reason = why.map(|why| why.reason.code()),
                detail = why.map(|why| why.detail.as_str()),
                message_id = messages::reached(passage.to),
                "state"
            );
        }
        if let Some(error) = error.filter(|_| passages.is_empty()) {
            let (reason, detail) = (error.reason.code(), error.detail.as_str());
            tracing::warn!(reason, detail, version, slot, message_id = messages::FAILED, "failed");
        }
        if let Some(waiting) = waiting {
            let (reason, detail) = (waiting.reason.code(), waiting.detail.as_str());
            let until = waiting.until.map(|until| until.to_string());
            let until = until.as_deref();
            tracing::info!(reason, detail, until, version, slot, message_id = messages::WAITS, "waiting");
        }
    }
}

/// The problem, when it is another one than before. When it came up and when it may end is no news by itself.
fn news<'a>(told: &mut Option<Problem>, now: Option<&'a Problem>) -> Option<&'a Problem> {
    let same = |a: &Problem, b: &Problem| a.reason == b.reason && a.detail == b.detail;
    let known = match (&*told, now) {
        (Some(told), Some(now)) => same(told, now),
        (told, now) => told.is_none() && now.is_none(),
    };
    if known {
        return None;
    }
    *told = now.cloned();
    now
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dbus::testing;
    use crate::system::log::Catch;
    use bundle::reason::Reason;
    use updater_core::slot::SlotId;
    use updater_core::status::StateName;

    fn problem(reason: Reason, detail: &str) -> Problem {
        Problem { reason, detail: detail.into(), at: None, until: None }
    }

    #[test]
    fn a_reason_is_said_once_and_again_when_it_comes_back() {
        let mut told = Told::default();
        let mut status = testing::status();
        let lines = |told: &mut Told, passages: &[Passage], status: &Status| {
            let caught = Catch::default();
            tracing::subscriber::with_default(caught.clone(), || told.log(passages, status));
            caught.lines()
        };
        status.target = Some(SlotId::B);
        status.waiting = Some(problem(Reason::WindowClosed, "opens at night"));
        assert_eq!(lines(&mut told, &[], &status), ["waiting reason=window_closed detail=opens at night slot=b"]);
        status.waiting = status.waiting.map(|waiting| Problem { at: Some(jiff::Timestamp::UNIX_EPOCH), ..waiting });
        assert!(lines(&mut told, &[], &status).is_empty());
        status.last_error = Some(problem(Reason::FrameMismatch, "frame 7"));
        let passages = [
            Passage { from: StateName::Writing, to: StateName::Verifying },
            Passage { from: StateName::Verifying, to: StateName::Idle },
        ];
        let said = lines(&mut told, &passages, &status);
        assert_eq!(
            said,
            [
                "state from=writing to=verifying slot=b",
                "state from=verifying to=idle slot=b reason=frame_mismatch detail=frame 7"
            ]
        );
        status.target = None;
        let given_up = [Passage { from: StateName::Idle, to: StateName::Idle }];
        assert_eq!(lines(&mut told, &given_up, &status), ["state from=idle to=idle slot=b"]);
        assert_eq!(lines(&mut told, &given_up, &status), ["state from=idle to=idle"]);
        (status.last_error, status.waiting) = (None, None);
        assert!(lines(&mut told, &[], &status).is_empty());
        status.last_error = Some(problem(Reason::FrameMismatch, "frame 7"));
        assert_eq!(lines(&mut told, &[], &status), ["failed reason=frame_mismatch detail=frame 7"]);
    }
}
