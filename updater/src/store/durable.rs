//! Replaces a file so that a power loss leaves the old or the new content, never an empty or half one.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::bootctl::files::{self, Rooted};

/// Makes `path` hold `bytes`, durably: temporary file, its sync, rename, sync of the folder. Missing folders are made.
///
/// # Errors
/// As the file system says; the old content is then still there.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_as(path, bytes, 0o666)
}

/// The same for a secret: only its owner may read it, at no instant anybody else.
///
/// # Errors
/// As [`replace`].
pub fn replace_secret(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_as(path, bytes, 0o600)
}

fn replace_as(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let no_name = || io::Error::new(io::ErrorKind::InvalidInput, format!("{} is no file name", path.display()));
    let (folder, name) = path.parent().zip(path.file_name()).ok_or_else(no_name)?;
    let name = name.to_str().ok_or_else(no_name)?;
    fs::create_dir_all(folder)?;
    let temp = format!("{name}.tmp");
    // What a power cut left behind may have another mode.
    let _ = fs::remove_file(folder.join(&temp));
    OpenOptions::new().write(true).create_new(true).mode(mode).open(folder.join(&temp))?;
    // The steps that the boot loader's state takes, which are tried with the power going between any two of them.
    files::replace(&mut Rooted::new(folder), &temp, name, bytes)
}
