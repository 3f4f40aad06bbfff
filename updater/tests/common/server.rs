//! A small HTTP server that misbehaves on request: the faults that updaters meet in the field.
//!
//! Standard library only, one thread per connection, loopback only. Counts what it was asked for.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What goes wrong with one answer.
#[derive(Debug, Clone, Default)]
pub enum Fault {
    #[default]
    None,
    /// A status with headers and no body.
    Status(u16, &'static [(&'static str, &'static str)]),
    /// Never answers.
    Stall,
    /// Half of the body, then silence.
    StallHalfway,
    /// This many bytes of the body, then the connection is closed.
    CloseAfter(u64),
    /// This many bytes of the body, then a reset: what is under way is lost with the connection.
    Reset(u64),
    /// One byte at a time.
    Drip,
    /// Another range than asked for, said truthfully.
    OtherRange,
    /// 200 with a web page.
    Html,
    /// A redirect.
    Redirect(String),
    /// The whole file with 200, as if ranges did not exist.
    NoRanges,
    /// Another ETag than before.
    OtherTag,
    /// One bit of the body flipped, at this offset of the file.
    Flip(u64),
}

/// A request as it came.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub range: Option<(u64, u64)>,
}

type Plan = Box<dyn FnMut(&Request, usize) -> Fault + Send>;

struct State {
    root: PathBuf,
    plan: Mutex<Plan>,
    requests: Mutex<Vec<Request>>,
    connections: AtomicU64,
    sent: AtomicU64,
    /// Parts of files that went out, piece by piece.
    parts: Mutex<Vec<(u64, u64)>>,
}

/// The server; stops accepting when dropped.
pub struct Server {
    pub address: SocketAddr,
    state: Arc<State>,
}

impl Server {
    /// Serves the files below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            root: root.into(),
            plan: Mutex::new(Box::new(|_, _| Fault::None)),
            requests: Mutex::default(),
            connections: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            parts: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                state.connections.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || {
                    let _ = serve(&state, stream);
                });
            }
        });
        Self { address, state }
    }

    /// Decides the fault of each request, given it and its number from 0.
    pub fn plan(&self, plan: impl FnMut(&Request, usize) -> Fault + Send + 'static) {
        *self.state.plan.lock().unwrap() = Box::new(plan);
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.state.requests.lock().unwrap().clone()
    }

    pub fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Which parts of files went out since this was last asked.
    pub fn take_parts(&self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.state.parts.lock().unwrap())
    }

    /// Body bytes sent.
    pub fn sent(&self) -> u64 {
        self.state.sent.load(Ordering::SeqCst)
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let path = line.split(' ').nth(1).unwrap_or("/").trim_start_matches('/').to_owned();
    let mut request = Request { path, ..Request::default() };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        request.headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    request.range = request.headers.get("range").and_then(|text| {
        let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse::<u64>().ok()? + 1))
    });
    Ok(Some(request))
}

fn serve(state: &State, stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(request) = read_request(&mut reader)? {
        let number = {
            let mut requests = state.requests.lock().unwrap();
            requests.push(request.clone());
            requests.len() - 1
        };
        let fault = (state.plan.lock().unwrap())(&request, number);
        if !answer(state, &stream, &request, &fault)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Answers; false when the connection must end.
fn answer(state: &State, mut stream: &TcpStream, request: &Request, fault: &Fault) -> std::io::Result<bool> {
    let mut simple = |status: &str, headers: &str, body: &str| -> std::io::Result<bool> {
        write!(stream, "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())?;
        Ok(true)
    };
    match fault {
        Fault::Status(code, headers) => {
            let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            return simple(&format!("{code} No"), &headers, "");
        }
        Fault::Html => {
            return simple("200 OK", "Content-Type: text/html; charset=utf-8\r\n", "<html>Please log in</html>");
        }
        Fault::Redirect(to) => return simple("302 Found", &format!("Location: {to}\r\n"), ""),
        Fault::Stall => {
            // Until the other side gives up.
            let _ = stream.read(&mut [0; 1]);
            return Ok(false);
        }
        _ => {}
    }
    let Ok(mut file) = std::fs::File::open(state.root.join(&request.path)) else {
        return simple("404 Not Found", "", "");
    };
    let total = file.metadata()?.len();
    let tag = if matches!(fault, Fault::OtherTag) { "\"two\"" } else { "\"one\"" };
    let fresh = request.headers.get("if-range").is_none_or(|wanted| wanted == tag);
    let ranged = fresh && !matches!(fault, Fault::NoRanges);
    let (mut start, mut end) = request.range.filter(|_| ranged).unwrap_or((0, total));
    end = end.min(total);
    if request.range.is_some() && ranged && start >= total {
        return simple("416 Range Not Satisfiable", &format!("Content-Range: bytes */{total}\r\n"), "");
    }
    if matches!(fault, Fault::OtherRange) {
        (start, end) = (start + 1, (end + 1).min(total));
    }
    let head = if request.range.is_some() && ranged {
        format!("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{}/{total}\r\n", end - 1)
    } else {
        "HTTP/1.1 200 OK\r\n".to_owned()
    };
    write!(stream, "{head}ETag: {tag}\r\nAccept-Ranges: bytes\r\nContent-Length: {}\r\n\r\n", end - start)?;
    file.seek(SeekFrom::Start(start))?;
    send(state, stream, &mut file, (start, end), fault)
}

fn send(
    state: &State,
    mut stream: &TcpStream,
    file: &mut std::fs::File,
    (start, end): (u64, u64),
    fault: &Fault,
) -> std::io::Result<bool> {
    let mut piece = vec![0; if matches!(fault, Fault::Drip) { 1 } else { 256 << 10 }];
    let mut at = start;
    while at < end {
        let mut most = (end - at).min(piece.len() as u64);
        let stop = match fault {
            Fault::CloseAfter(bytes) | Fault::Reset(bytes) => Some(start + bytes),
            Fault::StallHalfway => Some(start + (end - start) / 2),
            _ => None,
        };
        if let Some(stop) = stop {
            most = most.min(stop.saturating_sub(at));
            if most == 0 {
                if matches!(fault, Fault::StallHalfway) {
                    let _ = stream.read(&mut [0; 1]);
                }
                if matches!(fault, Fault::Reset(_)) {
                    // Without lingering the kernel drops what is unsent and sends RST (socket(7)).
                    let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
                    nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::Linger, &linger)?;
                }
                return Ok(false);
            }
        }
        let bytes = &mut piece[..usize::try_from(most).unwrap()];
        file.read_exact(bytes)?;
        if let Fault::Flip(place) = fault
            && (at..at + most).contains(place)
        {
            bytes[usize::try_from(place - at).unwrap()] ^= 1;
        }
        stream.write_all(bytes)?;
        if matches!(fault, Fault::Drip) {
            std::thread::sleep(Duration::from_millis(20));
        }
        at += most;
        state.sent.fetch_add(most, Ordering::SeqCst);
        state.parts.lock().unwrap().push((at - most, at));
    }
    Ok(true)
}
