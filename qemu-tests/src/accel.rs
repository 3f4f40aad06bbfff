//! Chooses the accelerator: emulation (TCG), unless KVM was asked for and really boots.
//!
//! `/dev/kvm` being there proves little: in nested or restricted environments it opens, even starts a guest, and then
//! stalls or misbehaves. So KVM is opt-in (`FLIPSIDE_KVM=1`) and is believed only after a probe: a boot sector that ends
//! the machine by itself. That proves guest code, not a whole system; who asks for KVM knows his machine. Never QEMU's own
//! fallback `kvm:tcg`: a run that silently changes its speed by a factor of ten makes every deadline a guess.

use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use crate::wait::{Look, until};

/// How the guest's instructions are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// Emulated: works everywhere, about ten times slower.
    Tcg,
    /// By the host's processor.
    Kvm,
}

impl Accel {
    /// The accelerator for this run, probed once.
    #[must_use]
    pub fn choose() -> Self {
        static CHOICE: OnceLock<Accel> = OnceLock::new();
        *CHOICE.get_or_init(|| {
            let wanted = std::env::var("FLIPSIDE_KVM").is_ok_and(|v| v == "1");
            if !wanted {
                return Accel::Tcg;
            }
            if probe() {
                return Accel::Kvm;
            }
            eprintln!("qemu-tests: FLIPSIDE_KVM=1, but the probe machine did not run under KVM; going on with TCG");
            Accel::Tcg
        })
    }

    /// QEMU's arguments.
    #[must_use]
    pub fn args(self) -> &'static [&'static str] {
        match self {
            // Threads of one guest on several host cores; x86 on x86 needs no stricter memory order.
            // The plainest processor: with `max` the guest picks vector code that is slower to emulate, and a boot takes
            // a third more processor time (43 s against 34 s).
            Self::Tcg => &["-accel", "tcg,thread=multi", "-cpu", "qemu64"],
            Self::Kvm => &["-accel", "kvm", "-cpu", "host"],
        }
    }
}

/// A boot sector in real mode that writes to the debug-exit port: QEMU then ends with code 33. It runs only when the
/// accelerator truly executes guest code.
const PROBE_SECTOR: &[u8] = &[
    0xb0, 0x10, // mov al, 16
    0xba, 0xf4, 0x00, // mov dx, 0xf4
    0xee, // out dx, al: QEMU exits with 16 * 2 + 1
    0xf4, // hlt
];

fn probe() -> bool {
    probe_with(&["-accel", "kvm", "-cpu", "host"], Duration::from_secs(20)).unwrap_or(false)
}

fn probe_with(accel: &[&str], within: Duration) -> anyhow::Result<bool> {
    let dir = tempfile::tempdir()?;
    let disk = dir.path().join("probe.img");
    let mut sector = PROBE_SECTOR.to_vec();
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    std::fs::write(&disk, sector)?;
    let mut child = Command::new("qemu-system-x86_64")
        .args(accel)
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-m", "64"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"])
        .arg("-drive")
        .arg(format!("file={},format=raw,if=ide", disk.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let code = until("the probe machine", within, || match child.try_wait() {
        Ok(Some(status)) => Look::Done(status.code()),
        Ok(None) => Look::NotYet("running".into()),
        Err(e) => Look::Hopeless(e.into()),
    });
    // Harmless when it has ended; needed when it hangs.
    let _ = child.kill();
    let _ = child.wait();
    Ok(code? == Some(33))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_sees_guest_code_run() {
        if !crate::tools::present(&["qemu-system-x86_64"]) {
            return;
        }
        assert!(probe_with(&["-accel", "tcg"], Duration::from_secs(60)).unwrap());
        assert!(!probe_with(&["-accel", "no-such-accelerator"], Duration::from_secs(60)).unwrap());
    }

    #[test]
    fn never_a_silent_fallback() {
        for accel in [Accel::Tcg, Accel::Kvm] {
            assert!(!accel.args().iter().any(|a| a.contains("kvm:tcg")));
        }
    }
}
