//! The one form in which a tree is written: the same entries are the same bytes.
//!
//! A device proves a folder by writing it again and comparing digests, so what a byte depends on is only what the
//! folder itself has, and the release's one time. Touches only the `Write` it is given.

use std::io::{self, BufWriter, Read, Write};

use super::pax::{self, XATTR, record};
use super::{TreeEntry, TreeKind};
use crate::ustar::{BLOCK, MAX_NAME, RawHeader};

/// Bytes that wait to be written.
const BUFFER: usize = 128 << 10;

/// Why an entry can not be written.
#[derive(Debug)]
pub enum Unwritten {
    /// It has no form in a tree.
    Refused(String),
    /// Reading its content.
    Read(io::Error),
    /// Writing.
    Write(io::Error),
}

fn refused(why: &str) -> Unwritten {
    Unwritten::Refused(why.to_owned())
}

/// Writes entries; whoever calls keeps them in tree order.
#[derive(Debug)]
pub struct Writer<W: Write> {
    mtime: u64,
    out: BufWriter<W>,
}

impl<W: Write> Writer<W> {
    /// Every entry gets the modification time `mtime`, seconds since 1970.
    pub fn new(mtime: u64, out: W) -> Self {
        Self { mtime, out: BufWriter::with_capacity(BUFFER, out) }
    }

    /// Writes an entry, and `content` if it is a file.
    ///
    /// # Errors
    /// [`Unwritten`].
    pub fn entry(&mut self, entry: &TreeEntry, content: impl Read) -> Result<(), Unwritten> {
        let mut header = RawHeader {
            name: entry.path.clone(),
            kind: b'0',
            link: String::new(),
            mode: u64::from(entry.mode),
            uid: u64::from(entry.uid),
            gid: u64::from(entry.gid),
            size: 0,
            mtime: self.mtime,
        };
        match &entry.kind {
            TreeKind::Folder if entry.path.is_empty() => (header.kind, header.name) = (b'5', "./".to_owned()),
            TreeKind::Folder => (header.kind, header.name) = (b'5', format!("{}/", entry.path)),
            TreeKind::File { size } => header.size = *size,
            TreeKind::Symlink { target } => (header.kind, header.link) = (b'2', target.clone()),
            TreeKind::HardLink { target } => (header.kind, header.link) = (b'1', target.clone()),
        }
        let size = header.size;
        // A hard link has the attributes of its file.
        let none = matches!(entry.kind, TreeKind::HardLink { .. });
        self.header(header, if none { &[] } else { &entry.xattrs })?;
        let mut content = content.take(size);
        let copied = copy(&mut content, &mut self.out)?;
        if copied != size {
            return Err(refused("it shrank while it was read"));
        }
        self.pad(size)
    }

    /// Ends the tree.
    ///
    /// # Errors
    /// As the output says.
    pub fn finish(mut self) -> Result<(), Unwritten> {
        self.out.write_all(&[0; 2 * BLOCK as usize]).and_then(|()| self.out.flush()).map_err(Unwritten::Write)
    }

    fn header(&mut self, mut header: RawHeader, xattrs: &[(String, Vec<u8>)]) -> Result<(), Unwritten> {
        let mut records = Vec::new();
        let mut long = |key: &str, text: &mut String| {
            if text.len() > MAX_NAME {
                records.extend(record(key, text.as_bytes()));
                "long".clone_into(text);
            }
        };
        long("path", &mut header.name);
        long("linkpath", &mut header.link);
        for (key, id) in [("uid", &mut header.uid), ("gid", &mut header.gid)] {
            if *id >= 1 << 21 {
                records.extend(record(key, id.to_string().as_bytes()));
                *id = 0;
            }
        }
        let mut sorted = xattrs.iter().collect::<Vec<_>>();
        sorted.sort();
        if sorted.windows(2).any(|pair| matches!(pair, [(one, _), (other, _)] if one == other)) {
            return Err(refused("an attribute twice"));
        }
        for (name, value) in sorted {
            // A PAX key ends at the first one; it would come back as another attribute.
            if name.contains('=') {
                return Err(refused("an attribute whose name has a ="));
            }
            records.extend(record(&format!("{XATTR}{name}"), value));
        }
        if !records.is_empty() {
            if records.len() as u64 > pax::MAX_SIZE {
                return Err(refused("more than 64 KiB of extended attributes"));
            }
            let extended = RawHeader {
                name: "pax".to_owned(),
                kind: b'x',
                link: String::new(),
                mode: 0o644,
                uid: 0,
                gid: 0,
                size: records.len() as u64,
                mtime: self.mtime,
            };
            self.block(&extended)?;
            self.out.write_all(&records).map_err(Unwritten::Write)?;
            self.pad(records.len() as u64)?;
        }
        self.block(&header)
    }

    fn block(&mut self, header: &RawHeader) -> Result<(), Unwritten> {
        let bytes = header.to_bytes().map_err(|error| refused(&error.to_string()))?;
        self.out.write_all(&bytes).map_err(Unwritten::Write)
    }

    fn pad(&mut self, len: u64) -> Result<(), Unwritten> {
        let pad = usize::try_from(len.wrapping_neg() % BLOCK).unwrap_or(0);
        let zeros = [0; BLOCK as usize];
        self.out.write_all(zeros.get(..pad).unwrap_or_default()).map_err(Unwritten::Write)
    }
}

/// Copies and keeps apart which side failed; a disk that can not be read is another matter than one that is full.
fn copy(from: &mut impl Read, to: &mut impl Write) -> Result<u64, Unwritten> {
    let mut piece = vec![0; BUFFER / 2];
    let mut copied = 0;
    loop {
        let count = match from.read(&mut piece) {
            Ok(0) => return Ok(copied),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Unwritten::Read(error)),
        };
        to.write_all(piece.get(..count).unwrap_or_default()).map_err(Unwritten::Write)?;
        copied += count as u64;
    }
}
