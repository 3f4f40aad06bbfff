//! Writes a folder as a tree image: sorted, numeric owners, one time for everything.
//!
//! Reads the folder; follows no link in it. The same code makes an image on the build host and proves a folder on a
//! device, so the two can not drift apart.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, OFlags, fadvise};

use super::write::{Unwritten, Writer};
use super::{TreeEntry, TreeKind};

/// Room for the names, or one value, of extended attributes of one file; Linux allows as much.
const XATTR_ROOM: usize = 64 << 10;

/// Attributes that a kernel with such a security module gives to every new file by itself.
const BY_KERNEL: [&str; 4] = ["security.selinux", "security.SMACK64", "security.ima", "security.evm"];

/// Why a folder could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Reading it.
    #[error("reading {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something that a tree can not hold.
    #[error("{}: {why}", path.display())]
    Refused {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Writing the image.
    #[error("writing the tree")]
    Write(#[source] io::Error),
}

/// How a folder is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packing {
    /// Modification time of every entry, seconds since 1970.
    pub mtime: u64,
    /// Leave out the labels that the kernel gives by itself (SELinux, Smack, IMA, EVM).
    pub without_labels: bool,
    /// Read file contents from the medium, and do not leave them in memory.
    pub past_caches: bool,
}

/// Writes `folder` to `out`; says whether anything in it has a label that the kernel gives by itself.
///
/// # Errors
/// When something can not be read, or is neither file, folder nor link.
pub fn pack(folder: &Path, packing: Packing, out: &mut impl Write) -> Result<bool, PackError> {
    let out = Writer::new(packing.mtime, out);
    let mut packer = Packer { packing, out, links: HashMap::new(), labels: false };
    if packer.entry(folder, "")? {
        packer.folder(folder, "")?;
    }
    let labels = packer.labels;
    packer.out.finish().map(|()| labels).map_err(|error| told(error, folder))
}

struct Packer<W: Write> {
    packing: Packing,
    out: Writer<W>,
    /// Name in the tree of each file with several names, by device and inode.
    links: HashMap<(u64, u64), String>,
    labels: bool,
}

impl<W: Write> Packer<W> {
    fn folder(&mut self, path: &Path, name: &str) -> Result<(), PackError> {
        let read = |source| PackError::Read { path: path.to_owned(), source };
        let entries = fs::read_dir(path).map_err(read)?.map(|entry| Ok(entry?.file_name()));
        let mut names = entries.collect::<io::Result<Vec<_>>>().map_err(read)?;
        names.sort();
        for each in names {
            let inner = path.join(&each);
            let text = each.to_str().ok_or_else(|| refused(&inner, "its name is not UTF-8"))?;
            let inner_name = if name.is_empty() { text.to_owned() } else { format!("{name}/{text}") };
            if self.entry(&inner, &inner_name)? {
                self.folder(&inner, &inner_name)?;
            }
        }
        Ok(())
    }

    /// Writes one entry; says whether it is a folder.
    fn entry(&mut self, path: &Path, name: &str) -> Result<bool, PackError> {
        let read = |source| PackError::Read { path: path.to_owned(), source };
        let facts = fs::symlink_metadata(path).map_err(read)?;
        let (kind, is_file) = self.kind(path, name, &facts)?;
        if name.is_empty() && kind != TreeKind::Folder {
            return Err(refused(path, "it is not a folder"));
        }
        let linked = matches!(kind, TreeKind::HardLink { .. });
        let entry = TreeEntry {
            path: name.to_owned(),
            mode: facts.mode() & 0o7777,
            uid: facts.uid(),
            gid: facts.gid(),
            mtime: self.packing.mtime,
            xattrs: if linked { Vec::new() } else { self.xattrs(path)? },
            kind,
        };
        if is_file {
            // A name that became a link, or a pipe, since it was looked at: neither followed nor waited for.
            let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
            let file = File::options().read(true).custom_flags(flags).open(path).map_err(read)?;
            let forget = || self.packing.past_caches.then(|| fadvise(&file, 0, None, Advice::DontNeed));
            forget();
            self.out.entry(&entry, &file).map_err(|error| told(error, path))?;
            forget();
        } else {
            self.out.entry(&entry, io::empty()).map_err(|error| told(error, path))?;
        }
        Ok(facts.is_dir())
    }

    /// What it is, and whether it has content of its own.
    fn kind(&mut self, path: &Path, name: &str, facts: &Metadata) -> Result<(TreeKind, bool), PackError> {
        let kind = facts.file_type();
        if kind.is_dir() {
            return Ok((TreeKind::Folder, false));
        }
        if kind.is_symlink() {
            let target = fs::read_link(path).map_err(|source| PackError::Read { path: path.to_owned(), source })?;
            let target = target.to_str().ok_or_else(|| refused(path, "its target is not UTF-8"))?.to_owned();
            return Ok((TreeKind::Symlink { target }, false));
        }
        if !kind.is_file() {
            return Err(refused(path, "a tree holds files, folders and links only"));
        }
        Ok(match self.first_name(facts, name) {
            Some(target) => (TreeKind::HardLink { target }, false),
            None => (TreeKind::File { size: facts.size() }, true),
        })
    }

    /// The name under which a file with several names was written before.
    fn first_name(&mut self, facts: &Metadata, name: &str) -> Option<String> {
        if facts.nlink() < 2 {
            return None;
        }
        let first = self.links.entry((facts.dev(), facts.ino())).or_insert_with(|| name.to_owned());
        (first != name).then(|| first.clone())
    }

    fn xattrs(&mut self, path: &Path) -> Result<Vec<(String, Vec<u8>)>, PackError> {
        let mut found = Vec::new();
        for (name, value) in xattrs(path).map_err(|source| PackError::Read { path: path.to_owned(), source })? {
            let name = String::from_utf8(name).map_err(|_| refused(path, "an attribute whose name is not UTF-8"))?;
            if BY_KERNEL.iter().any(|label| name.starts_with(label)) {
                self.labels = true;
                if self.packing.without_labels {
                    continue;
                }
            }
            found.push((name, value));
        }
        Ok(found)
    }
}

/// Extended attributes; none where the file system has none.
fn xattrs(path: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0; XATTR_ROOM];
    let len = match rustix::fs::llistxattr(path, names.as_mut_slice()) {
        Ok(len) => len,
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(error) => return Err(error.into()),
    };
    names.truncate(len);
    let mut found = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; XATTR_ROOM];
        let len = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), value.as_mut_slice())?;
        value.truncate(len);
        found.push((name.to_vec(), value));
    }
    Ok(found)
}

fn refused(path: &Path, why: &str) -> PackError {
    PackError::Refused { path: path.to_owned(), why: why.to_owned() }
}

fn told(error: Unwritten, path: &Path) -> PackError {
    match error {
        Unwritten::Refused(why) => PackError::Refused { path: path.to_owned(), why },
        Unwritten::Read(source) => PackError::Read { path: path.to_owned(), source },
        Unwritten::Write(source) => PackError::Write(source),
    }
}
