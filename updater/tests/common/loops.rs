//! Loop devices for tests that write real block devices.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::skip::skipped_without_root;

/// A loop device over a file; detached when dropped.
pub struct Loop {
    pub device: PathBuf,
}

impl Loop {
    /// Attaches a new sparse file of `size` bytes; `None`, with a loud line, when this machine can not.
    pub fn over(file: &Path, size: u64) -> Option<Self> {
        std::fs::File::create(file).unwrap().set_len(size).unwrap();
        Self::attach(file)
    }

    /// Attaches a file as it is.
    pub fn attach(file: &Path) -> Option<Self> {
        let output = Command::new("losetup").args(["--find", "--show", "--direct-io=on"]).arg(file).output();
        let output = match output {
            Ok(output) if output.status.success() => output,
            // Some file systems refuse direct I/O below a loop device.
            _ => Command::new("losetup").args(["--find", "--show"]).arg(file).output().expect("losetup (util-linux)"),
        };
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            skipped_without_root(&format!("no loop device here ({})", said.trim()));
            return None;
        }
        let device = String::from_utf8(output.stdout).unwrap().trim().into();
        Some(Self { device })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.device).status();
    }
}
