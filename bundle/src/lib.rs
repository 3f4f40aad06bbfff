//! The Flipside bundle format and every signed document: no network, no async, no clock.
//!
//! Reading works in bounded memory: documents are at most 1 MiB, an index is streamed record by record, a frame is at
//! most 4 MiB. Writing is behind the feature `build` (module `build`), so that a
//! device does not carry it.

pub mod approval;
mod binary;
pub mod bucket;
#[cfg(feature = "build")]
pub mod build;
pub mod channel;
pub mod chunks;
pub mod delta;
pub mod digest;
pub mod document;
pub mod dsse;
pub mod frame;
pub mod index;
pub mod json;
pub mod keys;
pub mod layout;
pub mod manifest;
pub mod open;
pub mod pattern;
pub mod random;
pub mod reason;
pub mod recall;
pub mod sequential;
pub mod tree;
pub mod trust;
pub mod ustar;
