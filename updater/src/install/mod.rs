//! Moves releases into slots: the real [`crate::seams::Installer`].
//!
//! Order of an install: head of the bundle, verified; every target checked; per image scan, fetch, write, flush. Order
//! of a read-back: the whole of every target, past the caches, against the signed digests. Nothing here remembers
//! progress: the target itself is asked, so being killed at any moment costs what was in flight and nothing else.

pub mod access;
pub mod addresses;
pub mod ahead;
pub mod buffer;
pub mod delivery;
pub mod delta;
pub mod error;
pub mod fetch;
pub mod finish;
pub mod frames;
pub mod halt;
pub mod head;
pub mod installer;
pub mod meter;
pub mod pipeline;
pub mod place;
pub mod plan;
pub mod readback;
pub mod room;
pub mod scan;
pub mod stream;
pub mod target;
pub mod tree;
pub mod way;
pub mod writer;

#[cfg(test)]
mod disk_faults;
#[cfg(test)]
mod faulty;

pub use error::Error;
pub use installer::{Pipeline, Setup};
