//! What devices compare with what they have: the one form of a tree, and where content is cut.
//!
//! An updater proves an installed folder by packing it again, and looks for chunks it cut itself. Code that does either
//! in another way, be it ours or a library's, would make every installed folder wrong and every chunk unknown. Other
//! numbers than these are a new version of the format.
#![cfg(feature = "build")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may fail loudly")]

mod kit;

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};
use std::path::{Path, PathBuf};

use bundle::build::{ChunkMethod, rewrite_tree, write_chunks, write_tree};
use bundle::chunks::{ChunksHeader, ChunksReader, HEADER_LEN, read_group};
use bundle::digest::Digest;
use bundle::manifest::{Blob, Chunks, Image, ImageKind};
use bundle::tree::{Owners, unpack};

const TREE: &str = "74e380e2e9d89759f4c71c0a6eb043c98a4538f832f1ca650a970400e9d5678d";
const MTIME: u64 = 1_790_000_000;

/// A folder with one of everything that a tree can hold, but for attributes, which not every file system has.
fn folder(root: &Path) {
    let write = |name: &str, mode: u32, content: &[u8]| {
        fs::write(root.join(name), content).unwrap();
        fs::set_permissions(root.join(name), Permissions::from_mode(mode)).unwrap();
    };
    fs::create_dir_all(root.join("etc/deep")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    write("etc/config", 0o644, b"x = 1\n");
    write("etc/deep/secret", 0o600, &[7; 1000]);
    write("etc-b", 0o640, b"");
    write("su", 0o4755, b"program");
    write(&"n".repeat(180), 0o644, b"a long name");
    write("ä", 0o644, b"a name that is not ASCII");
    fs::hard_link(root.join("su"), root.join("su-too")).unwrap();
    symlink("etc/config", root.join("link")).unwrap();
    symlink("t".repeat(150), root.join("long-link")).unwrap();
    for (name, mode) in [("etc/deep", 0o700), ("etc", 0o755), ("empty", 0o1777), ("", 0o755)] {
        fs::set_permissions(root.join(name), Permissions::from_mode(mode)).unwrap();
    }
}

fn digest(tar: &[u8]) -> String {
    Digest::of(tar).to_hex()
}

/// Gives everything to a user and a group whose number needs a PAX record; false when only root could.
fn give(path: &Path) -> bool {
    let mode = fs::symlink_metadata(path).unwrap().permissions();
    if lchown(path, Some(1000), Some(3_000_000)).is_err() {
        return false;
    }
    if !path.is_symlink() {
        // Changing the owner takes the set-user-id bit away.
        fs::set_permissions(path, mode).unwrap();
    }
    let inner = if path.is_dir() && !path.is_symlink() { Some(fs::read_dir(path).unwrap()) } else { None };
    inner.into_iter().flatten().all(|entry| give(&entry.unwrap().path()))
}

#[test]
fn a_folder_is_the_bytes_it_always_was() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path());
    if !give(dir.path()) {
        // Not by `eprintln!`, which the test harness keeps to itself when a test passes.
        let mut stderr = std::io::stderr().lock();
        return writeln!(stderr, "\n*** SKIPPED: owners are part of a tree, and only root can choose them ***\n")
            .unwrap();
    }
    let mut tar = Vec::new();
    write_tree(dir.path(), MTIME, &mut tar).unwrap();
    if kit::making() && !fixture().exists() {
        fs::write(fixture(), &tar).unwrap();
    }
    assert_eq!(digest(&tar), TREE);
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1/tree.tar")
}

/// The same for those who are not root.
#[test]
fn a_tree_written_anew_is_the_bytes_it_always_was() {
    let tree = fs::read(fixture()).unwrap();
    assert_eq!(digest(&tree), TREE);
    let mut again = Vec::new();
    rewrite_tree(tree.as_slice(), Path::new("tree.tar"), MTIME, &mut again).unwrap();
    assert!(again == tree);
    let dir = tempfile::tempdir().unwrap();
    unpack(tree.as_slice(), dir.path(), Owners::Ours).unwrap();
    assert_eq!(fs::read(dir.path().join("etc/config")).unwrap(), b"x = 1\n");
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

#[test]
fn content_is_cut_where_it_always_was() {
    let bytes = noise(1 << 20);
    let member = write_chunks(bytes.as_slice(), bytes.len() as u64, ChunkMethod::FastCdc(32 << 10)).unwrap();
    let blob = Blob { size: member.len() as u64, sha256: Digest::of(&member) };
    let chunks = Chunks { size: blob.size, sha256: blob.sha256, method: "fastcdc".to_owned(), target: 32 << 10 };
    let image = Image {
        name: "rootfs".to_owned(),
        kind: ImageKind::Block,
        size: bytes.len() as u64,
        sha256: Digest::of(&bytes),
        index: blob,
        chunks: Some(chunks),
        payload: blob,
        frame_size: None,
        level: None,
    };
    let header = ChunksHeader::parse(member[..HEADER_LEN].try_into().unwrap(), blob.size).unwrap();
    let mut records = &member[header.chunks_offset() as usize..];
    let mut lens = Vec::new();
    for group in ChunksReader::new(member.as_slice(), &image).unwrap() {
        let group = group.unwrap();
        let (own, rest) = records.split_at(group.records_len() as usize);
        lens.extend(read_group(&group, own).unwrap().iter().map(|chunk| chunk.len));
        records = rest;
    }
    assert_eq!(lens.iter().sum::<u32>(), 1 << 20);
    assert_eq!(lens, LENS);
    assert_eq!(digest(&member), MEMBER);
}

const LENS: &[u32] = &[
    32334, 53878, 39599, 9325, 35283, 54907, 33366, 13322, 33608, 48589, 30096, 35477, 17499, 55329, 68804, 39224,
    67288, 42717, 38818, 48837, 19032, 53861, 54147, 44329, 57020, 21887,
];
const MEMBER: &str = "0d18b47396e932bd106c79335ab28912de8cf8380e229123c3ad3cff8b4cf5b9";
