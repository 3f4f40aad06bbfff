//! Makes the disk a machine starts from: a copy of the factory's or of a kept state, with the settings of this run.
//!
//! The appliance reads local settings from its data partition (`/var/lib/flipside-config/*.toml`, see
//! `images/README.md`). Writing them there before power-on means that no boot, not even the first, knows the address
//! of somebody else's server. Needs no root: debugfs writes into the copy.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::disk::{Partition, partitions, run};
use crate::qemu::disk_format;

/// Folder of the settings on the data partition, which is mounted at `/var`.
const FOLDER: &str = "/lib/flipside-config";
/// Name of the harness's fragment; sorts last, so it wins.
const FRAGMENT: &str = "99-harness.toml";

/// Copies `base` to `dir/base.raw` and puts `settings` (TOML) on its data partition.
///
/// # Errors
/// A tool is missing, the disk has no data partition, or it can not be written.
pub fn make(base: &Path, dir: &Path, settings: &str) -> Result<PathBuf> {
    fs::create_dir_all(dir)?;
    let raw = dir.join("base.raw");
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-f", disk_format(base)?, "-O", "raw"]).arg(base).arg(&raw);
    run(&mut command).context("run qemu-img (Debian package qemu-utils)")?;
    let data = partitions(&raw)?.into_iter().find(|p| p.label == "data").context("the disk has no data partition")?;
    let fragment = dir.join(FRAGMENT);
    fs::write(&fragment, settings)?;
    write_into(&raw, &data, &fragment)?;
    Ok(raw)
}

fn write_into(raw: &Path, data: &Partition, fragment: &Path) -> Result<()> {
    let image = format!("{}?offset={}", raw.display(), data.start);
    // The folders and the old fragment may or may not be there; what counts is the file afterwards.
    for request in ["mkdir /lib".to_owned(), format!("mkdir {FOLDER}"), format!("rm {FOLDER}/{FRAGMENT}")] {
        run(Command::new("debugfs").args(["-w", "-R", &request, &image]))?;
    }
    let write = format!("write {} {FOLDER}/{FRAGMENT}", fragment.display());
    run(Command::new("debugfs").args(["-w", "-R", &write, &image]))?;
    let back = run(Command::new("debugfs").args(["-R", &format!("cat {FOLDER}/{FRAGMENT}"), &image]))?;
    if back != fs::read(fragment)? {
        bail!("the settings did not get onto the data partition");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk;

    fn factory_disk(dir: &Path) -> Option<PathBuf> {
        if !crate::tools::present(&["sgdisk", "mke2fs", "debugfs", "qemu-img"]) {
            return None;
        }
        let disk = dir.join("factory.img");
        fs::File::create(&disk).unwrap().set_len(48 << 20).unwrap();
        run(Command::new("sgdisk").args(["-n", "1:2048:+32M", "-c", "1:data", disk.to_str().unwrap()])).unwrap();
        let mut command = Command::new("mke2fs");
        command.args(["-q", "-t", "ext4", "-E", "offset=1048576", disk.to_str().unwrap(), "32M"]);
        run(&mut command).unwrap();
        Some(disk)
    }

    #[test]
    fn settings_reach_a_factory_disk_and_replace_older_ones() {
        let dir = tempfile::tempdir().unwrap();
        let Some(factory) = factory_disk(dir.path()) else { return };
        let path = format!("{FOLDER}/{FRAGMENT}");
        let first = make(&factory, &dir.path().join("one"), "mode = \"off\"\n").unwrap();
        assert_eq!(Disk::copy_of(&first).unwrap().data_read(&path).unwrap(), b"mode = \"off\"\n");
        let second = make(&first, &dir.path().join("two"), "mode = \"stage\"\n").unwrap();
        assert_eq!(Disk::copy_of(&second).unwrap().data_read(&path).unwrap(), b"mode = \"stage\"\n");
    }
}
