//! The device as configured: which adapters stand behind the seams. Opens nothing before it is asked.
//!
//! Used by the daemon, by the commands that read without a bus, and by the self-test, so that all three see the same
//! device.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use updater_core::facts::{Boot, BootId, SlotBoot};
use updater_core::machine::Setup;
use updater_core::slot::{PerSlot, SlotId};

use crate::bootctl::control::Control;
use crate::bootctl::counted::Counted;
use crate::bootctl::custom::Custom;
use crate::bootctl::error::BootError;
use crate::bootctl::files::Rooted;
use crate::bootctl::grub::Grub;
use crate::bootctl::loader::Loader;
use crate::bootctl::sim::Sim;
use crate::bootctl::systemd_boot::SystemdBoot;
use crate::bootctl::uboot::UBoot;
use crate::config::layers::Sources;
use crate::config::{self, Image, Loaded, Severity, under};
use crate::slots::booted::{booted_slot, read_cmdline};
use crate::slots::{Place, Roots, SlotMap};
use crate::store::Copies;
use crate::system::clock::SystemClock;

/// How long a custom boot control program may take.
const PROGRAM_PATIENCE: Duration = Duration::from_secs(20);
/// A simulated device's boot id; a real one's is the kernel's.
pub const SIM_BOOT_ID: &str = "boot/boot-id";

/// A device, real or simulated.
#[derive(Debug, Clone)]
pub struct Device {
    /// `/`, or the folder of a simulation.
    pub root: PathBuf,
    /// Slots in a folder, a file as boot loader, no systemd.
    pub simulated: bool,
    /// State or configuration are those of a running system, and the root is another one's: it is only looked at.
    pub elsewhere: bool,
    /// Journal, slot records, evidence.
    pub state: PathBuf,
    /// The configuration.
    pub loaded: Loaded,
}

impl Device {
    /// The device below `root`.
    #[must_use]
    pub fn open(root: &Path, simulated: bool) -> Self {
        Self::open_with(root, simulated, None, None)
    }

    /// The system below `root`, with the state and the owner's configuration of where it shall run.
    #[must_use]
    pub fn open_with(root: &Path, simulated: bool, state: Option<PathBuf>, etc: Option<&Path>) -> Self {
        let elsewhere = state.is_some() || etc.is_some();
        let state = state.unwrap_or_else(|| root.join("var/lib/flipside"));
        let loaded = config::load_from(&Sources::under(root).with_etc(etc));
        Self { root: root.to_owned(), simulated, elsewhere, state, loaded }
    }

    /// What the machine is made of.
    #[must_use]
    pub fn setup(&self) -> Setup {
        let config = &self.loaded.config;
        Setup {
            device: config.device(&self.root),
            policy: config.policy(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot: Boot { id: self.boot_id(), slot: self.booted() },
        }
    }

    /// Where the system shows its devices.
    #[must_use]
    pub fn roots(&self) -> Roots {
        Roots { dev: self.root.join("dev"), sys: self.root.join("sys"), proc: self.root.join("proc") }
    }

    /// Where images go. Empty when the configuration has no usable slots: nothing is ever written then.
    ///
    /// # Errors
    /// A sentence: a place that can not be used.
    pub fn slot_map(&self) -> Result<SlotMap, String> {
        let Some(slots) = &self.loaded.config.slots else { return Ok(SlotMap::default()) };
        let places = |images: &BTreeMap<String, Image>| {
            images
                .iter()
                .map(|(name, image)| Ok((name.clone(), self.place(image)?)))
                .collect::<Result<BTreeMap<_, _>, String>>()
        };
        SlotMap::new(PerSlot { a: places(&slots.a)?, b: places(&slots.b)? }).map_err(|e| e.to_string())
    }

    fn place(&self, image: &Image) -> Result<Place, String> {
        match image {
            Image::Block(device) => Place::block(device).map_err(|e| e.to_string()),
            Image::File(path) => Ok(Place::File(under(&self.root, path))),
            Image::Tree(path) => Ok(Place::Tree(under(&self.root, path))),
        }
    }

    /// The running slot, where it is certain.
    #[must_use]
    pub fn booted(&self) -> Option<SlotId> {
        if self.simulated {
            return self.sim().state().ok()?.booted;
        }
        let roots = self.roots();
        let cmdline = read_cmdline(&roots.proc).ok()?;
        booted_slot(&cmdline, &self.slot_map().unwrap_or_default().devices(), &roots)
    }

    /// This boot.
    #[must_use]
    pub fn boot_id(&self) -> BootId {
        let file = if self.simulated { SIM_BOOT_ID } else { "proc/sys/kernel/random/boot_id" };
        BootId(fs::read_to_string(self.root.join(file)).unwrap_or_default().trim().to_owned())
    }

    /// The boot loader's state.
    #[must_use]
    pub fn boot_control(&self) -> Control {
        let tries = self.loaded.config.boot.tries;
        Control::new(self.loader(), self.boot_id(), self.booted(), tries).remembering(self.state.join("boot-tested"))
    }

    fn loader(&self) -> Box<dyn Loader> {
        let boot = &self.loaded.config.boot;
        let rooted = || Rooted::new(&self.root);
        let relative = |path: &Path| path.strip_prefix("/").unwrap_or(path).to_string_lossy().into_owned();
        // Writing below an empty mount point would change the running slot and tell the boot loader nothing; reading there
        // finds nothing, which is not damage.
        if let Some(place) = self.unmounted() {
            return Box::new(NoLoader(format!(
                "the partition of the boot loader's state is not mounted at {}",
                place.display()
            )));
        }
        match boot.backend.as_str() {
            "systemd-boot" => {
                let loader = SystemdBoot::new(
                    Rooted::new(under(&self.root, &boot.esp)),
                    boot.options.clone(),
                    self.root.join("sys/firmware/efi/efivars"),
                );
                if self.is_wrong_guess(&loader) { Box::new(NoLoader(NOT_NAMED.to_owned())) } else { Box::new(loader) }
            }
            "grub" => Box::new(Counted::new(Grub::new(rooted(), relative(&boot.grubenv)), self.roots().proc, "grub")),
            "uboot" => match boot.uboot_env.as_slice() {
                [first, second] => {
                    let loader = UBoot::new(rooted(), relative(first), relative(second));
                    Box::new(Counted::new(loader, self.roots().proc, "uboot"))
                }
                _ => Box::new(NoLoader("boot.uboot_env must name two files".to_owned())),
            },
            "custom" => Box::new(Custom::new(under(&self.root, &boot.program), PROGRAM_PATIENCE)),
            "sim" => Box::new(self.sim()),
            other => Box::new(NoLoader(format!("boot.backend = {other:?} is not known"))),
        }
    }

    /// True when nobody named the boot loader, and this one has never heard of either slot: it did not start the one that
    /// runs, so what it says of them means nothing.
    fn is_wrong_guess(&self, loader: &impl Loader) -> bool {
        let named = self.loaded.values.contains_key("boot.backend");
        let knows = |records: PerSlot<SlotBoot>| SlotId::ALL.iter().any(|slot| *records.get(*slot) != SlotBoot::Empty);
        !named && loader.records().is_ok_and(|records| !knows(records))
    }

    /// Where a partition should be mounted for the boot loader's state to be on it, and is not.
    fn unmounted(&self) -> Option<&Path> {
        let boot = &self.loaded.config.boot;
        let files: &[PathBuf] = match boot.backend.as_str() {
            "systemd-boot" => std::slice::from_ref(&boot.esp),
            "grub" => std::slice::from_ref(&boot.grubenv),
            "uboot" => &boot.uboot_env,
            _ => &[],
        };
        let file = files.iter().find(|file| self.is_of_root(file))?;
        Some(if file.starts_with(&boot.esp) { &boot.esp } else { file.parent().unwrap_or(file) })
    }

    /// True when what should be on a partition of its own is, or would be made, on the root file system.
    fn is_of_root(&self, path: &Path) -> bool {
        let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev());
        let found = path.ancestors().find_map(|place| device(place).ok());
        self.root == Path::new("/") && found.is_none_or(|dev| device(&self.root).is_ok_and(|root| root == dev))
    }

    /// The simulated boot loader.
    #[must_use]
    pub fn sim(&self) -> Sim<Rooted> {
        let path = &self.loaded.config.boot.sim_file;
        Sim::new(Rooted::new(&self.root), path.strip_prefix("/").unwrap_or(path).to_string_lossy())
    }

    /// The journal's two copies.
    #[must_use]
    pub fn journal(&self) -> Copies {
        Copies::new(&self.state, "journal")
    }

    /// Held by the one engine of this device. Not on the data partition, which may be full or read-only when a new system
    /// waits for its confirmation; but simulated devices share the `/run` of their machine.
    #[must_use]
    pub fn lock_file(&self) -> PathBuf {
        if self.simulated { self.state.join("lock") } else { self.root.join("run/flipside/lock") }
    }

    /// The clocks.
    #[must_use]
    pub fn clock(&self) -> SystemClock {
        // A simulated device is somebody's workstation, whose clock is good enough.
        let trust_rtc = self.simulated || self.loaded.config.clock.trust_rtc;
        SystemClock { trust_rtc, build_time: config::policy::build_time(&self.root) }
    }

    /// True when nobody told Flipside what it should look after: a package installed and not set up.
    #[must_use]
    pub fn is_unconfigured(&self) -> bool {
        let broken =
            self.loaded.findings.iter().any(|finding| finding.severity == Severity::Error && finding.file.is_some());
        let told = self.loaded.config.slots.is_some() || self.loaded.values.keys().any(|key| key.starts_with("boot."));
        !told && !broken
    }
}

const NOT_NAMED: &str = "boot.backend is not set, and systemd-boot, which would be it, has no entry of a slot";

/// A boot loader that nobody knows how to talk to.
struct NoLoader(String);

impl NoLoader {
    fn no<T>(&self) -> Result<T, BootError> {
        Err(BootError::NotReady(self.0.clone()))
    }
}

impl Loader for NoLoader {
    fn records(&self) -> Result<PerSlot<SlotBoot>, BootError> {
        self.no()
    }
    fn clear(&mut self, _: SlotId) -> Result<(), BootError> {
        self.no()
    }
    fn arm(&mut self, _: SlotId, _: u8) -> Result<(), BootError> {
        self.no()
    }
    fn confirm(&mut self, _: SlotId) -> Result<(), BootError> {
        self.no()
    }
    fn reject(&mut self, _: SlotId) -> Result<(), BootError> {
        self.no()
    }
    fn self_test(&mut self) -> Result<(), BootError> {
        self.no()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seams::{BootControl, BootErrorKind};

    fn device(config: &str) -> (tempfile::TempDir, Device) {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("etc/flipside");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("flipside.toml"), config).unwrap();
        fs::create_dir_all(root.path().join("proc/sys/kernel/random")).unwrap();
        fs::write(root.path().join("proc/sys/kernel/random/boot_id"), "abc\n").unwrap();
        fs::write(root.path().join("proc/cmdline"), "quiet flipside.slot=b\n").unwrap();
        let device = Device::open(root.path(), false);
        (root, device)
    }

    #[test]
    fn the_running_slot_and_boot_are_the_kernels_word() {
        let (_root, device) = device("");
        assert_eq!(device.booted(), Some(SlotId::B));
        assert_eq!(device.boot_id().0, "abc");
        assert!(device.is_unconfigured());
    }

    #[test]
    fn an_unknown_boot_loader_is_an_error_of_every_operation() {
        let (_root, device) = device("[boot]\nbackend = \"lilo\"\n");
        let error = device.boot_control().facts().unwrap_err();
        assert!(error.detail.contains("lilo"), "{error}");
    }

    #[test]
    fn a_boot_loader_that_nobody_named_must_know_the_running_slot() {
        let (_root, device) = device("");
        let esp = under(&device.root, &device.loaded.config.boot.esp);
        fs::create_dir_all(&esp).unwrap();
        let error = device.boot_control().facts().unwrap_err();
        assert!(error.detail.contains("boot.backend"), "{error}");
        let entries = esp.join("loader/entries");
        fs::create_dir_all(&entries).unwrap();
        fs::write(entries.join("flipside-b.conf"), "title x\nversion 0000000001\n").unwrap();
        assert!(device.boot_control().facts().unwrap().confirmed_booted().is_some());
    }

    #[test]
    fn systemd_boot_reads_the_esp_below_the_root() {
        let (root, device) = device("[boot]\nbackend = \"systemd-boot\"\nesp = \"/efi\"\n");
        let entries = root.path().join("efi/loader/entries");
        fs::create_dir_all(&entries).unwrap();
        fs::write(entries.join("flipside-b.conf"), "title x\nversion 0000000001\n").unwrap();
        let facts = device.boot_control().facts().unwrap();
        assert!(facts.confirmed_booted().is_some(), "{facts:?}");
    }

    /// The running system: only there a mount can be told from a folder. Nothing of it is written: no slot is known.
    fn running(config: &str) -> Device {
        let (_root, mut device) = device(config);
        device.root = PathBuf::from("/");
        device
    }

    #[test]
    fn state_on_a_partition_that_is_not_mounted_is_not_called_damaged() {
        for (config, place) in [
            ("backend = \"systemd-boot\"\nesp = \"/nowhere\"", "/nowhere"),
            ("backend = \"grub\"\nesp = \"/nowhere\"\ngrubenv = \"/nowhere/grub/grubenv\"", "/nowhere"),
            ("backend = \"grub\"\ngrubenv = \"/usr/lib/grubenv\"", "/usr/lib"),
            // One copy is enough to be lost.
            ("backend = \"uboot\"\nuboot_env = [\"/proc/x/uboot.env\", \"/nowhere/uboot.env\"]", "/nowhere"),
        ] {
            let error = running(&format!("[boot]\n{config}\n")).boot_control().facts().unwrap_err();
            assert_eq!(error.kind, BootErrorKind::Unsupported, "{config}: {error}");
            assert!(error.detail.ends_with(&format!("is not mounted at {place}")), "{config}: {error}");
        }
        // A partition without its file is damaged.
        let error = running("[boot]\nbackend = \"grub\"\ngrubenv = \"/proc/x/grubenv\"\n").boot_control().facts();
        assert_eq!(error.unwrap_err().kind, BootErrorKind::Parse);
    }

    #[test]
    fn only_a_script_that_counts_is_relied_on() {
        use crate::bootctl::loader::Loader as _;
        let (root, device) = device("[boot]\nbackend = \"grub\"\ngrubenv = \"/grubenv\"\n");
        Grub::new(Rooted::new(root.path()), "grubenv").repair(SlotId::B, 3).unwrap();
        let error = device.boot_control().self_test().unwrap_err();
        assert!(error.detail.contains("flipside.counted=grub"), "{error}");
        fs::write(root.path().join("proc/cmdline"), "quiet flipside.slot=b flipside.counted=grub\n").unwrap();
        device.boot_control().self_test().unwrap();
    }

    #[test]
    fn slots_are_found_below_the_root() {
        let slot = |s: &str| format!("[slots.{s}]\nrootfs = {{ kind = \"file\", path = \"/slots/{s}/root.img\" }}\n");
        let (root, device) = device(&(slot("a") + &slot("b")));
        let map = device.slot_map().unwrap();
        assert_eq!(map.place(SlotId::A, "rootfs"), Some(&Place::File(root.path().join("slots/a/root.img"))));
        let slot = |s: &str| format!("[slots.{s}]\nrootfs = {{ kind = \"tree\", path = \"/slots/{s}\" }}\n");
        let (root, device) = self::device(&(slot("a") + &slot("b")));
        let map = device.slot_map().unwrap();
        assert_eq!(map.place(SlotId::B, "rootfs"), Some(&Place::Tree(root.path().join("slots/b"))));
    }
}
