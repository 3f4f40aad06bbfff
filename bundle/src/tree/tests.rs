//! Every way out of a tree is closed.

use super::*;
use crate::ustar::RawHeader;
use proptest::prelude::*;

fn entry(name: &str, kind: u8, link: &str, content: &[u8]) -> Vec<u8> {
    let header = RawHeader {
        name: name.to_owned(),
        kind,
        link: link.to_owned(),
        mode: 0o755,
        uid: 0,
        gid: 0,
        size: content.len() as u64,
        mtime: 1,
    };
    let mut out = header.to_bytes().unwrap().to_vec();
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

fn read(entries: &[Vec<u8>]) -> Result<Vec<TreeEntry>, TreeError> {
    let bytes = [entries.concat(), vec![0; 1024]].concat();
    let mut reader = TreeReader::new(bytes.as_slice());
    let mut out = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        out.push(entry);
    }
    Ok(out)
}

#[test]
fn a_sound_tree_is_read() {
    let tree = [
        entry("./", b'5', "", b""),
        entry("a/", b'5', "", b""),
        entry("a/file", b'0', "", b"hello"),
        entry("a/hard", b'1', "a/file", b""),
        entry("a-b", b'2', "/etc/passwd", b""),
        entry("z", b'0', "", b""),
    ];
    let paths = read(&tree).unwrap().into_iter().map(|entry| entry.path).collect::<Vec<_>>();
    assert_eq!(paths, ["", "a", "a/file", "a/hard", "a-b", "z"]);
}

#[test]
fn ways_out_are_closed() {
    let file = |name: &str| entry(name, b'0', "", b"x");
    for name in ["../x", "/x", "a/../../x", "a//x", "./../x", ".", "a/./x"] {
        let folders = [entry("a/", b'5', "", b""), file(name)];
        assert!(matches!(read(&folders), Err(TreeError::Name(_))), "{name}");
    }
    // Below a link, below a file, below nothing.
    for (kind, link) in [(b'2', "/etc"), (b'0', "")] {
        assert!(matches!(read(&[entry("a", kind, link, b""), file("a/x")]), Err(TreeError::Parent(_))));
    }
    assert!(matches!(read(&[file("a/x")]), Err(TreeError::Parent(_))));
    // A link that becomes a folder, or the other way round.
    let twice = [entry("a/", b'5', "", b""), entry("a", b'2', "/etc", b""), file("a/x")];
    assert!(matches!(read(&twice), Err(TreeError::Order(_))));
    assert!(matches!(read(&[file("b"), file("a")]), Err(TreeError::Order(_))));
    for kind in [b'3', b'4', b'6', b'7', b'g', b'L', b'S'] {
        assert!(matches!(read(&[entry("dev", kind, "", b"")]), Err(TreeError::Kind(..))), "{}", char::from(kind));
    }
    for target in ["/etc/passwd", "../x", "b", "a"] {
        assert!(matches!(read(&[entry("a", b'1', target, b"")]), Err(TreeError::Name(_))), "{target}");
    }
    let long = entry("pax", b'x', "", &vec![b' '; 70_000]);
    assert!(matches!(read(&[long, file("a")]), Err(TreeError::Pax)));
    let renamed = entry("pax", b'x', "", &pax::record("path", b"../x"));
    assert!(matches!(read(&[renamed, file("a")]), Err(TreeError::Name(_))));
}

proptest! {
    #[test]
    fn noise_never_panics(at in 0usize..4096, byte: u8) {
        let mut bytes = [
            entry("a/", b'5', "", b""),
            entry("pax", b'x', "", &pax::record("path", b"a/other")),
            entry("a/file", b'0', "", b"hello"),
            vec![0; 1024],
        ].concat();
        let at = at % bytes.len();
        bytes[at] = byte;
        let mut reader = TreeReader::new(bytes.as_slice());
        while let Ok(Some(entry)) = reader.next_entry() {
            prop_assert!(!entry.path.starts_with('/') && !entry.path.split('/').any(|part| part == ".."));
        }
    }
}

#[cfg(all(feature = "build", feature = "unpack"))]
mod round_trip {
    use super::*;
    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
    use std::path::Path;

    fn make(folder: &Path) {
        fs::create_dir_all(folder.join("etc/deep/er")).unwrap();
        fs::write(folder.join("etc/deep/er/file"), b"hello").unwrap();
        fs::hard_link(folder.join("etc/deep/er/file"), folder.join("etc/same")).unwrap();
        fs::write(folder.join("etc-x"), vec![7; 100_000]).unwrap();
        fs::write(folder.join("n".repeat(200)), b"long").unwrap();
        symlink("/etc/passwd", folder.join("link")).unwrap();
        symlink("x".repeat(150), folder.join("long-link")).unwrap();
        set(&folder.join("etc-x"), "user.note", b"kept\0").expect("the temporary folder must know extended attributes");
        fs::set_permissions(folder.join("etc-x"), fs::Permissions::from_mode(0o4750)).unwrap();
        fs::set_permissions(folder.join("etc/deep"), fs::Permissions::from_mode(0o555)).unwrap();
    }

    fn set(path: &Path, name: &str, value: &[u8]) -> rustix::io::Result<()> {
        rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty())
    }

    /// A file capability (cap_net_raw, effective), as `setcap` writes it.
    const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    #[test]
    fn owners_and_capabilities_come_back_when_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let (from, kept, ours) = (dir.path().join("from"), dir.path().join("kept"), dir.path().join("ours"));
        [&from, &kept, &ours].iter().for_each(|folder| fs::create_dir(folder).unwrap());
        fs::write(from.join("ping"), b"program").unwrap();
        symlink("ping", from.join("link")).unwrap();
        if std::os::unix::fs::chown(from.join("ping"), Some(1234), Some(2345)).is_err() {
            // Not by `eprintln!`, which the test harness keeps to itself when a test passes.
            let mut stderr = std::io::stderr().lock();
            return writeln!(stderr, "\n*** SKIPPED: owners and capabilities need the rights of root ***\n").unwrap();
        }
        std::os::unix::fs::lchown(from.join("link"), Some(77), Some(3_000_000)).unwrap();
        fs::set_permissions(from.join("ping"), fs::Permissions::from_mode(0o6755)).unwrap();
        set(&from.join("ping"), "security.capability", &CAPABILITY).unwrap();
        let bytes = tar(&from);
        unpack(bytes.as_slice(), &kept, Owners::Keep).unwrap();
        assert!(tar(&kept) == bytes);
        let facts = fs::symlink_metadata(kept.join("link")).unwrap();
        assert_eq!((facts.uid(), facts.gid()), (77, 3_000_000));

        unpack(bytes.as_slice(), &ours, Owners::Ours).unwrap();
        assert_eq!(fs::metadata(ours.join("ping")).unwrap().uid(), 0);
        let mut value = [0; 64];
        let capability = rustix::fs::lgetxattr(ours.join("ping"), "security.capability", &mut value[..]);
        assert_eq!(capability, Err(rustix::io::Errno::NODATA));
    }

    #[test]
    fn an_attribute_that_would_not_come_back_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), b"").unwrap();
        set(&dir.path().join("file"), "user.a=b", b"c").unwrap();
        let error = crate::build::write_tree(dir.path(), 0, &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("has a ="), "{error}");
    }

    fn tar(folder: &Path) -> Vec<u8> {
        let mut out = Vec::new();
        crate::build::write_tree(folder, 1_700_000_000, &mut out).unwrap();
        out
    }

    #[test]
    fn a_folder_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(&to).unwrap();
        make(&from);
        let bytes = tar(&from);
        let count = unpack(bytes.as_slice(), &to, Owners::Ours).unwrap();
        assert_eq!(count, 10);
        // The same tree again is the same bytes: names, modes, links, times, attributes.
        assert!(tar(&to) == bytes);
        assert_eq!(fs::metadata(to.join("etc-x")).unwrap().mode() & 0o7777, 0o4750);
        assert_eq!(fs::metadata(to.join("etc/same")).unwrap().nlink(), 2);
        assert_eq!(fs::metadata(to.join("etc/deep")).unwrap().mtime(), 1_700_000_000);
        // And other people's tars read it.
        fs::write(dir.path().join("t.tar"), &bytes).unwrap();
        let listed = std::process::Command::new("tar").arg("tf").arg(dir.path().join("t.tar")).output().unwrap();
        assert!(listed.status.success());
        assert_eq!(String::from_utf8(listed.stdout).unwrap().lines().count(), 10);
    }

    fn rewritten(bytes: &[u8]) -> Result<Vec<u8>, crate::build::BuildError> {
        let mut out = Vec::new();
        crate::build::rewrite_tree(bytes, Path::new("x.tar"), 1_700_000_000, &mut out).map(|()| out)
    }

    #[test]
    fn a_tar_made_elsewhere_gets_the_one_form() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path());
        let own = tar(dir.path());
        assert!(rewritten(&own).unwrap() == own, "what has it keeps it");

        // No entry for the folder itself, a link to a link, a mode that no symbolic link has, another time.
        let entries = [
            entry("a", b'0', "", b"x"),
            entry("b", b'1', "a", b""),
            entry("c", b'1', "./b", b""),
            entry("d", b'2', "a", b""),
        ];
        let once = rewritten(&[entries.concat(), vec![0; 10240]].concat()).unwrap();
        let mut reader = TreeReader::new(once.as_slice());
        let mut found = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            assert_eq!(entry.mtime, 1_700_000_000);
            found.push((entry.path, entry.kind, entry.mode));
        }
        let link = || TreeKind::HardLink { target: "a".to_owned() };
        let at = |path: &str, kind, mode| (path.to_owned(), kind, mode);
        let expected = [
            at("", TreeKind::Folder, 0o755),
            at("a", TreeKind::File { size: 1 }, 0o755),
            at("b", link(), 0o755),
            at("c", link(), 0o755),
            at("d", TreeKind::Symlink { target: "a".to_owned() }, 0o777),
        ];
        assert_eq!(found, expected);
        assert!(rewritten(&once).unwrap() == once);
        let nothing = [entry("a", b'2', "/etc", b""), entry("b", b'1', "a", b""), vec![0; 1024]].concat();
        assert!(rewritten(&nothing).unwrap_err().to_string().contains("not a file"));
    }

    #[test]
    fn devices_and_pipes_are_not_packed() {
        let dir = tempfile::tempdir().unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        assert!(crate::build::write_tree(dir.path(), 0, &mut Vec::new()).is_err());
    }

    #[test]
    fn a_hard_link_through_a_link_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let tree = [entry("a", b'2', "/etc", b""), entry("b", b'1', "a/hostname", b""), vec![0; 1024]].concat();
        assert!(matches!(unpack(tree.as_slice(), dir.path(), Owners::Ours), Err(UnpackError::Write { .. })));
    }
}
