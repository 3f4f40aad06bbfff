//! The part of HTTP/1.1 that fetching files and posting reports need: request line, a few headers, one byte range. Pure.

use std::ops::Range;

use anyhow::{Context, Result, bail};

/// Longest request head taken, bytes.
pub const MAX_HEAD: usize = 16 << 10;

/// One request, as far as a file server cares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `HEAD`, …
    pub method: String,
    /// Decoded path without query, starting with `/`.
    pub path: String,
    /// Value of `Range`.
    pub range: Option<String>,
    /// Value of `If-Range`.
    pub if_range: Option<String>,
    /// Value of `If-None-Match`.
    pub if_none_match: Option<String>,
    /// Length of the body that follows, bytes.
    pub length: usize,
    /// The client asked for the connection to be closed.
    pub close: bool,
}

/// Parses a request head, without the empty line that ends it.
///
/// # Errors
/// Not HTTP, or a path that leaves the tree.
pub fn parse(head: &str) -> Result<Request> {
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().context("no target")?);
    if words.next().is_none_or(|v| !v.starts_with("HTTP/1.")) {
        bail!("not HTTP/1");
    }
    let mut request = Request { method: method.into(), path: path(target)?, ..Request::default() };
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim().to_owned();
        match name.to_ascii_lowercase().as_str() {
            "range" => request.range = Some(value),
            "if-range" => request.if_range = Some(value),
            "if-none-match" => request.if_none_match = Some(value),
            "content-length" => request.length = value.parse().context("bad length")?,
            "connection" => request.close = value.eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
    Ok(request)
}

fn path(target: &str) -> Result<String> {
    let raw = target.split(['?', '#']).next().unwrap_or_default();
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        match (first, tail) {
            (b'%', [high, low, after @ ..]) => {
                let digits = [*high, *low];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits)?, 16).context("bad % in path")?);
                rest = after;
            }
            _ => bytes.push(*first),
        }
    }
    let path = String::from_utf8(bytes)?;
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") || path.contains('\0') {
        bail!("path {path:?} leaves the tree");
    }
    Ok(path)
}

/// What a `Range` header means for a body of `size` bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Send everything (no range, several ranges, or one we do not understand; RFC 9110 14.2 allows it).
    Whole,
    /// Send these bytes with status 206.
    Bytes(Range<u64>),
    /// Nothing of it exists: status 416.
    Unsatisfiable,
}

/// Resolves a `Range` header.
#[must_use]
pub fn part(range: Option<&str>, size: u64) -> Part {
    let Some(spec) = range.and_then(|r| r.trim().strip_prefix("bytes=")) else { return Part::Whole };
    let Some((first, last)) = spec.split_once('-') else { return Part::Whole };
    match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), _) if first >= size => Part::Unsatisfiable,
        (Ok(first), Ok(last)) if last < first => Part::Whole,
        (Ok(first), Ok(last)) => Part::Bytes(first..last.saturating_add(1).min(size)),
        (Ok(first), Err(_)) if last.trim().is_empty() => Part::Bytes(first..size),
        (Err(_), Ok(0)) if first.trim().is_empty() => Part::Unsatisfiable,
        (Err(_), Ok(suffix)) if first.trim().is_empty() => Part::Bytes(size.saturating_sub(suffix)..size),
        _ => Part::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_understood() {
        let r = parse("GET /a%20b/c?x=1 HTTP/1.1\r\nHost: h\r\nRANGE:  bytes=1-2\r\nConnection: Close").unwrap();
        assert_eq!((r.method.as_str(), r.path.as_str()), ("GET", "/a b/c"));
        assert_eq!(r.range.as_deref(), Some("bytes=1-2"));
        assert!(r.close);
    }

    #[test]
    fn nothing_leaves_the_tree() {
        for bad in ["GET /../etc/passwd HTTP/1.1", "GET /a/%2e%2e/b HTTP/1.1", "GET etc HTTP/1.1", "GET / FTP/1", "x"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ranges_as_the_standard_says() {
        for (header, want) in [
            (None, Part::Whole),
            (Some("bytes=0-0"), Part::Bytes(0..1)),
            (Some("bytes=2-"), Part::Bytes(2..10)),
            (Some("bytes=-3"), Part::Bytes(7..10)),
            (Some("bytes=-30"), Part::Bytes(0..10)),
            (Some("bytes=4-99"), Part::Bytes(4..10)),
            (Some("bytes=10-"), Part::Unsatisfiable),
            (Some("bytes=-0"), Part::Unsatisfiable),
            (Some("bytes=5-4"), Part::Whole),
            (Some("bytes=0-1,3-4"), Part::Whole),
            (Some("lines=1-2"), Part::Whole),
            (Some("bytes=0-18446744073709551615"), Part::Bytes(0..10)),
        ] {
            assert_eq!(part(header, 10), want, "{header:?}");
        }
    }
}
