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
use std::hash::{BuildHasher as _, Hasher as _};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use bundle::manifest::ImageKind;
use common::held::{frames, held, kill_after, needless};
use common::loops::Loop;
use common::server::Server;
use common::site::{self, HASTY, digest_of, files, hasty_http};
use tokio::sync::watch;
use updater::seams::{Cancel, Installer as _};
use updater::slots::Place;
use updater_core::release::Source;

const MIB: u64 = 1 << 20;
const KILLS: u32 = 30;
/// What a new start may cost: the head of the bundle, and nothing that is on the device.
const AGAIN: u64 = MIB;

/// Not a test of its own: the process that is killed.
#[tokio::test]
async fn child() {
    let Ok(job) = std::env::var("FLIPSIDE_TEST_CHILD") else { return };
    let [state, device, url, release]: [&str; 4] = job.split('\n').collect::<Vec<_>>().try_into().unwrap();
    let place = Place::block(device).unwrap();
    let pipeline = site::pipeline(Path::new(state), &[("rootfs", place)], &hasty_http(), HASTY);
    let (sink, _seen) = watch::channel(None);
    let request = site::request(&serde_json::from_str(release).unwrap(), Source::Urls(vec![url.to_owned()]));
    pipeline.install(&request, &sink, &Cancel::new()).await.unwrap();
    pipeline.verify(&request, &sink, &Cancel::new()).await.unwrap();
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
    let job = [
        dir.path().join("state").display().to_string(),
        device.device.display().to_string(),
        server.url("x.bundle"),
        serde_json::to_string(&release.release).unwrap(),
    ]
    .join("\n");
    let start = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "child"]).env("FLIPSIDE_TEST_CHILD", &job).stdout(Stdio::null()).process_group(0);
        command.spawn().unwrap()
    };
    let random = |below: u64| std::hash::RandomState::new().build_hasher().finish() % below.max(1);
    let (mut had, mut kills, mut worst, mut sum) = (vec![false; frames.len()], 0, 0, 0);
    while kills < KILLS {
        let missing: u64 =
            frames.iter().zip(&had).filter(|(_, had)| !**had).map(|(f, _)| f.stored.1 - f.stored.0).sum();
        // Anywhere between the start and a little beyond an even share of what is left; now and then in the read-back.
        let share = 2 * missing / u64::from(KILLS - kills) + MIB / 2;
        let alive = kill_after(start(), &server, random(share));
        let again = needless(&server.take_parts(), &frames, &had);
        (worst, sum) = (worst.max(again), sum + again);
        had = held(&frames, &device.device);
        if !alive {
            break;
        }
        kills += 1;
    }
    assert!(kills > 10, "only {kills} kills hit it alive");
    assert!(start().wait().unwrap().success());
    assert_eq!(digest_of(&device.device, mib as u64 * MIB), release.manifest.images[0].sha256);
    eprintln!("{mib} MiB, killed {kills} times: at most {worst} bytes again that were on the device, {sum} in all");
    assert!(worst < AGAIN, "{worst} bytes again after one kill");
}
