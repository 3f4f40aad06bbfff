//! The web root: plain files that any HTTP server or object store can serve.
//!
//! Everything but the two signed documents is named by its digest and never changes, so caches may keep it for ever.
//! Order of writing: what a document names first, the document last, each in one step; a reader never sees half.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use bundle::approval::ReleaseRef;
use bundle::build::{BuildError, publish};
use bundle::digest::Digest;
use bundle::document::is_name;
use bundle::reason::Reason;

use crate::files;
use crate::output::harmless;
use crate::refusal::Refused;

/// A web root.
pub struct WebRoot(PathBuf);

impl WebRoot {
    /// At that folder; made when something is written.
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// The signed channel index.
    pub fn channel(&self, channel: &str) -> PathBuf {
        self.0.join("channels").join(channel).join("channel.dsse.json")
    }

    /// The signed recall of a channel.
    pub fn recall(&self, channel: &str) -> PathBuf {
        self.0.join("channels").join(channel).join("recall.dsse.json")
    }

    /// A version of the trust root.
    pub fn trust(&self, version: u64) -> PathBuf {
        self.0.join("trust").join(format!("{version}.dsse.json"))
    }

    /// The folder that has one folder for each region.
    pub fn approvals(&self) -> PathBuf {
        self.0.join("approvals")
    }

    /// The signed approval of a region for a channel.
    pub fn approval(&self, region: &str, channel: &str) -> PathBuf {
        self.0.join("approvals").join(region).join(format!("{channel}.dsse.json"))
    }

    /// Where a document waits for signatures before it takes the place of that one. No channel has such a name:
    /// [`ensure_channel`].
    pub fn pending(document: &Path) -> PathBuf {
        document.with_extension("").with_extension("next.dsse.json")
    }

    /// Where a bundle is, relative to the root.
    pub fn bundle_url(digest: &Digest) -> String {
        format!("bundles/{digest}.bundle")
    }

    /// Where a delta is, relative to the root.
    pub fn delta_url(from: &Digest, to: &Digest) -> String {
        format!("deltas/{from}-{to}.delta")
    }

    /// The file behind a relative URL of ours.
    pub fn file(&self, url: &str) -> PathBuf {
        self.0.join(url)
    }

    /// Held while a document is read, changed and written: of two who change it at once, one would be lost.
    pub fn lock(document: &Path) -> Result<File> {
        let folder = files::folder_of(document);
        let name = document.file_name().context("no file name")?.to_string_lossy();
        let path = folder.join(format!(".{name}.lock"));
        let what = || format!("locking {}", path.display());
        files::make_folder(folder).with_context(what)?;
        let lock = open_lock(&path, folder).with_context(what)?;
        if lock.try_lock().is_err() {
            eprintln!("note: waiting for another command that changes {}", document.display());
            lock.lock().with_context(what)?;
        }
        Ok(lock)
    }

    /// Puts a copy of a file in place, in one step and durably.
    pub fn put(&self, from: &Path, url: &str) -> Result<()> {
        let to = self.file(url);
        let what = || format!("writing {}", to.display());
        files::make_folder(files::folder_of(&to)).with_context(what)?;
        publish(&to, |out| {
            let mut from = File::open(from).map_err(BuildError::Write)?;
            io::copy(&mut from, out).map(drop).map_err(BuildError::Write)
        })
        .with_context(what)
    }

    /// Moves a file in place that is durable already, in one step; a copy from another file system.
    pub fn take(&self, from: &Path, url: &str) -> Result<()> {
        let to = self.file(url);
        let folder = files::folder_of(&to);
        let what = || format!("writing {}", to.display());
        files::make_folder(folder).with_context(what)?;
        match fs::rename(from, &to) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => self.put(from, url),
            moved => moved.and_then(|()| File::open(folder)?.sync_all()).with_context(what),
        }
    }
}

/// The file to lock, made when it is missing.
///
/// Its group and who may read and write it are those of the folder: whoever may change the document may lock it, no
/// matter who was first. It appears with them, so that nobody meets it half made.
fn open_lock(path: &Path, folder: &Path) -> io::Result<File> {
    // Only network file systems want a right to write for a lock.
    let open = || match File::options().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => File::open(path),
        opened => opened,
    };
    match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    let like = folder.metadata()?;
    let made = tempfile::NamedTempFile::new_in(folder)?;
    // Whoever does not belong to that group may not.
    drop(fchown(made.as_file(), None, Some(like.gid())));
    made.as_file().set_permissions(Permissions::from_mode(like.mode() & 0o666 | 0o600))?;
    match made.persist_noclobber(path) {
        // By us, or by somebody who was faster.
        Ok(_) => open(),
        Err(failed) if failed.error.kind() == io::ErrorKind::AlreadyExists => open(),
        // Some mounts (object stores) have no such rename.
        Err(_) => File::options().create(true).truncate(false).write(true).open(path),
    }
}

/// Refuses what can not be the name of a channel on a web root.
pub fn ensure_channel(name: &str) -> Result<()> {
    ensure!(is_name(name), "a channel name is like stable or beta-2");
    if let Some(other) = name.strip_suffix(".next") {
        bail!("a channel name must not end in .next: the approval of {name} would be the one of {other} that waits");
    }
    Ok(())
}

/// Refuses a genuine document of somewhere else: who can write to the web root could have us sign it for here.
pub fn ensure_own(path: &Path, what: &str, ours: &str, theirs: &str) -> Result<()> {
    if ours == theirs {
        return Ok(());
    }
    let why = format!("{} is of {what} {}, not {ours}", path.display(), harmless(theirs));
    Err(Refused(Reason::RegionMismatch, why).into())
}

/// Whether people mean that release: its version, its digest, or the first 8 or more digits of it.
pub fn is_release(release: &ReleaseRef, wanted: &str) -> bool {
    let prefix = wanted.len() >= 8 && release.manifest_sha256.to_hex().starts_with(wanted);
    prefix || release.version.to_string() == wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_taken_is_moved_where_that_can_be() {
        let (folder, shm) = (tempfile::tempdir().unwrap(), Path::new("/dev/shm"));
        // Most often another file system.
        let elsewhere = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
        let web = WebRoot::new(folder.path());
        for scratch in [folder.path(), elsewhere.path()] {
            let from = scratch.join("unnamed");
            fs::write(&from, "delta").unwrap();
            let before = from.metadata().unwrap();
            web.take(&from, "deltas/x.delta").unwrap();
            let path = web.file("deltas/x.delta");
            let after = path.metadata().unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"delta");
            let moved = (before.dev(), before.ino()) == (after.dev(), after.ino());
            assert_eq!(moved, before.dev() == after.dev());
        }
    }
}
