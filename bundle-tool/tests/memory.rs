//! Peak memory of the command, as the kernel counts it. Alone in its binary: the count is the largest of all children.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may fail loudly")]

mod common;

use common::Workshop;
use nix::sys::resource::{UsageWho, getrusage};

/// Largest resident set of any child so far, MB.
fn peak_mb() -> u64 {
    // The kernel counts in KiB here.
    let peak = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss();
    u64::try_from(peak).unwrap() * 1024 / 1_000_000
}

#[test]
fn verifying_and_building_stay_within_their_memory() {
    let shop = Workshop::new();
    // Many times the memory allowed below. One thread at level 1 builds in less than verifying may take.
    shop.write_big("rootfs.img", 256);
    shop.ok(&["build", "--out", "a.bundle", "--level", "1", "--frame-size", "1MiB", "--threads", "1", "--quiet"]);
    shop.ok(&["sign", "a.bundle", "--key", "keys/release.pem"]);
    shop.ok(&["verify", "a.bundle", "--trust", "trust.dsse.json", "--quiet"]);
    let verifying = peak_mb();
    println!("verifying 256 MiB: {verifying} MB");
    assert!(verifying < 32, "verifying took {verifying} MB");

    // Level 19 takes what its tables take, about 25 MB for each thread, whatever the size of the image.
    shop.write_big("rootfs.img", 12);
    shop.ok(&["build", "--out", "b.bundle", "--frame-size", "1MiB", "--threads", "4", "--quiet"]);
    let building = peak_mb();
    println!("building at level 19 with 4 threads: {building} MB");
    assert!(building < 300, "building at level 19 with 4 threads took {building} MB");
}
