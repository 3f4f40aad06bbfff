//! Opens a bundle wherever it is: by range where that is possible, as a stream where not.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use updater_core::release::Source;

use super::error::Error;
use crate::handed::Handed;
use crate::http::mirrors::{Mirrors, Opened};
use crate::http::retry::{Patience, pause_after};
use crate::http::source::{BoxFuture, ByteStream, LocalFile, RangeSource};
use crate::http::{Client, FetchError, Location, local};

/// First request: the envelope and, for most releases, every index. One round trip on a slow line; asked again by each
/// resumed install, so no more than that.
const FIRST: u64 = 64 << 10;

/// Pieces of a stream that wait to be read.
const WAITING_PIECES: usize = 4;

/// What a caller's standard input is called.
pub const STDIN: &str = "-";

/// An opened bundle.
pub enum Access {
    /// Any part can be read; the first bytes are here already.
    Ranged(Arc<dyn RangeSource>),
    /// Only from start to end.
    Stream(Box<dyn Read + Send>),
}

/// The places a source names. Addresses come from documents: only those of a local folder may name local files, and none
/// our standard input.
///
/// # Errors
/// [`Error::Fetch`] when one is no address, or not one that such a document may name; or a relative one has no base.
pub fn places(source: &Source, base: Option<&str>) -> Result<Vec<Location>, Error> {
    let local = base.is_some_and(|base| matches!(Location::parse(base), Ok(Location::File(_))));
    let one = |text: &String| {
        let place = match (Location::parse(text), base) {
            (Err(_), Some(base)) => Location::join(base, text)?,
            (parsed, _) => parsed?,
        };
        match place {
            Location::Web(_) => Ok(place),
            Location::File(_) if local => Ok(place),
            Location::File(_) | Location::Stdin => Err(FetchError::Address(text.clone())),
        }
    };
    match source {
        Source::Path(path) => Ok(vec![Location::parse(path)?]),
        Source::Urls(urls) => Ok(urls.iter().map(one).collect::<Result<_, _>>()?),
    }
}

/// Opens the bundle. Web addresses are mirrors of each other; otherwise the first place counts.
///
/// # Errors
/// [`Error::Fetch`] when no place answers.
pub async fn open(
    client: &Client,
    places: Vec<Location>,
    patience: Patience,
    handed: &Handed,
) -> Result<Access, Error> {
    let urls: Vec<_> = places
        .iter()
        .filter_map(|place| match place {
            Location::Web(url) => Some(url.clone()),
            _ => None,
        })
        .collect();
    if !urls.is_empty() {
        return open_web(Mirrors::new(client.clone(), urls)?, patience).await;
    }
    match places.into_iter().next() {
        Some(place @ (Location::Stdin | Location::File(_))) => {
            // Our own standard input is nobody's bundle: that of a caller comes with the request.
            let path = match place {
                Location::File(path) => path,
                _ => PathBuf::from(STDIN),
            };
            let name = path.display().to_string();
            let failed = |source| FetchError::File { path: name.clone(), source };
            // Waiting does not bring it back, so this is not what a bad line is.
            let gone = || Error::SourceGone(name.clone());
            let file = match handed.open(&name).map_err(failed)? {
                Some(file) => file,
                None if name == STDIN => return Err(gone()),
                None => local::open(&path).await.map_err(|error| match error.kind() {
                    io::ErrorKind::NotFound => gone(),
                    _ => failed(error).into(),
                })?,
            };
            if file.metadata().map_err(failed)?.is_file() {
                Ok(Access::Ranged(Arc::new(LocalFile::new(&path, file))))
            } else {
                Ok(Access::Stream(Box::new(file)))
            }
        }
        _ => Err(FetchError::Address("no place named".into()).into()),
    }
}

async fn open_web(mirrors: Mirrors, patience: Patience) -> Result<Access, Error> {
    let mut failures = 0;
    loop {
        match mirrors.first(FIRST).await {
            Ok(Opened::Whole(stream)) => return Ok(Access::Stream(Box::new(Blocking::new(stream)))),
            Ok(Opened::Ranged(mut stream)) => {
                let mut first = Vec::new();
                // What breaks here is asked for again by whoever needs it.
                while let Ok(Some(bytes)) = stream.next().await {
                    first.extend_from_slice(&bytes);
                }
                return Ok(Access::Ranged(Arc::new(Primed {
                    first: Mutex::new(first.into()),
                    rest: Arc::new(mirrors),
                })));
            }
            Err(error) => {
                failures += 1;
                pause_after(&mirrors, patience, failures, error).await?;
            }
        }
    }
}

/// A file the first bytes of which were fetched with the first answer: nothing is asked for twice, unless something
/// came wrong.
struct Primed {
    first: Mutex<Bytes>,
    rest: Arc<Mirrors>,
}

impl Primed {
    fn first(&self) -> MutexGuard<'_, Bytes> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RangeSource for Primed {
    fn open(&self, start: u64, end: u64) -> BoxFuture<'_, Result<Box<dyn ByteStream>, FetchError>> {
        let first = self.first().clone();
        let within = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(first.len());
        let known = first.slice(within(start)..within(end));
        if known.is_empty() {
            return self.rest.open(start, end);
        }
        let position = start + known.len() as u64;
        let stream = PrimedStream { known: Some(known), rest: Arc::clone(&self.rest), position, end, stream: None };
        Box::pin(async move { Ok(Box::new(stream) as Box<dyn ByteStream>) })
    }

    fn failed(&self, error: &FetchError) {
        // It may be these bytes that were wrong.
        self.first().clear();
        self.rest.failed(error);
    }

    fn places(&self) -> usize {
        self.rest.places()
    }
}

struct PrimedStream {
    known: Option<Bytes>,
    rest: Arc<Mirrors>,
    position: u64,
    end: u64,
    stream: Option<Box<dyn ByteStream>>,
}

impl ByteStream for PrimedStream {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, FetchError>> {
        Box::pin(async move {
            if let Some(known) = self.known.take() {
                return Ok(Some(known));
            }
            if self.position >= self.end {
                return Ok(None);
            }
            let stream = match &mut self.stream {
                Some(stream) => stream,
                None => self.stream.insert(self.rest.open(self.position, self.end).await?),
            };
            stream.next().await
        })
    }
}

/// An asynchronous stream as a blocking [`Read`]: a task pulls, a thread reads.
struct Blocking {
    pieces: mpsc::Receiver<Result<Bytes, FetchError>>,
    rest: Bytes,
    task: JoinHandle<()>,
}

impl Blocking {
    fn new(mut stream: Box<dyn ByteStream>) -> Self {
        let (sender, pieces) = mpsc::channel(WAITING_PIECES);
        let task = tokio::spawn(async move {
            while let Some(piece) = stream.next().await.transpose() {
                let failed = piece.is_err();
                if sender.send(piece).await.is_err() || failed {
                    return;
                }
            }
        });
        Self { pieces, rest: Bytes::new(), task }
    }
}

impl Drop for Blocking {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Read for Blocking {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.pieces.blocking_recv() {
                Some(Ok(bytes)) => self.rest = bytes,
                // Kept whole inside, so that the caller finds the reason again.
                Some(Err(error)) => return Err(io::Error::other(error)),
                None => return Ok(0),
            }
        }
        let count = self.rest.len().min(buffer.len());
        if let Some(start) = buffer.get_mut(..count) {
            self.rest.copy_to_slice(start);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_from_the_web_name_no_local_files() {
        let urls = |text: &str| Source::Urls(vec![text.to_owned()]);
        let shown = |source: &Source, base| {
            places(source, base).map(|places| places.iter().map(ToString::to_string).collect::<Vec<_>>()).ok()
        };
        let web = Some("https://h/root");
        assert_eq!(shown(&urls("x.bundle"), web), Some(vec!["https://h/root/x.bundle".to_owned()]));
        assert_eq!(shown(&urls("http://cdn/x"), web), Some(vec!["http://cdn/x".to_owned()]));
        for local in ["/dev/zero", "file:///etc/shadow", "-"] {
            assert_eq!(shown(&urls(local), web), None, "{local}");
            assert_eq!(shown(&urls(local), None), None, "{local}");
        }
        // A folder on a stick is its own server, and an operator may name what he wants.
        let stick = Some("/media/stick");
        assert_eq!(shown(&urls("x.bundle"), stick), Some(vec!["/media/stick/x.bundle".to_owned()]));
        assert_eq!(shown(&urls("/media/stick/x"), stick), Some(vec!["/media/stick/x".to_owned()]));
        assert_eq!(shown(&urls("-"), stick), None);
        assert_eq!(shown(&Source::Path("/x".into()), web), Some(vec!["/x".to_owned()]));
    }
}
