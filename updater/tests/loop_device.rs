//! Installs into real block devices (loop devices, as root): bit for bit, used ones refused.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may fail loudly"
)]

mod common;

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::process::Command;

use bundle::manifest::ImageKind;
use bundle::reason::Reason;
use common::loops::Loop;
use common::server::Server;
use common::site::{self, HASTY, Release, digest_of, hasty_http, noise};
use common::skip::skipped_without_root;
use tokio::sync::watch;
use updater::install::installer::Pipeline;
use updater::seams::{Cancel, InstallError, Installer as _};
use updater::slots::Place;
use updater_core::event::Transfer;
use updater_core::release::Source;

const MIB: u64 = 1 << 20;

fn pipeline(state: &Path, device: &Path) -> Pipeline {
    let place = Place::block(device.to_str().unwrap()).unwrap();
    site::pipeline(state, &[("rootfs", place)], &hasty_http(), HASTY)
}

fn rootfs(dir: &Path, name: &str, counter: u64, bytes: &[u8]) -> Release {
    let image = dir.join("image");
    fs::write(&image, bytes).unwrap();
    fs::create_dir_all(dir.join("www")).unwrap();
    site::release(&dir.join("www").join(name), counter, &[("rootfs", ImageKind::Block, &image)], 1)
}

async fn install(pipeline: &Pipeline, release: &Release, source: Source) -> Result<Transfer, InstallError> {
    let (sink, _seen) = watch::channel(None);
    let request = site::request(&release.release, source);
    let transfer = pipeline.install(&request, &sink, &Cancel::new()).await?;
    pipeline.verify(&request, &sink, &Cancel::new()).await?;
    Ok(transfer)
}

#[tokio::test]
async fn bit_for_bit_with_the_tail_of_a_larger_image_wiped_and_equal_blocks_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let Some(device) = Loop::over(&dir.path().join("disk"), 40 * MIB) else { return };
    // Something else was there, up to the last byte.
    fs::OpenOptions::new().write(true).open(&device.device).unwrap().write_all(&vec![0xee; 40 << 20]).unwrap();
    let mut bytes = noise(20_000_512, 3);
    let one = rootfs(dir.path(), "1.bundle", 1, &bytes);
    let server = Server::new(dir.path().join("www"));
    let pipeline = pipeline(&dir.path().join("state"), &device.device);
    install(&pipeline, &one, Source::Urls(vec![server.url("1.bundle")])).await.unwrap();
    let size = one.manifest.images[0].size;
    assert_eq!(digest_of(&device.device, size), one.manifest.images[0].sha256);
    let mut tail = vec![1; 1 << 20];
    let mut file = File::open(&device.device).unwrap();
    for place in [size.next_multiple_of(4096), 39 * MIB] {
        file.seek(SeekFrom::Start(place)).unwrap();
        file.read_exact(&mut tail).unwrap();
        assert!(tail.iter().all(|byte| *byte == 0), "at {place}");
    }

    bytes[7_000_000..7_100_000].fill(0x5a);
    let two = rootfs(dir.path(), "2.bundle", 2, &bytes);
    let transfer = install(&pipeline, &two, Source::Urls(vec![server.url("2.bundle")])).await.unwrap();
    assert_eq!(digest_of(&device.device, size), two.manifest.images[0].sha256);
    assert!(transfer.fetched < 3_000_000 && transfer.reused > 17_000_000, "{transfer:?}");
    assert!(transfer.written < 400_000, "{transfer:?}");
}

#[tokio::test]
async fn too_small_mounted_held_or_missing_is_refused_before_a_byte_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let Some(device) = Loop::over(&dir.path().join("disk"), 16 * MIB) else { return };
    let large = rootfs(dir.path(), "large.bundle", 1, &noise(17 << 20, 4));
    let small = rootfs(dir.path(), "small.bundle", 2, &noise(2 << 20, 4));
    let pipeline_ = pipeline(&dir.path().join("state"), &device.device);
    let path = |release: &Release| Source::Path(release.path.display().to_string());
    let update = site::request(&large.release, path(&large)).update;
    for read in ["by nobody yet", "before"] {
        let error = pipeline_.fits(&update).await.unwrap_err();
        assert_eq!(error.reason, Reason::NoSpace, "head read {read}: {error}");
    }
    let fitting = site::request(&small.release, path(&small)).update;
    pipeline_.fits(&fitting).await.expect("another release than the one that was read last");
    let error = install(&pipeline_, &large, path(&large)).await.unwrap_err();
    assert_eq!(error.reason, Reason::NoSpace, "{error}");

    let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&device.device).status();
    let mount = dir.path().join("mnt");
    fs::create_dir(&mount).unwrap();
    let mounted = made.is_ok_and(|status| status.success())
        && Command::new("mount").arg(&device.device).arg(&mount).status().is_ok_and(|status| status.success());
    if mounted {
        let error = install(&pipeline_, &small, path(&small)).await.unwrap_err();
        Command::new("umount").arg(&mount).status().unwrap();
        assert_eq!(error.reason, Reason::Busy, "{error}");
        assert!(error.detail.contains("mounted at"), "{error}");
    } else {
        skipped_without_root("can not mount here");
    }
    let claimed = fs::OpenOptions::new().write(true).read(true).custom_flags_excl(&device.device);
    let error = install(&pipeline_, &small, path(&small)).await.unwrap_err();
    assert_eq!(error.reason, Reason::Busy, "claimed by another process: {error}");
    drop(claimed);
    install(&pipeline_, &small, path(&small)).await.unwrap();

    let nowhere = pipeline(&dir.path().join("state"), Path::new("/dev/nowhere"));
    assert_eq!(install(&nowhere, &small, path(&small)).await.unwrap_err().reason, Reason::SlotUnknown);
}

/// Opens a block device with an exclusive claim, as a mount would.
trait Exclusive {
    fn custom_flags_excl(&mut self, path: &Path) -> File;
}

impl Exclusive for fs::OpenOptions {
    fn custom_flags_excl(&mut self, path: &Path) -> File {
        use std::os::unix::fs::OpenOptionsExt as _;
        self.custom_flags(nix::fcntl::OFlag::O_EXCL.bits()).open(path).unwrap()
    }
}

#[tokio::test]
async fn the_read_back_is_of_the_medium_and_not_of_memory() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    let Some(device) = Loop::over(&disk, 16 * MIB) else { return };
    let release = rootfs(dir.path(), "x.bundle", 1, &noise(8 << 20, 6));
    let pipeline = pipeline(&dir.path().join("state"), &device.device);
    install(&pipeline, &release, Source::Path(release.path.display().to_string())).await.unwrap();
    // All of it is in memory now, and the medium changes behind its back.
    assert_eq!(digest_of(&device.device, 8 * MIB), release.manifest.images[0].sha256);
    let medium = fs::OpenOptions::new().write(true).open(&disk).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&medium, &[0x5a; 4096], 3 * MIB).unwrap();
    medium.sync_all().unwrap();
    let (sink, _seen) = watch::channel(None);
    let request = site::request(&release.release, Source::Path(release.path.display().to_string()));
    let error = pipeline.verify(&request, &sink, &Cancel::new()).await.unwrap_err();
    assert_eq!(error.reason, Reason::ImageMismatch, "{error}");
}
