//! The seams: everything the engine may touch, one small trait per file.
//!
//! Each has a real implementation elsewhere in this crate, an in-memory and a faulty one for tests, and where the
//! order of writes matters a conformance suite that all of them pass. Blocking ones are plain functions, called on a
//! thread where blocking is allowed; the others return boxed futures, so that the engine can hold them as `dyn`.

use std::future::Future;
use std::pin::Pin;

pub mod boot_control;
pub mod clock;
pub mod documents;
pub mod evidence;
pub mod health;
pub mod inhibitors;
pub mod installer;
pub mod journal;
pub mod rebooter;
pub mod rehearsal;
pub mod reports;

pub use boot_control::{BootControl, BootError, BootErrorKind};
pub use clock::Clock;
pub use documents::{ApprovalSource, DocumentError, Envelope, ReleaseSource, SurroundingsProbe};
pub use evidence::Evidence;
pub use health::HealthProbe;
pub use inhibitors::{Hold, Inhibitors};
pub use installer::{Cancel, InstallError, InstallRequest, Installer, ProgressSink};
pub use journal::{JournalStore, StoreError};
pub use rebooter::{RebootError, Rebooter};
pub use rehearsal::{Rehearsal, RehearsalError};
pub use reports::ReportSpool;

/// A future that a trait object can return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
