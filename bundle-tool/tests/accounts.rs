//! Several people, each with an account of their own, on one web root that belongs to their group.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may fail loudly")]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};

use common::{Workshop, skipped_without_root};

const GROUP: u32 = 65_533;
const FOLDERS: [&str; 4] = ["web", "web/bundles", "web/channels", "web/channels/stable"];
const INDEX: &str = "web/channels/stable/channel.dsse.json";
const LOCK: &str = "web/channels/stable/.channel.dsse.json.lock";

fn set_mode(shop: &Workshop, name: &str, mode: u32) {
    fs::set_permissions(shop.path(name), Permissions::from_mode(mode)).unwrap();
}

/// A workshop that every account can reach, with two signed bundles and a web root that its group may write.
fn shop() -> Workshop {
    let shop = Workshop::new();
    for (bundle, version, counter) in [("a.bundle", "1.1.0", 1), ("b.bundle", "1.2.0", 2)] {
        shop.release(bundle, version, counter);
    }
    // By another process: what this one has open for writing can not be run.
    let tool = shop.path("tool");
    let copied = Command::new("install").args(["-m", "755", env!("CARGO_BIN_EXE_bundle-tool")]).arg(&tool).status();
    assert!(copied.unwrap().success());
    for folder in FOLDERS {
        fs::create_dir(shop.path(folder)).unwrap();
        set_mode(&shop, folder, 0o2775);
    }
    set_mode(&shop, "", 0o755);
    set_mode(&shop, "keys/release.pem", 0o644);
    shop
}

/// Runs it with that account when we may, else with ours.
fn run(shop: &Workshop, account: u32, args: &[&str]) -> Output {
    let mut command = Command::new(shop.path("tool"));
    command.args(args).current_dir(shop.folder());
    if nix::unistd::Uid::effective().is_root() {
        command.uid(account).gid(GROUP);
    }
    command.output().unwrap()
}

fn publish(shop: &Workshop, account: u32, bundle: &str) {
    let args = ["publish", bundle, "--root", "web", "--channel", "stable", "--key", "keys/release.pem", "--quiet"];
    let out = run(shop, account, &args);
    assert!(out.status.success(), "account {account}: {}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn a_lock_is_for_whoever_may_write_the_folder() {
    let shop = shop();
    let mode = || fs::metadata(shop.path(LOCK)).unwrap().mode() & 0o777;
    shop.publish("a.bundle");
    assert_eq!(mode(), 0o664);
    fs::remove_file(shop.path(LOCK)).unwrap();
    set_mode(&shop, "web/channels/stable", 0o750);
    shop.publish("a.bundle");
    assert_eq!(mode(), 0o640);
}

#[test]
fn two_people_of_one_group_publish_in_turn() {
    let shop = shop();
    for folder in FOLDERS {
        if chown(shop.path(folder), None, Some(GROUP)).is_err() {
            return skipped_without_root("accounts need the rights of root");
        }
        // Changing the group took the set-group-id bit away.
        set_mode(&shop, folder, 0o2775);
    }
    publish(&shop, 65_531, "a.bundle");
    publish(&shop, 65_532, "b.bundle");
    assert_eq!(fs::metadata(shop.path(LOCK)).unwrap().gid(), GROUP);
    // A lock of an older version, which only the other one may write.
    set_mode(&shop, LOCK, 0o644);
    publish(&shop, 65_532, "b.bundle");
}

#[test]
fn what_is_to_be_signed_elsewhere_is_printed_for_one_who_may_only_read() {
    let shop = shop();
    shop.publish("a.bundle");
    fs::remove_file(shop.path(LOCK)).unwrap();
    set_mode(&shop, "web/channels/stable", 0o555);
    let out = run(&shop, 65_534, &["sign", INDEX, "--print-pae"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(out.stdout.starts_with(b"DSSEv1 ") && !shop.path(LOCK).exists());
    set_mode(&shop, "web/channels/stable", 0o755);
}
