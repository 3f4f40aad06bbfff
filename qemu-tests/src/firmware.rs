//! The emulated firmware now and then hangs after a reset, before it has handed over to a boot loader (seen once in some
//! 200 boots under TCG). OVMF waits without end for a processor that did not hear its start-up interrupt, which happens on
//! a busy host (<https://github.com/tianocore/edk2/pull/13164>), and a reset, which keeps the memory, was seen to end there
//! again. So such a machine loses its power for a moment (one whose disk is recorded is only reset).
//!
//! Loud, and only while nothing but firmware has spoken since the reset: what a system does is never covered up.
//! systemd-boot says nothing of its own, so a hang in it would look the same; every bite is counted in the summary.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::qemu::Spec;
use crate::qmp::Qmp;

/// What firmware needs on a busy machine is a seventh of this.
const SILENCE: Duration = Duration::from_secs(180);
/// The registers of a machine that hung, each time it did, in its folder.
pub const HUNG: &str = "hung.txt";
/// One that hangs again and again is another fault.
const MOST_BITES: u32 = 2;

/// Machines that were started again, by all tests of this process.
static BITES: AtomicUsize = AtomicUsize::new(0);

/// How often a firmware that hung was started again so far.
#[must_use]
pub fn bites() -> usize {
    BITES.load(Ordering::Relaxed)
}

/// Watches for a firmware that does not hand over.
#[derive(Debug)]
pub struct Watchdog {
    /// None: the machine goes on from a kept state, and has not been reset since.
    reset: Option<usize>,
    /// Length of the serial log at the reset, and at the last look.
    from: u64,
    seen: u64,
    /// When it last spoke, or was reset.
    pub(crate) since: Instant,
    /// How often it bit this machine.
    pub(crate) bites: u32,
    /// How long is too long.
    pub(crate) silence: Duration,
}

impl Watchdog {
    /// For a machine that is switched on now, or goes on from a kept state.
    #[must_use]
    pub fn new(spec: &Spec) -> Self {
        let from = length(&spec.serial_log());
        Self {
            reset: spec.resume.is_none().then_some(0),
            from,
            seen: from,
            since: Instant::now(),
            bites: 0,
            silence: SILENCE,
        }
    }

    /// Looks; true for a machine whose firmware hangs, which has to be started again.
    ///
    /// # Errors
    /// The serial log can not be read.
    pub fn look(&mut self, spec: &Spec, qmp: &Qmp) -> Result<bool> {
        let serial = spec.serial_log();
        let (resets, length) = (qmp.count("RESET"), length(&serial));
        if resets > self.reset.unwrap_or(0) {
            // What is printed between the reset and this look counts as before: then it is not silent.
            (self.reset, self.from, self.since) = (Some(resets), self.seen.min(length), Instant::now());
        }
        if length != self.seen || self.reset.is_none() {
            (self.seen, self.since) = (length, Instant::now());
        }
        if self.reset.is_none() || self.since.elapsed() < self.silence || self.bites >= MOST_BITES {
            return Ok(false);
        }
        if self.handed_over(spec)? {
            return Ok(false);
        }
        self.bites += 1;
        self.since = Instant::now();
        BITES.fetch_add(1, Ordering::Relaxed);
        let hung = spec.dir.join(HUNG);
        let registers = qmp.registers().unwrap_or_else(|e| format!("{e:#}\n"));
        let kept = std::fs::OpenOptions::new().create(true).append(true).open(&hung);
        let kept = match kept.and_then(|mut file| file.write_all(registers.as_bytes())) {
            Ok(()) => hung.display().to_string(),
            Err(e) => format!("not kept: {e}"),
        };
        eprintln!(
            "NOTE: {}: the emulated firmware hung for {} s, before any boot loader spoke; {} (registers: {kept})",
            spec.name,
            self.silence.as_secs(),
            if spec.record.is_some() { "reset" } else { "started again" },
        );
        Ok(true)
    }

    /// Has anybody but the firmware spoken since power or the last reset came?
    ///
    /// # Errors
    /// The serial log can not be read.
    pub fn handed_over(&self, spec: &Spec) -> Result<bool> {
        let log = match std::fs::read(spec.serial_log()) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        Ok(!only_firmware(log.get(usize::try_from(self.from)?..).unwrap_or_default()))
    }
}

fn length(serial: &Path) -> u64 {
    serial.metadata().map_or(0, |metadata| metadata.len())
}

/// Whether nobody but the firmware has said anything.
fn only_firmware(said: &[u8]) -> bool {
    let text = String::from_utf8_lossy(said);
    let last_reset = text.rsplit("reboot: Restarting system").next().unwrap_or_default();
    last_reset.lines().map(plain).all(|line| line.is_empty() || line.starts_with("BdsDxe:"))
}

/// A line without the sequences that clear and colour a terminal.
fn plain(line: &str) -> String {
    let mut plain = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        plain += before;
        let sequence = after.strip_prefix('[').unwrap_or(after);
        rest = sequence.trim_start_matches(|c: char| c.is_ascii_digit() || "=;?".contains(c)).get(1..).unwrap_or("");
    }
    (plain + rest).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn firmware_is_told_from_whatever_comes_after_it() {
        let firmware = "\u{1b}[2J\u{1b}[01;01H\u{1b}[=3h\u{1b}[2J\u{1b}[01;01HBdsDxe: loading Boot0001 \"UEFI Misc Device\"\r\n\
                        BdsDxe: starting Boot0001 \"UEFI Misc Device\" from PciRoot(0x0)/Pci(0x1,0x0)\r\n";
        for said in ["", "\r\n", firmware, &format!("[  125.3] reboot: Restarting system\r\n{firmware}")] {
            assert!(only_firmware(said.as_bytes()), "{said:?}");
        }
        for more in
            ["EFI stub: Loaded initrd\r\n", "Welcome to GRUB!\r\n", "no slot can boot\r\n", "U-Boot 2023.01\r\n"]
        {
            assert!(!only_firmware(format!("{firmware}{more}").as_bytes()), "{more:?}");
        }
    }
}
