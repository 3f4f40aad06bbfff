//! Tree images of a build: from a folder, or from a tar made elsewhere. Both end in the one form of a tree.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::Path;

use super::BuildError;
use crate::tree::{PackError, Packing, TreeEntry, TreeKind, TreeReader, Unwritten, Writer, pack};

/// Writes `folder` to `out`, every entry with the modification time `mtime`.
///
/// # Errors
/// When something can not be read, or is neither file, folder nor link.
pub fn write_tree(folder: &Path, mtime: u64, out: &mut impl Write) -> Result<(), BuildError> {
    let packing = Packing { mtime, without_labels: false, past_caches: false };
    pack(folder, packing, out).map(drop).map_err(|error| match error {
        PackError::Read { path, source } => BuildError::Read { path, source },
        PackError::Refused { path, why } => BuildError::Tree { path, why },
        PackError::Write(source) => BuildError::Write(source),
    })
}

/// Writes a tar made elsewhere as the folder would be written that it unpacks to: that is what a device compares.
///
/// # Errors
/// When it breaks the rules of trees, or can not be read; `path` is named then.
pub fn rewrite_tree(tar: impl Read, path: &Path, mtime: u64, out: &mut impl Write) -> Result<(), BuildError> {
    let refused = |why: String| BuildError::Tree { path: path.to_owned(), why };
    let told = |error| match error {
        Unwritten::Refused(why) => refused(why),
        Unwritten::Read(source) => BuildError::Read { path: path.to_owned(), source },
        Unwritten::Write(source) => BuildError::Write(source),
    };
    let (mut tree, mut out) = (TreeReader::new(tar), Writer::new(mtime, out));
    // Name to the first entry of the same file.
    let mut files: HashMap<String, TreeEntry> = HashMap::new();
    let mut first = true;
    while let Some(mut entry) = tree.next_entry().map_err(|error| refused(error.to_string()))? {
        if std::mem::take(&mut first) && !entry.path.is_empty() {
            out.entry(&top(mtime), std::io::empty()).map_err(told)?;
        }
        match &entry.kind {
            TreeKind::File { .. } => {
                files.insert(entry.path.clone(), TreeEntry { xattrs: Vec::new(), ..entry.clone() });
            }
            TreeKind::HardLink { target } => {
                let why = || refused(format!("{:?} is another name of something that is not a file", entry.path));
                let file = files.get(target).ok_or_else(why)?.clone();
                let kind = TreeKind::HardLink { target: file.path.clone() };
                entry = TreeEntry { path: entry.path, kind, ..file.clone() };
                files.insert(entry.path.clone(), file);
            }
            // Linux has no other.
            TreeKind::Symlink { .. } => entry.mode = 0o777,
            TreeKind::Folder => {}
        }
        out.entry(&entry, &mut tree).map_err(told)?;
    }
    if first {
        out.entry(&top(mtime), std::io::empty()).map_err(told)?;
    }
    out.finish().map_err(told)
}

/// The folder that everything stands in, where a tar does not name it.
const fn top(mtime: u64) -> TreeEntry {
    TreeEntry { path: String::new(), kind: TreeKind::Folder, mode: 0o755, uid: 0, gid: 0, mtime, xattrs: Vec::new() }
}
