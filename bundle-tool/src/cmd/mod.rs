//! The subcommands.

pub mod apply;
pub mod approve;
pub mod build;
pub mod delta;
pub mod diff;
pub mod extract;
pub mod inspect;
pub mod keygen;
pub mod publish;
pub mod recall;
pub mod reference;
pub mod release;
pub mod serve;
pub mod sign;
pub mod trust;
pub mod verify;
