//! From bytes and a trust root to a document that may be believed.
//!
//! The only way the rest of Flipside gets at a signed document: signatures first (right type, right role, enough
//! different keys), parsing second. No clock: expiry and rollback are the caller's to judge.

use crate::approval::{APPROVAL_TYPE, Approval};
use crate::channel::{CHANNEL_TYPE, Channel};
use crate::digest::Digest;
use crate::document::DocumentError;
use crate::dsse::{self, DsseError};
use crate::manifest::{MANIFEST_TYPE, Manifest};
use crate::reason::Reason;
use crate::recall::{RECALL_TYPE, Recall};
use crate::trust::TrustRoot;

/// Why a signed document is refused.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its signatures.
    #[error("{what}: the signatures are not accepted")]
    Dsse {
        /// Which document.
        what: &'static str,
        /// Why.
        source: DsseError,
    },
    /// Its content.
    #[error("{what}: the content is not accepted")]
    Document {
        /// Which document.
        what: &'static str,
        /// Why.
        source: DocumentError,
    },
    /// Genuine, but for somebody else.
    #[error("{what}: made for {actual:?}, this is {expected:?}")]
    Elsewhere {
        /// Which document.
        what: &'static str,
        /// Region or channel of the caller.
        expected: String,
        /// Region or channel of the document.
        actual: String,
    },
}

impl OpenError {
    /// The reason code of this refusal.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Dsse { source, .. } => source.reason(),
            Self::Document { source, .. } => source.reason(),
            Self::Elsewhere { .. } => Reason::RegionMismatch,
        }
    }
}

/// A manifest signed by the release keys, and its digest: the release's identity.
///
/// # Errors
/// When the release threshold did not sign it, or it is malformed or too new.
pub fn open_manifest(envelope: &[u8], trust: &TrustRoot) -> Result<(Manifest, Digest), OpenError> {
    let what = "manifest";
    let (keys, threshold) = trust.release_keys();
    let payload = verified(what, dsse::verify(envelope, MANIFEST_TYPE, &keys, threshold))?;
    let manifest = Manifest::parse(&payload).map_err(|source| OpenError::Document { what, source })?;
    Ok((manifest, Digest::of(&payload)))
}

/// A channel index signed by the release keys.
///
/// # Errors
/// As [`open_manifest`]; also when it is another channel's.
pub fn open_channel(envelope: &[u8], trust: &TrustRoot, channel: &str) -> Result<Channel, OpenError> {
    let what = "channel index";
    let (keys, threshold) = trust.release_keys();
    let payload = verified(what, dsse::verify(envelope, CHANNEL_TYPE, &keys, threshold))?;
    let opened = Channel::parse(&payload).map_err(|source| OpenError::Document { what, source })?;
    here(what, channel, &opened.channel)?;
    Ok(opened)
}

/// A recall signed by the release keys.
///
/// # Errors
/// As [`open_channel`].
pub fn open_recall(envelope: &[u8], trust: &TrustRoot, channel: &str) -> Result<Recall, OpenError> {
    let what = "recall";
    let (keys, threshold) = trust.release_keys();
    let payload = verified(what, dsse::verify(envelope, RECALL_TYPE, &keys, threshold))?;
    let recall = Recall::parse(&payload).map_err(|source| OpenError::Document { what, source })?;
    here(what, channel, &recall.channel)?;
    Ok(recall)
}

/// An approval signed by the region's keys.
///
/// # Errors
/// When the region is not in the trust root, its threshold did not sign, it is malformed or too new, or it is another
/// region's or channel's.
pub fn open_approval(envelope: &[u8], trust: &TrustRoot, region: &str, channel: &str) -> Result<Approval, OpenError> {
    let what = "approval";
    let (keys, threshold) = trust.region_keys(region);
    let payload = verified(what, dsse::verify(envelope, APPROVAL_TYPE, &keys, threshold))?;
    let approval = Approval::parse(&payload).map_err(|source| OpenError::Document { what, source })?;
    here(what, region, &approval.region)?;
    here(what, channel, &approval.channel)?;
    Ok(approval)
}

fn verified(what: &'static str, result: Result<dsse::Verified, DsseError>) -> Result<Vec<u8>, OpenError> {
    result.map(|verified| verified.payload).map_err(|source| OpenError::Dsse { what, source })
}

fn here(what: &'static str, expected: &str, actual: &str) -> Result<(), OpenError> {
    if expected == actual {
        return Ok(());
    }
    Err(OpenError::Elsewhere { what, expected: expected.to_owned(), actual: actual.to_owned() })
}
