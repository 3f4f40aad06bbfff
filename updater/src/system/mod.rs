//! The machine underneath: time, reboot, inhibitors, service manager, log. The adapters of the seams that are not about
//! slots.

pub mod battery;
pub mod clock;
pub mod contained;
mod error_chain;
pub mod inhibit;
pub mod log;
pub mod messages;
pub mod notify;
pub mod reboot;
pub mod surroundings;

pub use error_chain::chain;
