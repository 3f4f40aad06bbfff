//! The server, asked by a client of a few lines over real sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use super::fault::Fault;
use super::*;

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
    /// How the connection ended: an error kind, or `None` for an orderly close.
    error: Option<ErrorKind>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": "))
    }
}

fn tree() -> (tempfile::TempDir, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let data: Vec<u8> = (0..100_000u32).map(|i| (i * 7 % 251) as u8).collect();
    std::fs::create_dir(dir.path().join("b")).unwrap();
    std::fs::write(dir.path().join("b/x.bundle"), &data).unwrap();
    (dir, data)
}

fn get_within(server: &Server, path: &str, headers: &str, patience: Duration) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
    ask(server, request.as_bytes(), patience)
}

fn ask(server: &Server, request: &[u8], patience: Duration) -> Answer {
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(patience)).unwrap();
    stream.write_all(request).unwrap();
    let (mut bytes, mut error) = (Vec::new(), None);
    let mut chunk = [0; 8192];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => bytes.extend_from_slice(&chunk[..n]),
            Err(e) => {
                error = Some(e.kind());
                break;
            }
        }
    }
    let split = bytes.windows(4).position(|w| w == b"\r\n\r\n").map_or(bytes.len(), |i| i + 4);
    let body = bytes.split_off(split);
    let head = String::from_utf8(bytes).unwrap();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    Answer { status, head, body, error }
}

fn get(server: &Server, path: &str, headers: &str) -> Answer {
    get_within(server, path, headers, Duration::from_secs(20))
}

fn with(fault: Fault) -> (tempfile::TempDir, Vec<u8>, Server) {
    let (dir, data) = tree();
    let server = Server::start(dir.path()).unwrap();
    server.add_fault(Rule::everywhere(fault));
    (dir, data, server)
}

#[test]
fn whole_files_ranges_and_missing_ones() {
    let (dir, data) = tree();
    let server = Server::start(dir.path()).unwrap();
    let all = get(&server, "/b/x.bundle", "");
    assert_eq!((all.status, &all.body), (200, &data));
    let part = get(&server, "/b/x.bundle", "Range: bytes=10-19\r\n");
    assert_eq!((part.status, &part.body[..]), (206, &data[10..20]));
    assert_eq!(part.header("Content-Range"), Some("bytes 10-19/100000"));
    assert_eq!(get(&server, "/b/x.bundle", "Range: bytes=100000-\r\n").status, 416);
    assert_eq!(get(&server, "/b/none", "").status, 404);
    assert_eq!(get(&server, "/b", "").status, 404);
    assert_eq!(server.count("/b/x.bundle"), Count { requests: 3, bytes: 100_010 });
    assert_eq!(server.count("*").requests, 5);
}

#[test]
fn etags_spare_a_transfer_and_guard_a_resume() {
    let (dir, data) = tree();
    let server = Server::start(dir.path()).unwrap();
    let etag = get(&server, "/b/x.bundle", "").header("ETag").unwrap().to_owned();
    assert_eq!(get(&server, "/b/x.bundle", &format!("If-None-Match: {etag}\r\n")).status, 304);
    let resume = format!("Range: bytes=99990-\r\nIf-Range: {etag}\r\n");
    assert_eq!(get(&server, "/b/x.bundle", &resume).body, data[99_990..]);
    let exchanged = get(&server, "/b/x.bundle", "Range: bytes=99990-\r\nIf-Range: \"other\"\r\n");
    assert_eq!((exchanged.status, exchanged.body.len()), (200, data.len()));
}

#[test]
fn one_connection_serves_many_requests() {
    let (dir, _) = tree();
    let server = Server::start(dir.path()).unwrap();
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    for _ in 0..3 {
        write!(stream, "GET /b/x.bundle HTTP/1.1\r\nRange: bytes=0-3\r\n\r\n").unwrap();
        let mut seen = Vec::new();
        while !seen.windows(8).any(|w| w == [b'\r', b'\n', b'\r', b'\n', 0, 7, 14, 21]) {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            seen.push(byte[0]);
        }
    }
    assert_eq!(server.count("*").requests, 3);
}

#[test]
fn reports_are_taken_when_they_are_signed() {
    let (dir, _) = tree();
    let server = Server::start(dir.path()).unwrap();
    let post = |body: &[u8]| {
        let head = format!("POST /reports HTTP/1.1\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        ask(&server, &[head.as_bytes(), body].concat(), Duration::from_secs(20)).status
    };
    assert_eq!(post(&reports::tests::post("one", 1, 1)), 200);
    assert_eq!(post(&reports::tests::post("one", 1, 2)), 400);
    assert_eq!((server.reports(Some("one")).len(), server.reports(Some("two")).len()), (1, 0));
}

#[test]
fn statuses_and_portals() {
    let (_dir, _, server) = with(Fault::Status(429));
    let answer = get(&server, "/b/x.bundle", "");
    assert_eq!((answer.status, answer.header("Retry-After")), (429, Some("2")));
    server.clear_faults();
    server.add_fault(Rule { path: "/b/*".into(), fault: Fault::Html, times: Some(1) });
    let portal = get(&server, "/b/x.bundle", "");
    assert_eq!((portal.status, portal.header("Content-Type")), (200, Some("text/html")));
    assert_eq!(get(&server, "/b/x.bundle", "").body.len(), 100_000, "once only");
}

#[test]
fn truncated_promises_more_than_it_sends() {
    let (_dir, data, server) = with(Fault::Truncate(1000));
    let answer = get(&server, "/b/x.bundle", "");
    assert_eq!((answer.header("Content-Length"), &answer.body[..]), (Some("100000"), &data[..1000]));
    assert_eq!(answer.error, None);
}

#[test]
fn reset_is_a_reset() {
    let (_dir, _, server) = with(Fault::Reset(1000));
    assert_eq!(get(&server, "/b/x.bundle", "").error, Some(ErrorKind::ConnectionReset));
}

#[test]
fn stalled_sends_nothing_more_and_stays_open() {
    let (_dir, data, server) = with(Fault::Stall(1000));
    let answer = get_within(&server, "/b/x.bundle", "", Duration::from_millis(200));
    assert_eq!(answer.body, data[..1000]);
    assert!(matches!(answer.error, Some(ErrorKind::WouldBlock | ErrorKind::TimedOut)));
}

#[test]
fn dripping_keeps_its_rate() {
    let (_dir, data, server) = with(Fault::Drip(1_000_000));
    let start = Instant::now();
    let answer = get(&server, "/b/x.bundle", "Range: bytes=0-49999\r\n");
    assert_eq!(answer.body, data[..50_000]);
    // 50 kB at 1 MB/s; the first piece is free.
    assert!(start.elapsed() > Duration::from_millis(20), "{:?}", start.elapsed());
}

#[test]
fn tampering_hits_the_same_bytes_of_the_file_whatever_the_range() {
    let (_dir, data, server) = with(Fault::Tamper(20_000));
    let wrong = [20_000, 20_000 + (64 << 10)];
    let whole = get(&server, "/b/x.bundle", "").body;
    for (at, (sent, meant)) in whole.iter().zip(&data).enumerate() {
        assert_eq!(sent ^ meant, u8::from(wrong.contains(&at)), "byte {at}");
    }
    for at in wrong {
        let range = format!("Range: bytes={}-{}\r\n", at - 1, at + 1);
        assert_eq!(get(&server, "/b/x.bundle", &range).body, whole[at - 1..=at + 1]);
    }
    assert_eq!(get(&server, "/b/x.bundle", "Range: bytes=0-99\r\n").body, data[..100]);
}

#[test]
fn no_ranges_and_new_etags() {
    let (_dir, _, server) = with(Fault::NoRanges);
    let answer = get(&server, "/b/x.bundle", "Range: bytes=5-6\r\n");
    assert_eq!((answer.status, answer.body.len()), (200, 100_000));
    server.clear_faults();
    server.add_fault(Rule::everywhere(Fault::NewEtag));
    let tags: Vec<_> = (0..2).map(|_| get(&server, "/b/x.bundle", "").header("ETag").unwrap().to_owned()).collect();
    assert_ne!(tags[0], tags[1]);
}

#[test]
fn vanished_refuses_and_comes_back_at_the_same_place() {
    let (dir, _) = tree();
    let mut server = Server::start(dir.path()).unwrap();
    get(&server, "/b/x.bundle", "");
    let port = server.port();
    server.vanish();
    assert!(TcpStream::connect(server.address).is_err());
    server.come_back().unwrap();
    assert_eq!(server.port(), port);
    assert_eq!(get(&server, "/b/x.bundle", "").status, 200);
    assert_eq!(server.count("*").requests, 2, "counts go on");
}

#[test]
fn a_client_that_vanishes_does_not_stop_the_server() {
    let (dir, _) = tree();
    let server = Server::start(dir.path()).unwrap();
    drop(TcpStream::connect(server.address).unwrap());
    assert_eq!(get(&server, "/b/x.bundle", "").status, 200);
}

#[test]
fn what_is_there_is_measured_by_path() {
    let (dir, data) = tree();
    std::fs::write(dir.path().join("b/y.delta"), [1; 10]).unwrap();
    let server = Server::start(dir.path()).unwrap();
    assert_eq!(server.size("/b/*.delta").unwrap(), 10);
    assert_eq!(server.size("/*").unwrap(), data.len() as u64 + 10);
    assert_eq!(server.size("/deltas/*").unwrap(), 0);
}
