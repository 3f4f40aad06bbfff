//! A bundle on one or several web servers, read by range.
//!
//! The first request decides: a server that answers 206 is read by range from then on, with `If-Range` so that a
//! file exchanged in mid-download is noticed; one that answers 200 can only be read from start to end.

use std::sync::Mutex;

use bytes::Bytes;
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, IF_RANGE, LAST_MODIFIED, RANGE};
use reqwest::{StatusCode, Url};

use super::body::Body;
use super::client::{Client, Head};
use super::error::FetchError;
use super::source::{BoxFuture, ByteStream, RangeSource};

/// What the server said of the file when it was first seen.
#[derive(Debug, Clone, Default, PartialEq)]
struct Seen {
    /// Strong ETag, or `Last-Modified` where there is none: what `If-Range` may carry (RFC 9110, 13.1.5).
    validator: Option<HeaderValue>,
    /// Size of the whole file.
    total: Option<u64>,
}

/// Which mirror is in use.
#[derive(Debug, Default)]
struct Current {
    index: usize,
    seen: Option<Seen>,
}

/// A bundle on the web.
#[derive(Debug)]
pub struct Mirrors {
    client: Client,
    urls: Vec<Url>,
    current: Mutex<Current>,
}

/// What the first request brought.
pub enum Opened {
    /// The server gives ranges; here is the first one.
    Ranged(Box<dyn ByteStream>),
    /// It does not; here is the whole file.
    Whole(Box<dyn ByteStream>),
}

impl Mirrors {
    /// The same file at several addresses, first choice first.
    ///
    /// # Errors
    /// [`FetchError::Address`] when there is no address at all.
    pub fn new(client: Client, urls: Vec<Url>) -> Result<Self, FetchError> {
        if urls.is_empty() {
            return Err(FetchError::Address("no address".into()));
        }
        Ok(Self { client, urls, current: Mutex::default() })
    }

    /// Asks for the first `bytes` of the file and so finds out what the server can do.
    ///
    /// # Errors
    /// [`FetchError`] of the mirror in use.
    pub async fn first(&self, bytes: u64) -> Result<Opened, FetchError> {
        let (index, url, _) = self.now();
        let (head, body) = self.client.get(&url, range_headers(0, bytes, None)).await?;
        if head.status != StatusCode::PARTIAL_CONTENT {
            return Ok(Opened::Whole(Box::new(WebStream(body))));
        }
        let seen = check_part(&head, body.host(), 0, bytes)?;
        self.remember(index, seen);
        Ok(Opened::Ranged(Box::new(WebStream(body))))
    }

    /// The mirror in use. A poisoned lock only means that a test panicked; the data is whole.
    fn now(&self) -> (usize, Url, Option<Seen>) {
        let current = self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let index = current.index % self.urls.len();
        // `new` refused an empty list, so the first is always there.
        let url = self.urls.get(index).or(self.urls.first()).cloned();
        (
            index,
            url.unwrap_or_else(|| Url::parse("http://invalid.invalid/").unwrap_or_else(|_| unreachable!())),
            current.seen.clone(),
        )
    }

    fn remember(&self, index: usize, seen: Seen) {
        let mut current = self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if current.index % self.urls.len() == index && current.seen.is_none() {
            current.seen = Some(seen);
        }
    }

    async fn part(&self, start: u64, end: u64) -> Result<Box<dyn ByteStream>, FetchError> {
        let (index, url, seen) = self.now();
        let validator = seen.as_ref().and_then(|seen| seen.validator.as_ref());
        let (head, body) = self.client.get(&url, range_headers(start, end, validator)).await?;
        let host = body.host().to_owned();
        if head.status != StatusCode::PARTIAL_CONTENT {
            // With If-Range, 200 means "it is another file now"; without, the server stopped giving ranges.
            return Err(if validator.is_some() {
                FetchError::Changed { host }
            } else {
                FetchError::WrongRange { host }
            });
        }
        let now = check_part(&head, &host, start, end)?;
        match seen {
            None => self.remember(index, now),
            // A server may ignore If-Range; the answer still tells.
            Some(before) if before != now => return Err(FetchError::Changed { host }),
            Some(_) => {}
        }
        Ok(Box::new(WebStream(body)))
    }
}

impl RangeSource for Mirrors {
    fn open(&self, start: u64, end: u64) -> BoxFuture<'_, Result<Box<dyn ByteStream>, FetchError>> {
        Box::pin(self.part(start, end))
    }

    fn failed(&self, error: &FetchError) {
        let mut current = self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // A changed ETag alone does not condemn a mirror: servers behind one name often disagree on it. Forget what
        // was seen; the digests decide whether the content is right.
        current.seen = None;
        if !matches!(error, FetchError::Changed { .. }) {
            current.index = (current.index + 1) % self.urls.len();
        }
    }

    fn places(&self) -> usize {
        self.urls.len()
    }
}

/// A body as a stream.
pub struct WebStream(pub Body);

impl ByteStream for WebStream {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, FetchError>> {
        Box::pin(self.0.chunk())
    }
}

fn range_headers(start: u64, end: u64, validator: Option<&HeaderValue>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(&format!("bytes={start}-{}", end.saturating_sub(1))) {
        headers.insert(RANGE, value);
    }
    if let Some(validator) = validator {
        headers.insert(IF_RANGE, validator.clone());
    }
    headers
}

/// Checks that a 206 is the part that was asked for (it may end earlier: the file may, and servers may cut).
fn check_part(head: &Head, host: &str, start: u64, end: u64) -> Result<Seen, FetchError> {
    let wrong = || FetchError::WrongRange { host: host.to_owned() };
    let text = head.headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).ok_or_else(wrong)?;
    let (first, last, total) = content_range(text).ok_or_else(wrong)?;
    if first != start || last < first || last >= end {
        return Err(wrong());
    }
    let strong = head.headers.get(ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/"));
    let validator = strong.or_else(|| head.headers.get(LAST_MODIFIED)).cloned();
    Ok(Seen { validator, total })
}

/// `bytes 0-99/1234` or `bytes 0-99/*` (RFC 9110, 14.4).
fn content_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((first.parse().ok()?, last.parse().ok()?, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        assert_eq!(content_range("bytes 0-99/1234"), Some((0, 99, Some(1234))));
        assert_eq!(content_range("bytes 5-5/*"), Some((5, 5, None)));
        for bad in ["bytes */1234", "0-99/100", "bytes 0-/100", "bytes -1-2/3"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_part_must_be_the_one_asked_for() {
        let head = |range: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_RANGE, HeaderValue::from_static(range));
            headers.insert(ETAG, HeaderValue::from_static("W/\"weak\""));
            headers.insert(LAST_MODIFIED, HeaderValue::from_static("Wed, 21 Oct 2015 07:28:00 GMT"));
            Head { status: StatusCode::PARTIAL_CONTENT, headers }
        };
        let seen = check_part(&head("bytes 10-19/100"), "h", 10, 20).unwrap();
        assert_eq!(seen.total, Some(100));
        assert_eq!(
            seen.validator,
            Some(HeaderValue::from_static("Wed, 21 Oct 2015 07:28:00 GMT")),
            "weak tags do not do"
        );
        check_part(&head("bytes 10-15/100"), "h", 10, 20).unwrap();
        for wrong in ["bytes 9-19/100", "bytes 10-20/100", "bytes 0-9/100"] {
            assert!(matches!(check_part(&head(wrong), "h", 10, 20), Err(FetchError::WrongRange { .. })), "{wrong}");
        }
    }
}
