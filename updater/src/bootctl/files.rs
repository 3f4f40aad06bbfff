//! The few file operations a boot loader's state needs, as a seam.
//!
//! Backends never touch `std::fs` themselves: every path is relative to an injected root, and every operation that
//! matters for power loss (write, sync, rename, remove, sync of the folder) is one call here. Tests put a recording
//! layer in its place and cut the power between any two of them (see [`super::powerloss`]).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Largest file read: a boot entry or an environment is a few hundred bytes, so anything above is damage.
const MAX_BYTES: u64 = 1 << 20;

/// File operations below one root. Paths are relative, with `/` between the parts.
///
/// Nothing is durable before `sync` (content) or `sync_dir` (names).
pub trait Files: Send {
    /// The whole file, or `None` when there is none.
    ///
    /// # Errors
    /// As the file system says; a file above 1 MiB is an error.
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>>;

    /// Names in a folder, sorted; empty when there is no such folder.
    ///
    /// # Errors
    /// As the file system says.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;

    /// Makes a folder and those above it.
    ///
    /// # Errors
    /// As the file system says.
    fn make_dir(&mut self, dir: &str) -> io::Result<()>;

    /// Makes the file, or empties it, and writes `bytes`.
    ///
    /// # Errors
    /// As the file system says.
    fn create(&mut self, path: &str, bytes: &[u8]) -> io::Result<()>;

    /// Replaces the first `bytes.len()` bytes by *one* write to the existing file, whose size stays.
    ///
    /// # Errors
    /// As the file system says; a file shorter than `bytes` is an error and stays as it is.
    fn overwrite(&mut self, path: &str, bytes: &[u8]) -> io::Result<()>;

    /// Makes the content of a file durable.
    ///
    /// # Errors
    /// As the file system says.
    fn sync(&mut self, path: &str) -> io::Result<()>;

    /// Gives a file another name, replacing what had it.
    ///
    /// # Errors
    /// As the file system says.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file; none there is fine.
    ///
    /// # Errors
    /// As the file system says.
    fn remove(&mut self, path: &str) -> io::Result<()>;

    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// As the file system says.
    fn sync_dir(&mut self, dir: &str) -> io::Result<()>;
}

/// The folder a path stands in.
fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// Writes a file so that after a power loss either the old or the new content is there, never half of it.
///
/// The order is the point: content before name (or the name would show an empty file), name before return.
///
/// # Errors
/// As the file system says; the temporary file is removed again, so that a full ESP does not stay full.
pub fn replace(files: &mut dyn Files, temp: &str, path: &str, bytes: &[u8]) -> io::Result<()> {
    let written = files.create(temp, bytes).and_then(|()| files.sync(temp)).and_then(|()| files.rename(temp, path));
    if let Err(error) = written {
        // The first error is the one to tell; a temporary file that stays is swept by the next write.
        let _ = files.remove(temp);
        return Err(error);
    }
    files.sync_dir(parent(path))
}

/// The real thing: files below a folder.
#[derive(Debug, Clone)]
pub struct Rooted {
    root: PathBuf,
}

impl Rooted {
    /// Files below `root`, for instance `/efi`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }
}

impl Files for Rooted {
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(self.path(path)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "file above 1 MiB"));
        }
        Ok(Some(bytes))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.path(dir)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn make_dir(&mut self, dir: &str) -> io::Result<()> {
        fs::create_dir_all(self.path(dir))
    }

    fn create(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        File::create(self.path(path))?.write_all(bytes)
    }

    fn overwrite(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.path(path))?;
        if file.metadata()?.len() < bytes.len() as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is shorter than what belongs in it"));
        }
        // One call, not `write_all_at`: a second write would be a second chance for the power to go.
        match file.write_at(bytes, 0)? {
            written if written == bytes.len() => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::WriteZero, "short write")),
        }
    }

    fn sync(&mut self, path: &str) -> io::Result<()> {
        OpenOptions::new().write(true).open(self.path(path))?.sync_all()
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&mut self, path: &str) -> io::Result<()> {
        match fs::remove_file(self.path(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn sync_dir(&mut self, dir: &str) -> io::Result<()> {
        File::open(self.path(dir))?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_block_is_overwritten_where_it_lies() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grubenv");
        fs::write(&path, [b'#'; 1024]).unwrap();
        let before = fs::metadata(&path).unwrap().ino();
        let mut files = Rooted::new(dir.path());
        files.overwrite("grubenv", b"ORDER=B A").unwrap();
        // GRUB knows the block by its place on the disk.
        let bytes = fs::read(&path).unwrap();
        assert_eq!((bytes.len(), &bytes[..10], fs::metadata(&path).unwrap().ino()), (1024, &b"ORDER=B A#"[..], before));
        assert!(files.overwrite("grubenv", &[0; 1025]).is_err());
        assert!(fs::read(&path).unwrap() == bytes, "what does not fit changes nothing");
        assert!(files.overwrite("missing", b"x").is_err() && !dir.path().join("missing").exists());
    }
}
