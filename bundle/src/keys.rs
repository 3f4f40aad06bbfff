//! Ed25519 keys as ordinary PEM, and sets of them.
//!
//! Public keys are SPKI PEM and private keys PKCS#8 PEM (RFC 8410), so `openssl` makes, reads and checks them. The key
//! id is the SHA-256 of the SPKI DER: it names the key itself, so two ids are two keys. Only memory, no randomness.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey, KeypairBytes};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use crate::digest::{Digest, ParseDigestError};

/// Length of an Ed25519 signature, bytes.
pub const SIGNATURE_LEN: usize = 64;

/// Name of a public key: SHA-256 of its SPKI DER.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub Digest);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for KeyId {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// Why a key could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not an Ed25519 public key in SPKI PEM.
    #[error("not an Ed25519 public key (SPKI PEM, as `openssl pkey -pubout` writes it)")]
    Public,
    /// Not an Ed25519 private key in PKCS#8 PEM.
    #[error("not an unencrypted Ed25519 private key (PKCS#8 PEM, as `openssl genpkey -algorithm ed25519` writes it)")]
    Private,
    /// One of the few points of small order: anything would verify.
    #[error("a weak Ed25519 key: its signatures prove nothing")]
    Weak,
    /// Encoding failed.
    #[error("the key could not be encoded")]
    Encode,
}

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    key: VerifyingKey,
    id: KeyId,
    pem: String,
}

impl PublicKey {
    fn new(key: VerifyingKey) -> Result<Self, KeyError> {
        if key.is_weak() {
            return Err(KeyError::Weak);
        }
        let der = key.to_public_key_der().map_err(|_| KeyError::Encode)?;
        let pem = key.to_public_key_pem(LineEnding::LF).map_err(|_| KeyError::Encode)?;
        Ok(Self { key, id: KeyId(Digest::of(der.as_bytes())), pem })
    }

    /// Reads SPKI PEM.
    ///
    /// # Errors
    /// When it is anything else, another algorithm, or a weak key.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        Self::new(VerifyingKey::from_public_key_pem(pem).map_err(|_| KeyError::Public)?)
    }

    /// As SPKI PEM.
    #[must_use]
    pub fn to_pem(&self) -> &str {
        &self.pem
    }

    /// Its id.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// Whether `signature` is this key's over `message`.
    ///
    /// Strict verification (no small-order points, canonical scalars): two verifiers must never disagree.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        Signature::from_slice(signature).is_ok_and(|signature| self.key.verify_strict(message, &signature).is_ok())
    }
}

/// A private key. It has no `Debug`: it must not reach a log.
pub struct PrivateKey(SigningKey);

impl PrivateKey {
    /// The key of a 32-byte seed. The caller brings the randomness.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// Reads unencrypted PKCS#8 PEM.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        SigningKey::from_pkcs8_pem(pem).map(Self).map_err(|_| KeyError::Private)
    }

    /// As PKCS#8 version 1 PEM.
    ///
    /// Version 2 (with the public half inside) is what the library writes by default; OpenSSL 3.0 cannot read it.
    ///
    /// # Errors
    /// Never in practice; encoding is fallible in the library.
    pub fn to_pem(&self) -> Result<String, KeyError> {
        let pair = KeypairBytes { secret_key: self.0.to_bytes(), public_key: None };
        pair.to_pkcs8_pem(LineEnding::LF).map(|pem| pem.to_string()).map_err(|_| KeyError::Encode)
    }

    /// The public half.
    ///
    /// # Errors
    /// For the one seed in 2^250 that gives a weak key.
    pub fn public(&self) -> Result<PublicKey, KeyError> {
        PublicKey::new(self.0.verifying_key())
    }

    /// Signs `message` (pure Ed25519, RFC 8032: deterministic).
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_LEN] {
        self.0.sign(message).to_bytes()
    }
}

/// Public keys by id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeySet(BTreeMap<KeyId, PublicKey>);

impl KeySet {
    /// Adds a key; the same key twice is one key.
    pub fn insert(&mut self, key: PublicKey) {
        self.0.insert(key.id(), key);
    }

    /// The key of that id.
    #[must_use]
    pub fn get(&self, id: &KeyId) -> Option<&PublicKey> {
        self.0.get(id)
    }

    /// All keys, by rising id.
    pub fn iter(&self) -> impl Iterator<Item = &PublicKey> {
        self.0.values()
    }

    /// How many keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<PublicKey> for KeySet {
    fn from_iter<I: IntoIterator<Item = PublicKey>>(keys: I) -> Self {
        let mut set = Self::default();
        keys.into_iter().for_each(|key| set.insert(key));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_round_trips_and_ids_are_of_the_public_half() {
        let private = PrivateKey::from_seed(&[7; 32]);
        let pem = private.to_pem().unwrap();
        assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----\n"));
        let again = PrivateKey::from_pem(&pem).unwrap();
        let public = private.public().unwrap();
        assert_eq!(again.public().unwrap(), public);
        assert_eq!(PublicKey::from_pem(public.to_pem()).unwrap().id(), public.id());
        assert!(public.verifies(b"message", &again.sign(b"message")));
        assert!(!public.verifies(b"massage", &again.sign(b"message")));
        assert!(!public.verifies(b"message", &[0; 64]));
        assert!(!public.verifies(b"message", b"short"));
    }

    #[test]
    fn other_things_are_not_keys() {
        let private = PrivateKey::from_seed(&[7; 32]);
        assert!(PublicKey::from_pem(&private.to_pem().unwrap()).is_err());
        assert!(PrivateKey::from_pem(private.public().unwrap().to_pem()).is_err());
        assert!(PublicKey::from_pem("").is_err());
    }

    #[test]
    fn weak_keys_are_refused() {
        let identity = VerifyingKey::from_bytes(&[
            1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ])
        .unwrap();
        assert!(matches!(PublicKey::new(identity), Err(KeyError::Weak)));
    }
}
