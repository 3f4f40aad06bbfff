//! Requests and the ranges in them: parsing only.

use std::io::{self, BufRead, Read as _};
use std::path::{Component, Path, PathBuf};

/// Most bytes of a request's head.
const MAX_HEAD: u64 = 16 << 10;

/// What we need of a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub keep_alive: bool,
    pub range: Option<String>,
    pub if_none_match: Option<String>,
    pub if_range: Option<String>,
}

/// Reads one request head; none when the client is done.
pub fn read(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut head = reader.take(MAX_HEAD);
    let mut line = String::new();
    if head.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "not an HTTP request");
    let mut words = line.split_ascii_whitespace();
    let (method, target, version) =
        words.next().zip(words.next()).zip(words.next()).map(|((a, b), c)| (a, b, c)).ok_or_else(bad)?;
    let mut request = Request {
        method: method.to_owned(),
        target: target.to_owned(),
        keep_alive: version == "HTTP/1.1",
        ..Request::default()
    };
    loop {
        let mut line = String::new();
        if head.read_line(&mut line)? == 0 {
            return Err(bad());
        }
        let line = line.trim_end();
        if line.is_empty() {
            return Ok(Some(request));
        }
        let (name, value) = line.split_once(':').ok_or_else(bad)?;
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "range" => request.range = Some(value.to_owned()),
            "if-none-match" => request.if_none_match = Some(value.to_owned()),
            "if-range" => request.if_range = Some(value.to_owned()),
            "connection" => request.keep_alive &= !value.eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
}

/// The file a target means, below `root`; none when it tries to leave.
pub fn path(root: &Path, target: &str) -> Option<PathBuf> {
    let target = target.split(['?', '#']).next()?;
    let decoded = percent_decode(target.strip_prefix('/')?)?;
    let relative = Path::new(&decoded);
    let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    (plain && !decoded.contains('\0')).then(|| root.join(relative))
}

fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first == b'%' {
            let (digits, after) = rest.split_first_chunk::<2>()?;
            out.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = after;
        } else {
            out.push(*first);
        }
    }
    String::from_utf8(out).ok()
}

/// A byte range of a file (RFC 9110, section 14).
#[derive(Debug, PartialEq, Eq)]
pub enum Range {
    /// No range, several, or one we do not understand: the whole file.
    Whole,
    /// From the first to the last byte, both included.
    Part(u64, u64),
    /// Behind the end.
    Unsatisfiable,
}

/// The range a header asks for, of a file of `len` bytes.
pub fn range(header: Option<&str>, len: u64) -> Range {
    let Some((first, last)) = header.and_then(|text| text.strip_prefix("bytes=")).and_then(|text| text.split_once('-'))
    else {
        return Range::Whole;
    };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let (start, end) = match (number(first), number(last)) {
        (Some(start), Some(end)) if start <= end => (start, end.min(len.saturating_sub(1))),
        (Some(start), None) if last.trim().is_empty() => (start, len.saturating_sub(1)),
        (None, Some(0)) if first.trim().is_empty() => return Range::Unsatisfiable,
        (None, Some(count)) if first.trim().is_empty() => (len.saturating_sub(count), len.saturating_sub(1)),
        _ => return Range::Whole,
    };
    if start >= len { Range::Unsatisfiable } else { Range::Part(start, end) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(range(None, 10), Range::Whole);
        assert_eq!(range(Some("bytes=2-4"), 10), Range::Part(2, 4));
        assert_eq!(range(Some("bytes=2-"), 10), Range::Part(2, 9));
        assert_eq!(range(Some("bytes=-3"), 10), Range::Part(7, 9));
        assert_eq!(range(Some("bytes=-30"), 10), Range::Part(0, 9));
        assert_eq!(range(Some("bytes=5-99"), 10), Range::Part(5, 9));
        assert_eq!(range(Some("bytes=10-"), 10), Range::Unsatisfiable);
        assert_eq!(range(Some("bytes=-0"), 10), Range::Unsatisfiable);
        assert_eq!(range(Some("bytes=0-0"), 0), Range::Unsatisfiable);
        for odd in ["bytes=1-2,4-5", "bytes=5-2", "lines=1-2", "bytes=x-y", "bytes="] {
            assert_eq!(range(Some(odd), 10), Range::Whole, "{odd}");
        }
    }

    #[test]
    fn paths_stay_below_the_root() {
        let root = Path::new("/r");
        assert_eq!(path(root, "/a/b?x=1"), Some("/r/a/b".into()));
        assert_eq!(path(root, "/a%20b"), Some("/r/a b".into()));
        for bad in ["/../x", "/a/../../x", "/%2e%2e/x", "//etc/passwd", "x", "/a%00", "/%zz", "/%2"] {
            assert_eq!(path(root, bad), None, "{bad}");
        }
    }

    #[test]
    fn heads_are_read_and_bounded() {
        let head = b"GET /x HTTP/1.1\r\nRange: bytes=1-2\r\nX: y\r\nConnection: close\r\n\r\n";
        let request = read(&mut head.as_slice()).unwrap().unwrap();
        assert_eq!((request.target.as_str(), request.keep_alive), ("/x", false));
        assert_eq!(request.range.as_deref(), Some("bytes=1-2"));
        assert!(read(&mut b"".as_slice()).unwrap().is_none());
        assert!(read(&mut b"hello\r\n\r\n".as_slice()).is_err());
        let endless = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'x'; 20_000]].concat();
        assert!(read(&mut endless.as_slice()).is_err());
    }
}
