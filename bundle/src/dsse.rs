//! DSSE envelopes: signatures over bytes, checked before those bytes are parsed.
//!
//! The Dead Simple Signing Envelope of the Secure Systems Lab (github.com/secure-systems-lab/dsse, v1): the signature
//! covers `PAE("DSSEv1", type, body)`, so a document of one type can never be read as another. Only memory.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde::{Deserialize, Serialize};

use crate::json::{self, JsonError};
use crate::keys::{KeyId, KeySet, PrivateKey, SIGNATURE_LEN};
use crate::reason::Reason;

/// Signatures an envelope may carry: each costs a verification, so a stranger must not choose how many.
pub const MAX_SIGNATURES: usize = 64;

/// Why an envelope is refused.
#[derive(Debug, thiserror::Error)]
pub enum DsseError {
    /// Not an envelope.
    #[error("not a DSSE envelope")]
    Json(#[from] JsonError),
    /// A field is not base64.
    #[error("{0} is not base64")]
    Base64(&'static str),
    /// It would be larger than any reader accepts.
    #[error("the envelope would have {actual} bytes; readers refuse documents of more than {limit}")]
    TooLarge {
        /// What it would have.
        actual: usize,
        /// What readers accept.
        limit: usize,
    },
    /// More signatures than [`MAX_SIGNATURES`].
    #[error("the envelope carries {0} signatures, more than 64")]
    TooManySignatures(usize),
    /// A document of another type.
    #[error("the envelope holds {actual:?}, expected {expected:?}")]
    WrongType {
        /// What the caller needs.
        expected: String,
        /// What it says it is.
        actual: String,
    },
    /// None of the signatures names a key that is trusted for this.
    #[error("not signed by any key that is trusted for this")]
    KeyUnknown,
    /// A trusted key is named, but the signature is not its.
    #[error("the signature of key {0} does not match what it signs")]
    SignatureInvalid(KeyId),
    /// Some, but not enough.
    #[error("{valid} valid signatures of different keys, {threshold} are required")]
    ThresholdNotMet {
        /// Valid signatures by different trusted keys.
        valid: usize,
        /// What is required.
        threshold: usize,
    },
}

impl DsseError {
    /// The reason code of this refusal.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Json(_) | Self::Base64(_) | Self::TooLarge { .. } | Self::TooManySignatures(_) => Reason::Malformed,
            Self::WrongType { expected, actual } if is_newer(expected, actual) => Reason::FormatTooNew,
            Self::WrongType { .. } => Reason::Malformed,
            Self::KeyUnknown => Reason::KeyUnknown,
            Self::SignatureInvalid(_) => Reason::SignatureInvalid,
            Self::ThresholdNotMet { .. } => Reason::ThresholdNotMet,
        }
    }
}

/// Whether `actual` is the same kind of document in a higher version (`….v2+json` where `….v1+json` is expected).
fn is_newer(expected: &str, actual: &str) -> bool {
    let split = |text: &str| {
        let (stem, version) = text.strip_suffix("+json")?.rsplit_once(".v")?;
        Some((stem.to_owned(), version.parse::<u32>().ok()?))
    };
    matches!((split(expected), split(actual)), (Some((a, old)), Some((b, new))) if a == b && new > old)
}

/// One signature of an envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvelopeSignature {
    /// Hint which key made it; empty when the signer gave none. Never trusted: it only saves trying every key.
    pub key_id: String,
    /// The signature's bytes.
    pub signature: Vec<u8>,
}

/// An envelope, decoded but not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Media type of the body.
    pub payload_type: String,
    /// The body, not to be parsed before [`Envelope::verify`].
    pub payload: Vec<u8>,
    /// Its signatures.
    pub signatures: Vec<EnvelopeSignature>,
}

/// A body that enough trusted keys have signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The body.
    pub payload: Vec<u8>,
    /// The different keys that signed it, by rising id.
    pub signers: Vec<KeyId>,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    #[serde(rename = "payloadType")]
    payload_type: String,
    payload: String,
    signatures: Vec<WireSignature>,
}

#[derive(Serialize, Deserialize)]
struct WireSignature {
    #[serde(default)]
    keyid: String,
    sig: String,
}

/// The bytes a signature covers: `DSSEv1 <len type> <type> <len body> <body>`.
#[must_use]
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}

impl Envelope {
    /// An envelope without signatures.
    #[must_use]
    pub fn new(payload_type: &str, payload: Vec<u8>) -> Self {
        Self { payload_type: payload_type.to_owned(), payload, signatures: Vec::new() }
    }

    /// Decodes an envelope of at most 1 MiB; verifies nothing.
    ///
    /// # Errors
    /// When it is not strict JSON of that shape, or carries too many signatures.
    pub fn parse(bytes: &[u8]) -> Result<Self, DsseError> {
        let wire: Wire = json::from_slice(bytes, json::DOCUMENT)?;
        if wire.signatures.len() > MAX_SIGNATURES {
            return Err(DsseError::TooManySignatures(wire.signatures.len()));
        }
        let payload = decode(&wire.payload).ok_or(DsseError::Base64("the payload"))?;
        let signatures = wire.signatures.into_iter().map(|each| {
            let signature = decode(&each.sig).ok_or(DsseError::Base64("a signature"))?;
            Ok(EnvelopeSignature { key_id: each.keyid, signature })
        });
        let signatures = signatures.collect::<Result<_, DsseError>>()?;
        Ok(Self { payload_type: wire.payload_type, payload, signatures })
    }

    /// As JSON, with a line end.
    ///
    /// # Errors
    /// When it would be larger than [`Envelope::parse`] accepts, or carry more signatures: a file that every reader
    /// refuses must not be written.
    pub fn to_bytes(&self) -> Result<Vec<u8>, DsseError> {
        if self.signatures.len() > MAX_SIGNATURES {
            return Err(DsseError::TooManySignatures(self.signatures.len()));
        }
        let signatures = self
            .signatures
            .iter()
            .map(|each| WireSignature { keyid: each.key_id.clone(), sig: STANDARD.encode(&each.signature) });
        let wire = Wire {
            payload_type: self.payload_type.clone(),
            payload: STANDARD.encode(&self.payload),
            signatures: signatures.collect(),
        };
        let mut bytes = serde_json::to_vec(&wire).map_err(|error| DsseError::Json(JsonError::Shape(error)))?;
        bytes.push(b'\n');
        let (actual, limit) = (bytes.len(), json::DOCUMENT.bytes);
        if actual > limit { Err(DsseError::TooLarge { actual, limit }) } else { Ok(bytes) }
    }

    /// The bytes its signatures cover.
    #[must_use]
    pub fn pae(&self) -> Vec<u8> {
        pae(&self.payload_type, &self.payload)
    }

    /// Adds `key`'s signature, replacing an older one of the same key.
    ///
    /// # Errors
    /// When the key is weak.
    pub fn sign(&mut self, key: &PrivateKey) -> Result<KeyId, crate::keys::KeyError> {
        let id = key.public()?.id();
        self.attach(id, key.sign(&self.pae()));
        Ok(id)
    }

    /// Adds a signature made elsewhere (hardware module, cloud key service), replacing an older one of the same key.
    pub fn attach(&mut self, id: KeyId, signature: [u8; SIGNATURE_LEN]) {
        let key_id = id.to_string();
        self.signatures.retain(|each| each.key_id != key_id);
        self.signatures.push(EnvelopeSignature { key_id, signature: signature.to_vec() });
    }

    /// Hands the body out when at least `threshold` different keys of `keys` signed it as `payload_type`.
    ///
    /// Signatures of strangers are ignored: anybody may add them, none may veto.
    ///
    /// # Errors
    /// Says which of these it was: another type, no trusted key, a forged signature, too few. A threshold of 0 is
    /// read as 1: an unsigned document is never genuine.
    pub fn verify(&self, payload_type: &str, keys: &KeySet, threshold: usize) -> Result<Verified, DsseError> {
        self.check_type(payload_type)?;
        let threshold = threshold.max(1);
        let message = self.pae();
        let mut signers = BTreeSet::new();
        let mut forged = None;
        for each in &self.signatures {
            match self.signer_of(each, &message, keys) {
                Signer::Key(id) => drop(signers.insert(id)),
                Signer::Forged(id) => forged = forged.or(Some(id)),
                Signer::Stranger => {}
            }
        }
        if signers.len() >= threshold {
            return Ok(Verified { payload: self.payload.clone(), signers: signers.into_iter().collect() });
        }
        Err(match forged {
            Some(id) => DsseError::SignatureInvalid(id),
            None if signers.is_empty() => DsseError::KeyUnknown,
            None => DsseError::ThresholdNotMet { valid: signers.len(), threshold },
        })
    }

    /// Whether the body says that it is a document of that type; signatures are another matter.
    ///
    /// # Errors
    /// [`DsseError::WrongType`].
    pub fn check_type(&self, payload_type: &str) -> Result<(), DsseError> {
        if self.payload_type == payload_type {
            return Ok(());
        }
        Err(DsseError::WrongType { expected: payload_type.to_owned(), actual: self.payload_type.clone() })
    }

    fn signer_of(&self, each: &EnvelopeSignature, message: &[u8], keys: &KeySet) -> Signer {
        let verifies = |key: &&crate::keys::PublicKey| key.verifies(message, &each.signature);
        if each.key_id.is_empty() {
            return keys.iter().find(verifies).map_or(Signer::Stranger, |key| Signer::Key(key.id()));
        }
        match each.key_id.parse().ok().and_then(|id| keys.get(&id)) {
            None => Signer::Stranger,
            Some(key) if verifies(&key) => Signer::Key(key.id()),
            Some(key) => Signer::Forged(key.id()),
        }
    }
}

enum Signer {
    Key(KeyId),
    Forged(KeyId),
    Stranger,
}

/// Parses and verifies in one step.
///
/// # Errors
/// As [`Envelope::parse`] and [`Envelope::verify`].
pub fn verify(bytes: &[u8], payload_type: &str, keys: &KeySet, threshold: usize) -> Result<Verified, DsseError> {
    Envelope::parse(bytes)?.verify(payload_type, keys, threshold)
}

/// DSSE lets signers choose between the two base64 alphabets.
fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &str = "application/vnd.flipside.test.v1+json";

    fn key(n: u8) -> PrivateKey {
        PrivateKey::from_seed(&[n; 32])
    }

    fn set(of: &[u8]) -> KeySet {
        of.iter().map(|n| key(*n).public().unwrap()).collect()
    }

    fn signed(by: &[u8]) -> Envelope {
        let mut envelope = Envelope::new(TYPE, b"{}".to_vec());
        for n in by {
            envelope.sign(&key(*n)).unwrap();
        }
        envelope
    }

    #[test]
    fn pae_is_the_one_of_the_specification() {
        let expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world";
        assert_eq!(pae("http://example.com/HelloWorld", b"hello world"), expected);
    }

    #[test]
    fn envelopes_round_trip_and_verify() {
        let bytes = signed(&[1, 2]).to_bytes().unwrap();
        let verified = verify(&bytes, TYPE, &set(&[1, 2, 3]), 2).unwrap();
        assert_eq!((verified.payload.as_slice(), verified.signers.len()), (&b"{}"[..], 2));
    }

    #[test]
    fn each_refusal_has_its_reason() {
        let reason = |envelope: &Envelope, keys: &[u8], n| envelope.verify(TYPE, &set(keys), n).unwrap_err().reason();
        assert_eq!(reason(&signed(&[]), &[1], 1), Reason::KeyUnknown);
        assert_eq!(reason(&signed(&[]), &[1], 0), Reason::KeyUnknown);
        assert_eq!(reason(&signed(&[9]), &[1], 1), Reason::KeyUnknown);
        assert_eq!(reason(&signed(&[1]), &[1, 2], 2), Reason::ThresholdNotMet);
        let mut forged = signed(&[1]);
        forged.payload = b"[]".to_vec();
        assert_eq!(reason(&forged, &[1], 1), Reason::SignatureInvalid);
        let other = Envelope { payload_type: TYPE.replace("test", "toast"), ..signed(&[1]) };
        assert_eq!(reason(&other, &[1], 1), Reason::Malformed);
        let newer = Envelope { payload_type: TYPE.replace("v1", "v2"), ..signed(&[1]) };
        assert_eq!(reason(&newer, &[1], 1), Reason::FormatTooNew);
    }

    #[test]
    fn one_key_signing_twice_counts_once() {
        let mut envelope = signed(&[1]);
        envelope.signatures.push(envelope.signatures[0].clone());
        let mut anonymous = envelope.signatures[0].clone();
        anonymous.key_id.clear();
        envelope.signatures.push(anonymous);
        let error = envelope.verify(TYPE, &set(&[1, 2]), 2).unwrap_err();
        assert!(matches!(error, DsseError::ThresholdNotMet { valid: 1, threshold: 2 }));
    }

    #[test]
    fn strangers_can_neither_help_nor_veto() {
        let mut envelope = signed(&[1, 9]);
        envelope.signatures[1].signature = vec![0; 3];
        assert!(envelope.verify(TYPE, &set(&[1]), 1).is_ok());
        assert!(envelope.verify(TYPE, &set(&[1, 2]), 2).is_err());
    }

    #[test]
    fn a_signature_without_key_id_is_tried_with_every_key() {
        let mut envelope = signed(&[2]);
        envelope.signatures[0].key_id.clear();
        assert!(envelope.verify(TYPE, &set(&[1, 2]), 1).is_ok());
    }

    #[test]
    fn both_base64_alphabets_are_read() {
        let mut envelope = Envelope::new(TYPE, vec![0xfb, 0xff, 0xfe]);
        envelope.sign(&key(1)).unwrap();
        let text = String::from_utf8(envelope.to_bytes().unwrap()).unwrap();
        let url = text.replace("+/+", "-_-").replace("+//+", "-__-");
        assert_eq!(Envelope::parse(text.as_bytes()).unwrap().payload, envelope.payload);
        assert_eq!(Envelope::parse(url.as_bytes()).unwrap().payload, envelope.payload);
    }

    #[test]
    fn what_no_reader_accepts_is_not_written() {
        let bytes = |len| Envelope::new(TYPE, vec![b' '; len]).to_bytes();
        let limit = json::DOCUMENT.bytes;
        // Three bytes of a body are four of base64.
        let frame = bytes(0).unwrap().len();
        let most = (limit - frame) / 4 * 3;
        assert_eq!(Envelope::parse(&bytes(most).unwrap()).unwrap().payload.len(), most);
        assert!(matches!(bytes(most + 1), Err(DsseError::TooLarge { actual, .. }) if actual > limit));
    }

    #[test]
    fn a_crowd_of_signatures_is_refused() {
        let mut envelope = signed(&[1]);
        envelope.signatures = vec![envelope.signatures[0].clone(); MAX_SIGNATURES];
        let text = String::from_utf8(envelope.to_bytes().unwrap()).unwrap();
        assert!(Envelope::parse(text.as_bytes()).is_ok());
        envelope.signatures.push(envelope.signatures[0].clone());
        assert!(matches!(envelope.to_bytes(), Err(DsseError::TooManySignatures(65))), "not written either");
        let one = text.find("{\"keyid").map(|at| text[at..].split_inclusive('}').next().unwrap()).unwrap();
        let more = text.replacen(one, &format!("{one},{one}"), 1);
        assert!(matches!(Envelope::parse(more.as_bytes()), Err(DsseError::TooManySignatures(65))));
    }
}
