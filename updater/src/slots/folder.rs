//! Refuses a folder as target that somebody uses, that is not a folder, or that is not this slot's alone.
//!
//! A folder has no exclusive claim as a partition has, so the questions are asked of the mounts: is something mounted
//! on it or in it (then renaming fails, and deleting would reach into what is mounted), and is it, or a part of it,
//! mounted somewhere else (as the root of the running system, for instance)? Reads `/proc` below an injected root.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::device::Roots;
use super::guard::GuardError;

/// Whether one path is the other, or stands in it.
#[must_use]
pub fn overlap(a: &Path, b: &Path) -> bool {
    a.starts_with(b) || b.starts_with(a)
}

/// The nearest folder around `path`, or `path` itself, that is there.
#[must_use]
pub fn standing(path: &Path) -> &Path {
    path.ancestors().find(|each| each.exists()).unwrap_or(Path::new("/"))
}

/// `path` without links, as far as it is there.
///
/// # Errors
/// As the file system says.
fn real(path: &Path) -> io::Result<PathBuf> {
    let standing = standing(path);
    let rest = path.strip_prefix(standing).unwrap_or(Path::new(""));
    let found = fs::canonicalize(standing)?;
    Ok(if rest.as_os_str().is_empty() { found } else { found.join(rest) })
}

/// Checks that `folder` may be replaced as a whole: nobody uses it, and none of `others` (places of other images, of
/// either slot) is in it or around it, under whatever name.
///
/// # Errors
/// [`GuardError`], naming who does.
pub fn unused<'a>(folder: &Path, others: impl Iterator<Item = &'a Path>, roots: &Roots) -> Result<(), GuardError> {
    let look = |error| GuardError::Look(folder.to_owned(), error);
    match fs::symlink_metadata(folder) {
        // A link could be turned to the running slot at any time; it is not what was configured anyway.
        Ok(facts) if !facts.is_dir() => return Err(GuardError::NotAFolder(folder.to_owned())),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(look(error)),
        _ => {}
    }
    let own = real(folder).map_err(look)?;
    for other in others {
        if overlap(&own, &real(other).map_err(look)?) {
            return Err(GuardError::Shared(folder.to_owned(), other.to_owned()));
        }
    }
    let around = standing(own.parent().unwrap_or(Path::new("/")));
    let facts = fs::metadata(around).map_err(look)?;
    // Not checked for what stands around that: whoever may write there can take the whole away, but not get into it.
    if ![0, nix::unistd::geteuid().as_raw()].contains(&facts.uid()) || facts.mode() & 0o022 != 0 {
        return Err(GuardError::Open(around.to_owned()));
    }
    no_mount(folder, &roots.proc)
}

/// Checks that nothing is mounted on, in, or from `folder`, right now; `proc` is where processes are shown.
///
/// # Errors
/// [`GuardError`], naming the mount.
pub fn no_mount(folder: &Path, proc: &Path) -> Result<(), GuardError> {
    let look = |error| GuardError::Look(folder.to_owned(), error);
    let own = real(folder).map_err(look)?;
    let mounts = match fs::read_to_string(proc.join("self/mountinfo")) {
        Ok(mounts) => mounts,
        // A simulation; the kernel of a device always tells.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(look(error)),
    };
    match mounted(&own, &mounts) {
        Some(at) => Err(GuardError::Mounted { device: folder.to_owned(), at: at.display().to_string() }),
        None => Ok(()),
    }
}

/// One line of `/proc/self/mountinfo` (proc(5)).
struct Mount {
    /// `major:minor` of the file system.
    number: String,
    /// Which of its folders is mounted.
    root: PathBuf,
    /// Where.
    at: PathBuf,
}

fn parse(line: &str) -> Option<Mount> {
    let mut fields = line.split(' ').skip(2);
    let number = fields.next()?.to_owned();
    Some(Mount { number, root: unescaped(fields.next()?), at: unescaped(fields.next()?) })
}

/// Blank, tab, newline and backslash are written as three octal digits.
fn unescaped(text: &str) -> PathBuf {
    let codes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    codes.into_iter().fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain)).into()
}

/// Where `folder` is used: a mount on it, in it, or of it.
fn mounted(folder: &Path, mountinfo: &str) -> Option<PathBuf> {
    let mounts: Vec<Mount> = mountinfo.lines().filter_map(parse).collect();
    if let Some(on) = mounts.iter().find(|mount| mount.at.starts_with(folder)) {
        return Some(on.at.clone());
    }
    // Of two mounts at one place the later one is seen.
    let around = mounts.iter().filter(|mount| folder.starts_with(&mount.at));
    let around = around.max_by_key(|mount| mount.at.components().count())?;
    let inside = around.root.join(folder.strip_prefix(&around.at).ok()?);
    mounts.iter().find(|mount| mount.number == around.number && mount.root.starts_with(&inside)).map(|m| m.at.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const MOUNTS: &str = "22 1 254:2 / / ro,relatime shared:1 - ext4 /dev/vda2 ro\n\
        30 22 254:5 / /data rw - ext4 /dev/vda5 rw\n\
        31 30 254:5 /flipside /data/flipside rw - ext4 /dev/vda5 rw\n";

    #[test]
    fn mounted_on_in_or_elsewhere() {
        let check = |folder: &str, more: &str| mounted(Path::new(folder), &format!("{MOUNTS}{more}"));
        // The service's own view of what it may write is no use of a slot.
        assert_eq!(check("/data/flipside/b/root", ""), None);
        assert_eq!(check("/data/flipside/b", "40 1 254:5 /flipside/a /run/x rw - ext4 /dev/vda5 rw\n"), None);
        let root = "40 1 254:5 /flipside/b/root / ro - ext4 /dev/vda5 ro\n";
        assert_eq!(check("/data/flipside/b/root", root), Some("/".into()), "what runs");
        assert_eq!(check("/data/flipside/b", root), Some("/".into()), "a part of it runs");
        let inner = "40 31 0:5 / /data/flipside/b/my\\040dev rw - devtmpfs dev rw\n";
        assert_eq!(check("/data/flipside/b", inner), Some("/data/flipside/b/my dev".into()));
        assert_eq!(check("/data", ""), Some("/data".into()));
        assert_eq!(check("/data/flipside/b", "40 1 254:9 /flipside/b /mnt rw - ext4 /dev/vdb rw\n"), None);
    }

    #[test]
    fn a_folder_that_others_may_write_around_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots { dev: dir.path().into(), sys: dir.path().into(), proc: dir.path().into() };
        let check = |mode| {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            unused(&dir.path().join("slot"), std::iter::empty(), &roots)
        };
        check(0o755).unwrap();
        for open in [0o775, 0o757, 0o1777] {
            assert!(matches!(check(open), Err(GuardError::Open(_))), "{open:o}");
        }
    }

    #[test]
    fn links_and_other_places_are_seen_through() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("slots/a")).unwrap();
        fs::create_dir_all(at("slots/b")).unwrap();
        symlink("slots", at("other-name")).unwrap();
        symlink("a", at("slots/current")).unwrap();
        fs::write(at("slots/file"), b"").unwrap();
        let roots = Roots { dev: at("dev"), sys: at("sys"), proc: at("proc") };
        let check = |own: &str, other: &str| unused(&at(own), [at(other).as_path()].into_iter(), &roots);
        check("slots/b", "slots/a").unwrap();
        check("slots/not/yet", "slots/a").unwrap();
        for own in ["slots/current", "slots/file"] {
            assert!(matches!(check(own, "slots/b"), Err(GuardError::NotAFolder(_))), "{own}");
        }
        for own in ["other-name/a", "slots/current/lib", "other-name"] {
            let error = check(own, "slots/a").unwrap_err();
            assert!(matches!(error, GuardError::Shared(..) | GuardError::NotAFolder(_)), "{own}");
        }
        assert!(matches!(check("other-name/a", "slots/a/lib"), Err(GuardError::Shared(..))));
    }
}
