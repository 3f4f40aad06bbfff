//! Why a boot loader's state could not be read or changed.

use std::io;

/// Failure of a boot control backend. The variant is what was being done.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The state could not be read.
    #[error("reading the boot loader's state from {path}")]
    Read {
        /// File or folder, relative to the backend's root.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The state could not be written. Nothing that booted before was given up for it.
    #[error("writing the boot loader's state to {path}")]
    Write {
        /// File or folder, relative to the backend's root.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It was written, but reading it again shows something else.
    #[error("the boot loader's state is not what was written: {0}")]
    ReadBack(String),
    /// What is there can not be understood and must not be guessed.
    #[error("the boot loader's state is damaged: {0}")]
    Damaged(String),
    /// The boot loader would not do what we count on.
    #[error("the boot loader can not be relied on: {0}")]
    NotReady(String),
    /// The integrator's program failed.
    #[error("the boot control program: {0}")]
    Program(String),
    /// Tries out of range, or a change that would leave nothing to boot.
    #[error("refused: {0}")]
    Refused(String),
}

impl BootError {
    pub(super) fn read(path: &str) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Read { path: path.to_owned(), source }
    }

    pub(super) fn write(path: &str) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Write { path: path.to_owned(), source }
    }
}
