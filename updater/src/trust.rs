//! Which trust root counts now: the one in the image, or a newer one that followed it by the rules.
//!
//! Reads `/usr/lib/flipside/trust.dsse.json` and the folder `trust/` on the data partition, where version N lies as
//! `N.dsse.json`; writes only there. The chain is walked anew at each start from the image's root: every step is signed
//! by the thresholds of both neighbours, so damage or forgery on the data partition can only end the walk early, and a
//! new image with a newer root simply starts further along.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use bundle::reason::Reason;
use bundle::trust::{TrustError, TrustRoot};

use crate::store::durable;

/// The trust root could not be read or followed.
#[derive(Debug, thiserror::Error)]
pub enum TrustStoreError {
    /// The image's root is not there.
    #[error("the trust root {path} can not be read")]
    Read {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A root is not acceptable.
    #[error("the trust root {origin} is not accepted")]
    Refused {
        /// Path or address.
        origin: String,
        /// Why.
        source: TrustError,
    },
    /// A newer root is right but could not be stored.
    #[error("the trust root could not be stored as {path}")]
    Store {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl TrustStoreError {
    /// The reason code.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Read { .. } => Reason::KeyUnknown,
            Self::Refused { source, .. } => source.reason(),
            Self::Store { .. } => Reason::WriteError,
        }
    }
}

/// The trust root in force, shared by everything that verifies.
#[derive(Debug)]
pub struct TrustStore {
    folder: PathBuf,
    current: RwLock<Arc<TrustRoot>>,
}

impl TrustStore {
    /// Starts from the root in the image and follows what was adopted in `folder`.
    ///
    /// # Errors
    /// When the image's own root is missing or not signed by itself. What is wrong in `folder` is only logged.
    pub fn load(image: &Path, folder: &Path) -> Result<Self, TrustStoreError> {
        let bytes = std::fs::read(image).map_err(|source| TrustStoreError::Read { path: image.to_owned(), source })?;
        let root = TrustRoot::open(&bytes)
            .map_err(|source| TrustStoreError::Refused { origin: image.display().to_string(), source })?;
        let store = Self::of(root, folder);
        store.follow();
        Ok(store)
    }

    /// A store that begins with `root`.
    #[must_use]
    pub fn of(root: TrustRoot, folder: &Path) -> Self {
        Self { folder: folder.to_owned(), current: RwLock::new(Arc::new(root)) }
    }

    /// The root in force.
    #[must_use]
    pub fn current(&self) -> Arc<TrustRoot> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes the next root, when it is one: version N+1, signed by the root thresholds of N and of N+1. Stored first,
    /// then in force, so that a power cut never leaves a device that believes what it can not find again.
    ///
    /// # Errors
    /// When it is not the next root, or can not be stored. The root in force stays.
    pub fn adopt(&self, envelope: &[u8], origin: &str) -> Result<(), TrustStoreError> {
        let next = self
            .current()
            .accept_next(envelope)
            .map_err(|source| TrustStoreError::Refused { origin: origin.to_owned(), source })?;
        let path = self.path_of(next.version);
        durable::replace(&path, envelope).map_err(|source| TrustStoreError::Store { path, source })?;
        self.set(next);
        Ok(())
    }

    fn follow(&self) {
        loop {
            let current = self.current();
            let path = self.path_of(current.version.saturating_add(1));
            let Ok(bytes) = std::fs::read(&path) else { return };
            match current.accept_next(&bytes) {
                Ok(next) => self.set(next),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a stored trust root is not accepted, left out");
                    return;
                }
            }
        }
    }

    fn path_of(&self, version: u64) -> PathBuf {
        self.folder.join(format!("{version}.dsse.json"))
    }

    fn set(&self, root: TrustRoot) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(root);
    }
}
