//! Folders as releases hold them, and what they look like.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown, symlink};
use std::path::Path;

use super::site::noise;

/// A file capability (cap_net_raw, effective), as `setcap` writes it.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

pub fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Sets an attribute; false, with a loud line, where that can not be.
pub fn attribute(path: &Path, name: &str, value: &[u8]) -> bool {
    match rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()) {
        Ok(()) => true,
        Err(error) => {
            super::skip::skipped(&format!("{name} can not be set on {}: {error}", path.display()));
            false
        }
    }
}

/// A small system: `len` bytes of noise of that seed in files of all sizes, and one of each thing a tree can hold. As
/// root with owners, capabilities and an attribute.
pub fn system(folder: &Path, len: usize, seed: u64) {
    let at = |name: &str| folder.join(name);
    for inner in ["etc/deep", "usr/lib", "usr/bin", "empty"] {
        fs::create_dir_all(at(inner)).unwrap();
    }
    let bytes = noise(len, seed);
    for (n, piece) in bytes.chunks(len / 23 + 1).enumerate() {
        fs::write(at(&format!("usr/lib/lib{n}.so")), piece).unwrap();
    }
    fs::write(at("etc/config"), format!("seed = {seed}\n")).unwrap();
    fs::write(at("etc/deep/secret"), b"secret").unwrap();
    fs::write(at("usr/bin/ping"), b"program").unwrap();
    fs::hard_link(at("usr/bin/ping"), at("usr/bin/ping4")).unwrap();
    fs::write(at(&"n".repeat(180)), b"long").unwrap();
    symlink("etc/config", at("link")).unwrap();
    symlink("/nowhere/at/all", at("dangling")).unwrap();
    if is_root() {
        std::os::unix::fs::chown(at("etc/deep/secret"), Some(1234), Some(42)).unwrap();
        std::os::unix::fs::chown(at("usr/bin/ping"), Some(0), Some(4242)).unwrap();
        lchown(at("link"), Some(77), Some(3_000_000)).unwrap();
        attribute(&at("etc/config"), "user.note", b"kept\0");
        attribute(&at("usr/lib/lib1.so"), "security.capability", &CAPABILITY);
    }
    mode(&at("etc/deep/secret"), 0o640);
    // A group that is not the caller's: the bit is only kept with the right to it.
    mode(&at("usr/bin/ping"), 0o6755);
    mode(&at("empty"), 0o1777);
    if is_root() {
        // Others could not remove it again.
        mode(&at("etc/deep"), 0o555);
    }
}

/// Every name with its mode, owner, size, number of names and target.
pub fn facts(folder: &Path) -> Vec<String> {
    let mut out = Vec::new();
    add(folder, "", &mut out);
    out
}

fn add(folder: &Path, name: &str, out: &mut Vec<String>) {
    let path = folder.join(name);
    let meta = fs::symlink_metadata(&path).unwrap();
    let target = fs::read_link(&path).unwrap_or_default();
    let (size, names) = if meta.is_dir() { (0, 0) } else { (meta.size(), meta.nlink()) };
    out.push(format!("{name} {:o} {}:{} {size} {names} {target:?}", meta.mode(), meta.uid(), meta.gid()));
    if meta.is_dir() {
        let mut inner = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
        inner.sort();
        for each in inner {
            add(folder, &Path::new(name).join(each).to_string_lossy(), out);
        }
    }
}
