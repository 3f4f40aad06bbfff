//! The server as a client sees it.

use super::*;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

/// Starts a server on a free port with one file `x` of "0123456789".
fn start() -> (tempfile::TempDir, SocketAddr) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("x"), b"0123456789").unwrap();
    std::os::unix::fs::symlink("/etc/hostname", dir.path().join("outside")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let root = Arc::new(dir.path().canonicalize().unwrap());
    std::thread::spawn(move || serve(&listener, root, false));
    (dir, address)
}

fn ask(address: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "{head}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn whole_files_ranges_and_refusals() {
    let (_dir, address) = start();
    assert!(ask(address, "GET /x HTTP/1.1").ends_with("\r\n\r\n0123456789"));
    let part = ask(address, "GET /x HTTP/1.1\r\nRange: bytes=2-4");
    assert!(
        part.starts_with("HTTP/1.1 206 ") && part.contains("Content-Range: bytes 2-4/10") && part.ends_with("\n234")
    );
    assert!(ask(address, "GET /x HTTP/1.1\r\nRange: bytes=10-").starts_with("HTTP/1.1 416 "));
    let head = ask(address, "HEAD /x HTTP/1.1");
    assert!(head.contains("Content-Length: 10") && head.ends_with("\r\n\r\n"));
    for hidden in ["/y", "/", "/../x", "/outside"] {
        assert!(ask(address, &format!("GET {hidden} HTTP/1.1")).starts_with("HTTP/1.1 404 "), "{hidden}");
    }
    assert!(ask(address, "POST /x HTTP/1.1").starts_with("HTTP/1.1 405 "));
}

#[test]
fn etags_tell_versions_apart() {
    let (dir, address) = start();
    let etag = |answer: &str| answer.lines().find_map(|line| line.strip_prefix("ETag: ").map(str::to_owned)).unwrap();
    let first = etag(&ask(address, "GET /x HTTP/1.1"));
    assert!(ask(address, &format!("GET /x HTTP/1.1\r\nIf-None-Match: {first}")).starts_with("HTTP/1.1 304 "));
    let ranged = format!("GET /x HTTP/1.1\r\nRange: bytes=0-0\r\nIf-Range: {first}");
    assert!(ask(address, &ranged).starts_with("HTTP/1.1 206 "));

    crate::files::replace(&dir.path().join("x"), b"9876543210").unwrap();
    assert_ne!(etag(&ask(address, "GET /x HTTP/1.1")), first);
    assert!(ask(address, &ranged).starts_with("HTTP/1.1 200 "), "another file: no range of it");
}
