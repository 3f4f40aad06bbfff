//! An install into a real block device (a loop device, as root), killed at random moments and started again each time.
//!
//! The default run writes a small image; `FLIPSIDE_KILL_TEST_IMAGE=path` takes that one, as `make bench` does with a
//! Debian root of 671 MB.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may fail loudly"
)]

mod common;

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use bundle::manifest::ImageKind;
use common::held::{Job, Lives, frames, held, kill_after, missing, needless, random};
use common::loops::Loop;
use common::server::Server;
use common::site::{self, digest_of, files};
use updater::slots::Place;

const MIB: u64 = 1 << 20;
const KILLS: u32 = 30;
/// What a new start may cost: the head of the bundle, and nothing that is on the device.
const AGAIN: u64 = MIB;

/// Not a test of its own: the process that is killed.
#[tokio::test]
async fn child() {
    common::held::child(|target| Place::block(target).unwrap()).await;
}

/// An image of 96 MiB, written piece by piece; no piece equals another.
fn write_image(path: &Path) {
    let piece = files(16 << 20, 5);
    let mut file = File::create(path).unwrap();
    for n in 0..6 {
        let shift = piece.iter().map(|byte| byte.wrapping_add(n));
        file.write_all(&shift.collect::<Vec<u8>>()).unwrap();
    }
}

#[test]
fn killed_at_thirty_random_moments_it_goes_on_without_fetching_again() {
    let dir = tempfile::tempdir().unwrap();
    let (image, www) = (dir.path().join("image"), dir.path().join("www"));
    match std::env::var_os("FLIPSIDE_KILL_TEST_IMAGE") {
        Some(real) => std::os::unix::fs::symlink(real, &image).unwrap(),
        None => write_image(&image),
    }
    let size = fs::metadata(&image).unwrap().len();
    let Some(device) = Loop::over(&dir.path().join("disk"), size.next_multiple_of(MIB) + 8 * MIB) else { return };
    fs::create_dir(&www).unwrap();
    let release = site::release(&www.join("x.bundle"), 1, &[("rootfs", ImageKind::Block, &image)], 1);
    fs::remove_file(image).unwrap();
    let (frames, server) = (frames(&release), Server::new(www));
    let job = Job::new(&dir.path().join("state"), &device.device, server.url("x.bundle"), &release);
    let (mut had, mut kills, mut worst, mut sum) = (held(&frames, &device.device), 0, 0, 0);
    let mut lives = Lives::new();
    for _ in 0..6 * KILLS {
        if kills == KILLS {
            break;
        }
        let missing = missing(&frames, &had);
        let alive = if kills % 2 == 0 {
            // While it fetches: an even share of what is left, so that it lasts for all the kills.
            kill_after(job.start(), &server, random(2 * missing / u64::from(KILLS - kills) + MIB / 2))
        } else {
            // At any time: while it looks at what is there, fetches, or reads back.
            lives.kill(job.start())
        };
        let again = needless(&server.take_parts(), &frames, &had);
        (worst, sum) = (worst.max(again), sum + again);
        if alive {
            kills += 1;
        } else {
            // Done before its time: a quarter of the slot breaks, and it is installed once more.
            assert!(job.start().wait().unwrap().success());
            server.take_parts();
            spoil(&device.device, size / 2, size / 4);
        }
        had = held(&frames, &device.device);
    }
    assert_eq!(kills, KILLS);
    assert!(job.start().wait().unwrap().success());
    assert_eq!(digest_of(&device.device, size), release.manifest.images[0].sha256);
    eprintln!("{size} bytes, killed {kills} times: at most {worst} that were on the device came again, {sum} in all");
    assert!(worst < AGAIN, "{worst} bytes again after one kill");
}

/// Overwrites a part of the device.
fn spoil(device: &Path, at: u64, len: u64) {
    let device = File::options().write(true).open(device).unwrap();
    let noise = files(MIB as usize, 77);
    for piece in 0..len / MIB {
        device.write_all_at(&noise, at + piece * MIB).unwrap();
    }
    device.sync_all().unwrap();
}
