//! Runs Flipside on real virtual machines.
//!
//! What breaks an updater is the boot loader, the power and the network, and none of them can be believed in a mock.
//! So here a Debian appliance boots in QEMU, fetches from a server that can misbehave, loses power, and is asked
//! afterwards over D-Bus, from its disk and from its boot loader entries what it is. Scenarios are TOML files in
//! `scenarios/` that read like a test plan; `tests/vm.rs` runs them, `demo` shows one to people.

pub mod accel;
pub mod agent;
pub mod blocklog;
pub mod bootstate;
pub mod device;
pub mod disk;
pub mod entries;
pub mod evidence;
pub mod firmware;
pub mod invariants;
mod jsonlines;
pub mod machine;
pub mod qemu;
pub mod qmp;
pub mod run;
pub mod scenario;
pub mod scratch;
pub mod seed;
pub mod server;
pub mod site;
pub mod timeline;
#[cfg(test)]
mod tools;
pub mod wait;
pub mod workshop;
