//! flipside: the A/B system updater's daemon and command line
pub mod bootctl;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod dbus;
pub mod engine;
pub mod handed;
pub mod health;
pub mod http;
pub mod install;
pub mod rehearsal;
pub mod report;
pub mod seams;
pub mod slots;
pub mod store;
pub mod system;
pub mod trust;
