//! The slots of a device: where each image of a slot goes, which slot runs, and who uses a target.

pub mod booted;
pub mod device;
pub mod folder;
pub mod guard;
pub mod map;

pub use device::{DeviceRef, Roots};
pub use map::{Place, SlotMap};
