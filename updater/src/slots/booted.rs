//! Which slot is running, from the kernel command line.
//!
//! `flipside.slot=` is the certain answer: the boot entry of the slot says it. Without it, `root=` (or
//! `systemd.verity_root_data=`) is matched to the configured devices. If neither is certain the answer is "unknown"
//! and nothing is ever written: a guess here overwrites the running system.

use std::path::{Path, PathBuf};

use updater_core::slot::SlotId;

use super::device::{DeviceRef, Roots, resolve};

/// The value of the last `key=` on a kernel command line; the kernel, too, lets the last one win.
fn argument<'a>(cmdline: &'a str, key: &str) -> Option<&'a str> {
    // Quoted values with blanks are legal but can not be ours: neither slots nor devices have blanks here.
    cmdline.split_ascii_whitespace().filter_map(|word| word.strip_prefix(key)?.strip_prefix('=')).next_back()
}

/// The slot that `cmdline` (`/proc/cmdline`) says is running, or `None` when that is not certain.
///
/// `devices` are the configured root devices per slot.
#[must_use]
pub fn booted_slot(cmdline: &str, devices: &[(SlotId, DeviceRef)], roots: &Roots) -> Option<SlotId> {
    if let Some(named) = argument(cmdline, "flipside.slot") {
        // A name we do not know is not a reason to look further: somebody's entry is wrong, so nothing is certain.
        return match named {
            "a" => Some(SlotId::A),
            "b" => Some(SlotId::B),
            _ => None,
        };
    }
    let root = argument(cmdline, "systemd.verity_root_data").or_else(|| argument(cmdline, "root"))?;
    let matching: Vec<SlotId> =
        devices.iter().filter(|(_, device)| same_device(root, device, roots)).map(|(slot, _)| *slot).collect();
    match matching.as_slice() {
        [only] => Some(*only),
        _ => None,
    }
}

/// Whether `root=` names the configured device: by the same words, or as another name of the same node.
fn same_device(root: &str, device: &DeviceRef, roots: &Roots) -> bool {
    let Ok(named) = root.parse::<DeviceRef>() else { return false };
    let node = |reference: &DeviceRef| -> Option<PathBuf> { resolve(reference, roots).ok() };
    named == *device || matches!((node(&named), node(device)), (Some(a), Some(b)) if a == b)
}

/// Reads the running kernel's command line below `proc`.
///
/// # Errors
/// As the file system says.
pub fn read_cmdline(proc: &Path) -> std::io::Result<String> {
    std::fs::read_to_string(proc.join("cmdline"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices() -> Vec<(SlotId, DeviceRef)> {
        vec![(SlotId::A, "PARTLABEL=root-a".parse().unwrap()), (SlotId::B, "PARTLABEL=root-b".parse().unwrap())]
    }

    #[test]
    fn slot_argument_then_root_then_unknown() {
        let roots = Roots { dev: "/nowhere/dev".into(), sys: "/nowhere/sys".into(), proc: "/nowhere/proc".into() };
        for (cmdline, slot) in [
            ("quiet flipside.slot=b root=PARTLABEL=root-a", Some(SlotId::B)),
            ("flipside.slot=a flipside.slot=b", Some(SlotId::B)),
            ("flipside.slot=c root=PARTLABEL=root-a", None),
            ("root=PARTLABEL=root-a ro", Some(SlotId::A)),
            ("systemd.verity_root_data=PARTLABEL=root-b root=/dev/mapper/root", Some(SlotId::B)),
            ("root=LABEL=rootfs", None),
            ("root=/dev/vda9", None),
            ("", None),
        ] {
            assert_eq!(booted_slot(cmdline, &devices(), &roots), slot, "{cmdline}");
        }
    }

    #[test]
    fn the_same_node_under_another_name() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("dev")).unwrap();
        std::fs::create_dir_all(dir.path().join("sys/class/block/vda2")).unwrap();
        std::fs::write(dir.path().join("sys/class/block/vda2/uevent"), "DEVNAME=vda2\nPARTNAME=root-a\n").unwrap();
        std::fs::write(dir.path().join("dev/vda2"), "").unwrap();
        let dev = std::fs::canonicalize(dir.path().join("dev")).unwrap();
        let roots = Roots { dev: dev.clone(), sys: dir.path().join("sys"), proc: dir.path().into() };
        let cmdline = format!("root={}/vda2", dev.display());
        assert_eq!(booted_slot(&cmdline, &devices(), &roots), Some(SlotId::A));
    }
}
