//! Where signed documents come from. What they deliver is only bytes; the engine verifies every envelope against the
//! trust root before anything in it is believed.

use std::time::Duration;

use bundle::reason::Reason;
use updater_core::event::Surroundings;

use super::BoxFuture;

/// Bytes of a DSSE envelope (at most 1 MiB) and where they were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The envelope as served.
    pub bytes: Vec<u8>,
    /// Address or path, for messages.
    pub origin: String,
    /// True when fetched or confirmed unchanged (304) just now; false for a stored copy.
    pub live: bool,
}

/// A document could not be fetched. Reason `network`, `server_error`, `truncated`, `approval_missing`, ...
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct DocumentError {
    /// The code.
    pub reason: Reason,
    /// Address and cause.
    pub detail: String,
    /// The server's `Retry-After`.
    pub retry_after: Option<Duration>,
}

/// Fetches what the vendor says.
pub trait ReleaseSource: Send + Sync {
    /// The envelope of the index of `channel`.
    fn channel<'a>(&'a self, channel: &'a str) -> BoxFuture<'a, Result<Envelope, DocumentError>>;

    /// The envelope of the recall of `channel`; reason `no_update` when the vendor took nothing back.
    fn recall<'a>(&'a self, channel: &'a str) -> BoxFuture<'a, Result<Envelope, DocumentError>>;

    /// The envelope of version `version` of the trust root. A source that has none says so; nothing depends on it.
    fn trust(&self, version: u64) -> BoxFuture<'_, Result<Envelope, DocumentError>> {
        let detail = format!("version {version} of the trust root is not offered here");
        Box::pin(async move { Err(DocumentError { reason: Reason::NoUpdate, detail, retry_after: None }) })
    }
}

/// Fetches approvals from all configured places.
pub trait ApprovalSource: Send + Sync {
    /// Whatever could be had for this region and channel, from every mirror and the stored copy (`live: false`), and
    /// what failed. With `fetch: false` only the stored copy. Never hangs: every mirror has a time-out.
    fn approvals<'a>(
        &'a self,
        region: &'a str,
        channel: &'a str,
        fetch: bool,
    ) -> BoxFuture<'a, (Vec<Envelope>, Vec<DocumentError>)>;

    /// Stores the envelope that was found to be the newest valid one, for the time when no mirror answers. Durable,
    /// atomic. Also called when nothing changed; must be cheap then.
    fn keep<'a>(&'a self, envelope: &'a Envelope) -> BoxFuture<'a, Result<(), DocumentError>>;
}

/// Looks around the device: inhibitors, metered link, battery, time zone.
pub trait SurroundingsProbe: Send + Sync {
    /// What is there now. What can not be found out is left at its harmless default, with a log line.
    fn look(&self) -> BoxFuture<'_, Surroundings>;
}
