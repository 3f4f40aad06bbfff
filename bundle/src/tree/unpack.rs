//! Writes a tree into a fresh folder.
//!
//! The folder must be empty and ours alone: every file is made with `O_EXCL`, nothing is ever opened through a link,
//! and folders get their final mode only when they are left. The caller syncs and renames.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{TreeEntry, TreeError, TreeKind, TreeReader};

/// Attributes that only root may set and that give rights: file capabilities, security labels.
const PRIVILEGED: [&str; 2] = ["security.", "trusted."];

/// Whose the files will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// As in the tree, with all attributes; needs the rights of root.
    Keep,
    /// Those of this process, without the attributes that only root may set.
    Ours,
}

/// Why a tree could not be written.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The tree itself.
    #[error("the tree is refused")]
    Tree(#[from] TreeError),
    /// Writing.
    #[error("writing {}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Unpacks a tree into an empty folder; gives the number of entries.
///
/// # Errors
/// When the tree is refused, or writing fails; what was written so far stays for the caller to remove.
pub fn unpack<R: Read>(reader: R, folder: &Path, owners: Owners) -> Result<u64, UnpackError> {
    // A default access list of the folder around it would be inherited by everything in it; the tree has its own.
    for inherited in ["system.posix_acl_default", "system.posix_acl_access"] {
        let _ = rustix::fs::lremovexattr(folder, inherited);
    }
    let mut tree = TreeReader::new(reader);
    let mut open: Vec<TreeEntry> = Vec::new();
    let mut count = 0;
    while let Some(entry) = tree.next_entry()? {
        while let Some(folder_entry) = open.pop_if(|each| !holds(&each.path, &entry.path)) {
            finish(&folder.join(&folder_entry.path), &folder_entry, owners)?;
        }
        let path = folder.join(&entry.path);
        let failed = |source| UnpackError::Write { path: path.clone(), source };
        match &entry.kind {
            TreeKind::Folder if entry.path.is_empty() => open.push(entry.clone()),
            TreeKind::Folder => {
                fs::DirBuilder::new().mode(0o700).create(&path).map_err(failed)?;
                open.push(entry.clone());
            }
            TreeKind::File { .. } => {
                let mut options = OpenOptions::new();
                let mut file = options.write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
                io::copy(&mut tree, &mut file).map_err(failed)?;
                finish(&path, &entry, owners)?;
            }
            TreeKind::Symlink { target } => {
                std::os::unix::fs::symlink(target, &path).map_err(failed)?;
                finish(&path, &entry, owners)?;
            }
            TreeKind::HardLink { target } => {
                plain_file(folder, target).and_then(|target| fs::hard_link(target, &path)).map_err(failed)?;
            }
        }
        count += 1;
    }
    while let Some(entry) = open.pop() {
        finish(&folder.join(&entry.path), &entry, owners)?;
    }
    Ok(count)
}

/// Whether `path` stands in or below the folder `outer`.
fn holds(outer: &str, path: &str) -> bool {
    outer.is_empty() || path.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'))
}

/// The place of an earlier file, no part of which is a link.
fn plain_file(folder: &Path, name: &str) -> io::Result<PathBuf> {
    let mut path = folder.to_owned();
    for part in name.split('/') {
        path.push(part);
        if fs::symlink_metadata(&path)?.is_symlink() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a hard link through a symbolic link"));
        }
    }
    if fs::symlink_metadata(&path)?.is_file() { Ok(path) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// Owner first: changing it clears set-user-id and file capabilities. Mode last: it may forbid the rest.
fn finish(path: &Path, entry: &TreeEntry, owners: Owners) -> Result<(), UnpackError> {
    let run = || -> io::Result<()> {
        if owners == Owners::Keep {
            std::os::unix::fs::lchown(path, Some(entry.uid), Some(entry.gid))?;
        }
        let ours = |name: &str| owners == Owners::Keep || !PRIVILEGED.iter().any(|prefix| name.starts_with(prefix));
        for (name, value) in entry.xattrs.iter().filter(|(name, _)| ours(name)) {
            rustix::fs::lsetxattr(path, name.as_str(), value, rustix::fs::XattrFlags::empty())?;
        }
        if matches!(entry.kind, TreeKind::Symlink { .. }) {
            return Ok(());
        }
        let time =
            SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(entry.mtime)).unwrap_or(SystemTime::UNIX_EPOCH);
        File::open(path)?.set_modified(time)?;
        fs::set_permissions(path, Permissions::from_mode(entry.mode))
    };
    run().map_err(|source| UnpackError::Write { path: path.to_owned(), source })
}
