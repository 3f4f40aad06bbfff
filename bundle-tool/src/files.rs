//! Reading keys and documents, and writing files so that a reader sees all or nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use bundle::json::DOCUMENT;
use bundle::keys::{PrivateKey, PublicKey};
use bundle::trust::TrustRoot;

/// Reads a private key.
pub fn private_key(path: &Path) -> Result<PrivateKey> {
    PrivateKey::from_pem(&text(path)?).with_context(|| format!("key {}", path.display()))
}

/// Reads a public key; of a private one, its public half.
pub fn public_key(path: &Path) -> Result<PublicKey> {
    let pem = text(path)?;
    let what = || format!("key {}", path.display());
    match PrivateKey::from_pem(&pem) {
        Ok(private) => private.public().with_context(what),
        Err(_) => PublicKey::from_pem(&pem).with_context(what),
    }
}

/// Reads a trust root that signs itself.
pub fn trust(path: &Path) -> Result<TrustRoot> {
    TrustRoot::open(&document(path)?).with_context(|| format!("trust root {}", path.display()))
}

/// Reads a document of at most 1 MiB.
pub fn document(path: &Path) -> Result<Vec<u8>> {
    let size = fs::metadata(path).with_context(|| format!("reading {}", path.display()))?.len();
    anyhow::ensure!(size <= DOCUMENT.bytes as u64, "{} has {size} bytes, documents have at most 1 MiB", path.display());
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

fn text(path: &Path) -> Result<String> {
    String::from_utf8(document(path)?).with_context(|| format!("{} is not text", path.display()))
}

/// Writes a new file that only its owner may read; never replaces one.
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<()> {
    let what = || format!("writing {} (an existing key is never overwritten)", path.display());
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).with_context(what)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).with_context(what)
}

/// Writes a new file; never replaces one.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let what = || format!("writing {} (an existing file is not overwritten)", path.display());
    let mut file = File::create_new(path).with_context(what)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).with_context(what)
}

/// Replaces a file in one step, and its folder entry durably; makes the folders above it.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let what = || format!("writing {}", path.display());
    make_folder(folder_of(path)).with_context(what)?;
    bundle::build::publish(path, |file| file.write_all(bytes).map_err(bundle::build::BuildError::Write))
        .with_context(what)
}

/// The folder a file stands in; the one we are in for a bare name.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a folder and those above it, durably: what is written into it is lost with it.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    let above = folder_of(folder);
    make_folder(above)?;
    match fs::create_dir(folder) {
        // Somebody else was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
        made => made?,
    }
    File::open(above)?.sync_all()
}
