//! Opens a bundle wherever it is: by range where that is possible, as a stream where not.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use updater_core::release::Source;

use super::error::Error;
use crate::http::mirrors::{Mirrors, Opened};
use crate::http::retry::{Patience, pause_after};
use crate::http::source::{ByteStream, LocalFile, RangeSource};
use crate::http::{Client, FetchError, Location};

/// First request: the envelope and, for most releases, every index. One round trip on a slow line; asked again by each
/// resumed install, so no more than that.
const FIRST: u64 = 64 << 10;

/// Pieces of a stream that wait to be read.
const WAITING_PIECES: usize = 4;

/// An opened bundle.
pub enum Access {
    /// Any part can be read; here are the first bytes.
    Ranged(Arc<dyn RangeSource>, Vec<u8>),
    /// Only from start to end.
    Stream(Box<dyn Read + Send>),
}

/// The places a source names.
///
/// # Errors
/// [`Error::Fetch`] when one is no address, or a relative one has no base.
pub fn places(source: &Source, base: Option<&str>) -> Result<Vec<Location>, Error> {
    let one = |text: &String| match (Location::parse(text), base) {
        (Err(_), Some(base)) => Location::join(base, text),
        (parsed, _) => parsed,
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
pub async fn open(client: &Client, places: Vec<Location>, patience: Patience) -> Result<Access, Error> {
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
        Some(Location::Stdin) => Ok(Access::Stream(Box::new(io::stdin()))),
        Some(Location::File(path)) => {
            let failed = |source| FetchError::File { path: path.display().to_string(), source };
            let file = File::open(&path).map_err(failed)?;
            if file.metadata().map_err(failed)?.is_file() {
                Ok(Access::Ranged(Arc::new(LocalFile::new(&path, file)), Vec::new()))
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
                return Ok(Access::Ranged(Arc::new(mirrors), first));
            }
            Err(error) => {
                failures += 1;
                pause_after(&mirrors, patience, failures, error).await?;
            }
        }
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
