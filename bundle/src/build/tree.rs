//! Writes a folder as a tree image: sorted, numeric owners, one time for everything.
//!
//! Reads the folder; follows no link in it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Read as _, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::BuildError;
use crate::tree::pax::{XATTR, record};
use crate::ustar::{BLOCK, MAX_NAME, RawHeader};

/// Room for the names of extended attributes of one file; Linux allows as much.
const XATTR_ROOM: usize = 64 << 10;

/// Writes `folder` to `out`, every entry with the modification time `mtime`.
///
/// # Errors
/// When something can not be read, or is neither file, folder nor link.
pub fn write_tree(folder: &Path, mtime: u64, out: &mut impl Write) -> Result<(), BuildError> {
    let mut writer = Writer { mtime, out: BufWriter::new(out), links: HashMap::new() };
    writer.entry(folder, "")?;
    writer.folder(folder, "")?;
    writer.out.write_all(&[0; 2 * BLOCK as usize]).and_then(|()| writer.out.flush()).map_err(BuildError::Write)
}

struct Writer<W: Write> {
    mtime: u64,
    out: BufWriter<W>,
    /// Name in the tree of each file with several names, by device and inode.
    links: HashMap<(u64, u64), String>,
}

impl<W: Write> Writer<W> {
    fn folder(&mut self, path: &Path, name: &str) -> Result<(), BuildError> {
        let read = |source| BuildError::Read { path: path.to_owned(), source };
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
    fn entry(&mut self, path: &Path, name: &str) -> Result<bool, BuildError> {
        let read = |source| BuildError::Read { path: path.to_owned(), source };
        let facts = fs::symlink_metadata(path).map_err(read)?;
        let kind = facts.file_type();
        let shown =
            if name.is_empty() { "./".to_owned() } else { format!("{name}{}", if kind.is_dir() { "/" } else { "" }) };
        let mut header = RawHeader {
            name: shown,
            kind: b'0',
            link: String::new(),
            mode: u64::from(facts.mode() & 0o7777),
            uid: u64::from(facts.uid()),
            gid: u64::from(facts.gid()),
            size: 0,
            mtime: self.mtime,
        };
        if kind.is_dir() {
            header.kind = b'5';
        } else if kind.is_symlink() {
            let target = fs::read_link(path).map_err(read)?;
            header.kind = b'2';
            header.link = target.to_str().ok_or_else(|| refused(path, "its target is not UTF-8"))?.to_owned();
        } else if !kind.is_file() {
            return Err(refused(path, "a tree holds files, folders and links only"));
        } else if let Some(first) = self.first_name(&facts, name) {
            (header.kind, header.link) = (b'1', first);
        } else {
            header.size = facts.size();
        }
        let size = header.size;
        // A hard link has the attributes of its file.
        let xattrs = if header.kind == b'1' { Vec::new() } else { xattrs(path).map_err(read)? };
        self.header(header, &xattrs).map_err(|error| match error {
            BuildError::Setting(why) => refused(path, &why),
            other => other,
        })?;
        if size > 0 {
            self.content(path, size)?;
        }
        Ok(kind.is_dir())
    }

    /// The name under which a file with several names was written before.
    fn first_name(&mut self, facts: &Metadata, name: &str) -> Option<String> {
        if facts.nlink() < 2 {
            return None;
        }
        let first = self.links.entry((facts.dev(), facts.ino())).or_insert_with(|| name.to_owned());
        (first != name).then(|| first.clone())
    }

    fn header(&mut self, mut header: RawHeader, xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<(), BuildError> {
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
        for (name, value) in xattrs {
            let name = std::str::from_utf8(name).map_err(|_| setting("an attribute whose name is not UTF-8"))?;
            // A PAX key ends at the first one; it would come back as another attribute.
            if name.contains('=') {
                return Err(setting("an attribute whose name has a ="));
            }
            records.extend(record(&format!("{XATTR}{name}"), value));
        }
        if !records.is_empty() {
            if records.len() as u64 > crate::tree::pax::MAX_SIZE {
                return Err(setting("more than 64 KiB of extended attributes"));
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
            self.padded(&records)?;
        }
        self.block(&header)
    }

    fn block(&mut self, header: &RawHeader) -> Result<(), BuildError> {
        let bytes = header.to_bytes().map_err(|error| setting(&error.to_string()))?;
        self.out.write_all(&bytes).map_err(BuildError::Write)
    }

    fn padded(&mut self, bytes: &[u8]) -> Result<(), BuildError> {
        self.out.write_all(bytes).map_err(BuildError::Write)?;
        self.pad(bytes.len() as u64)
    }

    fn pad(&mut self, len: u64) -> Result<(), BuildError> {
        let pad = len.wrapping_neg() % BLOCK;
        io::copy(&mut io::repeat(0).take(pad), &mut self.out).map(drop).map_err(BuildError::Write)
    }

    fn content(&mut self, path: &Path, size: u64) -> Result<(), BuildError> {
        let read = |source| BuildError::Read { path: path.to_owned(), source };
        let file = File::options().read(true).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32).open(path);
        let copied = io::copy(&mut file.map_err(read)?.take(size), &mut self.out).map_err(read)?;
        if copied != size {
            return Err(refused(path, "it shrank while it was read"));
        }
        self.pad(size)
    }
}

/// Extended attributes, sorted; none where the file system has none.
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
    found.sort();
    Ok(found)
}

fn refused(path: &Path, why: &str) -> BuildError {
    BuildError::Tree { path: path.to_owned(), why: why.to_owned() }
}

fn setting(why: &str) -> BuildError {
    BuildError::Setting(why.to_owned())
}
