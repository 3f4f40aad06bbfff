//! Reason codes: every "no" Flipside says, as a type.
//!
//! One list for the bundle reader, the gate, the shell, D-Bus and the command line, so that a support engineer sees
//! the same word everywhere. Codes are stable: they are stored in journals that an older or newer updater reads, so
//! one is never renamed or removed, only added.

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($( $(#[doc = $doc:literal])+ $variant:ident = $code:literal ),+ $(,)?) => {
        /// Why something was refused, postponed or undone.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum Reason {
            $( $(#[doc = $doc])+ #[serde(rename = $code)] $variant, )+
            /// A code of a newer Flipside that this one does not know.
            #[serde(other, rename = "unknown")] Unknown,
        }

        impl Reason {
            /// Every code this version can give, in the order of the reference.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant),+];

            /// The stable code, as in journals, D-Bus and JSON output.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Reason::$variant => $code,)+ Reason::Unknown => "unknown" }
            }

            /// One sentence for a person who has never seen the code.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self {
                    $(Reason::$variant => concat!($($doc),+).trim_ascii(),)+
                    Reason::Unknown => "A reason that this version of Flipside does not know.",
                }
            }
        }
    };
}

reasons! {
    /// There is no newer release for this device.
    NoUpdate = "no_update",
    /// Updates are switched off in the configuration.
    Disabled = "disabled",
    /// The configuration leaves this step to an operator.
    NotifyOnly = "notify_only",
    /// The rollout has not reached this device yet.
    BucketClosed = "bucket_closed",
    /// The region has paused the rollout.
    RolloutPaused = "rollout_paused",
    /// The region has stopped the rollout for good.
    RolloutHalted = "rollout_halted",
    /// The region holds this release back for devices like this one.
    Held = "held",
    /// The release keys took this release back.
    Recalled = "recalled",
    /// This device is pinned to another version.
    Pinned = "pinned",
    /// The release can not be installed from the running one; a release in between is needed.
    SteppingStoneRequired = "stepping_stone_required",
    /// This release failed here before and is not tried again until a higher one or an operator's retry.
    BlockedAfterFallback = "blocked_after_fallback",
    /// Outside the hours in which updates may happen.
    WindowClosed = "window_closed",
    /// An application asked not to be interrupted.
    Inhibited = "inhibited",
    /// The network connection is metered.
    Metered = "metered",
    /// The battery is too low to update safely.
    LowBattery = "low_battery",
    /// There is not enough space.
    NoSpace = "no_space",
    /// No approval of the region could be found.
    ApprovalMissing = "approval_missing",
    /// The region's approval has expired.
    ApprovalExpired = "approval_expired",
    /// The approval host can not be reached and the stored approval is too old.
    ApprovalStale = "approval_stale",
    /// An approval older than one already seen was offered.
    ApprovalRollback = "approval_rollback",
    /// A signature does not match what it signs.
    SignatureInvalid = "signature_invalid",
    /// Fewer valid signatures than required.
    ThresholdNotMet = "threshold_not_met",
    /// Signed only by keys that this device does not trust for this purpose.
    KeyUnknown = "key_unknown",
    /// The document belongs to another region or channel.
    RegionMismatch = "region_mismatch",
    /// The release is made for another product.
    Incompatible = "incompatible",
    /// The release is not made for this hardware revision.
    HardwareMismatch = "hardware_mismatch",
    /// The release is older than what this device runs or may go back to.
    CounterRollback = "counter_rollback",
    /// The format is newer than this updater understands.
    FormatTooNew = "format_too_new",
    /// The clock can not be trusted, so expiry can not be checked.
    ClockUntrusted = "clock_untrusted",
    /// The running system is not confirmed yet; its fallback must not be overwritten.
    BootedSlotUnconfirmed = "booted_slot_unconfirmed",
    /// It is not certain which slot is running.
    SlotUnknown = "slot_unknown",
    /// The network or the server could not be reached.
    Network = "network",
    /// The server answered with an error.
    ServerError = "server_error",
    /// The data ended too early.
    Truncated = "truncated",
    /// A piece of an image does not match the signed index.
    FrameMismatch = "frame_mismatch",
    /// A written image does not match the signed digest.
    ImageMismatch = "image_mismatch",
    /// Writing to or reading from the target failed.
    WriteError = "write_error",
    /// The boot loader's state could not be read or changed.
    BootControlError = "boot_control_error",
    /// A required health check failed in the new system.
    HealthFailed = "health_failed",
    /// The new system did not become healthy in time.
    HealthTimeout = "health_timeout",
    /// The new system never came up; the boot loader fell back.
    DidNotBoot = "did_not_boot",
    /// The new system came up but restarted or vanished before it was confirmed.
    LostWhileTrying = "lost_while_trying",
    /// Somebody cancelled it.
    Cancelled = "cancelled",
    /// Something else is under way.
    Busy = "busy",
    /// The caller may not do this.
    NotAuthorized = "not_authorized",
    /// A gate of the release did not show what it must.
    GateFailed = "gate_failed",
    /// A malformed or contradictory document or bundle.
    Malformed = "malformed",
    /// An error inside Flipside; please report it.
    Internal = "internal",
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::Reason;

    #[test]
    fn codes_are_unique_and_survive_json() {
        let mut seen = std::collections::HashSet::new();
        for reason in Reason::ALL {
            assert!(seen.insert(reason.code()), "{reason} twice");
            let json = serde_json::to_string(reason).unwrap();
            assert_eq!(json, format!("\"{}\"", reason.code()));
            assert_eq!(serde_json::from_str::<Reason>(&json).unwrap(), *reason);
        }
    }

    #[test]
    fn a_code_of_the_future_is_read_as_unknown() {
        let read: Reason = serde_json::from_str("\"eaten_by_grue\"").unwrap();
        assert_eq!(read, Reason::Unknown);
    }
}
