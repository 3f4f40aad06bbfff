//! Updates made from what the device has: by delta, by chunks, and what happens when either does not do.
//!
//! The promise is computed by the code of `bundle-tool diff` itself.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may fail loudly"
)]

#[path = "../../bundle-tool/src/bychunks.rs"]
mod bychunks;
mod common;

use std::fs;

use bundle::reason::Reason;
use common::server::Fault;
use common::update::Bench;
use updater_core::release::DeltaOffer;

/// What `bychunks` reads.
mod release {
    use std::fs::File;
    use std::io::BufReader;

    use bundle::manifest::Manifest;
    use bundle::random::{RandomReader, read_envelope};

    pub struct Release {
        pub envelope: Vec<u8>,
        pub reader: RandomReader<BufReader<File>>,
    }

    impl Release {
        pub fn open(release: &crate::common::site::Release) -> Self {
            let mut file = BufReader::new(File::open(&release.path).unwrap());
            let envelope = read_envelope(&mut file).unwrap();
            let reader = RandomReader::new(file, envelope.len() as u64, release.manifest.clone()).unwrap();
            Self { envelope, reader }
        }

        pub fn manifest(&self) -> &Manifest {
            self.reader.manifest()
        }
    }
}

/// What a device fetches by chunks, as `bundle-tool diff` says.
fn promise_by_chunks(bench: &Bench) -> u64 {
    let mut both = [&bench.old, &bench.new].map(release::Release::open);
    let [old, new] = &mut both;
    bychunks::compare(old, new).unwrap().total()
}

fn within_five_percent(sent: u64, promised: u64) {
    eprintln!("sent {sent}, promised {promised}: {:+.1} %", 100.0 * (sent as f64 / promised as f64 - 1.0));
    assert!(sent <= promised + promised / 20, "{sent} bytes sent, {promised} promised");
}

#[tokio::test]
async fn a_delta_fetches_what_diff_promises_and_the_bundle_is_not_touched() {
    let bench = Bench::new();
    let transfer = bench.install(Some(&bench.offer), Some(0)).await.unwrap();
    bench.assert_right();
    within_five_percent(bench.server.sent(), bench.offer.size);
    assert_eq!(bench.asked_for("2.bundle"), 0);
    assert!(transfer.reused > 16 << 20, "{transfer:?}");
    assert!(bench.server.requests().len() < 12, "{} requests", bench.server.requests().len());
}

#[tokio::test]
async fn chunks_fetch_what_diff_promises() {
    let bench = Bench::new();
    let transfer = bench.install(None, None).await.unwrap();
    bench.assert_right();
    let promise = promise_by_chunks(&bench);
    assert!(promise < 16 << 20, "the releases share most of their content: {promise}");
    within_five_percent(bench.server.sent(), promise);
    assert!(transfer.reused > 16 << 20, "{transfer:?}");
}

#[tokio::test]
async fn a_wrong_byte_of_the_running_slot_costs_its_frames_and_no_more() {
    let bench = Bench::new();
    let mut bytes = fs::read(bench.path("a/rootfs")).unwrap();
    for at in [5_000_000, 27_000_000] {
        bytes[at] ^= 1;
    }
    fs::write(bench.path("a/rootfs"), bytes).unwrap();
    let refused = bench.install(Some(&bench.offer), Some(100_000)).await.unwrap_err();
    assert_eq!(refused.reason, Reason::FrameMismatch, "{refused}");
    assert!(refused.detail.contains("delta_fallback_megabytes"), "{refused}");
    let before = bench.server.sent();
    bench.install(Some(&bench.offer), Some(3 << 20)).await.unwrap();
    bench.assert_right();
    let cost = bench.server.sent() - before;
    assert!(cost < 3 << 20, "two frames and two heads, not {cost}");

    fs::remove_file(bench.path("b/rootfs")).unwrap();
    bench.install(None, None).await.unwrap();
    bench.assert_right();
}

#[tokio::test]
async fn a_delta_that_is_not_what_was_offered_is_not_used_and_the_limit_counts() {
    let bench = Bench::new();
    let other = bundle::digest::Digest::of(b"another");
    let offers = [
        ("gone", DeltaOffer { urls: vec![bench.server.url("gone.delta")], ..bench.offer.clone() }),
        ("not a delta", DeltaOffer { urls: vec![bench.server.url("2.bundle")], ..bench.offer.clone() }),
        ("from another release", DeltaOffer { from: other, ..bench.offer.clone() }),
        ("other recipes", DeltaOffer { recipes_sha256: Some(other), ..bench.offer.clone() }),
        ("recipes nobody signed", DeltaOffer { recipes_sha256: None, ..bench.offer.clone() }),
    ];
    for (name, offer) in offers {
        let refused = bench.install(Some(&offer), Some(1000)).await.expect_err(name);
        assert_eq!(refused.reason, Reason::FrameMismatch, "{name}: {refused}");
        bench.install(Some(&offer), None).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        bench.assert_right();
        fs::remove_file(bench.path("b/rootfs")).unwrap();
    }
}

#[tokio::test]
async fn a_delta_damaged_on_its_way_or_cut_off_costs_what_is_damaged() {
    let bench = Bench::new();
    // Behind head, recipes and index, every time it is asked for: these bodies are never right.
    let place = bench.offer.size - 40_000;
    bench.server.plan(move |request, _| match request.range {
        Some((start, end)) if request.path == "1-2.delta" && (start..end).contains(&place) => Fault::Flip(place),
        _ => Fault::None,
    });
    bench.install(Some(&bench.offer), Some(3 << 20)).await.unwrap();
    bench.assert_right();
    fs::remove_file(bench.path("b/rootfs")).unwrap();

    // It vanishes after the head was read.
    bench.server.plan(move |request, _| match request.range {
        Some((start, _)) if request.path == "1-2.delta" && start > 0 => Fault::Status(404, &[]),
        _ => Fault::None,
    });
    bench.install(Some(&bench.offer), None).await.unwrap();
    bench.assert_right();
    assert!(bench.asked_for("2.bundle") > 0);
}

#[tokio::test]
async fn one_wrong_byte_anywhere_in_the_first_answer_is_asked_for_again() {
    let bench = Bench::new();
    let envelope = release::Release::open(&bench.new).envelope.len() as u64;
    // In the recipes and in the first patches.
    for place in [envelope.next_multiple_of(512) + 1024 + 30, 20_000, 60_000] {
        let mut once = Some(place);
        bench.server.plan(move |request, _| match request.range {
            Some((start, end)) if once.is_some_and(|at| (start..end).contains(&at)) => {
                Fault::Flip(once.take().unwrap())
            }
            _ => Fault::None,
        });
        bench.install(Some(&bench.offer), Some(0)).await.unwrap_or_else(|error| panic!("at {place}: {error}"));
        bench.assert_right();
        fs::remove_file(bench.path("b/rootfs")).unwrap();
        fs::remove_dir_all(bench.path("state")).unwrap();
    }
    assert_eq!(bench.asked_for("2.bundle"), 0);
}

#[tokio::test]
async fn a_line_that_breaks_fails_the_install_which_goes_on_by_delta() {
    let bench = Bench::new();
    bench.server.plan(|request, number| match request.path.as_str() {
        "1-2.delta" if number > 0 => Fault::CloseAfter(20_000),
        _ => Fault::None,
    });
    // Progress between the breaks: it gets through.
    bench.install(Some(&bench.offer), Some(0)).await.unwrap();
    bench.assert_right();
    fs::remove_file(bench.path("b/rootfs")).unwrap();
    let begun = bench.server.requests().len();
    bench.server.plan(move |_, number| if number > begun { Fault::Stall } else { Fault::None });
    let error = bench.install(Some(&bench.offer), Some(0)).await.unwrap_err();
    assert_eq!(error.reason, Reason::Network, "{error}");
    bench.server.plan(|_, _| Fault::None);
    bench.install(Some(&bench.offer), Some(0)).await.unwrap();
    bench.assert_right();
    assert_eq!(bench.asked_for("2.bundle"), 0);
}

#[tokio::test]
async fn chunk_addresses_that_lie_or_are_damaged_cost_a_fetch_and_nothing_else() {
    let bench = Bench::new();
    let layout =
        bundle::layout::Layout::new(release::Release::open(&bench.new).envelope.len() as u64, &bench.new.manifest)
            .unwrap();
    let chunks = layout.member(bundle::layout::MemberKind::Chunks, 0).unwrap().clone();
    for place in [chunks.offset, chunks.offset + 70, chunks.offset + 300, chunks.offset + chunks.size - 5] {
        bench.server.plan(move |request, _| match request.range {
            Some((start, end)) if (start..end).contains(&place) => Fault::Flip(place),
            _ => Fault::None,
        });
        bench.install(None, None).await.unwrap_or_else(|error| panic!("at {place}: {error}"));
        bench.assert_right();
        fs::remove_file(bench.path("b/rootfs")).unwrap();
        fs::remove_dir_all(bench.path("state")).unwrap();
    }
}
