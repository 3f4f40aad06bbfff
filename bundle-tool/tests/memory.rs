//! Peak memory of the command, as the kernel counts it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may fail loudly")]

mod common;

use std::process::Command;

use common::Workshop;
use nix::sys::resource::{UsageWho, getrusage};

/// Names the command line to `measured`, words apart by line ends.
const WORDS: &str = "FLIPSIDE_MEASURED";

/// Peak memory of one command, MB (decimal), by a process of its own: the kernel counts the largest of all children,
/// and for each at least what its parent held.
fn peak_mb(shop: &Workshop, args: &[&str]) -> u64 {
    let this = std::env::current_exe().unwrap();
    let mut measured = Command::new(this);
    measured.args(["--exact", "measured", "--ignored", "--nocapture"]).current_dir(shop.folder());
    let out = measured.env(WORDS, args.join("\n")).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{args:?}\n{said}\n{}", String::from_utf8_lossy(&out.stderr));
    let bytes: u64 = said.lines().find_map(|line| line.strip_prefix("peak: ")).unwrap().parse().unwrap();
    println!("{}: {:.1} MB", args.join(" "), bytes as f64 / 1e6);
    bytes.div_ceil(1_000_000)
}

#[test]
#[ignore = "run by the tests here, with the command to measure"]
fn measured() {
    let Some(words) = std::env::var_os(WORDS) else { return };
    let words = words.into_string().unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_bundle-tool")).args(words.split('\n')).status().unwrap();
    assert!(status.success());
    // The kernel counts in KiB here.
    println!("\npeak: {}", getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss() * 1024);
}

const VERIFY: [&str; 5] = ["verify", "a.bundle", "--trust", "trust.dsse.json", "--quiet"];

#[test]
fn verifying_and_building_stay_within_their_memory() {
    let shop = Workshop::new();
    // Many times the memory allowed below.
    shop.write_big("rootfs.img", 256);
    shop.ok(&["build", "--out", "a.bundle", "--level", "1", "--frame-size", "1MiB", "--threads", "1", "--quiet"]);
    shop.ok(&["sign", "a.bundle", "--key", "keys/release.pem"]);
    let verifying = peak_mb(&shop, &VERIFY);
    assert!(verifying < 32, "verifying took {verifying} MB");

    // Level 19 takes what its tables take, about 25 MB for each thread, whatever the size of the image.
    shop.write_big("rootfs.img", 12);
    let build = ["build", "--out", "b.bundle", "--frame-size", "1MiB", "--quiet"];
    for threads in [&["--threads", "4"][..], &[]] {
        let building = peak_mb(&shop, &[&build, threads].concat());
        assert!(building < 300, "building at level 19 with {threads:?} took {building} MB");
    }
}

#[test]
fn the_largest_frames_are_verified_within_the_same_memory() {
    let shop = Workshop::new();
    shop.write_big("rootfs.img", 64);
    shop.ok(&["build", "--out", "a.bundle", "--level", "1", "--frame-size", "4MiB", "--threads", "1", "--quiet"]);
    shop.ok(&["sign", "a.bundle", "--key", "keys/release.pem"]);
    let verifying = peak_mb(&shop, &VERIFY);
    assert!(verifying < 32, "verifying took {verifying} MB");
}

/// A delta whose prefixes are as large as they get for frames of that size.
fn delta(shop: &Workshop, frame_size: &str) {
    let build = |out| ["build", "--out", out, "--level", "1", "--frame-size", frame_size, "--threads", "1", "--quiet"];
    shop.write_big("rootfs.img", 32);
    shop.ok(&build("a.bundle"));
    std::fs::rename(shop.path("rootfs.img"), shop.path("old.img")).unwrap();
    // Every block is another, and yet known: nothing can be copied, everything is in some prefix.
    let mut image = shop.read("old.img");
    image.chunks_mut(4096).for_each(|block| block[7] ^= 0x55);
    image.rotate_left(100);
    shop.write("rootfs.img", &image);
    drop(image);
    shop.ok(&[&build("b.bundle")[..], &["--release-version", "2.0.0", "--counter", "2"]].concat());
    shop.ok(&["sign", "b.bundle", "--key", "keys/release.pem"]);
    shop.ok(&["delta", "a.bundle", "b.bundle", "--out", "x.delta", "--level", "3", "--threads", "1", "--quiet"]);
}

#[test]
fn deltas_are_applied_within_the_same_memory() {
    let shop = Workshop::new();
    for frame_size in ["1MiB", "4MiB"] {
        delta(&shop, frame_size);
        let apply = ["apply", "x.delta", "--image", "rootfs", "--old", "old.img", "--out", "made.img"];
        let apply = [&apply[..], &["--trust", "trust.dsse.json", "--quiet"]].concat();
        for threads in [&[][..], &["--threads", "4"], &["--threads", "1"]] {
            let applying = peak_mb(&shop, &[&apply[..], threads].concat());
            assert!(applying < 32, "applying frames of {frame_size} with {threads:?} took {applying} MB");
            assert!(shop.read("made.img") == shop.read("rootfs.img"));
        }
    }
}
