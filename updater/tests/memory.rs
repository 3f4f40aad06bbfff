//! The whole product updates by full download and by delta within its memory: below 32 MB, whatever the size.
//!
//! A debug binary has many pages of its own file in memory; there, only what it allocated counts.
//! `FLIPSIDE_TEST_BINARY=target/device/flipside` measures the shipped one, file pages included.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail loudly"
)]

mod common;
mod sim;

use std::fs;

use common::server::Server;
use common::site::files;
use sim::World;

/// 32 MB in KiB.
const MOST: u64 = 32_000_000 / 1024;

/// Checks the peak of the daemon and says it.
fn within_limits(world: &World, what: &str) {
    let (peak, file, anonymous) = (world.memory("VmHWM"), world.memory("RssFile"), world.memory("RssAnon"));
    eprintln!("{what}: peak {peak} KiB, of that now {file} KiB of the binary and {anonymous} KiB of its own");
    let counted = if std::env::var_os("FLIPSIDE_TEST_BINARY").is_some() { peak } else { peak - file.min(peak) };
    assert!(counted < MOST, "{what}: {counted} KiB");
}

#[test]
fn a_full_update_and_a_delta_stay_below_32_mb_and_the_engine_chooses_the_delta() {
    let mut world = World::new();
    let server = Server::new(world.tree());
    world.config("url.toml", &format!("[source]\nurl = \"http://{}\"\n", server.address));
    let image = |n: u64| world.folder.path().join(format!("image-{n}"));
    let (first, second) = (image(2), image(3));
    let mut bytes = files(64 << 20, 21);
    fs::write(&first, &bytes).unwrap();
    for at in (0..60 << 20).step_by(3 << 20) {
        let fresh = files(60_000, at as u64 + 1);
        bytes[at..at + 60_000].copy_from_slice(&fresh);
    }
    fs::write(&second, &bytes).unwrap();

    let one = world.publish_image(2, &first, None);
    world.approve(2, 10_000, "rolling");
    world.start();
    let checked = world.flipside(&["check", "--wait"]);
    assert_eq!(world.status()["state"], "staged", "{checked:?}");
    within_limits(&world, "full");
    assert_eq!(world.flipside(&["activate"]).code, 0);
    world.wait_for("state", "armed");
    world.restart_into("b");
    assert_eq!(world.flipside(&["confirm", "--boot"]).code, 0);

    world.publish_image(3, &second, Some((&one, &first)));
    world.approve(3, 10_000, "rolling");
    let before = server.sent();
    let checked = world.flipside(&["check", "--wait"]);
    assert_eq!(world.status()["state"], "staged", "{checked:?}");
    within_limits(&world, "delta");
    // The documents, the head of the bundle for the manifest, and the delta.
    let (fetched, delta) = (server.sent() - before, fs::metadata(world.tree().join("x.delta")).unwrap().len());
    eprintln!("delta of {delta} bytes, {fetched} bytes fetched");
    assert!(fetched < delta + delta / 20 + (100 << 10), "{fetched} bytes fetched for a delta of {delta}");
    assert!(fs::read(world.folder.path().join("slots/a/rootfs.img")).unwrap() == bytes);
}
