//! One connection: its requests, its answers, and what the faults make of them.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::fault::{Fault, TAMPER_EVERY};
use super::reports;
use super::request::{self, MAX_HEAD, Part, Request};
use super::{Shared, TICK, lock};

/// Body bytes per write; a multiple of nothing on purpose, so that readers meet odd borders.
const PIECE: usize = 24_001;

/// One connection, for as many requests as the client sends.
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) shared: Arc<Shared>,
}

impl Connection {
    /// Serves until client or server goes.
    pub(super) fn serve(mut self) {
        // Whatever goes wrong with one connection is the client's to notice.
        let _ = self.stream.set_nonblocking(false);
        let _ = self.stream.set_nodelay(true);
        let _ = self.stream.set_read_timeout(Some(TICK));
        let _ = self.stream.set_write_timeout(Some(TICK));
        let mut buffer = Vec::new();
        while let Ok(Some(head)) = self.head(&mut buffer) {
            match request::parse(&head).and_then(|request| self.exchange(&request, &mut buffer)) {
                Ok(true) => {}
                _ => break,
            }
        }
        // Closed by dropping it: `shutdown` would send an orderly end where a reset was ordered.
    }

    fn stopped(&self) -> bool {
        self.shared.stop.load(Ordering::SeqCst)
    }

    /// The next request head, `None` when the client is done.
    fn head(&mut self, buffer: &mut Vec<u8>) -> Result<Option<String>> {
        loop {
            if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                let rest = buffer.split_off(end + 4);
                let mut head = std::mem::replace(buffer, rest);
                head.truncate(end);
                return Ok(Some(String::from_utf8(head)?));
            }
            if buffer.len() > MAX_HEAD || self.stopped() {
                bail!("too long, or stopped");
            }
            if !self.more(buffer)? {
                return Ok(None);
            }
        }
    }

    /// Reads what is there; `false` when the client is done.
    fn more(&mut self, buffer: &mut Vec<u8>) -> Result<bool> {
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk) {
            Ok(0) => return Ok(false),
            Ok(n) => buffer.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(true)
    }

    /// Reads the body, when there is one, and answers; `true` when the connection can be used again.
    fn exchange(&mut self, request: &Request, buffer: &mut Vec<u8>) -> Result<bool> {
        ensure!(request.length <= reports::LONGEST, "a body of {} bytes", request.length);
        while buffer.len() < request.length {
            ensure!(!self.stopped() && self.more(buffer)?, "the body ends early");
        }
        let rest = buffer.split_off(request.length);
        let body = std::mem::replace(buffer, rest);
        self.respond(request, &body)
    }

    /// The first fault that applies, used up by one request.
    fn fault(&self, path: &str) -> Option<Fault> {
        let mut rules = lock(&self.shared.rules);
        let rule = rules.iter_mut().find(|rule| rule.matches(path))?;
        if let Some(times) = &mut rule.times {
            *times -= 1;
        }
        Some(rule.fault)
    }

    /// Answers; `true` as above.
    fn respond(&mut self, request: &Request, body: &[u8]) -> Result<bool> {
        let fault = self.fault(&request.path);
        lock(&self.shared.counts).entry(request.path.clone()).or_default().requests += 1;
        match fault {
            Some(Fault::Status(code)) => return self.plain(request, code, "text/plain", "a fault was ordered\n"),
            Some(Fault::Html) => {
                return self.plain(request, 200, "text/html", "<html><body>Please log in</body></html>\n");
            }
            _ => {}
        }
        match (request.method.as_str(), request.path.as_str()) {
            ("GET" | "HEAD", _) => {}
            ("POST", reports::PATH) => {
                let taken = lock(&self.shared.reports).take(body);
                let (code, told) = taken.map_or_else(|e| (400, format!("{e:#}\n")), |()| (200, String::new()));
                return self.plain(request, code, "text/plain", &told);
            }
            _ => return self.plain(request, 405, "text/plain", "only GET and HEAD, and POST of reports\n"),
        }
        let path = self.shared.root.join(request.path.trim_start_matches('/'));
        match File::open(&path).and_then(|f| f.metadata().map(|m| (f, m))) {
            Ok((file, meta)) if meta.is_file() => self.file(request, file, &meta, fault),
            _ => self.plain(request, 404, "text/plain", "not here\n"),
        }
    }

    fn plain(&mut self, request: &Request, code: u16, kind: &str, body: &str) -> Result<bool> {
        let retry = if matches!(code, 429 | 503) { "Retry-After: 2\r\n" } else { "" };
        let head =
            format!("HTTP/1.1 {code} x\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{retry}\r\n", body.len());
        self.send(head.as_bytes())?;
        if request.method != "HEAD" {
            self.send(body.as_bytes())?;
        }
        Ok(!request.close)
    }

    fn file(&mut self, request: &Request, file: File, meta: &std::fs::Metadata, fault: Option<Fault>) -> Result<bool> {
        let size = meta.len();
        let etag = self.etag(meta, fault);
        if request.if_none_match.as_deref() == Some(&etag) {
            self.send(format!("HTTP/1.1 304 x\r\nETag: {etag}\r\n\r\n").as_bytes())?;
            return Ok(!request.close);
        }
        let same = request.if_range.as_deref().is_none_or(|tag| tag == etag);
        let ranged = same && fault != Some(Fault::NoRanges);
        let part = request::part(request.range.as_deref().filter(|_| ranged), size);
        let (code, bytes, extra) = match part {
            Part::Whole => (200, 0..size, String::new()),
            Part::Bytes(r) => (206, r.clone(), format!("Content-Range: bytes {}-{}/{size}\r\n", r.start, r.end - 1)),
            Part::Unsatisfiable => {
                let head = format!("HTTP/1.1 416 x\r\nContent-Range: bytes */{size}\r\nContent-Length: 0\r\n\r\n");
                self.send(head.as_bytes())?;
                return Ok(!request.close);
            }
        };
        let accept = if fault == Some(Fault::NoRanges) { "none" } else { "bytes" };
        let head = format!(
            "HTTP/1.1 {code} x\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n\
             Accept-Ranges: {accept}\r\nETag: {etag}\r\n{extra}\r\n",
            bytes.end - bytes.start
        );
        self.send(head.as_bytes())?;
        if request.method == "HEAD" {
            return Ok(!request.close);
        }
        Ok(self.body(&request.path, file, bytes, fault)? && !request.close)
    }

    fn etag(&self, meta: &std::fs::Metadata, fault: Option<Fault>) -> String {
        let salt = match fault {
            Some(Fault::NewEtag) => self.shared.etag_salt.fetch_add(1, Ordering::Relaxed) + 1,
            _ => 0,
        };
        let time = meta.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
        format!("\"{:x}-{:x}-{salt}\"", meta.len(), time.unwrap_or_default().as_nanos())
    }

    /// Sends these bytes of the file, as the fault says; `true` when all were sent.
    fn body(&mut self, path: &str, mut file: File, bytes: std::ops::Range<u64>, fault: Option<Fault>) -> Result<bool> {
        file.seek(SeekFrom::Start(bytes.start))?;
        let started = Instant::now();
        let (mut sent, total) = (0, bytes.end - bytes.start);
        let limit = match fault {
            Some(Fault::Stall(n) | Fault::Reset(n) | Fault::Truncate(n)) => n.min(total),
            _ => total,
        };
        let mut piece = vec![0; PIECE];
        while sent < limit {
            let want = usize::try_from(limit - sent)?.min(PIECE).min(drip_piece(fault));
            let chunk = piece.get_mut(..want).context("piece")?;
            file.read_exact(chunk)?;
            tamper(fault, chunk, bytes.start + sent);
            if let Some(Fault::Drip(rate)) = fault {
                self.wait_until(started + Duration::from_secs_f64(sent as f64 / rate.max(1) as f64))?;
            }
            self.send(chunk)?;
            sent += want as u64;
            lock(&self.shared.counts).entry(path.to_owned()).or_default().bytes += want as u64;
        }
        match fault {
            Some(Fault::Stall(_)) => self.stall().map(|()| false),
            Some(Fault::Reset(_)) => self.reset().map(|()| false),
            Some(Fault::Truncate(_)) => Ok(false),
            _ => Ok(true),
        }
    }

    /// Writes all of it; a client that does not read keeps us waiting until the server stops.
    fn send(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            if self.stopped() {
                bail!("stopped");
            }
            match self.stream.write(bytes) {
                Ok(0) => bail!("closed"),
                Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn wait_until(&self, when: Instant) -> Result<()> {
        while let Some(left) = when.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) {
            if self.stopped() {
                bail!("stopped");
            }
            thread::sleep(left.min(TICK));
        }
        Ok(())
    }

    /// Keeps the connection open and silent until the client or the server goes.
    fn stall(&mut self) -> Result<()> {
        let mut sink = [0; 512];
        while !self.stopped() {
            match self.stream.read(&mut sink) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Closes with a reset: with a linger time of zero the kernel drops what is unsent and sends RST.
    fn reset(&mut self) -> Result<()> {
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        nix::sys::socket::setsockopt(&self.stream, nix::sys::socket::sockopt::Linger, &linger)?;
        bail!("reset ordered")
    }
}

/// Small pieces when dripping, so that a slow rate is even and not one burst a minute.
fn drip_piece(fault: Option<Fault>) -> usize {
    match fault {
        Some(Fault::Drip(rate)) => usize::try_from(rate / 10).unwrap_or(PIECE).clamp(1, PIECE),
        _ => PIECE,
    }
}

/// Flips a bit wherever the chunk, which begins at `offset` of the file, holds one of the bytes meant.
fn tamper(fault: Option<Fault>, chunk: &mut [u8], offset: u64) {
    let Some(Fault::Tamper(from)) = fault else { return };
    for (byte, at) in chunk.iter_mut().zip(offset..) {
        if at >= from && (at - from).is_multiple_of(TAMPER_EVERY) {
            *byte ^= 1;
        }
    }
}
