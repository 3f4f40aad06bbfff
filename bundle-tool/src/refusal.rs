//! Tells a refusal (a signature, a format, a rule) from a failure (a disk, a typo).

use bundle::chunks::ChunksError;
use bundle::delta::DeltaError;
use bundle::document::DocumentError;
use bundle::dsse::DsseError;
use bundle::frame::FrameError;
use bundle::index::IndexError;
use bundle::open::OpenError;
use bundle::reason::Reason;
use bundle::sequential::ReadError;
use bundle::trust::TrustError;

/// The reason code of the refusal in this chain of errors, if it is one.
pub fn reason_of(error: &anyhow::Error) -> Option<Reason> {
    let reason = error.chain().find_map(|link| {
        link.downcast_ref::<OpenError>()
            .map(OpenError::reason)
            .or_else(|| link.downcast_ref::<TrustError>().map(TrustError::reason))
            .or_else(|| link.downcast_ref::<DsseError>().map(DsseError::reason))
            .or_else(|| link.downcast_ref::<DocumentError>().map(DocumentError::reason))
            .or_else(|| link.downcast_ref::<ReadError>().map(ReadError::reason))
            .or_else(|| link.downcast_ref::<IndexError>().map(IndexError::reason))
            .or_else(|| link.downcast_ref::<DeltaError>().map(DeltaError::reason))
            .or_else(|| link.downcast_ref::<ChunksError>().map(ChunksError::reason))
            .or_else(|| link.downcast_ref::<FrameError>().map(FrameError::reason))
            .or_else(|| link.downcast_ref::<Refused>().map(|refused| refused.0))
    })?;
    // An I/O error inside a reader is a failure of this machine, not a verdict on the bundle.
    (reason != Reason::Internal).then_some(reason)
}

/// A refusal of our own.
#[derive(Debug, thiserror::Error)]
#[error("{1}")]
pub struct Refused(pub Reason, pub String);
