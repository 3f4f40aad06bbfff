//! Over a line of 100 ms round trip an update is bounded by the line, not by its number of requests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may fail loudly"
)]

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use common::slow_link;
use common::update::Bench;
use updater_core::release::DeltaOffer;

const ROUND_TRIP: Duration = Duration::from_millis(100);
/// 50 Mbit/s.
const CAPACITY: f64 = 6_250_000.0;
/// A busy machine may spoil one measurement.
const TRIES: usize = 3;

/// Seconds that one plain download of `bytes` takes over this line.
fn plain(bench: &Bench, front: SocketAddr, bytes: u64) -> f64 {
    fs::write(bench.path("www/plain"), vec![7; usize::try_from(bytes).unwrap()]).unwrap();
    let began = Instant::now();
    let mut stream = TcpStream::connect(front).unwrap();
    stream.write_all(b"GET /plain HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let (mut piece, mut seen) = (vec![0; 64 << 10], 0);
    while seen < bytes {
        let count = stream.read(&mut piece).unwrap();
        assert!(count > 0, "the server hung up after {seen} bytes");
        seen += count as u64;
    }
    began.elapsed().as_secs_f64()
}

/// The best ratio of an update to a plain download of what it fetched.
async fn ratio(delta: bool) -> f64 {
    let mut bench = Bench::new();
    let front = slow_link::before(bench.server.address, ROUND_TRIP, CAPACITY);
    bench.front = Some(format!("http://{front}"));
    let offer = DeltaOffer { urls: vec![format!("http://{front}/1-2.delta")], ..bench.offer.clone() };
    let mut best = f64::MAX;
    for _ in 0..TRIES {
        let before = bench.server.sent();
        let began = Instant::now();
        bench.install(delta.then_some(&offer), None).await.unwrap();
        let (took, fetched) = (began.elapsed().as_secs_f64(), bench.server.sent() - before);
        bench.assert_right();
        let plain = plain(&bench, front, fetched);
        let way = if delta { "delta" } else { "chunks" };
        eprintln!("{way}: {fetched} bytes in {took:.2} s, a plain download {plain:.2} s: {:.2} times", took / plain);
        best = best.min(took / plain);
        if best <= 2.0 {
            break;
        }
        fs::remove_dir_all(bench.path("state")).unwrap();
        fs::remove_file(bench.path("b/rootfs")).unwrap();
    }
    best
}

// One test, so that the two measurements do not disturb each other.
#[tokio::test]
async fn an_update_takes_at_most_twice_a_plain_download_of_the_same_bytes() {
    for delta in [true, false] {
        let ratio = ratio(delta).await;
        assert!(ratio <= 2.0, "{ratio:.2} times a plain download");
    }
}
