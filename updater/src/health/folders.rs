//! Finds the executable checks. Reads folders under the injected root.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A check to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// File name, with the folder's family in front when it is not ours (`greenboot/10-x`).
    pub name: String,
    /// The executable.
    pub path: PathBuf,
    /// Decides about the slot; otherwise only reported.
    pub required: bool,
}

/// The family of the checks that need a network.
const NETWORK: &str = "network/";

/// Family, folders (a name in a later one hides the same name in an earlier one), required.
const FAMILIES: [(&str, [&str; 2], bool); 5] = [
    ("", ["usr/lib/flipside/health.d", "etc/flipside/health.d"], true),
    ("wanted/", ["usr/lib/flipside/health.d/wanted.d", "etc/flipside/health.d/wanted.d"], false),
    // Whether they decide is the core's matter: it knows what passed before the reboot.
    (NETWORK, ["usr/lib/flipside/health.d/network.d", "etc/flipside/health.d/network.d"], false),
    ("greenboot/", ["usr/lib/greenboot/check/required.d", "etc/greenboot/check/required.d"], true),
    ("greenboot-wanted/", ["usr/lib/greenboot/check/wanted.d", "etc/greenboot/check/wanted.d"], false),
];

impl Check {
    /// What it says depends on more than this device.
    #[must_use]
    pub fn needs_network(&self) -> bool {
        self.name.starts_with(NETWORK)
    }
}

/// All checks, sorted by name within their family. Hidden files, editors' leftovers and what is not executable are
/// passed over; a link to `/dev/null` in `/etc` switches a check off.
#[must_use]
pub fn find(root: &Path) -> Vec<Check> {
    let mut checks = Vec::new();
    for (family, folders, required) in FAMILIES {
        let mut found: BTreeMap<OsString, PathBuf> = BTreeMap::new();
        for entry in folders.iter().filter_map(|f| fs::read_dir(root.join(f)).ok()).flatten().flatten() {
            found.insert(entry.file_name(), entry.path());
        }
        checks.extend(found.into_iter().filter_map(|(name, path)| {
            let name = name.into_string().ok()?;
            let leftover = name.starts_with('.') || name.ends_with('~') || name.contains(".dpkg-");
            let meta = fs::metadata(&path).ok()?;
            let runs = meta.is_file() && meta.permissions().mode() & 0o111 != 0;
            (runs && !leftover).then(|| Check { name: format!("{family}{name}"), path, required })
        }));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etc_hides_usr_and_leftovers_are_passed_over() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, mode| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "#!/bin/sh\n").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        put("usr/lib/flipside/health.d/10-disk", 0o755);
        put("usr/lib/flipside/health.d/20-off", 0o755);
        put("usr/lib/flipside/health.d/README", 0o644);
        put("usr/lib/flipside/health.d/.swp", 0o755);
        put("etc/flipside/health.d/10-disk", 0o755);
        put("etc/flipside/health.d/network.d/50-gateway", 0o755);
        put("etc/greenboot/check/wanted.d/05-net", 0o755);
        put("etc/greenboot/check/required.d/01-app", 0o755);
        std::os::unix::fs::symlink("/dev/null", root.path().join("etc/flipside/health.d/20-off")).unwrap();
        let found: Vec<_> = find(root.path()).into_iter().map(|c| (c.name, c.required)).collect();
        let expected = [
            ("10-disk", true),
            ("network/50-gateway", false),
            ("greenboot/01-app", true),
            ("greenboot-wanted/05-net", false),
        ];
        assert_eq!(found, expected.map(|(n, r)| (n.to_owned(), r)));
        assert!(find(root.path())[0].path.ends_with("etc/flipside/health.d/10-disk"));
    }
}
