//! Why an install or a read-back ended early.

use std::error::Error as _;
use std::io;
use std::path::PathBuf;

use bundle::delta::DeltaError;
use bundle::digest::Digest;
use bundle::frame::FrameError;
use bundle::index::IndexError;
use bundle::open::OpenError;
use bundle::reason::Reason;
use bundle::sequential::ReadError;
use bundle::tree::{PackError, TreeError};

use crate::http::FetchError;
use crate::seams::InstallError;
use crate::slots::device::DeviceError;
use crate::slots::guard::GuardError;

/// Failure of an install. The variant is what was being done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The trust root of this device could not be had.
    #[error("the trust root: {0}")]
    Trust(String),
    /// Fetching.
    #[error("fetching the bundle")]
    Fetch(#[from] FetchError),
    /// The manifest is not to be believed.
    #[error("opening the bundle")]
    Open(#[from] OpenError),
    /// The bundle's container.
    #[error("reading the bundle")]
    Read(#[from] ReadError),
    /// Another release than the one approved.
    #[error("the bundle holds release {found}, not {expected}")]
    OtherRelease {
        /// Manifest digest that was approved.
        expected: Digest,
        /// Manifest digest of the bundle.
        found: Digest,
    },
    /// The index of an image.
    #[error("the index of image {image}")]
    Index {
        /// Which image.
        image: String,
        /// Why.
        #[source]
        source: IndexError,
    },
    /// A frame came wrong, every time.
    #[error("frame {number} of image {image}")]
    Frame {
        /// Which image.
        image: String,
        /// Which frame, from 0.
        number: u64,
        /// Why.
        #[source]
        source: FrameError,
    },
    /// The written image is not the signed one.
    #[error("image {image} reads back as {found}, not {expected}")]
    Image {
        /// Which image.
        image: String,
        /// The signed digest.
        expected: Digest,
        /// What was read.
        found: Digest,
    },
    /// The folder holds what no image can hold.
    #[error("image {image} is not what was installed")]
    Tree {
        /// Which image.
        image: String,
        /// What was found.
        #[source]
        source: PackError,
    },
    /// The tar of a tree can not be unpacked.
    #[error("unpacking {path}")]
    Unpack {
        /// The tar.
        path: PathBuf,
        /// Why.
        #[source]
        source: TreeError,
    },
    /// A target could not be read or written.
    #[error("{what} {path}")]
    Target {
        /// `writing`, `reading`, `flushing`, …
        what: &'static str,
        /// The device or file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The folder where indexes are kept.
    #[error("keeping the index in {path}")]
    Spool {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The target's device is not there, or not certain.
    #[error("finding the target")]
    Device(#[from] DeviceError),
    /// The target is in use.
    #[error("the target is in use")]
    Guard(#[from] GuardError),
    /// The running slot was named as target.
    #[error("slot {0} is running; it is never written")]
    Booted(updater_core::slot::SlotId),
    /// The device has no place for an image of this release.
    #[error("slot {slot} has no place for image {image} ({kind})")]
    NoPlace {
        /// The slot.
        slot: updater_core::slot::SlotId,
        /// The image.
        image: String,
        /// Its kind in the manifest.
        kind: &'static str,
    },
    /// The image does not fit.
    #[error("image {image} needs {size} bytes, {path} has room for {room}")]
    TooSmall {
        /// The image.
        image: String,
        /// What it needs, bytes, with others that go to the same file system.
        size: u64,
        /// Where it should go.
        path: PathBuf,
        /// What fits there, bytes.
        room: u64,
    },
    /// The release's manifest is not kept here any more.
    #[error("nothing is known here about release {0}")]
    Unknown(Digest),
    /// A delta was offered, could not make everything, and the rest is more than may be fetched instead.
    #[error("the delta does not make everything, and the rest is more than limits.delta_fallback_megabytes allows")]
    OverAllowance,
    /// The delta is of no use.
    #[error("the delta")]
    Delta(#[from] DeltaError),
    /// A pipe can be read once, and a file may go.
    #[error("{0} can not be opened any more; name it again, what was written counts")]
    SourceGone(String),
    /// Somebody cancelled.
    #[error("cancelled")]
    Cancelled,
    /// A thread of this install ended without a word.
    #[error("part of the install ended unexpectedly: {0}")]
    Lost(String),
}

impl Error {
    /// The code for journals and people.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Trust(_) | Self::Unknown(_) | Self::SourceGone(_) | Self::Lost(_) => Reason::Internal,
            Self::Fetch(error) => error.reason(),
            Self::Open(error) => error.reason(),
            Self::Read(error) => error.reason(),
            Self::OtherRelease { .. } => Reason::SignatureInvalid,
            Self::Index { source, .. } => source.reason(),
            Self::Frame { source, .. } => source.reason(),
            Self::Delta(error) => error.reason(),
            Self::OverAllowance => Reason::FrameMismatch,
            Self::Image { .. } | Self::Tree { .. } => Reason::ImageMismatch,
            Self::Unpack { source, .. } => source.reason(),
            Self::Target { source, .. } | Self::Spool { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Reason::NoSpace,
                // The kernel's exclusive claim on a device: somebody has it mounted or built on it.
                io::ErrorKind::ResourceBusy => Reason::Busy,
                _ => Reason::WriteError,
            },
            Self::Device(_) => Reason::SlotUnknown,
            Self::Guard(
                GuardError::NotABlockDevice(_)
                | GuardError::NotAFolder(_)
                | GuardError::Shared(..)
                | GuardError::Open(_),
            ) => Reason::SlotUnknown,
            Self::Guard(_) => Reason::Busy,
            Self::Booted(_) => Reason::SlotUnknown,
            Self::NoPlace { .. } => Reason::Incompatible,
            Self::TooSmall { .. } => Reason::NoSpace,
            Self::Cancelled => Reason::Cancelled,
        }
    }

    /// For errors of a target.
    pub(super) fn target(what: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Target { what, path, source }
    }

    /// For errors of the spool.
    pub(super) fn spool(path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Spool { path, source }
    }
}

impl From<Error> for InstallError {
    fn from(error: Error) -> Self {
        let retry_after = match &error {
            Error::Fetch(fetch) => fetch.retry_after(),
            _ => None,
        };
        let reason = match &error {
            Error::Fetch(FetchError::Cancelled) => Reason::Cancelled,
            other => other.reason(),
        };
        let mut detail = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            detail = format!("{detail}: {cause}");
            source = cause.source();
        }
        Self { reason, detail, retry_after }
    }
}
