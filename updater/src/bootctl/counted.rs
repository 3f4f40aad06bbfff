//! Boot loaders whose counting is a script on the disk: was it that script which started this system?
//!
//! GRUB and U-Boot run whatever script they find, and their state can be written whoever reads it. So the shipped scripts
//! add a word to the kernel command line; where it is missing another one boots this device, which may not count, and a
//! system that hangs would never be left.

use std::path::PathBuf;

use updater_core::facts::SlotBoot;
use updater_core::slot::{PerSlot, SlotId};

use super::error::BootError;
use super::loader::Loader;
use crate::slots::booted::read_cmdline;

/// A backend, and what its script says.
#[derive(Debug)]
pub struct Counted<L> {
    loader: L,
    proc: PathBuf,
    script: &'static str,
}

impl<L: Loader> Counted<L> {
    /// `proc` is where the kernel's command line is; `script` what follows `flipside.counted=` on it.
    pub const fn new(loader: L, proc: PathBuf, script: &'static str) -> Self {
        Self { loader, proc, script }
    }

    fn is_counted(&self) -> Result<(), BootError> {
        let cmdline = read_cmdline(&self.proc).map_err(BootError::read("proc/cmdline"))?;
        let word = format!("flipside.counted={}", self.script);
        if cmdline.split_ascii_whitespace().any(|found| found == word) {
            return Ok(());
        }
        Err(BootError::NotReady(format!(
            "{word} is not on the kernel command line: this system was not started by the boot script that counts tries"
        )))
    }
}

impl<L: Loader> Loader for Counted<L> {
    fn records(&self) -> Result<PerSlot<SlotBoot>, BootError> {
        self.loader.records()
    }

    fn clear(&mut self, slot: SlotId) -> Result<(), BootError> {
        self.loader.clear(slot)
    }

    fn arm(&mut self, slot: SlotId, tries: u8) -> Result<(), BootError> {
        self.loader.arm(slot, tries)
    }

    fn confirm(&mut self, slot: SlotId) -> Result<(), BootError> {
        self.loader.confirm(slot)
    }

    fn reject(&mut self, slot: SlotId) -> Result<(), BootError> {
        self.loader.reject(slot)
    }

    /// The state first: what is damaged there is mended whoever started this system.
    fn self_test(&mut self) -> Result<(), BootError> {
        self.loader.self_test()?;
        self.is_counted()
    }

    fn repair(&mut self, booted: SlotId, tries: u8) -> Result<(), BootError> {
        self.loader.repair(booted, tries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootctl::files::Rooted;
    use crate::bootctl::grub::Grub;

    #[test]
    fn the_shipped_scripts_say_what_is_looked_for() {
        let images = concat!(env!("CARGO_MANIFEST_DIR"), "/../images");
        for (file, name) in [("grub/grub.cfg", "grub"), ("uboot/boot.cmd", "uboot")] {
            let script = std::fs::read_to_string(format!("{images}/{file}")).unwrap();
            let root = tempfile::tempdir().unwrap();
            let start = script.lines().find(|line| line.contains("@CMDLINE@ flipside.slot=")).unwrap();
            let words = start.replace(['"', ';'], " ");
            std::fs::write(root.path().join("cmdline"), words).unwrap();
            let state = Grub::new(Rooted::new(root.path()), "grubenv");
            let mut loader = Counted::new(state, root.path().to_owned(), name);
            loader.repair(SlotId::A, 3).unwrap();
            loader.self_test().unwrap();
            for cmdline in ["ro flipside.slot=a\n", "flipside.counted=other\n", "xflipside.counted=grub\n"] {
                std::fs::write(root.path().join("cmdline"), cmdline).unwrap();
                let error = loader.self_test().unwrap_err();
                assert!(matches!(&error, BootError::NotReady(text) if text.contains(name)), "{cmdline}: {error}");
            }
            assert!(loader.records().is_ok(), "only the self-test asks");
        }
    }
}
