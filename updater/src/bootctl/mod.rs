//! Boot control: how the boot loader is told which slot to boot, and asked what it thinks.
//!
//! One backend per boot loader, all over the same small file layer, all passing the same conformance suite
//! ([`conformance`], tests) and the same power-loss test ([`powerloss`], tests).

pub mod control;
pub mod counted;
pub mod custom;
pub mod entry;
pub mod error;
pub mod files;
pub mod grub;
pub mod grubenv;
pub mod loader;
pub mod sim;
pub mod systemd_boot;
pub mod uboot;
pub mod uboot_env;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod powerloss;
#[cfg(test)]
mod scripted;

pub use control::Control;
pub use error::BootError;
pub use loader::Loader;
