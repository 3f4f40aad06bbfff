//! Finds and reads the configuration files, in order, under a root. Reads only.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The folder of the device's owner.
pub const ETC: &str = "etc/flipside";
/// The folders, weakest first.
const FOLDERS: [&str; 2] = ["usr/lib/flipside", ETC];
/// A configuration file larger than this is a mistake.
const MAX_FILE: u64 = 1 << 20;

/// One file: where it is (as the device sees it, without the root) and its text or why it could not be read.
pub type Layer = (PathBuf, Result<String, String>);

/// Where the files of a system are.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    root: &'a Path,
    etc: Option<&'a Path>,
}

impl<'a> Sources<'a> {
    /// Everything below `root`.
    #[must_use]
    pub const fn under(root: &'a Path) -> Self {
        Self { root, etc: None }
    }

    /// What would be `/etc/flipside` is this folder, where one is given.
    #[must_use]
    pub const fn with_etc(self, etc: Option<&'a Path>) -> Self {
        Self { etc, ..self }
    }

    fn find(&self, path: &Path) -> PathBuf {
        match (self.etc, path.strip_prefix(Path::new("/").join(ETC))) {
            (Some(etc), Ok(inside)) => etc.join(inside),
            _ => under(self.root, path),
        }
    }
}

/// All files that exist, weakest first: both main files, then the fragments of both `.d` folders by file name.
#[must_use]
pub fn read(sources: &Sources<'_>) -> Vec<Layer> {
    let mut layers = Vec::new();
    let mut fragments: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    let mut problems = Vec::new();
    for folder in FOLDERS {
        push(sources, Path::new("/").join(folder).join("flipside.toml"), &mut layers);
        let drop_ins = Path::new("/").join(folder).join("flipside.d");
        match fs::read_dir(sources.find(&drop_ins)) {
            Ok(entries) => {
                // The same name in /etc replaces the one in /usr/lib, as systemd does it.
                for name in entries
                    .flatten()
                    .map(|e| e.file_name())
                    .filter(|n| Path::new(n).extension() == Some("toml".as_ref()))
                {
                    fragments.insert(name.clone(), drop_ins.join(name));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => problems.push((drop_ins, Err(e.to_string()))),
        }
    }
    for path in fragments.into_values() {
        push(sources, path, &mut layers);
    }
    layers.extend(problems);
    layers
}

fn push(sources: &Sources<'_>, path: PathBuf, layers: &mut Vec<Layer>) {
    match read_file(&sources.find(&path)) {
        Ok(text) => layers.push((path, Ok(text))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => layers.push((path, Err(e.to_string()))),
    }
}

fn read_file(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > MAX_FILE {
        return Err(io::Error::other("larger than 1 MiB"));
    }
    fs::read_to_string(path)
}

/// `path`, an absolute path on the device, as it is found under `root`.
#[must_use]
pub fn under(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}
