//! Flipside's decisions: state machine, gate, reconcile, journal model. Pure.
//!
//! No tokio, file system, clock, environment or randomness here: [`machine::Machine::step`] takes what happened and
//! what time it is, and answers with what is to be done. The shell (the `updater` crate) turns [`effect::Effect`]s
//! into work and results into [`event::Event`]s. That keeps every decision testable without a device, and a crash
//! between any two effects a test case instead of a field report.

pub mod effect;
pub mod event;
pub mod facts;
pub mod gate;
pub mod history;
pub mod journal;
pub mod machine;
pub mod now;
pub mod policy;
pub mod release;
pub mod sim;
pub mod slot;
pub mod status;
