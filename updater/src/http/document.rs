//! Fetches one small document, from the web or a local folder, never more than its limit.

use std::io::Read as _;

use reqwest::header::{ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH};

use super::client::Client;
use super::error::FetchError;
use super::local;
use super::location::Location;

/// Most bytes any signed document may have.
pub const DOCUMENT_LIMIT: u64 = 1 << 20;

/// A document as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The server's name for this content (RFC 9110, 8.8.3).
    pub etag: Option<String>,
}

/// The document at `location`, at most `limit` bytes.
///
/// # Errors
/// [`FetchError`]; a longer document is refused before more than `limit` bytes of it were read.
pub async fn fetch(client: &Client, location: &Location, limit: u64) -> Result<Vec<u8>, FetchError> {
    let document = fetch_unless(client, location, limit, None).await?;
    document.map(|document| document.bytes).ok_or_else(|| FetchError::Address(location.to_string()))
}

/// The same, unless the server still calls it `known`: none then.
///
/// # Errors
/// As [`fetch`].
pub async fn fetch_unless(
    client: &Client,
    location: &Location,
    limit: u64,
    known: Option<&str>,
) -> Result<Option<Document>, FetchError> {
    match location {
        Location::Web(url) => {
            let mut headers = HeaderMap::new();
            let known = known.and_then(|tag| HeaderValue::from_str(tag).ok());
            let asked = known.map(|tag| headers.insert(IF_NONE_MATCH, tag)).is_some();
            let (head, mut body) = match client.get(url, headers).await {
                Err(FetchError::Status { status: 304, .. }) if asked => return Ok(None),
                other => other?,
            };
            let etag = head.headers.get(ETAG).and_then(|tag| tag.to_str().ok()).map(ToOwned::to_owned);
            if body.remaining().is_some_and(|announced| announced > limit) {
                return Err(FetchError::TooLarge { limit });
            }
            let mut bytes = Vec::new();
            while let Some(chunk) = body.chunk().await? {
                if bytes.len() as u64 + chunk.len() as u64 > limit {
                    return Err(FetchError::TooLarge { limit });
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(Some(Document { bytes, etag }))
        }
        Location::File(path) => {
            let failed = |source| FetchError::File { path: path.display().to_string(), source };
            let mut bytes = Vec::new();
            local::open_regular(path).await.map_err(failed)?.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
            if bytes.len() as u64 > limit {
                return Err(FetchError::TooLarge { limit });
            }
            Ok(Some(Document { bytes, etag: None }))
        }
        Location::Stdin => Err(FetchError::Address("-".into())),
    }
}

/// The first of several places that answers; the error is that of the last.
///
/// # Errors
/// [`FetchError`] when none answered.
pub async fn fetch_any(client: &Client, locations: &[Location], limit: u64) -> Result<Vec<u8>, FetchError> {
    let mut last = FetchError::Address("no address".into());
    for location in locations {
        match fetch(client, location, limit).await {
            Ok(bytes) => return Ok(bytes),
            Err(error) => {
                tracing::info!(%location, %error, "no document there");
                last = error;
            }
        }
    }
    Err(last)
}
