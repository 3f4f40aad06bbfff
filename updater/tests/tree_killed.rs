//! An install into a folder, killed at random moments and started again each time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may fail loudly"
)]

mod common;

use std::fs;
use std::path::Path;

use bundle::digest::Digest;
use bundle::manifest::ImageKind;
use common::folder::{facts, system};
use common::held::{Job, Lives, frames, held, kill_after, missing, needless, random};
use common::server::Server;
use common::site;
use updater::slots::Place;

const KILLS: u32 = 20;
/// What a new start may cost: the head of the bundle.
const AGAIN: u64 = 1 << 20;

/// Not a test of its own: the process that is killed.
#[tokio::test]
async fn child() {
    common::held::child(|target| Place::Tree(target.into())).await;
}

fn digest(folder: &Path, mtime: u64) -> Option<Digest> {
    let mut tar = Vec::new();
    bundle::build::write_tree(folder, mtime, &mut tar).ok()?;
    Some(Digest::of(&tar))
}

#[test]
fn killed_again_and_again_it_is_whole_or_not_there_and_nothing_is_fetched_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (www, source, target) = (dir.path().join("www"), dir.path().join("source"), dir.path().join("slot/rootfs"));
    fs::create_dir_all(&www).unwrap();
    system(&source, 16 << 20, 1);
    system(&target, 1 << 20, 2);
    let release = site::release(&www.join("x.bundle"), 1, &[("rootfs", ImageKind::Tree, &source)], 1);
    let (image, mtime) = (release.manifest.images[0].sha256, release.manifest.mtime());
    let whole = [digest(&target, mtime).unwrap(), image];
    let (frames, server, tar) = (frames(&release), Server::new(www), dir.path().join("slot/rootfs.flipside-tar"));
    let job = Job::new(&dir.path().join("state"), &target, server.url("x.bundle"), &release);
    let (mut had, mut kills, mut worst, mut swaps, mut lives) = (vec![false; frames.len()], 0, 0, 0, Lives::new());
    for round in 0..6 * KILLS {
        let missing = missing(&frames, &had);
        // The first half while it is fetched, the rest at any time after: in the unpacking and in the read-back.
        let alive = if round < KILLS / 2 {
            kill_after(job.start(), &server, random(2 * missing / u64::from(KILLS / 2 - round)))
        } else {
            lives.kill(job.start())
        };
        worst = worst.max(needless(&server.take_parts(), &frames, &had));
        let found = target.exists().then(|| digest(&target, mtime).unwrap());
        assert!(found.is_none_or(|found| whole.contains(&found)), "half a folder in its place after {kills} kills");
        had = if found == Some(image) { vec![true; frames.len()] } else { held_or_none(&frames, &tar) };
        swaps += u32::from(found == Some(image));
        kills += u32::from(alive);
        if kills >= KILLS {
            break;
        }
        if !alive {
            // Done before it was killed: once more from nothing.
            fs::remove_dir_all(&target).unwrap();
            had = vec![false; frames.len()];
        }
    }
    assert!(job.start().wait().unwrap().success());
    assert_eq!(facts(&target), facts(&source));
    assert_eq!(digest(&target, mtime), Some(image));
    assert_eq!(fs::read_dir(dir.path().join("slot")).unwrap().count(), 1, "nothing is left beside it");
    eprintln!("killed {kills} times, {swaps} of them after the swap: at most {worst} bytes fetched again");
    assert!(kills >= KILLS, "only {kills} kills hit it alive");
    assert!(worst < AGAIN, "{worst} bytes again after one kill");
}

fn held_or_none(frames: &[common::held::Frame], tar: &Path) -> Vec<bool> {
    if tar.exists() { held(frames, tar) } else { vec![false; frames.len()] }
}
