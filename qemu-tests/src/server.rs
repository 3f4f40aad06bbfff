//! A file server for releases that can be told to misbehave, and counts what it sent.
//!
//! HTTP/1.1 with single ranges and ETags, a thread per connection, on the loopback interface only (a guest with user
//! networking reaches it at 10.0.2.2). Our own, because the point of it is to be a bad server in exact ways.

pub mod fault;
mod request;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use fault::{Fault, Rule};
use request::{MAX_HEAD, Part, Request};

/// How often waiting threads look whether the server was stopped.
const TICK: Duration = Duration::from_millis(20);
/// Body bytes per write; a multiple of nothing on purpose, so that readers meet odd borders.
const PIECE: usize = 24_001;

/// What was asked of one path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Requests, bad answers included.
    pub requests: u64,
    /// Body bytes handed to the kernel.
    pub bytes: u64,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    rules: Mutex<Vec<Rule>>,
    counts: Mutex<BTreeMap<String, Count>>,
    /// Ends every connection and the listener.
    stop: AtomicBool,
    /// Raised with every response under [`Fault::NewEtag`].
    etag_salt: AtomicU64,
}

/// The server; it ends with the value.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    listener: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves the files under `root` on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// No port to be had.
    pub fn start(root: &Path) -> Result<Self> {
        Self::start_at(root, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    fn start_at(root: &Path, address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            root: root.to_owned(),
            rules: Mutex::default(),
            counts: Mutex::default(),
            stop: AtomicBool::new(false),
            etag_salt: AtomicU64::new(0),
        });
        let listener = Some(spawn_listener(listener, Arc::clone(&shared))?);
        Ok(Self { shared, address, listener })
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Its base URL as a guest with user networking sees it.
    #[must_use]
    pub fn guest_url(&self) -> String {
        format!("http://10.0.2.2:{}", self.port())
    }

    /// Adds a fault. The first rule that matches a path decides.
    pub fn add_fault(&self, rule: Rule) {
        lock(&self.shared.rules).push(rule);
    }

    /// Is good again, for new requests.
    pub fn clear_faults(&self) {
        lock(&self.shared.rules).clear();
    }

    /// Vanishes: connections break, new ones are refused.
    pub fn vanish(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.listener.take() {
            let _ = thread.join();
        }
    }

    /// Comes back at the same address.
    ///
    /// # Errors
    /// The port was taken by somebody else.
    pub fn come_back(&mut self) -> Result<()> {
        if self.listener.is_some() {
            return Ok(());
        }
        let again = Self::start_at(&self.shared.root, self.address)?;
        *lock(&again.shared.rules) = lock(&self.shared.rules).clone();
        *lock(&again.shared.counts) = lock(&self.shared.counts).clone();
        *self = again;
        Ok(())
    }

    /// What was asked and sent, over all paths matching `pattern`.
    #[must_use]
    pub fn count(&self, pattern: &str) -> Count {
        let counts = lock(&self.shared.counts);
        counts.iter().filter(|(path, _)| fault::glob(pattern, path)).fold(Count::default(), |sum, (_, c)| Count {
            requests: sum.requests + c.requests,
            bytes: sum.bytes + c.bytes,
        })
    }

    /// What was asked and sent, by path.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, Count> {
        lock(&self.shared.counts).clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.vanish();
    }
}

/// A thread that panicked leaves valid data behind here: every change is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spawn_listener(listener: TcpListener, shared: Arc<Shared>) -> Result<JoinHandle<()>> {
    let accept = move || {
        let mut connections: Vec<JoinHandle<()>> = Vec::new();
        while !shared.stop.load(Ordering::SeqCst) {
            match listener.accept() {
                Ok((stream, _)) => {
                    let shared = Arc::clone(&shared);
                    connections.push(thread::spawn(move || Connection { stream, shared }.serve()));
                    connections.retain(|c| !c.is_finished());
                }
                Err(_) => thread::sleep(TICK),
            }
        }
        for connection in connections {
            let _ = connection.join();
        }
    };
    Ok(thread::Builder::new().name("server".into()).spawn(accept)?)
}

struct Connection {
    stream: TcpStream,
    shared: Arc<Shared>,
}

impl Connection {
    fn serve(mut self) {
        // Whatever goes wrong with one connection is the client's to notice.
        let _ = self.stream.set_nonblocking(false);
        let _ = self.stream.set_nodelay(true);
        let _ = self.stream.set_read_timeout(Some(TICK));
        let _ = self.stream.set_write_timeout(Some(TICK));
        let mut buffer = Vec::new();
        while let Ok(Some(head)) = self.head(&mut buffer) {
            match request::parse(&head).and_then(|request| self.respond(&request)) {
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
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(None),
                Ok(n) => buffer.extend_from_slice(chunk.get(..n).unwrap_or_default()),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) => return Err(e.into()),
            }
        }
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

    /// Answers; `true` when the connection can be used again.
    fn respond(&mut self, request: &Request) -> Result<bool> {
        let fault = self.fault(&request.path);
        lock(&self.shared.counts).entry(request.path.clone()).or_default().requests += 1;
        match fault {
            Some(Fault::Status(code)) => return self.plain(request, code, "text/plain", "a fault was ordered\n"),
            Some(Fault::Html) => {
                return self.plain(request, 200, "text/html", "<html><body>Please log in</body></html>\n");
            }
            _ => {}
        }
        if !matches!(request.method.as_str(), "GET" | "HEAD") {
            return self.plain(request, 405, "text/plain", "only GET and HEAD\n");
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

fn tamper(fault: Option<Fault>, chunk: &mut [u8], offset: u64) {
    if let Some(Fault::Tamper(at)) = fault
        && let Some(index) = at.checked_sub(offset).and_then(|i| usize::try_from(i).ok())
        && let Some(byte) = chunk.get_mut(index)
    {
        *byte ^= 1;
    }
}

#[cfg(test)]
mod tests;
