//! Bytes of a bundle by range: the seam between the install pipeline and wherever the bundle lies.
//!
//! Two real versions (web with mirrors, local file); tests add a faulty one. What comes out is never trusted: every
//! frame is checked against the signed index by whoever asked.

use std::fs::File;
use std::future::Future;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use super::error::FetchError;

/// A future that may be moved between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Bytes coming in.
pub trait ByteStream: Send {
    /// The next bytes; `None` at the end of the range.
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, FetchError>>;
}

/// A bundle of which any part can be read.
pub trait RangeSource: Send + Sync {
    /// Reads `start..end`. Fewer bytes may come before the end; the caller asks again from where it stopped.
    fn open(&self, start: u64, end: u64) -> BoxFuture<'_, Result<Box<dyn ByteStream>, FetchError>>;

    /// Told when a stream or an open failed, so that the next `open` may go elsewhere.
    fn failed(&self, error: &FetchError);

    /// How many places there are to go to.
    fn places(&self) -> usize {
        1
    }
}

/// Size of one read from a local file: large enough for a USB stick, small beside the memory budget.
const LOCAL_READ: u64 = 256 << 10;

/// A bundle in a local file.
#[derive(Debug)]
pub struct LocalFile {
    path: PathBuf,
    file: Arc<File>,
}

impl LocalFile {
    /// Takes an open regular file.
    #[must_use]
    pub fn new(path: &Path, file: File) -> Self {
        Self { path: path.to_owned(), file: Arc::new(file) }
    }
}

impl RangeSource for LocalFile {
    fn open(&self, start: u64, end: u64) -> BoxFuture<'_, Result<Box<dyn ByteStream>, FetchError>> {
        let stream = LocalStream { path: self.path.clone(), file: Arc::clone(&self.file), position: start, end };
        Box::pin(async move { Ok(Box::new(stream) as Box<dyn ByteStream>) })
    }

    fn failed(&self, _error: &FetchError) {}
}

struct LocalStream {
    path: PathBuf,
    file: Arc<File>,
    position: u64,
    end: u64,
}

impl ByteStream for LocalStream {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, FetchError>> {
        Box::pin(async move {
            let wanted = (self.end - self.position).min(LOCAL_READ);
            if wanted == 0 {
                return Ok(None);
            }
            let (file, position) = (Arc::clone(&self.file), self.position);
            let read = tokio::task::spawn_blocking(move || {
                let mut buffer = vec![0; usize::try_from(wanted).unwrap_or(0)];
                file.read_at(&mut buffer, position).map(|count| {
                    buffer.truncate(count);
                    buffer
                })
            });
            let bytes = match read.await {
                Ok(Ok(bytes)) => bytes,
                Ok(Err(source)) => return Err(FetchError::File { path: self.path.display().to_string(), source }),
                Err(_) => return Err(FetchError::Cancelled),
            };
            if bytes.is_empty() {
                let host = self.path.display().to_string();
                return Err(FetchError::Truncated { host, missing: self.end - self.position });
            }
            self.position += bytes.len() as u64;
            Ok(Some(bytes.into()))
        })
    }
}
