//! Exit codes, and how a command says what became of it. See the table in the manual.

use bundle::reason::Reason;

use crate::dbus::client::ClientError;

/// What the shell sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, or nothing to do.
    Ok = 0,
    /// Failed.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// A policy said no, or not now; the reason is on standard error.
    Refused = 3,
    /// No bus, or the daemon can not be reached.
    NoDaemon = 4,
    /// The caller may not do this.
    NotAuthorized = 5,
}

/// An end that is not good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// The code.
    pub exit: Exit,
    /// The reason code, where there is one.
    pub reason: Option<Reason>,
    /// A sentence.
    pub detail: String,
}

impl Failed {
    /// With a reason; the exit code follows from it.
    pub fn because(reason: Reason, detail: impl Into<String>) -> Self {
        Self { exit: exit_of(reason), reason: Some(reason), detail: detail.into() }
    }

    /// Without a reason.
    pub fn plain(exit: Exit, detail: impl Into<String>) -> Self {
        Self { exit, reason: None, detail: detail.into() }
    }

    /// For standard error.
    #[must_use]
    pub fn sentence(&self) -> String {
        match self.reason {
            None => self.detail.clone(),
            // Whoever asked for something else than news wants to know what there is none of.
            Some(Reason::NoUpdate) if !self.detail.is_empty() => format!("{} ({})", self.detail, Reason::NoUpdate),
            Some(reason) if self.detail.is_empty() => format!("{} ({reason})", reason.sentence()),
            Some(reason) => format!("{} ({reason})\n  {}", reason.sentence(), self.detail),
        }
    }
}

impl From<ClientError> for Failed {
    fn from(error: ClientError) -> Self {
        match error {
            // Not what a look for updates came to, but a command that did nothing.
            ClientError::Refused { reason: Reason::NoUpdate, detail } => {
                Self { exit: Exit::Refused, reason: Some(Reason::NoUpdate), detail }
            }
            ClientError::Refused { reason, detail } => Self::because(reason, detail),
            ClientError::NoBus(_) | ClientError::NoDaemon(_) => {
                Self::plain(Exit::NoDaemon, crate::system::chain(&error))
            }
            ClientError::Answer(_) | ClientError::NoJob => Self::plain(Exit::Failed, error.to_string()),
        }
    }
}

impl From<anyhow::Error> for Failed {
    fn from(error: anyhow::Error) -> Self {
        Self::plain(Exit::Failed, format!("{error:#}"))
    }
}

/// A policy's no is 3; what is broken is 1.
#[must_use]
pub fn exit_of(reason: Reason) -> Exit {
    match reason {
        Reason::NoUpdate => Exit::Ok,
        Reason::NotAuthorized => Exit::NotAuthorized,
        Reason::Disabled
        | Reason::NotifyOnly
        | Reason::BucketClosed
        | Reason::RolloutPaused
        | Reason::RolloutHalted
        | Reason::Held
        | Reason::Pinned
        | Reason::Recalled
        | Reason::SteppingStoneRequired
        | Reason::BlockedAfterFallback
        | Reason::WindowClosed
        | Reason::Inhibited
        | Reason::Metered
        | Reason::LowBattery
        | Reason::ApprovalMissing
        | Reason::ApprovalExpired
        | Reason::ApprovalStale
        | Reason::ApprovalRollback
        | Reason::RegionMismatch
        | Reason::Incompatible
        | Reason::HardwareMismatch
        | Reason::CounterRollback
        | Reason::ClockUntrusted
        | Reason::BootedSlotUnconfirmed
        | Reason::Cancelled
        | Reason::Busy => Exit::Refused,
        _ => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_tells_reason_and_detail() {
        let failed = Failed::because(Reason::RolloutHalted, "spring: halted by the region");
        assert_eq!(failed.exit, Exit::Refused);
        assert_eq!(
            failed.sentence(),
            "The region has stopped the rollout for good. (rollout_halted)\n  spring: halted by the region"
        );
        assert_eq!(exit_of(Reason::SignatureInvalid), Exit::Failed);
    }

    #[test]
    fn a_command_that_found_nothing_to_do_its_work_on_did_not_succeed() {
        let detail = "slot b holds no confirmed system to go back to".to_owned();
        let failed = Failed::from(ClientError::Refused { reason: Reason::NoUpdate, detail });
        assert_eq!(failed.exit, Exit::Refused);
        assert_eq!(failed.sentence(), "slot b holds no confirmed system to go back to (no_update)");
        assert_eq!(Failed::because(Reason::NoUpdate, "").exit, Exit::Ok, "a check that finds nothing new is well");
    }
}
