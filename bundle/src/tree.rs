//! A `tree` image: a tar of a folder, read so that nothing in it can reach outside.
//!
//! Plain `ustar` entries with PAX records where something does not fit (long names, extended attributes), in tree
//! order, so that a folder stands before what is in it. Refused: `..` and absolute names, a name twice, an entry below
//! anything but a folder of this tree (so never through a link), devices, sockets and pipes, a PAX record above 64 KiB.
//! Links are content: their targets are stored, never followed. Reading touches only the `Read` it is given.

use std::cmp::Ordering;
use std::io::{self, Read};

use crate::reason::Reason;
use crate::ustar::{BLOCK, RawHeader, TarError};

#[cfg(feature = "unpack")]
mod pack;
pub(crate) mod pax;
#[cfg(feature = "unpack")]
mod unpack;
#[cfg(feature = "unpack")]
mod write;

#[cfg(feature = "unpack")]
pub use pack::{PackError, Packing, pack};
#[cfg(feature = "unpack")]
pub use unpack::{Owners, UnpackError, unpack};
#[cfg(feature = "build")]
pub(crate) use write::{Unwritten, Writer};

/// Longest name or link target, bytes.
const MAX_PATH: usize = 4096;

/// Deepest folder.
const MAX_DEPTH: usize = 256;

/// Why a tree is refused.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// Reading failed or ended early.
    #[error("reading the tree")]
    Io(#[from] io::Error),
    /// Not a tar, or a header that can not be read.
    #[error("the tree is not a tar")]
    Tar(#[from] TarError),
    /// A PAX record that can not be read, or is too large.
    #[error("an extended header that can not be read")]
    Pax,
    /// A name that is not a plain relative one.
    #[error("the name {0:?} is not allowed in a tree")]
    Name(String),
    /// Out of order, or twice.
    #[error("{0:?} stands out of order; `tar --sort=name` keeps it")]
    Order(String),
    /// Below something that is not a folder of this tree.
    #[error("{0:?} does not stand in a folder of the tree")]
    Parent(String),
    /// A device, socket, pipe, or something newer.
    #[error("{0:?} is of a kind that is not allowed in a tree ({1:?})")]
    Kind(String, char),
}

impl TreeError {
    /// The reason code of this refusal.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => Reason::Truncated,
            Self::Io(_) => Reason::Internal,
            _ => Reason::Malformed,
        }
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TreeKind {
    /// A folder.
    Folder,
    /// A file; its content is read from the reader.
    File {
        /// Bytes.
        size: u64,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points; any text.
        target: String,
    },
    /// Another name of an earlier file.
    HardLink {
        /// That file's name in the tree.
        target: String,
    },
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeEntry {
    /// Its name, relative, without a slash at the end; empty for the folder that everything stands in.
    pub path: String,
    /// What it is.
    pub kind: TreeKind,
    /// Permission bits, `07777` at most.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Modification time, seconds since 1970.
    pub mtime: u64,
    /// Extended attributes.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

/// Entries in order. As [`Read`] it gives the content of the current file.
#[derive(Debug)]
pub struct TreeReader<R> {
    inner: R,
    left: u64,
    padding: u64,
    previous: Option<String>,
    folders: Vec<String>,
}

impl<R: Read> TreeReader<R> {
    /// Reads a tree from its first byte.
    pub const fn new(inner: R) -> Self {
        Self { inner, left: 0, padding: 0, previous: None, folders: Vec::new() }
    }

    /// The next entry; none at the end. What is left of the previous file is skipped.
    ///
    /// # Errors
    /// When the entry is not allowed, or the tar is damaged.
    pub fn next_entry(&mut self) -> Result<Option<TreeEntry>, TreeError> {
        self.skip(self.left + self.padding)?;
        (self.left, self.padding) = (0, 0);
        let Some(mut header) = self.header()? else {
            return Ok(None);
        };
        let mut pax = pax::Pax::default();
        if header.kind == b'x' {
            pax = self.pax(header.size)?;
            header = self.header()?.ok_or(TreeError::Pax)?;
        }
        let path = name(pax.path.take().unwrap_or_else(|| header.name.clone()))?;
        let size = pax.size.unwrap_or(header.size);
        let target = pax.linkpath.take().unwrap_or_else(|| header.link.clone());
        let kind = kind(&path, header.kind, size, target)?;
        self.place(&path, &kind)?;
        if let TreeKind::File { size } = kind {
            self.left = size;
            self.padding = size.wrapping_neg() % BLOCK;
        }
        let number = |pax: Option<u64>, own: u64| u32::try_from(pax.unwrap_or(own)).map_err(|_| TreeError::Pax);
        Ok(Some(TreeEntry {
            kind,
            mode: (header.mode & 0o7777) as u32,
            uid: number(pax.uid, header.uid)?,
            gid: number(pax.gid, header.gid)?,
            mtime: header.mtime,
            xattrs: pax.xattrs,
            path,
        }))
    }

    fn header(&mut self) -> Result<Option<RawHeader>, TreeError> {
        let mut block = [0; BLOCK as usize];
        self.inner.read_exact(&mut block)?;
        Ok(RawHeader::parse(&block)?)
    }

    fn pax(&mut self, size: u64) -> Result<pax::Pax, TreeError> {
        if size > pax::MAX_SIZE {
            return Err(TreeError::Pax);
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        self.inner.read_exact(&mut bytes)?;
        self.skip(size.wrapping_neg() % BLOCK)?;
        pax::Pax::parse(&bytes)
    }

    /// In tree order and in a folder of this tree: a folder stands right before what is in it, so what is open is a
    /// path of folders, and an entry below anything else is seen at once.
    fn place(&mut self, path: &str, kind: &TreeKind) -> Result<(), TreeError> {
        let first = self.previous.is_none();
        if path.is_empty() && !(first && *kind == TreeKind::Folder) {
            return Err(TreeError::Name(path.to_owned()));
        }
        if self.previous.as_deref().is_some_and(|previous| tree_order(previous, path) != Ordering::Less) {
            return Err(TreeError::Order(path.to_owned()));
        }
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        while self.folders.last().is_some_and(|folder| *folder != parent) {
            self.folders.pop();
        }
        if !parent.is_empty() && self.folders.is_empty() {
            return Err(TreeError::Parent(path.to_owned()));
        }
        if *kind == TreeKind::Folder && !path.is_empty() {
            self.folders.push(path.to_owned());
        }
        self.previous = Some(path.to_owned());
        Ok(())
    }

    fn skip(&mut self, len: u64) -> Result<(), TreeError> {
        let skipped = io::copy(&mut self.inner.by_ref().take(len), &mut io::sink())?;
        if skipped < len { Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()) } else { Ok(()) }
    }
}

impl<R: Read> Read for TreeReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.by_ref().take(self.left).read(buffer)?;
        if read == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// The order of a tree: by components, so that everything in a folder follows it before its next neighbour.
#[must_use]
pub fn tree_order(a: &str, b: &str) -> Ordering {
    match (a.is_empty(), b.is_empty()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => a.split('/').cmp(b.split('/')),
    }
}

/// A name as tar writes it (`./a/b/`), made plain; refused when it is not plain and relative.
fn name(raw: String) -> Result<String, TreeError> {
    let plain = raw.strip_prefix("./").unwrap_or(&raw);
    let plain = plain.strip_suffix('/').unwrap_or(plain);
    let plain = if plain == "." { "" } else { plain };
    if is_plain(plain) || plain.is_empty() && matches!(raw.as_str(), "." | "./") {
        Ok(plain.to_owned())
    } else {
        Err(TreeError::Name(raw))
    }
}

fn is_plain(path: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part != "." && part != ".." && part.len() <= 255;
    path.len() <= MAX_PATH && !path.contains('\0') && path.split('/').count() <= MAX_DEPTH && path.split('/').all(part)
}

fn kind(path: &str, kind: u8, size: u64, target: String) -> Result<TreeKind, TreeError> {
    let link = |target: &str| !target.is_empty() && target.len() <= MAX_PATH && !target.contains('\0');
    match kind {
        b'0' | 0 => Ok(TreeKind::File { size }),
        b'5' => Ok(TreeKind::Folder),
        b'2' if link(&target) => Ok(TreeKind::Symlink { target }),
        b'1' if link(&target) => {
            let target = name(target)?;
            // Only back, to what was read before: what comes later could be a link by then.
            if tree_order(&target, path) == Ordering::Less && !target.is_empty() {
                Ok(TreeKind::HardLink { target })
            } else {
                Err(TreeError::Name(target))
            }
        }
        other => Err(TreeError::Kind(path.to_owned(), char::from(other))),
    }
}

#[cfg(test)]
#[path = "tree/tests.rs"]
mod tests;
