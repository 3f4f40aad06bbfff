//! A device that runs one release, and the next one on a server.

use std::fs;
use std::path::PathBuf;

use bundle::manifest::ImageKind;
use tokio::sync::watch;
use updater::install::installer::Pipeline;
use updater::seams::{Cancel, InstallError, Installer as _};
use updater::slots::Place;
use updater_core::event::Transfer;
use updater_core::release::{DeltaOffer, Source};

use super::server::Server;
use super::site::{self, HASTY, Release, digest_of, files, hasty_http};

/// A device that runs release 1 from slot a, and release 2 on a server.
pub struct Bench {
    pub dir: tempfile::TempDir,
    pub old: Release,
    pub new: Release,
    pub offer: DeltaOffer,
    pub server: Server,
    /// Address of what stands before the server.
    pub front: Option<String>,
}

/// What a file system image does from release to release: most stays, some moves, some is new.
fn next(old: &[u8]) -> Vec<u8> {
    let mut new = old.to_vec();
    let fresh = files(300_000, 99);
    new[2_000_000..2_300_000].copy_from_slice(&fresh);
    // A file that grew by a block: what follows in its region moves.
    let moved = new[12_000_000..15_000_000].to_vec();
    new[12_004_096..15_004_096].copy_from_slice(&moved);
    for at in (20_000_000..24_000_000).step_by(400_000) {
        new[at..at + 4096].fill(0x5a);
    }
    new
}

impl Bench {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for folder in ["a", "b", "www"] {
            fs::create_dir(path(folder)).unwrap();
        }
        let bytes = files(32 << 20, 11);
        fs::write(path("a/rootfs"), &bytes).unwrap();
        fs::write(path("new"), next(&bytes)).unwrap();
        let server = Server::new(path("www"));
        let old = site::release(&path("1.bundle"), 1, &[("rootfs", ImageKind::File, &path("a/rootfs"))], 3);
        let new = site::release(&path("www/2.bundle"), 2, &[("rootfs", ImageKind::File, &path("new"))], 3);
        let offer = site::delta((&old, &path("a/rootfs")), &new, &path("www/1-2.delta"), server.url("1-2.delta"));
        Self { dir, old, new, offer, server, front: None }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn pipeline(&self, limit: Option<u64>) -> Pipeline {
        let [a, b] = ["a", "b"].map(|slot| [("rootfs", Place::File(self.path(slot).join("rootfs")))]);
        let setup = site::setup(&self.path("state"), [&a, &b], &hasty_http(), HASTY);
        Pipeline::new(updater::install::Setup { fallback_limit: limit, ..setup })
    }

    pub async fn install(&self, offer: Option<&DeltaOffer>, limit: Option<u64>) -> Result<Transfer, InstallError> {
        self.install_until(offer, limit, &Cancel::new()).await
    }

    pub async fn install_until(
        &self,
        offer: Option<&DeltaOffer>,
        limit: Option<u64>,
        cancel: &Cancel,
    ) -> Result<Transfer, InstallError> {
        let (sink, _seen) = watch::channel(None);
        let mut request = site::request(&self.new.release, Source::Urls(vec![self.url("2.bundle")]));
        request.update.delta = offer.cloned();
        let pipeline = self.pipeline(limit);
        let transfer = pipeline.install(&request, &sink, cancel).await?;
        pipeline.verify(&request, &sink, cancel).await?;
        Ok(transfer)
    }

    /// Where the device finds a file: at the server, or behind what stands before it.
    fn url(&self, file: &str) -> String {
        self.front.as_ref().map_or_else(|| self.server.url(file), |front| format!("{front}/{file}"))
    }

    pub fn asked_for(&self, path: &str) -> usize {
        self.server.requests().iter().filter(|request| request.path == path).count()
    }

    pub fn assert_right(&self) {
        assert_eq!(digest_of(&self.path("b/rootfs"), u64::MAX), self.new.manifest.images[0].sha256);
    }
}
