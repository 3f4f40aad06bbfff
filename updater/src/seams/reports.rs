//! Takes reports for the fleet host.

use updater_core::history::Report;

use super::BoxFuture;

/// A bounded spool on the data partition; posting it is somebody else's work.
pub trait ReportSpool: Send + Sync {
    /// Appends the report as one JSON line, durably. May see the same sequence number twice. The error is a sentence
    /// for the log; the engine tries again at the next start.
    fn append<'a>(&'a self, report: &'a Report) -> BoxFuture<'a, Result<(), String>>;
}
