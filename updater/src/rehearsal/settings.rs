//! The configuration that the system in another slot would find on this device.
//!
//! What came with the running system stays with it; the new one brings its own. What the device has beside that (on the
//! data partition, behind a link or an overlay) will be there after the switch, too. Reads files.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::config::layers::{self, ETC, Sources, under};
use crate::config::{Finding, Severity};
use crate::health::configuration::came_with_system;

/// Files of `/etc/flipside`, by their path in it. `new` is where the other system can be seen, `root` the running one
/// and `findings` what is wrong with its configuration.
///
/// A file of the device that the running updater can not read either is left out: it is not the release's fault, and
/// leaving it would mend nothing.
#[must_use]
pub fn of(root: &Path, new: &Path, findings: &[Finding]) -> BTreeMap<PathBuf, String> {
    let broken =
        |file: &Path| findings.iter().any(|f| f.severity == Severity::Error && f.file.as_deref() == Some(file));
    // A link of the new system to the data partition leads there from here, too.
    let shared = |file: &Path| number(&under(new, file)).is_some_and(|new| number(&under(root, file)) == Some(new));
    let mut files = BTreeMap::new();
    let mut take = |top: &Path, wanted: &dyn Fn(&Path) -> bool| {
        for (file, text) in layers::read(&Sources::under(top)) {
            let toml = file.extension() == Some("toml".as_ref());
            if let Ok(inside) = file.strip_prefix(Path::new("/").join(ETC))
                && toml
                && wanted(&file)
            {
                // What can not be read here can not be read there.
                files.insert(inside.to_owned(), text.unwrap_or_else(|problem| format!("= {problem}")));
            }
        }
    };
    take(new, &|file| !(broken(file) && shared(file)));
    take(root, &|file| !broken(file) && !came_with_system(root, file));
    files
}

fn number(file: &Path) -> Option<(u64, u64)> {
    fs::metadata(file).ok().map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_new_systems_files_and_the_devices_own() {
        let (root, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(&root.path().join("etc/flipside/flipside.toml"), "channel = \"old system\"");
        write(&new.path().join("etc/flipside/flipside.toml"), "channel = \"new system\"");
        write(&new.path().join("etc/flipside/flipside.d/10-new.toml"), "");
        // Another file system stands for the data partition.
        let local = root.path().join("etc/flipside/flipside.d/50-local.toml");
        fs::create_dir_all(local.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink("/proc/sys/kernel/ostype", &local).unwrap();
        let found = of(root.path(), new.path(), &[]);
        let text = |name: &str| found.get(Path::new(name)).map(String::as_str);
        assert_eq!(text("flipside.toml"), Some("channel = \"new system\""));
        assert_eq!(text("flipside.d/10-new.toml"), Some(""));
        assert_eq!(text("flipside.d/50-local.toml"), Some("Linux\n"));
        // Broken today already: the device's own is not the release's fault; a file that the release brings is.
        let broken = ["/etc/flipside/flipside.d/50-local.toml", "/etc/flipside/flipside.toml"].map(|file| Finding {
            severity: Severity::Error,
            file: Some(file.into()),
            message: String::new(),
        });
        let found = of(root.path(), new.path(), &broken);
        assert_eq!(found.keys().collect::<Vec<_>>(), [Path::new("flipside.d/10-new.toml"), Path::new("flipside.toml")]);
    }
}
