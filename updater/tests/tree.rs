//! Installs into folders: whole or not at all, with owners, modes and attributes, and proven by packing them again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may fail loudly"
)]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use bundle::build::write_tree;
use bundle::digest::Digest;
use bundle::manifest::ImageKind;
use bundle::reason::Reason;
use common::folder::{attribute, facts, is_root, mode, system};
use common::server::{Fault, Server};
use common::site::{self, HASTY, Release, hasty_http};
use common::skip::{skipped, skipped_without_root};
use tokio::sync::watch;
use updater::install::installer::Pipeline;
use updater::seams::{Cancel, InstallError, InstallRequest, Installer as _};
use updater::slots::Place;
use updater_core::event::Transfer;
use updater_core::release::Source;

/// A device that runs slot a and writes slot b, both folders, and a server.
struct Bench {
    dir: tempfile::TempDir,
    server: Server,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["www", "slots/a", "slots/b"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        system(&dir.path().join("slots/a/rootfs"), 50_000, 9);
        let server = Server::new(dir.path().join("www"));
        Self { dir, server }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn target(&self) -> PathBuf {
        self.at("slots/b/rootfs")
    }

    /// A release of a system of `len` bytes, made in the folder `source-<counter>`.
    fn release(&self, counter: u64, len: usize) -> Release {
        let folder = self.at(&format!("source-{counter}"));
        system(&folder, len, counter);
        self.release_of(counter, &folder)
    }

    fn release_of(&self, counter: u64, path: &Path) -> Release {
        site::release(&self.at(&format!("www/{counter}.bundle")), counter, &[("rootfs", ImageKind::Tree, path)], 1)
    }

    fn pipeline(&self) -> Pipeline {
        let places = ["slots/a/rootfs", "slots/b/rootfs"].map(|name| [("rootfs", Place::Tree(self.at(name)))]);
        Pipeline::new(site::setup(&self.at("state"), [&places[0], &places[1]], &hasty_http(), HASTY))
    }

    fn web(&self, release: &Release) -> InstallRequest {
        let url = self.server.url(&format!("{}.bundle", release.release.counter));
        site::request(&release.release, Source::Urls(vec![url]))
    }

    async fn install(&self, request: &InstallRequest) -> Result<Transfer, InstallError> {
        let (sink, _seen) = watch::channel(None);
        self.pipeline().install(request, &sink, &Cancel::new()).await
    }

    async fn verify(&self, request: &InstallRequest) -> Result<(), InstallError> {
        let (sink, _seen) = watch::channel(None);
        self.pipeline().verify(request, &sink, &Cancel::new()).await
    }

    /// The folder is the release, found out in two ways, and nothing else is beside it.
    fn assert_right(&self, release: &Release) {
        assert_eq!(facts(&self.target()), facts(&self.at(&format!("source-{}", release.release.counter))));
        assert_eq!(digest(&self.target(), release), Some(release.manifest.images[0].sha256));
        let beside = fs::read_dir(self.at("slots/b")).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(beside.collect::<Vec<_>>(), ["rootfs"]);
    }
}

/// What the folder would be as an image of this release; none without a folder.
fn digest(folder: &Path, release: &Release) -> Option<Digest> {
    let mut tar = Vec::new();
    write_tree(folder, release.manifest.mtime(), &mut tar).ok()?;
    Some(Digest::of(&tar))
}

#[tokio::test]
async fn from_a_server_a_file_and_a_stream_over_nothing_and_over_an_older_folder() {
    let bench = Bench::new();
    let running = facts(&bench.at("slots/a/rootfs"));
    let one = bench.release(1, 3_000_000);
    let first = bench.install(&bench.web(&one)).await.unwrap();
    bench.assert_right(&one);
    bench.verify(&bench.web(&one)).await.unwrap();
    assert!(first.fetched > 500_000, "{first:?}");
    // What is right is kept, and only the head is asked for.
    let again = bench.install(&bench.web(&one)).await.unwrap();
    assert_eq!((again.fetched, again.written, again.reused), (0, 0, one.manifest.images[0].size));
    bench.assert_right(&one);

    // Something of the folder before must not stay.
    fs::write(bench.target().join("etc/left-over"), b"x").unwrap();
    let two = bench.release(2, 2_500_000);
    let path = site::request(&two.release, Source::Path(two.path.display().to_string()));
    bench.install(&path).await.unwrap();
    bench.assert_right(&two);
    bench.verify(&path).await.unwrap();

    bench.server.plan(|_, _| Fault::NoRanges);
    bench.install(&bench.web(&one)).await.unwrap();
    bench.assert_right(&one);
    bench.verify(&bench.web(&one)).await.unwrap();
    assert_eq!(facts(&bench.at("slots/a/rootfs")), running, "the running slot");
}

#[tokio::test]
async fn a_tar_made_elsewhere_is_read_back_too() {
    if !is_root() {
        return skipped_without_root("the owner of the folder itself is root in such a tar");
    }
    let bench = Bench::new();
    let source = bench.at("source-1");
    system(&source, 400_000, 1);
    let tar = bench.at("x.tar");
    // In another form than ours: other times, a block size, names of owners, no entry for the folder itself.
    let run = Command::new("tar")
        .args(["--create", "--sort=name", "--format=posix", "--xattrs", "--xattrs-include=*", "--file"])
        .arg(&tar)
        .args(["--directory"])
        .arg(&source)
        .args(
            fs::read_dir(&source)
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect::<std::collections::BTreeSet<_>>(),
        )
        .status();
    if !run.is_ok_and(|status| status.success()) {
        return skipped("no GNU tar with attributes here");
    }
    let release = bench.release_of(1, &tar);
    bench.install(&bench.web(&release)).await.unwrap();
    bench.verify(&bench.web(&release)).await.unwrap();
    bench.assert_right(&release);
}

/// Something done to a folder, and what.
type Change = (&'static str, fn(&Path));

#[tokio::test]
async fn whatever_was_changed_is_refused_and_mended() {
    let bench = Bench::new();
    let release = bench.release(1, 200_000);
    let request = bench.web(&release);
    let changes: [Change; 12] = [
        ("a byte", |folder| fs::write(folder.join("etc/config"), b"seed = 2\n").unwrap()),
        ("a file more", |folder| fs::write(folder.join("etc/more"), b"").unwrap()),
        ("much more", |folder| File::create(folder.join("etc/more")).unwrap().set_len(1 << 40).unwrap()),
        ("a folder more", |folder| fs::create_dir(folder.join("empty/more")).unwrap()),
        ("a file less", |folder| fs::remove_file(folder.join("usr/lib/lib2.so")).unwrap()),
        ("a mode", |folder| mode(&folder.join("etc/config"), 0o666)),
        ("a mode of the folder", |folder| mode(folder, 0o777)),
        ("a pipe", |folder| {
            nix::unistd::mkfifo(&folder.join("empty/pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        }),
        ("a link", |folder| {
            fs::remove_file(folder.join("link")).unwrap();
            symlink("etc/other", folder.join("link")).unwrap();
        }),
        ("two files of one", |folder| {
            fs::remove_file(folder.join("usr/bin/ping4")).unwrap();
            fs::copy(folder.join("usr/bin/ping"), folder.join("usr/bin/ping4")).unwrap();
        }),
        ("an owner", |folder| {
            // Only root can; others change the mode in its place.
            if std::os::unix::fs::chown(folder.join("etc/config"), Some(5), None).is_err() {
                mode(&folder.join("etc/config"), 0o600);
            }
        }),
        ("an attribute", |folder| {
            if !attribute(&folder.join("etc/config"), "user.more", b"x") {
                fs::remove_file(folder.join("etc/config")).unwrap();
            }
        }),
    ];
    for (name, change) in changes {
        bench.install(&request).await.unwrap_or_else(|error| panic!("before {name}: {error}"));
        bench.verify(&request).await.unwrap_or_else(|error| panic!("before {name}: {error}"));
        change(&bench.target());
        let error = bench.verify(&request).await.expect_err(name);
        assert_eq!(error.reason, Reason::ImageMismatch, "{name}: {error}");
    }
    // A link to a right folder is not the folder, and nothing is written through it.
    bench.install(&request).await.unwrap();
    fs::rename(bench.target(), bench.at("slots/b/moved")).unwrap();
    symlink("moved", bench.target()).unwrap();
    assert_eq!(bench.verify(&request).await.unwrap_err().reason, Reason::SlotUnknown);
    assert_eq!(bench.install(&request).await.unwrap_err().reason, Reason::SlotUnknown);
    assert_eq!(digest(&bench.at("slots/b/moved"), &release), Some(release.manifest.images[0].sha256));
}

#[tokio::test]
async fn labels_that_the_kernel_gives_are_no_change_but_those_of_the_image_count() {
    let bench = Bench::new();
    let release = bench.release(1, 100_000);
    bench.install(&bench.web(&release)).await.unwrap();
    let labelled = |folder: &Path, label: &[u8]| attribute(&folder.join("etc/config"), "security.selinux", label);
    if !labelled(&bench.target(), b"some:label") {
        return;
    }
    bench.verify(&bench.web(&release)).await.unwrap();

    let source = bench.at("source-2");
    system(&source, 100_000, 2);
    assert!(labelled(&source, b"its:own"));
    let two = bench.release_of(2, &source);
    bench.install(&bench.web(&two)).await.unwrap();
    bench.verify(&bench.web(&two)).await.unwrap();
    assert!(labelled(&bench.target(), b"another"));
    assert_eq!(bench.verify(&bench.web(&two)).await.unwrap_err().reason, Reason::ImageMismatch);
}

/// Leaves the device as a crash at some step would.
fn crashed(bench: &Bench, step: &str, release: &Release) {
    let (folder, beside) = (bench.target(), |ending: &str| bench.at(&format!("slots/b/rootfs.flipside-{ending}")));
    let image = |file: &Path| {
        let source = bench.at(&format!("source-{}", release.release.counter));
        write_tree(&source, release.manifest.mtime(), &mut File::create(file).unwrap()).unwrap();
    };
    let half = |at: &Path| {
        system(at, 30_000, 99);
        symlink("../../a", at.join("elsewhere")).unwrap();
    };
    match step {
        "fetched" => image(&beside("tar")),
        "unpacking" => {
            image(&beside("tar"));
            half(&beside("new"));
        }
        "moved away" => {
            image(&beside("tar"));
            half(&beside("new"));
            fs::rename(folder, beside("old")).unwrap();
        }
        "in place" => {
            image(&beside("tar"));
            half(&beside("old"));
        }
        "removing" => half(&beside("old")),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_crash_at_any_step_costs_no_fetching() {
    let bench = Bench::new();
    let (one, two) = (bench.release(1, 1_500_000), bench.release(2, 1_500_000));
    let running = facts(&bench.at("slots/a/rootfs"));
    for (step, already) in
        [("fetched", &one), ("unpacking", &one), ("moved away", &one), ("in place", &two), ("removing", &two)]
    {
        bench.install(&bench.web(already)).await.unwrap();
        crashed(&bench, step, &two);
        let before = bench.server.sent();
        let rest = bench.install(&bench.web(&two)).await.unwrap_or_else(|error| panic!("{step}: {error}"));
        assert_eq!(rest.reused, two.manifest.images[0].size, "{step}: {rest:?}");
        // The head of the bundle is asked for again, and the index.
        assert!(bench.server.sent() - before < 70_000, "{step}: {}", bench.server.sent() - before);
        bench.assert_right(&two);
        bench.verify(&bench.web(&two)).await.unwrap();
    }
    assert_eq!(facts(&bench.at("slots/a/rootfs")), running, "a link in what was removed was not followed");
}

#[tokio::test]
async fn cancelled_while_it_is_fetched_it_leaves_the_folder_of_before_and_goes_on() {
    let bench = Bench::new();
    let (one, two) = (bench.release(1, 300_000), bench.release(2, 8_000_000));
    bench.install(&bench.web(&one)).await.unwrap();
    bench.server.plan(|_, number| if number > 2 { Fault::StallHalfway } else { Fault::None });
    let cancel = Cancel::new();
    let (sink, mut seen) = watch::channel(None);
    let (pipeline, request) = (bench.pipeline(), bench.web(&two));
    let watching = async {
        let begun = |progress: &Option<updater_core::status::Progress>| progress.is_some_and(|p| p.bytes_done > 0);
        let _ = seen.wait_for(begun).await;
        cancel.cancel();
    };
    let (result, ()) = tokio::join!(pipeline.install(&request, &sink, &cancel), watching);
    assert_eq!(result.unwrap_err().reason, Reason::Cancelled);
    assert_eq!(digest(&bench.target(), &one), Some(one.manifest.images[0].sha256));
    // What waits beside it is nobody else's to read.
    let tar = fs::metadata(bench.at("slots/b/rootfs.flipside-tar")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&tar) & 0o7777, 0o600);
    bench.server.plan(|_, _| Fault::None);
    let rest = bench.install(&request).await.unwrap();
    assert!(rest.reused > 0, "{rest:?}");
    bench.assert_right(&two);
}

/// A small file system in memory; unmounted when dropped.
struct Small(PathBuf);

impl Small {
    fn new(at: &Path, mib: u32) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let size = format!("size={mib}m,mode=0755");
        let run = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).status();
        if !(is_root() && run.is_ok_and(|status| status.success())) {
            skipped_without_root("a full file system is a mount");
            return None;
        }
        let mounted = Self(at.to_owned());
        // Linux 6.6 is the first where a file system in memory has them.
        attribute(at, "user.here", b"x").then_some(mounted)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test]
async fn what_is_mounted_in_or_beside_a_folder_is_not_deleted() {
    let bench = Bench::new();
    let (one, two) = (bench.release(1, 100_000), bench.release(2, 100_000));
    bench.install(&bench.web(&one)).await.unwrap();
    // In the slot, and in what an interrupted install left beside it.
    for folder in ["slots/b/rootfs/late", "slots/b/rootfs.flipside-old/late"] {
        let inside = bench.at(folder);
        let Some(mount) = Small::new(&inside, 1) else { return };
        fs::write(inside.join("precious"), b"x").unwrap();
        let error = bench.install(&bench.web(&two)).await.unwrap_err();
        assert_eq!(error.reason, Reason::Busy, "{error}");
        assert!(inside.join("precious").exists(), "{folder}");
        drop(mount);
    }
    bench.install(&bench.web(&two)).await.unwrap();
    bench.assert_right(&two);
}

#[tokio::test]
async fn no_room_is_said_before_a_byte_is_written_and_the_old_folder_makes_room() {
    let bench = Bench::new();
    let Some(_mount) = Small::new(&bench.at("slots/b"), 8) else { return };
    let large = bench.release(1, 5_000_000);
    let error = bench.install(&bench.web(&large)).await.unwrap_err();
    assert_eq!(error.reason, Reason::NoSpace, "{error}");
    assert!(error.detail.contains("slots/b has room for 83"), "{error}");
    assert_eq!(fs::read_dir(bench.at("slots/b")).unwrap().count(), 0);

    // Each fits once with its tar; the second only when the first has gone.
    let (two, three) = (bench.release(2, 3_000_000), bench.release(3, 3_000_000));
    bench.install(&bench.web(&two)).await.unwrap();
    bench.assert_right(&two);
    bench.install(&bench.web(&three)).await.unwrap();
    bench.assert_right(&three);
    bench.verify(&bench.web(&three)).await.unwrap();

    // A byte in a tar is two blocks of 512; here it is a page.
    let many = bench.at("source-4");
    fs::create_dir(&many).unwrap();
    (0..2500).for_each(|n| fs::write(many.join(format!("{n:05}")), b"x").unwrap());
    let many = bench.release_of(4, &many);
    let error = bench.install(&bench.web(&many)).await.unwrap_err();
    assert_eq!(error.reason, Reason::NoSpace, "{error}");
    assert!(error.detail.contains("slots/b/rootfs has room for"), "{error}");
    bench.install(&bench.web(&two)).await.unwrap();
    bench.assert_right(&two);
}

#[tokio::test]
async fn a_folder_in_use_is_refused() {
    let bench = Bench::new();
    let release = bench.release(1, 50_000);
    bench.install(&bench.web(&release)).await.unwrap();
    let Some(_mount) = Small::new(&bench.target().join("empty"), 1) else { return };
    fs::write(bench.target().join("empty/precious"), b"x").unwrap();
    let two = bench.release(2, 50_000);
    let error = bench.install(&bench.web(&two)).await.unwrap_err();
    assert_eq!(error.reason, Reason::Busy, "{error}");
    assert!(error.detail.contains("mounted at"), "{error}");
    assert!(bench.target().join("empty/precious").exists());
}
