//! What the server serves: releases, the channel that names them, and what the region says of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bundle::approval::{APPROVAL_TYPE, Approval, Entry, ReleaseRef, RolloutState};
use bundle::channel::{CHANNEL_TYPE, Channel, ChannelDelta, ChannelRelease};
use bundle::dsse::Envelope;
use bundle::manifest::ImageKind;
use bundle::trust::{Region, Role};
use jiff::{SignedDuration, Timestamp};
use updater_core::release::DeltaOffer;

use super::World;
use crate::common::site::{self, noise};

impl World {
    /// Builds release `1.<counter>.0` and puts it into the channel.
    pub fn publish(&mut self, counter: u64) {
        let images = ["rootfs", "kernel", "initrd"].map(|name| {
            let path = self.tree.path().join(name);
            fs::write(&path, noise(400_000, counter + name.len() as u64)).unwrap();
            (name, path)
        });
        let sources = images.each_ref().map(|(name, path)| (*name, ImageKind::File, path.as_path()));
        let built = site::release(&self.tree.path().join("x.bundle"), counter, &sources, 1);
        let file = format!("bundles/{}.bundle", built.release.manifest_sha256);
        fs::create_dir_all(self.tree.path().join("bundles")).unwrap();
        fs::rename(&built.path, self.tree.path().join(&file)).unwrap();
        let size = fs::metadata(self.tree.path().join(&file)).unwrap().len();
        self.releases.insert(0, channel_release(built.release, size, file));
        self.write_channel();
    }

    /// Builds a release of one large image, with a delta from a release before it where that is given with its image.
    pub fn publish_image(
        &mut self,
        counter: u64,
        image: &Path,
        before: Option<(&site::Release, &Path)>,
    ) -> site::Release {
        let file = format!("{counter}.bundle");
        let built = site::release(&self.tree.path().join(&file), counter, &[("rootfs", ImageKind::File, image)], 1);
        let mut listed = channel_release(built.release.clone(), fs::metadata(&built.path).unwrap().len(), file);
        if let Some(before) = before {
            let (out, name) = (self.tree.path().join("x.delta"), "x.delta".to_owned());
            let offer = site::delta(before, &built, &out, name);
            let DeltaOffer { from, size, urls, recipes_sha256 } = offer;
            listed.deltas.push(ChannelDelta { from, size, urls, recipes_sha256 });
        }
        self.releases.insert(0, listed);
        self.write_channel();
        built
    }

    /// Builds a release whose one image is a folder.
    pub fn publish_tree(&mut self, counter: u64, folder: &Path) {
        let file = format!("{counter}.bundle");
        let built = site::release(&self.tree.path().join(&file), counter, &[("rootfs", ImageKind::Tree, folder)], 1);
        let size = fs::metadata(&built.path).unwrap().len();
        self.releases.insert(0, channel_release(built.release, size, file));
        self.write_channel();
    }

    fn write_channel(&self) {
        let channel = Channel {
            channel: "stable".into(),
            version: self.releases.len() as u64,
            issued: Timestamp::now(),
            releases: self.releases.clone(),
            crit: Vec::new(),
        };
        self.write("channels/stable/channel.dsse.json", &signed(CHANNEL_TYPE, &channel.to_bytes().unwrap()));
    }

    /// The region says something about a release.
    pub fn approve(&mut self, counter: u64, threshold_bp: u16, state: &str) {
        self.approvals += 1;
        self.approve_as(self.approvals, 24, counter, threshold_bp, state);
    }

    /// The same, as that version, expiring in so many hours.
    pub fn approve_as(&self, version: u64, hours: i64, counter: u64, threshold_bp: u16, state: &str) {
        let release = self.releases.iter().find(|r| r.release.counter == counter).unwrap().release.clone();
        let approval = Approval {
            kind: "approval/v1".into(),
            region: "eu-west".into(),
            channel: "stable".into(),
            epoch: 1,
            version,
            issued: Timestamp::now() - SignedDuration::from_hours(48),
            expires: Timestamp::now() + SignedDuration::from_hours(hours),
            max_stale_seconds: 3600,
            entries: vec![Entry {
                rollout: "test".into(),
                state: serde_json::from_value::<RolloutState>(state.into()).unwrap(),
                priority: 0,
                release,
                salt: "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".into(),
                threshold_bp,
                rules: Vec::new(),
                holds: Vec::new(),
                window: None,
                urls: Vec::new(),
            }],
            crit: Vec::new(),
        };
        self.write("approvals/eu-west/stable.dsse.json", &signed(APPROVAL_TYPE, &approval.to_bytes().unwrap()));
    }

    /// The server loses a file or folder.
    pub fn unpublish(&self, path: &str) {
        let path = self.tree.path().join(path);
        fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path)).unwrap();
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.tree.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

pub fn trust_root() -> bundle::trust::TrustRoot {
    let mut trust = site::trust();
    let role: Role = trust.roles.release.clone();
    trust.regions = BTreeMap::from([("eu-west".to_owned(), Region { approve: role })]);
    trust
}

pub fn signed(kind: &str, payload: &[u8]) -> Vec<u8> {
    let mut envelope = Envelope::new(kind, payload.to_vec());
    envelope.sign(&site::key()).unwrap();
    envelope.to_bytes().unwrap()
}

fn channel_release(release: ReleaseRef, size: u64, file: String) -> ChannelRelease {
    ChannelRelease { release, size, urls: vec![file], deltas: Vec::new() }
}
