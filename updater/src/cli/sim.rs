//! `flipside sim`: makes a simulated device in a folder, and plays its boot loader.

use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;

use anyhow::{Context, bail};
use updater_core::slot::SlotId;

use super::args::SimCommand;
use super::exit::{Exit, Failed};
use super::output::Output;
use crate::daemon::device::{Device, SIM_BOOT_ID};
use crate::store::lock;

/// What a simulated device is told. Its slots are files, so that no root is needed.
const CONFIG: &str = r#"# A simulated device; see `flipside sim --help`.
compatible = "demo-appliance"
hardware = "rev-a"
mode = "stage"
region = "eu-west"

[slots.a]
rootfs = { kind = "file", path = "/slots/a/rootfs.img" }
kernel = { kind = "file", path = "/slots/a/vmlinuz" }
initrd = { kind = "file", path = "/slots/a/initrd.img" }
[slots.b]
rootfs = { kind = "file", path = "/slots/b/rootfs.img" }
kernel = { kind = "file", path = "/slots/b/vmlinuz" }
initrd = { kind = "file", path = "/slots/b/initrd.img" }

[boot]
backend = "sim"

[health]
deadline_seconds = 60
soak_seconds = 2
"#;

/// Runs it.
pub fn run(what: SimCommand, root: &Path, simulated: bool, output: &Output) -> Result<Exit, Failed> {
    if !simulated {
        return Err(Failed::plain(Exit::Usage, "`flipside sim` needs --sim FOLDER"));
    }
    let sentence = match what {
        SimCommand::Init { trust, url } => {
            init(root, trust.as_deref(), url.as_deref())?;
            format!("A device runs slot a in {}. Start it: flipside --sim {0} daemon", root.display())
        }
        SimCommand::Reboot => match reboot(root)? {
            Some(slot) => {
                format!("The boot loader chose slot {slot}. Start it: flipside --sim {} daemon", root.display())
            }
            None => return Err(Failed::plain(Exit::Failed, "nothing can boot")),
        },
    };
    output.done(&sentence);
    Ok(Exit::Ok)
}

fn init(root: &Path, trust: Option<&Path>, url: Option<&str>) -> anyhow::Result<()> {
    for folder in ["etc/flipside", "usr/lib/flipside", "slots/a", "slots/b", "boot", "var/lib/flipside"] {
        fs::create_dir_all(root.join(folder)).with_context(|| format!("making {folder}"))?;
    }
    let mut config = CONFIG.to_owned();
    if let Some(url) = url {
        config.push_str(&format!("\n[source]\nurl = {url:?}\n"));
    }
    fs::write(root.join("etc/flipside/flipside.toml"), config).context("writing the configuration")?;
    if let Some(trust) = trust {
        fs::copy(trust, root.join("usr/lib/flipside/trust.dsse.json")).context("copying the trust root")?;
    }
    new_boot_id(root)?;
    Device::open(root, true).sim().provision(SlotId::A).context("making the boot loader's state")
}

/// What the boot loader does at power-on.
///
/// # Errors
/// Its state can not be read or written.
pub fn reboot(root: &Path) -> anyhow::Result<Option<SlotId>> {
    let device = Device::open(root, true);
    let Some(_lock) = lock::take(&device.lock_file()).context("taking the lock")? else {
        bail!("the device is running: ask it to restart (flipside reboot), or end its daemon");
    };
    let chosen = device.sim().boot().context("booting")?;
    new_boot_id(root)?;
    Ok(chosen)
}

fn new_boot_id(root: &Path) -> anyhow::Result<()> {
    // The standard library's hash keys are random; more is not needed to tell two boots apart.
    let id = RandomState::new().build_hasher().finish();
    fs::write(root.join(SIM_BOOT_ID), format!("{id:016x}\n")).context("writing the boot id")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seams::BootControl;

    #[test]
    fn a_fresh_device_runs_a_confirmed_and_every_boot_is_another() {
        let root = tempfile::tempdir().unwrap();
        init(root.path(), None, Some("http://127.0.0.1:1/")).unwrap();
        let device = Device::open(root.path(), true);
        assert!(device.loaded.findings.is_empty(), "{:?}", device.loaded.findings);
        let facts = device.boot_control().facts().unwrap();
        assert_eq!(facts.confirmed_booted(), Some(SlotId::A));
        let before = device.boot_id();
        assert_eq!(reboot(root.path()).unwrap(), Some(SlotId::A));
        assert_ne!(device.boot_id(), before);
    }
}
