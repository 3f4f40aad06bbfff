//! Installs from a local web server, a file and a pipe; every fault of a server ends in its reason code and a state
//! from which the next try succeeds.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may fail loudly"
)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use bundle::manifest::ImageKind;
use bundle::reason::Reason;
use common::server::{Fault, Request, Server};
use common::site::{self, HASTY, Release, digest_of, hasty_http, noise};
use tokio::sync::watch;
use updater::install::installer::Pipeline;
use updater::seams::{Cancel, InstallError, Installer as _};
use updater::slots::Place;
use updater_core::event::Transfer;
use updater_core::release::Source;

/// A device whose whole slot is files, a release for it, and a server that has it.
struct Bench {
    dir: tempfile::TempDir,
    release: Release,
    server: Server,
}

impl Bench {
    fn new(len: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let rootfs = dir.path().join("rootfs.img");
        fs::write(&rootfs, noise(len, 1)).unwrap();
        let kernel = dir.path().join("kernel.img");
        fs::write(&kernel, noise(300_000, 2)).unwrap();
        fs::create_dir(dir.path().join("www")).unwrap();
        let images: [(&str, ImageKind, &Path); 2] =
            [("rootfs", ImageKind::File, &rootfs), ("kernel", ImageKind::File, &kernel)];
        let release = site::release(&dir.path().join("www/x.bundle"), 2, &images, 1);
        let server = Server::new(dir.path().join("www"));
        Self { dir, release, server }
    }

    fn places(&self) -> [(&'static str, Place); 2] {
        ["rootfs", "kernel"].map(|name| (name, Place::File(self.target(name))))
    }

    fn target(&self, name: &str) -> PathBuf {
        self.dir.path().join("slot-b").join(name)
    }

    fn pipeline(&self) -> Pipeline {
        site::pipeline(&self.dir.path().join("state"), &self.places(), &hasty_http(), HASTY)
    }

    fn web(&self) -> Source {
        Source::Urls(vec![self.server.url("x.bundle")])
    }

    async fn install(&self, source: Source) -> Result<Transfer, InstallError> {
        let (sink, _seen) = watch::channel(None);
        let request = site::request(&self.release.release, source);
        self.pipeline().install(&request, &sink, &Cancel::new()).await
    }

    async fn verify(&self) -> Result<(), InstallError> {
        let (sink, _seen) = watch::channel(None);
        let request = site::request(&self.release.release, self.web());
        self.pipeline().verify(&request, &sink, &Cancel::new()).await
    }

    fn assert_right(&self) {
        for image in &self.release.manifest.images {
            assert_eq!(digest_of(&self.target(&image.name), u64::MAX), image.sha256, "{}", image.name);
        }
    }
}

#[tokio::test]
async fn from_a_server_then_again_then_the_next_release_fetches_only_what_differs() {
    let bench = Bench::new(9_000_123);
    let first = bench.install(bench.web()).await.unwrap();
    bench.assert_right();
    bench.verify().await.unwrap();
    assert!(first.fetched > 1_000_000 && first.reused == 0, "{first:?}");
    assert!(bench.server.connections() <= 8, "{} connections", bench.server.connections());
    // Kept: nothing but the envelope is asked for.
    let again = bench.install(bench.web()).await.unwrap();
    assert_eq!((again.fetched, again.written), (0, 0));
    assert_eq!(again.reused, 9_300_123);
    // A flipped byte in the slot: that frame is fetched, one block is written.
    let target = bench.target("rootfs");
    let mut bytes = fs::read(&target).unwrap();
    bytes[5_000_000] ^= 1;
    fs::write(&target, &bytes).unwrap();
    assert_eq!(bench.verify().await.unwrap_err().reason, Reason::ImageMismatch);
    let repaired = bench.install(bench.web()).await.unwrap();
    assert!(repaired.fetched < 1_200_000, "{repaired:?}");
    bench.assert_right();
    bench.verify().await.unwrap();
}

#[tokio::test]
async fn from_a_file_a_pipe_and_a_server_without_ranges() {
    let bench = Bench::new(5_000_000);
    let path = bench.release.path.display().to_string();
    bench.install(Source::Path(path.clone())).await.unwrap();
    bench.assert_right();
    fs::remove_dir_all(bench.dir.path().join("slot-b")).unwrap();

    let pipe = bench.dir.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (from, to) = (bench.release.path.clone(), pipe.clone());
    let writer = std::thread::spawn(move || {
        let mut pipe = fs::OpenOptions::new().write(true).open(to).unwrap();
        std::io::copy(&mut fs::File::open(from).unwrap(), &mut pipe).unwrap();
    });
    // The head is read first, as the engine does; the same pipe is then installed from.
    let source = Source::Path(pipe.display().to_string());
    let pipeline = bench.pipeline();
    let manifest = pipeline.manifest(&source, None).await.unwrap();
    assert_eq!(manifest.digest, bench.release.release.manifest_sha256);
    let (sink, _seen) = watch::channel(None);
    let request = site::request(&bench.release.release, source);
    pipeline.install(&request, &sink, &Cancel::new()).await.unwrap();
    writer.join().unwrap();
    bench.assert_right();
    fs::remove_dir_all(bench.dir.path().join("slot-b")).unwrap();

    bench.server.plan(|_, _| Fault::NoRanges);
    bench.install(bench.web()).await.unwrap();
    bench.assert_right();
    bench.verify().await.unwrap();
}

/// Installs with one kind of fault in every answer after the `first`, expects `reason`, then without faults.
async fn fails_then_recovers(fault: Fault, first: usize, reason: Reason) {
    let bench = Bench::new(6_000_000);
    let name = format!("{fault:?} from request {first} on");
    bench.server.plan(move |_, number| if number >= first { fault.clone() } else { Fault::None });
    let error = bench.install(bench.web()).await.expect_err(&name);
    assert_eq!(error.reason, reason, "{name}: {error}");
    bench.server.plan(|_, _| Fault::None);
    bench.install(bench.web()).await.unwrap_or_else(|error| panic!("after {name}: {error}"));
    bench.assert_right();
}

#[tokio::test]
async fn every_fault_has_its_reason_and_the_next_try_succeeds() {
    // A frame may be fetched before the fault: 0 hits the head, 2 the frames.
    for first in [0, 2] {
        fails_then_recovers(Fault::Status(500, &[]), first, Reason::ServerError).await;
        fails_then_recovers(Fault::Status(404, &[]), first, Reason::ServerError).await;
        fails_then_recovers(Fault::Html, first, Reason::Network).await;
        fails_then_recovers(Fault::OtherRange, first, Reason::ServerError).await;
        fails_then_recovers(Fault::Status(429, &[]), first, Reason::ServerError).await;
        fails_then_recovers(Fault::CloseAfter(0), first, Reason::Truncated).await;
        fails_then_recovers(Fault::Reset(1000), first, Reason::Truncated).await;
        fails_then_recovers(Fault::Redirect("/x.bundle".into()), first, Reason::ServerError).await;
        fails_then_recovers(Fault::Stall, first, Reason::Network).await;
        fails_then_recovers(Fault::Drip, first, Reason::Network).await;
    }
    fails_then_recovers(Fault::NoRanges, 2, Reason::ServerError).await;
}

/// Installs although `plan` spoils some answers.
async fn succeeds_despite(name: &str, plan: impl FnMut(&Request, usize) -> Fault + Send + 'static) -> Bench {
    let bench = Bench::new(6_000_000);
    bench.server.plan(plan);
    bench.install(bench.web()).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    bench.assert_right();
    bench
}

#[tokio::test]
async fn every_range_but_the_first_is_asked_for_of_the_same_file() {
    let bench = succeeds_despite("nothing", |_, _| Fault::None).await;
    let requests = bench.server.requests();
    let ranged: Vec<_> = requests.iter().filter(|request| request.range.is_some()).collect();
    assert!(ranged.len() > 2, "{requests:?}");
    for request in &ranged[1..] {
        assert_eq!(request.headers.get("if-range").map(String::as_str), Some("\"one\""), "{request:?}");
    }
}

#[tokio::test]
async fn passing_faults_cost_a_retry_and_nothing_else() {
    let every_third =
        |fault: Fault| move |_: &Request, number: usize| if number % 3 == 1 { fault.clone() } else { Fault::None };
    for fault in [
        Fault::Status(503, &[("Retry-After", "0")]),
        Fault::Status(429, &[("Retry-After", "0")]),
        Fault::CloseAfter(100_000),
        Fault::Reset(100_000),
        Fault::StallHalfway,
        Fault::Html,
        Fault::OtherRange,
        Fault::OtherTag,
    ] {
        let name = format!("{fault:?}");
        let bench = succeeds_despite(&name, every_third(fault)).await;
        // What had come before an answer broke is not asked for again.
        let size = fs::metadata(&bench.release.path).unwrap().len();
        // (A range that was not asked for, or another file, is body thrown away.)
        let wasted = if name.starts_with("Other") { size * 2 } else { 0 };
        assert!(
            bench.server.sent() < wasted + size + 2 * (256 << 10) + size / 4,
            "{name}: {} of {size}",
            bench.server.sent()
        );
    }
    // Two different bytes wrong, once each.
    let mut wrong = vec![1_000_000, 1_500_000];
    succeeds_despite("flipped bytes", move |request, _| match request.range {
        Some((start, end)) if wrong.last().is_some_and(|at| (start..end).contains(at)) => {
            Fault::Flip(wrong.pop().unwrap())
        }
        _ => Fault::None,
    })
    .await;
}

#[tokio::test]
async fn a_frame_that_is_always_wrong_is_named_and_never_written() {
    let bench = Bench::new(6_000_000);
    bench.server.plan(|_, _| Fault::Flip(1_000_000));
    let error = bench.install(bench.web()).await.unwrap_err();
    assert_eq!(error.reason, Reason::FrameMismatch);
    assert!(error.detail.contains("frame "), "{error}");
}

#[tokio::test]
async fn retry_after_reaches_the_machine() {
    let bench = Bench::new(1_000_000);
    bench.server.plan(|_, _| Fault::Status(429, &[("Retry-After", "600")]));
    let error = bench.install(bench.web()).await.unwrap_err();
    assert_eq!(error.retry_after, Some(std::time::Duration::from_secs(600)));
    assert_eq!(bench.server.requests().len(), 1, "a server that asks to be left alone is left alone");
}

#[tokio::test]
async fn a_second_mirror_takes_over_and_tokens_do_not_cross_hosts() {
    let bench = Bench::new(4_000_000);
    let bad = Server::new(bench.dir.path().join("nowhere"));
    let source = Source::Urls(vec![bad.url("x.bundle"), bench.server.url("x.bundle")]);
    bench.install(source).await.unwrap();
    bench.assert_right();

    let before = bench.server.requests().len();
    let other = Server::new(bench.dir.path().join("www"));
    let to = other.url("x.bundle");
    bench.server.plan(move |_, _| Fault::Redirect(to.clone()));
    fs::remove_dir_all(bench.dir.path().join("slot-b")).unwrap();
    let bearer = updater::http::Bearer::new("secret", bench.server.url("").parse().unwrap()).unwrap();
    let settings = updater::http::Settings { bearer: Some(bearer), ..hasty_http() };
    let pipeline = site::pipeline(&bench.dir.path().join("state"), &bench.places(), &settings, HASTY);
    let (sink, _seen) = watch::channel(None);
    let request = site::request(&bench.release.release, bench.web());
    pipeline.install(&request, &sink, &Cancel::new()).await.unwrap();
    bench.assert_right();
    assert!(bench.server.requests().iter().skip(before).all(|request| request.headers.contains_key("authorization")));
    assert!(other.requests().len() > 1);
    assert!(other.requests().iter().all(|request| !request.headers.contains_key("authorization")));

    // Another server, named outright: as an approval's mirror, or by an operator.
    let before = other.requests().len();
    fs::remove_dir_all(bench.dir.path().join("slot-b")).unwrap();
    let request = site::request(&bench.release.release, Source::Urls(vec![other.url("x.bundle")]));
    pipeline.install(&request, &sink, &Cancel::new()).await.unwrap();
    bench.assert_right();
    assert!(other.requests().len() > before);
    assert!(other.requests().iter().all(|request| !request.headers.contains_key("authorization")));
    // Nor does the fleet host see it.
    let client = updater::http::Client::new(&settings).unwrap();
    client.post(&other.url("x.bundle").parse().unwrap(), "text/plain", Vec::new()).await.unwrap();
    assert!(!other.requests().last().unwrap().headers.contains_key("authorization"));
}

#[tokio::test]
async fn another_release_a_foreign_key_and_junk_are_refused_before_anything_is_written() {
    let bench = Bench::new(1_000_000);
    let mut other = bench.release.release.clone();
    other.manifest_sha256 = bundle::digest::Digest::of(b"another");
    let error = bench.pipeline().manifest(&bench.web(), Some(&other)).await.unwrap_err();
    assert_eq!(error.reason, Reason::SignatureInvalid);

    let www = bench.dir.path().join("www");
    let whole = fs::read(&bench.release.path).unwrap();
    let flipped: Vec<u8> =
        whole.iter().enumerate().map(|(at, byte)| if at == 700 { byte ^ 1 } else { *byte }).collect();
    for (name, bytes) in
        [("junk", vec![b'x'; 5000]), ("empty", Vec::new()), ("flipped", flipped), ("cut", whole[..600].to_vec())]
    {
        fs::write(www.join(name), bytes).unwrap();
        let source = Source::Urls(vec![bench.server.url(name)]);
        let error = bench.install(source).await.unwrap_err();
        assert!(
            matches!(
                error.reason,
                Reason::Malformed | Reason::Truncated | Reason::SignatureInvalid | Reason::ServerError
            ),
            "{name}: {error:?}"
        );
        assert!(!bench.dir.path().join("slot-b").exists(), "{name}");
    }
}

#[tokio::test]
async fn cancelled_in_the_middle_it_stops_soon_and_goes_on_later() {
    let bench = Bench::new(8_000_000);
    bench.server.plan(|_, number| if number > 2 { Fault::StallHalfway } else { Fault::None });
    let cancel = Cancel::new();
    let (sink, mut seen) = watch::channel(None);
    let request = site::request(&bench.release.release, bench.web());
    let pipeline = bench.pipeline();
    let watching = async {
        // As soon as the first frame is written.
        let _ = seen
            .wait_for(|progress| {
                progress.is_some_and(|progress: updater_core::status::Progress| progress.bytes_done > 0)
            })
            .await;
        cancel.cancel();
    };
    let (result, ()) = tokio::join!(pipeline.install(&request, &sink, &cancel), watching);
    assert_eq!(result.unwrap_err().reason, Reason::Cancelled);
    bench.server.plan(|_, _| Fault::None);
    let rest = bench.install(bench.web()).await.unwrap();
    assert!(rest.reused > 0, "{rest:?}");
    bench.assert_right();
}
