//! Fetching: documents, and bundles by range or from start to end, over HTTP or from local files.
//!
//! Nothing that comes from here is trusted; it is bytes until a signature or a signed digest says otherwise. What
//! this module promises is to end: in bounded time, with bounded memory, with a reason.

pub mod bearer;
pub mod body;
pub mod client;
pub mod document;
pub mod error;
pub mod local;
pub mod location;
pub mod mirrors;
pub mod retry;
pub mod source;
pub mod throttle;

pub use bearer::Bearer;
pub use client::{Client, Settings};
pub use error::FetchError;
pub use location::Location;
