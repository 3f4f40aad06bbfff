//! Documents and bundles over TLS: a private authority, client certificates, HTTP/2, proxies, and no way from https to http.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may fail loudly"
)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bundle::manifest::ImageKind;
use bundle::reason::Reason;
use common::server::{Fault, Server};
use common::site::{self, HASTY, Release, hasty_http, noise};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use tokio::sync::watch;
use updater::http::{Bearer, Settings};
use updater::install::installer::Pipeline;
use updater::seams::{Cancel, InstallError, Installer as _};
use updater::slots::Place;
use updater_core::release::Source;

fn pem(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

/// TLS in front of `server`; with `clients`, only those that show a certificate of our authority.
fn front(server: SocketAddr, clients: bool) -> SocketAddr {
    let config = Arc::new(tls(clients));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let config = Arc::clone(&config);
            std::thread::spawn(move || {
                // A client that hangs up, or is not let in, ends its own connection only.
                let _ = relay(StreamOwned::new(ServerConnection::new(config).unwrap(), stream), server);
            });
        }
    });
    address
}

fn tls(clients: bool) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pem("ca.pem")).unwrap()).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let builder = match clients {
        true => builder.unwrap().with_client_cert_verifier(
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap(),
        ),
        false => builder.unwrap().with_no_client_auth(),
    };
    let chain = vec![CertificateDer::from_pem_file(pem("server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(pem("server.key")).unwrap();
    builder.with_single_cert(chain, key).unwrap()
}

/// One request and its answer at a time, as the client of these tests does.
fn relay(mut near: StreamOwned<ServerConnection, TcpStream>, server: SocketAddr) -> std::io::Result<()> {
    loop {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if near.read(&mut byte)? == 0 {
                return Ok(());
            }
            request.push(byte[0]);
        }
        // The far side ends with its answer, which so needs no understanding here.
        let mut far = TcpStream::connect(server)?;
        far.write_all(&request)?;
        far.shutdown(std::net::Shutdown::Write)?;
        let mut answer = Vec::new();
        far.read_to_end(&mut answer)?;
        near.write_all(&answer)?;
        near.flush()?;
    }
}

struct Bench {
    dir: tempfile::TempDir,
    release: Release,
    server: Server,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (image, www) = (dir.path().join("image"), dir.path().join("www"));
        fs::write(&image, noise(2_500_000, 31)).unwrap();
        fs::create_dir(&www).unwrap();
        let release = site::release(&www.join("x.bundle"), 2, &[("rootfs", ImageKind::File, &image)], 1);
        Self { dir, release, server: Server::new(www) }
    }

    async fn install(&self, url: String, settings: Settings) -> Result<(), InstallError> {
        let place = Place::File(self.dir.path().join("slot-b/rootfs"));
        let setup = site::setup(&self.dir.path().join("state"), [&[], &[("rootfs", place)]], &settings, HASTY);
        let (sink, _seen) = watch::channel(None);
        let request = site::request(&self.release.release, Source::Urls(vec![url]));
        let pipeline = Pipeline::new(setup);
        pipeline.install(&request, &sink, &Cancel::new()).await?;
        pipeline.verify(&request, &sink, &Cancel::new()).await
    }
}

fn ours() -> Settings {
    Settings { ca_file: Some(pem("ca.pem")), ..hasty_http() }
}

#[tokio::test]
async fn only_the_configured_authority_counts() {
    let bench = Bench::new();
    let url = format!("https://{}/x.bundle", front(bench.server.address, false));
    let stranger = bench.install(url.clone(), hasty_http()).await.unwrap_err();
    assert_eq!(stranger.reason, Reason::Network, "{stranger}");
    assert!(stranger.detail.to_lowercase().contains("certificate"), "{stranger}");
    bench.install(url, ours()).await.unwrap();
}

#[tokio::test]
async fn a_client_shows_its_certificate_and_its_token() {
    let bench = Bench::new();
    let url = format!("https://{}/x.bundle", front(bench.server.address, true));
    let error = bench.install(url.clone(), ours()).await.unwrap_err();
    assert_eq!(error.reason, Reason::Network, "{error}");
    assert!(bench.server.requests().is_empty());
    let bearer = Bearer::new("secret", url.parse().unwrap()).unwrap();
    let settings = Settings { identity_file: Some(pem("identity.pem")), bearer: Some(bearer), ..ours() };
    bench.install(url, settings).await.unwrap();
    let requests = bench.server.requests();
    assert!(requests.iter().all(|request| request.headers["authorization"] == "Bearer secret"));
}

#[tokio::test]
async fn no_redirect_leads_from_https_to_http() {
    let bench = Bench::new();
    let url = format!("https://{}/x.bundle", front(bench.server.address, false));
    let plain = bench.server.url("x.bundle");
    bench.server.plan(move |request, _| match request.headers.get("range") {
        Some(_) => Fault::Redirect(plain.clone()),
        None => Fault::None,
    });
    let error = bench.install(url, ours()).await.unwrap_err();
    assert_eq!(error.reason, Reason::ServerError, "{error}");
    assert!(error.detail.contains("leaves https"), "{error}");
}

/// Serves a folder over HTTP/2 and nothing else, and counts the connections.
async fn http2(folder: PathBuf) -> (SocketAddr, Arc<AtomicUsize>) {
    let mut config = tls(false);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let (acceptor, folder) = (acceptor.clone(), folder.clone());
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(acceptor.accept(stream).await.unwrap()).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    http2_answer(&folder, &request, respond);
                }
            });
        }
    });
    (address, connections)
}

fn http2_answer(
    folder: &Path,
    request: &http::Request<h2::RecvStream>,
    mut to: h2::server::SendResponse<bytes::Bytes>,
) {
    let bytes = fs::read(folder.join(request.uri().path().trim_start_matches('/'))).unwrap();
    let range = request.headers()["range"].to_str().unwrap().strip_prefix("bytes=").unwrap();
    let (first, last) = range.split_once('-').unwrap();
    let (first, last) = (first.parse::<usize>().unwrap(), last.parse::<usize>().unwrap().min(bytes.len() - 1));
    let head = http::Response::builder()
        .status(206)
        .header("content-range", format!("bytes {first}-{last}/{}", bytes.len()))
        .header("etag", "\"one\"");
    let mut body = to.send_response(head.body(()).unwrap(), false).unwrap();
    let _ = body.send_data(bytes[first..=last].to_vec().into(), true);
}

#[tokio::test]
async fn a_server_that_speaks_only_http_2_serves_all_ranges_over_one_connection() {
    let bench = Bench::new();
    let (address, connections) = http2(bench.dir.path().join("www")).await;
    bench.install(format!("https://{address}/x.bundle"), ours()).await.unwrap();
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    assert!(bench.server.requests().is_empty());
}

/// A proxy that leads every name to `server`, and notes the first line of each request.
fn proxy(server: SocketAddr) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&lines);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let noted = Arc::clone(&noted);
            std::thread::spawn(move || drop(pass_on(stream, server, &noted)));
        }
    });
    (format!("http://{address}"), lines)
}

fn pass_on(mut near: TcpStream, server: SocketAddr, lines: &Mutex<Vec<String>>) -> std::io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if near.read(&mut byte)? == 0 {
                return Ok(());
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let line = head.lines().next().unwrap().to_owned();
        lines.lock().unwrap().push(line.clone());
        let mut far = TcpStream::connect(server)?;
        if line.starts_with("CONNECT ") {
            near.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
            let (mut up, mut down) = (near.try_clone()?, far.try_clone()?);
            std::thread::spawn(move || std::io::copy(&mut up, &mut down));
            std::io::copy(&mut far, &mut near)?;
            return Ok(());
        }
        // The whole address stands in the first line; the server wants the path.
        let uri = line.split(' ').nth(1).unwrap();
        let path = uri.strip_prefix("http://").unwrap().split_once('/').unwrap().1;
        far.write_all(head.replacen(uri, &format!("/{path}"), 1).as_bytes())?;
        far.shutdown(std::net::Shutdown::Write)?;
        std::io::copy(&mut far, &mut near)?;
    }
}

#[tokio::test]
async fn everything_goes_through_the_configured_proxy() {
    let bench = Bench::new();
    let (address, lines) = proxy(bench.server.address);
    let settings = || Settings { proxy: Some(address.clone()), ..ours() };
    // Only the proxy knows that name.
    bench.install("http://updates.invalid/x.bundle".into(), settings()).await.unwrap();
    let seen = lines.lock().unwrap().clone();
    assert_eq!(seen.len(), bench.server.requests().len());
    assert!(seen.iter().all(|line| line.starts_with("GET http://updates.invalid/x.bundle ")), "{seen:?}");

    fs::remove_dir_all(bench.dir.path().join("slot-b")).unwrap();
    let secure = front(bench.server.address, false);
    let (address, lines) = proxy(secure);
    let settings = Settings { proxy: Some(address), ..ours() };
    bench.install(format!("https://{secure}/x.bundle"), settings).await.unwrap();
    let seen = lines.lock().unwrap().clone();
    assert!(!seen.is_empty() && seen.iter().all(|line| line.starts_with(&format!("CONNECT {secure} "))), "{seen:?}");
}

#[tokio::test]
async fn without_its_proxy_nothing_is_fetched() {
    let bench = Bench::new();
    let settings = Settings { proxy: Some("http://127.0.0.1:1".into()), ..ours() };
    let error = bench.install(bench.server.url("x.bundle"), settings).await.unwrap_err();
    assert_eq!(error.reason, Reason::Network, "{error}");
    assert!(bench.server.requests().is_empty(), "it went past the proxy");
}
