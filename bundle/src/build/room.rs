//! Whether a manifest keeps its rules and will fit into its envelope, asked before hours go into compressing what it names.

use super::{BuildError, Source};
use crate::digest::Digest;
use crate::document;
use crate::dsse::{Envelope, EnvelopeSignature, MAX_SIGNATURES};
use crate::keys::SIGNATURE_LEN;
use crate::manifest::{Blob, Chunks, Image, MANIFEST_TYPE, Manifest};

/// Refuses a manifest that breaks a rule, or, with its images filled in and every signature it may get, would be too large.
///
/// Room is left for [`MAX_SIGNATURES`]: who signs last, perhaps months later and elsewhere, must not be the one who
/// finds out.
pub(super) fn check(manifest: &Manifest, sources: &[Source]) -> Result<(), BuildError> {
    manifest.check_plan(sources.iter().map(|source| source.name.as_str()))?;
    let full = Manifest { images: sources.iter().map(largest).collect(), ..manifest.clone() };
    let signature = EnvelopeSignature { key_id: Digest([0; 32]).to_hex(), signature: vec![0; SIGNATURE_LEN] };
    let mut envelope = Envelope::new(MANIFEST_TYPE, document::to_bytes(&full)?);
    envelope.signatures = vec![signature; MAX_SIGNATURES];
    match envelope.to_bytes() {
        Ok(_) => Ok(()),
        Err(error) => Err(BuildError::Setting(format!(
            "the manifest is too large: {error}; attestations are for facts and digests, not for whole reports"
        ))),
    }
}

/// The entry of an image whose every number is as long as numbers get.
fn largest(source: &Source) -> Image {
    let (size, sha256) = (u64::MAX, Digest([0; 32]));
    let blob = Blob { size, sha256 };
    // Longer than the name of any method there is.
    let chunks = Chunks { size, sha256, method: "x".repeat(16), target: u32::MAX };
    let (name, kind) = (source.name.clone(), source.kind);
    let (frame_size, level) = (Some(u32::MAX), Some(i32::MIN));
    Image { name, kind, size, sha256, index: blob, chunks: Some(chunks), payload: blob, frame_size, level }
}
