//! An install into a real block device (a loop device, as root), killed at random moments and started again each time.
//!
//! The default run writes a smaller image; `FLIPSIDE_KILL_TEST_MB=400` is the full measure, and `make bench` runs it.

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
use std::path::Path;

use bundle::manifest::ImageKind;
use common::held::{Job, frames, held, kill_after, missing, needless, random};
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

/// An image of that many MiB, written piece by piece; no piece equals another.
fn write_image(path: &Path, mib: usize) {
    let piece = files(16 << 20, 5);
    let mut file = File::create(path).unwrap();
    for n in 0..mib.div_ceil(16) {
        let shift = piece.iter().map(|byte| byte.wrapping_add(u8::try_from(n).unwrap()));
        file.write_all(&shift.collect::<Vec<u8>>()).unwrap();
    }
    file.set_len(mib as u64 * MIB).unwrap();
}

#[test]
fn killed_at_thirty_random_moments_it_goes_on_without_fetching_again() {
    let mib: usize = std::env::var("FLIPSIDE_KILL_TEST_MB").map_or(96, |text| text.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let Some(device) = Loop::over(&dir.path().join("disk"), mib as u64 * MIB + 8 * MIB) else { return };
    let (image, www) = (dir.path().join("image"), dir.path().join("www"));
    write_image(&image, mib);
    fs::create_dir(&www).unwrap();
    let release = site::release(&www.join("x.bundle"), 1, &[("rootfs", ImageKind::Block, &image)], 1);
    fs::remove_file(image).unwrap();
    let (frames, server) = (frames(&release), Server::new(www));
    let job = Job::new(&dir.path().join("state"), &device.device, server.url("x.bundle"), &release);
    let (mut had, mut kills, mut worst, mut sum) = (vec![false; frames.len()], 0, 0, 0);
    while kills < KILLS {
        let missing = missing(&frames, &had);
        // Anywhere between the start and a little beyond an even share of what is left; now and then in the read-back.
        let share = 2 * missing / u64::from(KILLS - kills) + MIB / 2;
        let alive = kill_after(job.start(), &server, random(share));
        let again = needless(&server.take_parts(), &frames, &had);
        (worst, sum) = (worst.max(again), sum + again);
        had = held(&frames, &device.device);
        if !alive {
            break;
        }
        kills += 1;
    }
    assert!(kills > 10, "only {kills} kills hit it alive");
    assert!(job.start().wait().unwrap().success());
    assert_eq!(digest_of(&device.device, mib as u64 * MIB), release.manifest.images[0].sha256);
    eprintln!("{mib} MiB, killed {kills} times: at most {worst} bytes again that were on the device, {sum} in all");
    assert!(worst < AGAIN, "{worst} bytes again after one kill");
}
