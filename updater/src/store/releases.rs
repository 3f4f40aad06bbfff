//! What is kept of each release a slot holds or is being filled with: its manifest envelope and its indexes.
//!
//! One folder per manifest digest. The index of the running release tells where its content is, so that an update can
//! take it from there without scanning; the index of the one being installed lets an interrupted install go on without
//! asking the network. Every file is checked against a signed digest when it is read, so damage here costs a fetch and
//! nothing else.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use bundle::digest::Digest;
use updater_core::slot::SlotId;

use super::durable;

/// The folder of all releases.
#[derive(Debug, Clone)]
pub struct Releases {
    root: PathBuf,
}

impl Releases {
    /// Folders below `root`, for instance `/var/lib/flipside/releases`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The folder of all of them.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the files of a release are.
    #[must_use]
    pub fn folder(&self, manifest: &Digest) -> PathBuf {
        self.root.join(manifest.to_hex())
    }

    /// Where one file of a release is; `name` is a member's name, which the manifest's parser has checked.
    #[must_use]
    pub fn file(&self, manifest: &Digest, name: &str) -> PathBuf {
        self.folder(manifest).join(name)
    }

    /// Makes the folder of a release.
    ///
    /// # Errors
    /// As the file system says.
    pub fn make(&self, manifest: &Digest) -> io::Result<()> {
        fs::create_dir_all(self.folder(manifest))?;
        File::open(&self.root)?.sync_all()
    }

    /// Writes down that `slot` holds this release, read back and right, and forgets releases that no slot holds.
    ///
    /// # Errors
    /// As the file system says.
    pub fn note_slot(&self, slot: SlotId, manifest: &Digest) -> io::Result<()> {
        durable::replace(&self.note(slot), format!("{manifest}\n").as_bytes())?;
        self.keep_only(&self.held().collect())
    }

    /// Forgets what `slot` holds: it is about to be written.
    ///
    /// # Errors
    /// As the file system says.
    pub fn forget_slot(&self, slot: SlotId) -> io::Result<()> {
        match fs::remove_file(self.note(slot)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Forgets releases that no slot holds, save the one that is being installed: those of attempts that never ended well,
    /// up to 64 MiB each.
    ///
    /// # Errors
    /// As the file system says.
    pub fn forget_attempts_but(&self, manifest: &Digest) -> io::Result<()> {
        self.keep_only(&self.held().chain([*manifest]).collect())
    }

    fn held(&self) -> impl Iterator<Item = Digest> {
        SlotId::ALL.into_iter().filter_map(|slot| self.held_by(slot))
    }

    /// The release that `slot` was last found to hold.
    #[must_use]
    pub fn held_by(&self, slot: SlotId) -> Option<Digest> {
        fs::read_to_string(self.note(slot)).ok()?.trim().parse().ok()
    }

    fn note(&self, slot: SlotId) -> PathBuf {
        self.root.join(format!("slot-{slot}"))
    }

    /// Removes every release but these.
    fn keep_only(&self, manifests: &BTreeSet<Digest>) -> io::Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            // Only names that are digests are ours.
            let digest = entry.file_name().to_str().and_then(|name| name.parse::<Digest>().ok());
            if digest.is_some_and(|digest| !manifests.contains(&digest)) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_releases_that_a_slot_holds_stay_and_strangers_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let releases = Releases::new(&dir.path().join("releases"));
        let digests = [b"1", b"2", b"3"].map(|text| Digest::of(text));
        for digest in &digests {
            releases.make(digest).unwrap();
            fs::write(releases.file(digest, "rootfs.index"), b"x").unwrap();
        }
        fs::create_dir(dir.path().join("releases/lost+found")).unwrap();
        releases.note_slot(SlotId::A, &digests[0]).unwrap();
        releases.make(&digests[1]).unwrap();
        releases.note_slot(SlotId::B, &digests[1]).unwrap();
        assert_eq!(releases.held_by(SlotId::A), Some(digests[0]));
        assert!(releases.folder(&digests[0]).exists() && releases.folder(&digests[1]).exists());
        assert!(!releases.folder(&digests[2]).exists());
        assert!(dir.path().join("releases/lost+found").exists());
        releases.forget_slot(SlotId::B).unwrap();
        releases.forget_slot(SlotId::B).unwrap();
        releases.make(&digests[2]).unwrap();
        releases.forget_attempts_but(&digests[2]).unwrap();
        let there = digests.map(|digest| releases.folder(&digest).exists());
        assert_eq!(there, [true, false, true], "what runs, an attempt, what is being installed");
        assert_eq!(releases.held_by(SlotId::B), None);
    }
}
