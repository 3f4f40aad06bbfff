//! Signed documents from the served tree: the channel index and the region's approvals.
//!
//! Fetches from the configured places; keeps the newest valid approval on the data partition. Believes nothing: the
//! engine verifies every envelope.
//!
//! `<base>/channels/<channel>/channel.dsse.json` and `recall.dsse.json` beside it,
//! `<base>/approvals/<region>/<channel>.dsse.json`, `<base>/trust/<version>.dsse.json`

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bundle::reason::Reason;

use crate::http::document::{DOCUMENT_LIMIT, fetch};
use crate::http::{Client, FetchError, Location};
use crate::seams::{ApprovalSource, BoxFuture, DocumentError, Envelope, ReleaseSource};
use crate::store::durable;
use crate::system::chain;

/// The served tree and the stored copies.
#[derive(Debug, Clone)]
pub struct Served {
    /// For everything on the web.
    pub client: Client,
    /// Where releases are; none: nothing is configured.
    pub base: Option<String>,
    /// Where approvals are, first choice first.
    pub approvals: Vec<String>,
    /// Region that is configured.
    pub region: String,
    /// Channel that is configured.
    pub channel: String,
    /// Where the newest valid approval of each region and channel is kept.
    pub folder: PathBuf,
}

impl ReleaseSource for Served {
    fn channel<'a>(&'a self, channel: &'a str) -> BoxFuture<'a, Result<Envelope, DocumentError>> {
        Box::pin(async move { self.of_vendor(&format!("channels/{channel}/channel.dsse.json")).await })
    }

    fn recall<'a>(&'a self, channel: &'a str) -> BoxFuture<'a, Result<Envelope, DocumentError>> {
        Box::pin(async move { self.of_vendor(&format!("channels/{channel}/recall.dsse.json")).await })
    }

    fn trust(&self, version: u64) -> BoxFuture<'_, Result<Envelope, DocumentError>> {
        Box::pin(async move { self.of_vendor(&format!("trust/{version}.dsse.json")).await })
    }
}

impl ApprovalSource for Served {
    fn approvals<'a>(
        &'a self,
        region: &'a str,
        channel: &'a str,
        fetch: bool,
    ) -> BoxFuture<'a, (Vec<Envelope>, Vec<DocumentError>)> {
        Box::pin(async move {
            let (mut found, mut failures) = (Vec::new(), Vec::new());
            for base in self.approvals.iter().filter(|_| fetch) {
                match self.fetch(base, &format!("approvals/{region}/{channel}.dsse.json")).await {
                    Ok(envelope) => found.push(envelope),
                    Err((at, e)) => {
                        let mut failure = failed(&at, &e);
                        // A mirror without the document is not broken: the region has said nothing there.
                        if is_missing(&e) {
                            failure.reason = Reason::ApprovalMissing;
                        }
                        failures.push(failure);
                    }
                }
            }
            let path = self.stored(region, channel);
            match read(&path) {
                Ok(Some(bytes)) => {
                    found.push(Envelope { bytes, origin: path.display().to_string(), live: false });
                }
                Ok(None) => {}
                Err(e) => failures.push(stored_failed(&path, &e)),
            }
            (found, failures)
        })
    }

    fn keep<'a>(&'a self, envelope: &'a Envelope) -> BoxFuture<'a, Result<(), DocumentError>> {
        Box::pin(async move {
            let path = self.stored(&self.region, &self.channel);
            if matches!(read(&path), Ok(Some(bytes)) if bytes == envelope.bytes) {
                return Ok(());
            }
            let kept = fs::create_dir_all(&self.folder).and_then(|()| durable::replace(&path, &envelope.bytes));
            kept.map_err(|e| stored_failed(&path, &e))
        })
    }
}

impl Served {
    /// What the release keys say lies beside the releases.
    async fn of_vendor(&self, relative: &str) -> Result<Envelope, DocumentError> {
        let Some(base) = &self.base else {
            let detail = "source.url is not configured".to_owned();
            return Err(DocumentError { reason: Reason::NoUpdate, detail, retry_after: None });
        };
        self.fetch(base, relative).await.map_err(|(at, e)| failed(&at, &e))
    }

    async fn fetch(&self, base: &str, relative: &str) -> Result<Envelope, (String, FetchError)> {
        let at = format!("{base}/{relative}");
        let location = Location::parse(&at).map_err(|e| (at.clone(), e))?;
        match fetch(&self.client, &location, DOCUMENT_LIMIT).await {
            Ok(bytes) => Ok(Envelope { bytes, origin: at, live: true }),
            Err(e) => Err((at, e)),
        }
    }

    fn stored(&self, region: &str, channel: &str) -> PathBuf {
        let plain = |text: &str| -> String {
            text.chars().map(|c| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '_' }).collect()
        };
        self.folder.join(format!("{}.{}.dsse.json", plain(region), plain(channel)))
    }
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::metadata(path) {
        Ok(meta) if meta.len() > DOCUMENT_LIMIT => Err(io::Error::other("larger than a document may be")),
        Ok(_) => fs::read(path).map(Some),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn is_missing(error: &FetchError) -> bool {
    matches!(error, FetchError::Status { status: 404 | 410, .. })
}

fn failed(at: &str, error: &FetchError) -> DocumentError {
    let detail = format!("{at}: {}", chain(error));
    DocumentError { reason: error.reason(), detail, retry_after: error.retry_after() }
}

fn stored_failed(path: &Path, error: &io::Error) -> DocumentError {
    let detail = format!("{}: {error}", path.display());
    DocumentError { reason: Reason::WriteError, detail, retry_after: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Settings;

    fn served(base: &Path, state: &Path) -> Served {
        let base = base.display().to_string();
        Served {
            client: Client::new(&Settings::default()).unwrap(),
            base: Some(base.clone()),
            approvals: vec!["/nonexistent".into(), base],
            region: "eu-west".into(),
            channel: "stable".into(),
            folder: state.join("approvals"),
        }
    }

    #[tokio::test]
    async fn every_mirror_is_asked_and_the_newest_is_kept_for_later() {
        let (tree, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(tree.path().join("approvals/eu-west")).unwrap();
        fs::write(tree.path().join("approvals/eu-west/stable.dsse.json"), b"document").unwrap();
        let served = served(tree.path(), state.path());
        let (found, failures) = served.approvals("eu-west", "stable", true).await;
        assert_eq!((found.len(), failures.len()), (1, 1));
        assert!(found[0].live);
        served.keep(&found[0]).await.unwrap();
        served.keep(&found[0]).await.unwrap();

        let (found, failures) = served.approvals("eu-west", "stable", false).await;
        assert!(failures.is_empty(), "{failures:?}");
        assert_eq!((found[0].bytes.as_slice(), found[0].live), (b"document".as_slice(), false));
        let (found, _) = served.approvals("../../etc", "passwd", false).await;
        assert!(found.is_empty());
    }

    #[tokio::test]
    async fn what_is_not_there_has_a_reason() {
        let (tree, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut served = served(tree.path(), state.path());
        assert!(served.channel("stable").await.is_err());
        served.base = None;
        assert_eq!(served.channel("stable").await.unwrap_err().reason, Reason::NoUpdate);
    }
}
