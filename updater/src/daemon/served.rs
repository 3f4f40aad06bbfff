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
use std::sync::{Mutex, PoisonError};

use bundle::digest::Digest;
use bundle::reason::Reason;
use serde::{Deserialize, Serialize};

use crate::http::document::{DOCUMENT_LIMIT, Document, fetch, fetch_unless};
use crate::http::{Client, FetchError, Location};
use crate::seams::{ApprovalSource, BoxFuture, DocumentError, Envelope, ReleaseSource};
use crate::store::durable;
use crate::system::chain;

/// The served tree and the stored copies.
#[derive(Debug)]
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
    /// What servers called the approvals of this check.
    pub(super) tags: Mutex<Vec<Tag>>,
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
                match self.fetch_approval(base, region, channel).await {
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
            let same = matches!(read(&path), Ok(Some(bytes)) if bytes == envelope.bytes);
            let kept = if same { Ok(()) } else { durable::replace(&path, &envelope.bytes) };
            kept.map_err(|e| stored_failed(&path, &e))?;
            self.remember_tag(envelope).map_err(|e| stored_failed(&self.tag_file(), &e))
        })
    }
}

/// What a server called the approval that is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tag {
    /// Where.
    origin: String,
    /// Its name for it.
    etag: String,
    /// Of which bytes.
    sha256: Digest,
}

impl Served {
    /// The approval of one mirror. One that it still calls by the stored copy's name is that copy, seen just now.
    async fn fetch_approval(&self, base: &str, region: &str, channel: &str) -> Result<Envelope, (String, FetchError)> {
        // The file itself, where somebody carries just that: on a stick, for instance.
        let at = if base.ends_with(".dsse.json") {
            base.to_owned()
        } else {
            format!("{base}/approvals/{region}/{channel}.dsse.json")
        };
        let location = Location::parse(&at).map_err(|e| (at.clone(), e))?;
        let stored = read(&self.stored(region, channel)).ok().flatten();
        let tag: Option<Tag> = fs::read(self.tag_file()).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let known =
            stored.zip(tag.filter(|tag| tag.origin == at)).filter(|(stored, tag)| Digest::of(stored) == tag.sha256);
        let etag = known.as_ref().map(|(_, tag)| tag.etag.as_str());
        let bytes = match fetch_unless(&self.client, &location, DOCUMENT_LIMIT, etag).await {
            Ok(Some(Document { bytes, etag })) => {
                let sha256 = Digest::of(&bytes);
                let seen = etag.map(|etag| Tag { origin: at.clone(), etag, sha256 });
                self.tags.lock().unwrap_or_else(PoisonError::into_inner).extend(seen);
                bytes
            }
            Ok(None) => known.map(|(stored, _)| stored).unwrap_or_default(),
            Err(e) => return Err((at, e)),
        };
        Ok(Envelope { bytes, origin: at, live: true })
    }

    fn tag_file(&self) -> PathBuf {
        self.stored(&self.region, &self.channel).with_extension("tag")
    }

    fn remember_tag(&self, envelope: &Envelope) -> io::Result<()> {
        let mut tags = self.tags.lock().unwrap_or_else(PoisonError::into_inner);
        let sha256 = Digest::of(&envelope.bytes);
        let tag = tags.drain(..).find(|tag| tag.origin == envelope.origin && tag.sha256 == sha256);
        tag.map_or(Ok(()), |tag| durable::replace(&self.tag_file(), &serde_json::to_vec(&tag)?))
    }

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
    match error {
        FetchError::Status { status: 404 | 410, .. } => true,
        // A medium that is not plugged in.
        FetchError::File { source, .. } => source.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
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
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::{TcpListener, TcpStream};

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
            tags: Mutex::default(),
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
    async fn an_approval_comes_on_a_medium_as_a_folder_or_as_the_file_alone() {
        let (stick, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(stick.path().join("eu-west.dsse.json"), b"carried").unwrap();
        let file = stick.path().join("eu-west.dsse.json").display().to_string();
        let places = vec!["/media/not-plugged-in".into(), file.clone(), format!("file://{file}")];
        let served = Served { approvals: places, ..served(stick.path(), state.path()) };
        let (found, failures) = served.approvals("eu-west", "stable", true).await;
        assert!(found.len() == 2 && found.iter().all(|each| each.live && each.bytes == b"carried"));
        assert_eq!(failures.len(), 1);
        assert_eq!(failures[0].reason, Reason::ApprovalMissing);
    }

    /// A server that calls its approval `"v1"`; gives the requests it saw.
    fn tagging_server(answers: usize) -> (String, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let serve = move || {
            let answer = |stream: TcpStream| {
                let mut reader = BufReader::new(stream);
                let mut request = String::new();
                while !request.ends_with("\r\n\r\n") {
                    reader.read_line(&mut request).unwrap();
                }
                let answer = if request.contains("if-none-match: \"v1\"") {
                    "HTTP/1.1 304 x\r\netag: \"v1\"\r\nconnection: close\r\n\r\n".to_owned()
                } else {
                    let head = "HTTP/1.1 200 x\r\netag: \"v1\"\r\ncontent-length: 8\r\nconnection: close\r\n\r\n";
                    format!("{head}document")
                };
                reader.get_mut().write_all(answer.as_bytes()).unwrap();
                request
            };
            (0..answers).map(|_| answer(listener.accept().unwrap().0)).collect()
        };
        (base, std::thread::spawn(serve))
    }

    #[tokio::test]
    async fn an_unchanged_approval_is_not_sent_again_and_counts_as_seen_now() {
        let state = tempfile::tempdir().unwrap();
        let (base, server) = tagging_server(3);
        let ask = async |keep: bool| {
            // Another process each time: what the server called it is on disk.
            let served = Served { approvals: vec![base.clone()], ..served(Path::new("/nonexistent"), state.path()) };
            let (found, failures) = served.approvals("eu-west", "stable", true).await;
            assert!(failures.is_empty(), "{failures:?}");
            assert_eq!((found[0].bytes.as_slice(), found[0].live), (b"document".as_slice(), true));
            if keep {
                served.keep(&found[0]).await.unwrap();
            }
        };
        ask(true).await;
        ask(true).await;
        // Damage to the stored copy costs its name: the server is asked for the whole document.
        let stored = state.path().join("approvals/eu-west.stable.dsse.json");
        fs::write(&stored, b"damaged!").unwrap();
        ask(false).await;
        let conditional: Vec<bool> = server.join().unwrap().iter().map(|r| r.contains("if-none-match")).collect();
        assert_eq!(conditional, [false, true, false]);
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
