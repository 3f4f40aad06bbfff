//! Posts the spooled outcomes to the fleet host, signed with this device's own key.
//!
//! Reads and shortens the spool, makes `report-key.pem` beside it on first use (mode 0600), and talks to `report.url`.
//! At least once and in order: a report leaves the spool when the host has answered with success, and its sequence
//! number lets the host drop repeats. Nothing waits for this: a host that is away costs nothing.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bundle::dsse::Envelope;
use bundle::keys::PrivateKey;
use reqwest::Url;
use serde::{Deserialize, Serialize};
use updater_core::history::Report;

use crate::http::{Client, FetchError};
use crate::store::durable;
use crate::store::reports::Spool;
use crate::system::chain;

/// DSSE payload type of a batch of reports.
pub const REPORTS_TYPE: &str = "application/vnd.flipside.reports.v1+json";
/// Reports in one request.
const BATCH: usize = 32;
/// Pauses after a failure, doubling up to the last.
const PAUSE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(3600));

/// What is signed and posted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// `reports/v1`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Who this device is in rollouts.
    pub device: String,
    /// The device's public key (PEM): the host remembers the first it sees, or gets it when the device is made.
    pub key: String,
    /// Oldest first.
    pub reports: Vec<Report>,
}

/// Why a batch could not be delivered.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// The spool or the key.
    #[error("{path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The host.
    #[error("the fleet host did not take the reports")]
    Host(#[from] FetchError),
    /// The key file holds no key, or a batch can not be written as JSON.
    #[error("the reports could not be signed: {0}")]
    Sign(String),
}

/// Posts in the background.
#[derive(Debug)]
pub struct Poster {
    /// The configured client.
    pub client: Client,
    /// Where to.
    pub url: Url,
    /// From where.
    pub spool: Arc<Spool>,
    /// The device's private key; made when missing.
    pub key_file: PathBuf,
    /// Who this device is.
    pub device: String,
}

impl Poster {
    /// Posts what is there and what comes, for ever.
    pub async fn run(self) {
        let (first, longest) = PAUSE;
        let mut pause = first;
        loop {
            match self.post_all().await {
                Ok(()) => {
                    pause = first;
                    self.spool.news.notified().await;
                }
                Err(error) => {
                    let wait = retry_after(&error).unwrap_or(pause).min(longest);
                    tracing::info!(error = chain(&error), seconds = wait.as_secs(), "reports wait");
                    tokio::time::sleep(wait).await;
                    pause = pause.saturating_mul(2).min(longest);
                }
            }
        }
    }

    /// Posts until the spool is empty.
    ///
    /// # Errors
    /// [`PostError`]: the rest stays in the spool.
    pub async fn post_all(&self) -> Result<(), PostError> {
        loop {
            let failed = |source| PostError::File { path: "the report spool".into(), source };
            let reports = self.spool.oldest(BATCH).map_err(failed)?;
            if reports.is_empty() {
                return Ok(());
            }
            let body = self.sign(&reports)?;
            self.client.post(&self.url, "application/vnd.dsse+json", body).await?;
            self.spool.forget(&reports).map_err(failed)?;
        }
    }

    fn sign(&self, reports: &[Report]) -> Result<Vec<u8>, PostError> {
        let failed = |source| PostError::File { path: self.key_file.clone(), source };
        let key = PrivateKey::from_pem(&device_key(&self.key_file).map_err(failed)?).map_err(signing)?;
        let public = key.public().map_err(signing)?;
        let batch = Batch {
            kind: "reports/v1".into(),
            device: self.device.clone(),
            key: public.to_pem().to_owned(),
            reports: reports.to_vec(),
        };
        let mut envelope = Envelope::new(REPORTS_TYPE, serde_json::to_vec(&batch).map_err(signing)?);
        envelope.sign(&key).map_err(signing)?;
        envelope.to_bytes().map_err(signing)
    }
}

fn signing(error: impl std::fmt::Display) -> PostError {
    PostError::Sign(error.to_string())
}

fn retry_after(error: &PostError) -> Option<Duration> {
    match error {
        PostError::Host(error) => error.retry_after(),
        _ => None,
    }
}

/// The device's own key. A new one is durable before it is used, or the host would meet a stranger after a power cut.
fn device_key(path: &Path) -> io::Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let mut seed = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut seed)?;
    let pem = PrivateKey::from_seed(&seed).to_pem().map_err(io::Error::other)?;
    durable::replace_secret(path, pem.as_bytes())?;
    Ok(pem)
}

#[cfg(test)]
mod tests;
