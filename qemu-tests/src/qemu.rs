//! What a machine is made of, and the QEMU that makes it: overlay, firmware, command line.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::accel::Accel;

/// The machine's identity; the appliance makes its machine id, and so its place in rollouts, from it.
const UUID: &str = "3f1b6c1e-6d7d-4b53-9a6e-0d5f7f0a1c22";

/// What starts the boot loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// OVMF; the boot loader is a program on the ESP.
    Uefi,
    /// U-Boot is firmware and boot loader in one.
    UBoot,
}

/// What a machine is made of.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Shown in messages and in the process list.
    pub name: String,
    /// Folder of its own, made when missing. Short: socket paths end at 107 bytes.
    pub dir: PathBuf,
    /// The disk to start from, raw or qcow2; read only.
    pub base: PathBuf,
    /// What it starts with.
    pub firmware: Firmware,
    /// Start of the hardware clock (`-rtc base=`), `None`: now.
    pub clock: Option<String>,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Processors.
    pub cpus: u32,
    /// Every write and flush of the disk is recorded in this file, in the format of `blocklog`.
    pub record: Option<PathBuf>,
    /// Folder of a kept state to go on from instead of booting: `ram` and `vars.fd`; its disk is `base`.
    pub resume: Option<PathBuf>,
}

impl Spec {
    /// The appliance as the scenarios use it: 512 MiB, two processors, clock right. With one, an emulated GRUB hung before its
    /// menu now and then.
    #[must_use]
    pub fn new(name: &str, dir: &Path, base: &Path) -> Self {
        Self {
            name: name.into(),
            dir: dir.into(),
            base: base.into(),
            firmware: Firmware::Uefi,
            clock: None,
            memory_mib: 512,
            cpus: 2,
            record: None,
            resume: None,
        }
    }

    /// The overlay holding everything the guest wrote.
    #[must_use]
    pub fn overlay(&self) -> PathBuf {
        self.dir.join("disk.qcow2")
    }

    /// Everything the serial console printed, all boots since the first start.
    #[must_use]
    pub fn serial_log(&self) -> PathBuf {
        self.dir.join("serial.log")
    }

    pub(crate) fn vars(&self) -> PathBuf {
        self.dir.join("vars.fd")
    }
}

/// Makes folder, overlay and variables where they are not there yet.
pub(crate) fn prepare(spec: &Spec) -> Result<()> {
    fs::create_dir_all(&spec.dir).with_context(|| format!("make {}", spec.dir.display()))?;
    for socket in ["qmp", "qga", "console"] {
        let path = spec.dir.join(socket);
        if path.as_os_str().len() > 107 {
            bail!("{} is too long for a socket; use a shorter TMPDIR", path.display());
        }
        let _ = fs::remove_file(path);
    }
    if let Some(log) = &spec.record {
        // A second start would begin the record anew, on a disk that is no longer its base.
        File::create_new(log).context("a recorded machine is switched on once")?;
    }
    if !spec.overlay().exists() {
        make_overlay(&spec.base, &spec.overlay())?;
    }
    if spec.firmware == Firmware::Uefi && !spec.vars().exists() {
        let vars = spec.resume.as_ref().map_or(ovmf()?.vars, |state| state.join("vars.fd"));
        fs::copy(vars, spec.vars()).context("copy the firmware's variables")?;
    }
    Ok(())
}

/// Makes a qcow2 overlay over a disk, which is not written from then on.
///
/// # Errors
/// `qemu-img` is missing or refuses.
pub fn make_overlay(base: &Path, overlay: &Path) -> Result<()> {
    let base = fs::canonicalize(base).with_context(|| format!("no disk at {}", base.display()))?;
    let format = disk_format(&base)?;
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2", "-F", format, "-b"]).arg(&base).arg(overlay);
    let output = command.output().context("run qemu-img (Debian package qemu-utils)")?;
    if !output.status.success() {
        bail!("qemu-img create: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// `qcow2` or `raw`, by the magic number. Never left to QEMU to guess: a guest could write the magic into its disk.
pub(crate) fn disk_format(path: &Path) -> Result<&'static str> {
    use std::io::Read;
    let mut magic = [0; 4];
    let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    file.read_exact(&mut magic).with_context(|| format!("read {}", path.display()))?;
    Ok(if magic == *b"QFI\xfb" { "qcow2" } else { "raw" })
}

/// Debian's package `u-boot-qemu`; the 64-bit image of the same package hangs when it starts Linux.
const UBOOT: &str = "/usr/lib/u-boot/qemu-x86/u-boot.rom";

struct Ovmf {
    code: PathBuf,
    vars: PathBuf,
}

fn ovmf() -> Result<Ovmf> {
    let dir = Path::new("/usr/share/OVMF");
    for (code, vars) in [("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"), ("OVMF_CODE.fd", "OVMF_VARS.fd")] {
        let firmware = Ovmf { code: dir.join(code), vars: dir.join(vars) };
        if firmware.code.exists() && firmware.vars.exists() {
            return Ok(firmware);
        }
    }
    bail!("no UEFI firmware in {} (Debian package ovmf; `make vm-test` installs it)", dir.display())
}

/// The file that holds the firmware's program.
///
/// # Errors
/// It is not installed.
pub fn firmware_code(firmware: Firmware) -> Result<PathBuf> {
    match firmware {
        Firmware::UBoot if Path::new(UBOOT).exists() => Ok(UBOOT.into()),
        Firmware::UBoot => bail!("no {UBOOT} (Debian package u-boot-qemu; `make vm-test` installs it)"),
        Firmware::Uefi => Ok(ovmf()?.code),
    }
}

/// QEMU's arguments, one per element; also what a kept state is bound to.
///
/// # Errors
/// No firmware.
pub fn arguments(spec: &Spec) -> Result<Vec<String>> {
    let dir = spec.dir.display();
    // On q35 this U-Boot finds no disk and waits long for SATA.
    let machine = if spec.firmware == Firmware::UBoot { "pc,vmport=off" } else { "q35,smm=off" };
    let socket = |name: &str| format!("socket,id={name},path={dir}/{name},server=on,wait=off");
    let mut all: Vec<String> = Vec::new();
    let mut add = |args: &[&str]| all.extend(args.iter().map(|a| (*a).to_owned()));
    add(&["-name", &spec.name, "-machine", machine, "-nodefaults", "-no-user-config", "-display", "none"]);
    add(Accel::choose().args());
    add(&["-m", &spec.memory_mib.to_string(), "-smp", &spec.cpus.to_string(), "-uuid", UUID]);
    add(&["-rtc", &format!("base={}", spec.clock.as_deref().unwrap_or("utc"))]);
    let code = firmware_code(spec.firmware)?.display().to_string();
    match spec.firmware {
        Firmware::UBoot => add(&["-bios", &code]),
        Firmware::Uefi => {
            add(&["-drive", &format!("if=pflash,format=raw,readonly=on,file={code}")]);
            add(&["-drive", &format!("if=pflash,format=raw,file={}", spec.vars().display())]);
        }
    }
    // writeback, not unsafe: with `unsafe` QEMU ignores the guest's flushes and keeps the overlay's tables in its own
    // memory, so that SIGKILL would lose what a real disk had made durable.
    let disk = format!("if=none,id=disk,format=qcow2,cache=writeback,discard=unmap,file={}", spec.overlay().display());
    match &spec.record {
        None => add(&["-drive", &disk]),
        Some(log) => {
            let overlay =
                format!("driver=qcow2,node-name=overlay,file.driver=file,file.filename={}", spec.overlay().display());
            let log = format!("driver=file,node-name=log,filename={}", log.display());
            let disk = "driver=blklogwrites,node-name=disk,file=overlay,log=log,log-sector-size=512";
            add(&["-blockdev", &overlay, "-blockdev", &log, "-blockdev", disk]);
        }
    }
    add(&["-device", "virtio-blk-pci,drive=disk,bootindex=0"]);
    add(&["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]);
    add(&["-device", "virtio-rng-pci", "-device", "i6300esb", "-action", "watchdog=reset"]);
    add(&["-chardev", &socket("qmp"), "-mon", "chardev=qmp,mode=control"]);
    add(&["-device", "virtio-serial-pci", "-chardev", &socket("qga")]);
    add(&["-device", "virtserialport,chardev=qga,name=org.qemu.guest_agent.0"]);
    let log = format!(",logfile={},logappend=on", spec.serial_log().display());
    add(&["-chardev", &(socket("console") + &log), "-serial", "chardev:console"]);
    if let Some(state) = &spec.resume {
        add(&["-incoming", &format!("exec:cat '{}'", state.join("ram").display())]);
    }
    Ok(all)
}

/// Starts QEMU; what it says goes to `qemu.err` in the machine's folder.
pub(crate) fn spawn(spec: &Spec) -> Result<Child> {
    let errors = File::create(spec.dir.join("qemu.err"))?;
    // setpriv: the kernel kills QEMU when the harness is killed and can not run its own clean-up.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]).args(arguments(spec)?);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
    command.spawn().context("run qemu-system-x86_64 (Debian package qemu-system-x86)")
}

/// What QEMU said on its standard error.
pub(crate) fn said(dir: &Path) -> String {
    fs::read_to_string(dir.join("qemu.err")).unwrap_or_default().trim().to_owned()
}
