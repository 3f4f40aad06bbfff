//! A folder as a release: built, signed, verified, looked at, and back again as it was.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may fail loudly")]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use common::{Workshop, skipped_without_root};

const RECIPE: &str = r#"
compatible = "demo"
version = "1.0.0"
counter = 1
[[image]]
name = "files"
kind = "tree"
path = "files"
"#;

fn shop() -> Workshop {
    let shop = Workshop::new();
    let files = shop.path("files");
    fs::create_dir_all(files.join("etc/deep")).unwrap();
    fs::write(files.join("etc/config"), b"x = 1\n").unwrap();
    fs::write(files.join("etc/deep/secret"), vec![7; 300_000]).unwrap();
    fs::set_permissions(files.join("etc/deep/secret"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(files.join("su"), b"program").unwrap();
    fs::hard_link(files.join("su"), files.join("su-too")).unwrap();
    symlink("etc/config", files.join("link")).unwrap();
    symlink("/nowhere/at/all", files.join("dangling")).unwrap();
    fs::write(files.join("n".repeat(180)), b"long").unwrap();
    fs::create_dir(files.join("empty")).unwrap();
    fs::set_permissions(files.join("empty"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::set_permissions(files.join("su"), fs::Permissions::from_mode(0o4755)).unwrap();
    shop.write("tree.toml", RECIPE.as_bytes());
    shop
}

fn build(shop: &Workshop) {
    shop.ok(&["build", "tree.toml", "--out", "t.bundle", "--level", "3", "--quiet"]);
    shop.ok(&["sign", "t.bundle", "--key", "keys/release.pem"]);
}

/// Every name with its mode, owner, size, number of names and target.
fn facts(folder: &Path, name: &str, out: &mut Vec<String>) {
    let path = folder.join(name);
    let meta = fs::symlink_metadata(&path).unwrap();
    let target = fs::read_link(&path).unwrap_or_default();
    let (size, names) = if meta.is_dir() { (0, 0) } else { (meta.size(), meta.nlink()) };
    out.push(format!("{name} {:o} {}:{} {size} {names} {target:?}", meta.mode(), meta.uid(), meta.gid()));
    if meta.is_dir() {
        let mut inner = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
        inner.sort();
        for each in inner {
            facts(folder, &Path::new(name).join(each).to_string_lossy(), out);
        }
    }
}

fn same(shop: &Workshop, a: &str, b: &str) {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    facts(&shop.path(a), "", &mut left);
    facts(&shop.path(b), "", &mut right);
    assert_eq!(left, right);
    assert_eq!(
        fs::read(shop.path(a).join("etc/deep/secret")).unwrap(),
        fs::read(shop.path(b).join("etc/deep/secret")).unwrap()
    );
}

#[test]
fn a_tree_goes_through_every_command() {
    let shop = shop();
    build(&shop);
    let verified = shop.json(&["verify", "t.bundle", "--trust", "trust.dsse.json", "--quiet"]);
    assert_eq!(verified["complete"], true);
    let inspected = shop.json(&["inspect", "t.bundle"]);
    assert_eq!(inspected["manifest"]["images"][0]["kind"], "tree");
    let extract = ["extract", "t.bundle", "--image", "files", "--trust", "trust.dsse.json", "--quiet"];
    shop.ok(&[&extract[..], &["--out", "back"]].concat());
    same(&shop, "files", "back");
    // The same folder is the same release, and so is the one that came back.
    let first = shop.read("t.bundle");
    let moved = RECIPE.replace("path = \"files\"", "path = \"back\"");
    shop.write("tree.toml", moved.as_bytes());
    build(&shop);
    assert!(shop.read("t.bundle") == first);

    // As the tar it is, for whom tar is enough.
    shop.ok(&[&extract[..], &["--out", "t.tar", "--as-tar"]].concat());
    let tar = shop.other("tar", &["--compare", "--file=t.tar", "--directory=files"]).unwrap();
    let said = String::from_utf8(tar.stdout).unwrap();
    let differs = said.lines().filter(|line| !line.contains("Mod time differs")).collect::<Vec<_>>();
    assert!(differs.is_empty(), "{differs:?}");
}

#[test]
fn owners_come_back_for_root() {
    let shop = shop();
    if std::os::unix::fs::chown(shop.path("files/su"), Some(1234), Some(2345)).is_err() {
        return skipped_without_root("owners need the rights of root");
    }
    // Changing the owner took the set-user-id bit away.
    fs::set_permissions(shop.path("files/su"), fs::Permissions::from_mode(0o4755)).unwrap();
    build(&shop);
    let extract = ["extract", "t.bundle", "--image", "files", "--out", "back", "--blindly-trust", "--quiet"];
    shop.ok(&[&extract[..], &["--keep-owners"]].concat());
    same(&shop, "files", "back");
    assert_eq!(fs::metadata(shop.path("back/su-too")).unwrap().uid(), 1234);
}

#[test]
fn what_a_tree_can_not_hold_is_named_and_nothing_is_written() {
    let shop = shop();
    let pipe = Command::new("mkfifo").arg(shop.path("files/etc/pipe")).status().unwrap();
    assert!(pipe.success());
    let error = shop.fails(&["build", "tree.toml", "--out", "t.bundle", "--quiet"]);
    assert!(error.contains("etc/pipe") && error.contains("files, folders and links only"), "{error}");
    assert!(!shop.path("t.bundle").exists());
}

#[test]
fn a_half_written_tree_never_stands_in_its_place() {
    let shop = shop();
    build(&shop);
    let mut bad = shop.read("t.bundle");
    let at = bad.windows(4).position(|window| window == b"\x28\xb5\x2f\xfd").unwrap();
    bad[at + 40] ^= 1;
    shop.write("t.bundle", &bad);
    let extract = ["extract", "t.bundle", "--image", "files", "--out", "back", "--blindly-trust", "--quiet"];
    shop.refused(&extract, "frame_mismatch");
    assert!(!shop.path("back").exists());
    let left = fs::read_dir(shop.folder())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(".tmp"));
    assert_eq!(left.count(), 0);
}

#[test]
fn a_tar_made_elsewhere_is_held_against_the_rules() {
    let shop = shop();
    shop.other("tar", &["cPf", "evil.tar", "../../etc/hostname"]).unwrap();
    shop.write("tree.toml", RECIPE.replace("path = \"files\"", "path = \"evil.tar\"").as_bytes());
    shop.fails(&["build", "tree.toml", "--out", "t.bundle", "--quiet"]);
    assert!(!shop.path("t.bundle").exists());
}

/// Makes `t.bundle` one whose tree ends in the middle of its last file: as a tree no builder makes it, so it is packed as
/// a plain file first.
fn cut_short(shop: &Workshop) {
    let extract =
        ["extract", "t.bundle", "--image", "files", "--out", "t.tar", "--as-tar", "--blindly-trust", "--quiet"];
    shop.ok(&extract);
    let tar = shop.read("t.tar");
    shop.write("short.tar", &tar[..tar.len() - 1024 - 512 - 256]);
    let recipe = RECIPE.replace("\"tree\"", "\"file\"").replace("path = \"files\"", "path = \"short.tar\"");
    shop.write("short.toml", recipe.as_bytes());
    shop.ok(&["build", "short.toml", "--out", "short.bundle", "--level", "1", "--quiet"]);
    let mut from = fs::File::open(shop.path("short.bundle")).unwrap();
    let envelope = bundle::random::read_envelope(&mut from).unwrap();
    let payload = bundle::dsse::Envelope::parse(&envelope).unwrap().payload;
    let mut manifest = bundle::manifest::Manifest::parse(&payload).unwrap();
    manifest.images[0].kind = bundle::manifest::ImageKind::Tree;
    let lie = bundle::dsse::Envelope::new(bundle::manifest::MANIFEST_TYPE, manifest.to_bytes().unwrap());
    let (lie, mut to) = (lie.to_bytes().unwrap(), fs::File::create(shop.path("t.bundle")).unwrap());
    bundle::build::replace_envelope(&mut from, envelope.len() as u64, &lie, &manifest, &mut to).unwrap();
}

#[test]
fn folders_that_nobody_may_write_are_extracted_by_an_ordinary_user() {
    use std::os::unix::process::CommandExt as _;
    let shop = shop();
    let read_only = |folder: &str| fs::set_permissions(shop.path(folder), fs::Permissions::from_mode(0o555)).unwrap();
    ["files/etc/deep", "files/etc", "files"].into_iter().for_each(read_only);
    build(&shop);
    // Root may do anything, so the tests of root run it as somebody else, from a place that he can reach.
    let tool = shop.path("tool");
    // By another process: what this one has open for writing its other threads' children have open, too, and can not be run.
    let copied = Command::new("install").args(["-m", "755", env!("CARGO_BIN_EXE_bundle-tool")]).arg(&tool).status();
    assert!(copied.unwrap().success());
    let nobody = std::os::unix::fs::chown(shop.folder(), Some(65534), Some(65534)).is_ok();
    let extract = |out: &str| {
        let mut command = Command::new(&tool);
        command.args(["extract", "t.bundle", "--image", "files", "--out", out, "--blindly-trust", "--quiet"]);
        if nobody {
            command.uid(65534).gid(65534);
        }
        command.current_dir(shop.folder()).output().unwrap()
    };
    let out = extract("back");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    for folder in ["back", "back/etc", "back/etc/deep"] {
        assert_eq!(fs::metadata(shop.path(folder)).unwrap().permissions().mode() & 0o7777, 0o555, "{folder}");
    }

    // One that can not be finished leaves nothing, not even in folders that can not be written.
    fs::create_dir(shop.path("again")).unwrap();
    fs::set_permissions(shop.path("again"), fs::Permissions::from_mode(0o777)).unwrap();
    cut_short(&shop);
    let out = extract("again/back");
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && stderr.contains("the tree"), "{stderr}");
    assert_eq!(fs::read_dir(shop.path("again")).unwrap().count(), 0);
}
