//! One connection: requests answered one after the other, files only, below the root only.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read as _, Seek as _, SeekFrom, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use super::request::{self, Range, Request};

/// A client that says nothing for this long is gone.
const IDLE: Duration = Duration::from_secs(60);

pub fn handle(stream: TcpStream, root: &Path, log: bool) -> io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = BufWriter::with_capacity(64 << 10, stream);
    while let Some(request) = request::read(&mut reader)? {
        let status = answer(&request, root, &mut writer)?;
        writer.flush()?;
        if log {
            eprintln!("{status} {} {} {}", request.method, request.target, request.range.as_deref().unwrap_or(""));
        }
        if !request.keep_alive {
            break;
        }
    }
    Ok(())
}

fn answer(request: &Request, root: &Path, out: &mut impl Write) -> io::Result<u16> {
    if request.method != "GET" && request.method != "HEAD" {
        return plain(out, request, 405, "Method Not Allowed", "Allow: GET, HEAD\r\n");
    }
    let opened = request::path(root, &request.target).and_then(|path| open(root, &path));
    let Some((file, len, etag)) = opened else {
        return plain(out, request, 404, "Not Found", "");
    };
    let tag = format!("ETag: {etag}\r\n");
    if request.if_none_match.as_deref().is_some_and(|tags| tags.split(',').any(|tag| tag.trim() == etag)) {
        return plain(out, request, 304, "Not Modified", &tag);
    }
    // A range of what the client began to fetch; of anything else it must get the whole.
    let same = request.if_range.as_deref().is_none_or(|tag| tag == etag);
    let wanted = if same { request.range.as_deref() } else { None };
    match request::range(wanted, len) {
        Range::Unsatisfiable => {
            plain(out, request, 416, "Range Not Satisfiable", &format!("Content-Range: bytes */{len}\r\n"))
        }
        Range::Whole => body(out, request, file, (0, len), 200, "OK", &tag),
        Range::Part(first, last) => {
            let headers = format!("{tag}Content-Range: bytes {first}-{last}/{len}\r\n");
            body(out, request, file, (first, last - first + 1), 206, "Partial Content", &headers)
        }
    }
}

/// Opens a plain file whose real path (links followed) is still below the root.
fn open(root: &Path, path: &Path) -> Option<(File, u64, String)> {
    let real = std::fs::canonicalize(path).ok().filter(|real| real.starts_with(root))?;
    let file = File::open(real).ok()?;
    let facts = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    // Documents are replaced by rename, so the inode alone tells versions apart.
    let etag = format!("\"{:x}-{:x}-{:x}.{:x}\"", facts.ino(), facts.len(), facts.mtime(), facts.mtime_nsec());
    Some((file, facts.len(), etag))
}

fn plain(out: &mut impl Write, request: &Request, status: u16, text: &str, headers: &str) -> io::Result<u16> {
    let content = if status == 304 { String::new() } else { format!("{status} {text}\n") };
    head(out, request, status, text, content.len() as u64, headers)?;
    if request.method != "HEAD" {
        out.write_all(content.as_bytes())?;
    }
    Ok(status)
}

fn body(
    out: &mut impl Write,
    request: &Request,
    mut file: File,
    (start, len): (u64, u64),
    status: u16,
    text: &str,
    headers: &str,
) -> io::Result<u16> {
    head(out, request, status, text, len, &format!("{headers}Accept-Ranges: bytes\r\n"))?;
    if request.method != "HEAD" {
        file.seek(SeekFrom::Start(start))?;
        let sent = io::copy(&mut file.take(len), out)?;
        if sent < len {
            // Shorter than promised: the client must not take what follows for content.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(status)
}

fn head(out: &mut impl Write, request: &Request, status: u16, text: &str, len: u64, headers: &str) -> io::Result<()> {
    let connection = if request.keep_alive { "keep-alive" } else { "close" };
    write!(
        out,
        "HTTP/1.1 {status} {text}\r\nContent-Length: {len}\r\nContent-Type: application/octet-stream\r\n\
         {headers}Connection: {connection}\r\n\r\n"
    )
}
