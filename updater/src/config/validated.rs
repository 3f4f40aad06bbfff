//! The merged configuration with every default filled in and every dependency between values checked. Pure.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use bundle::approval::{Weekday, Window};
use updater_core::policy::{Mode, Pin};

use super::Severity;
use super::fragment::{Fragment, ImageFragment, ImageKind, NetworkChecks, WindowFragment};
use crate::slots::folder::overlap;

/// What is in force. A value of a wrong or missing part is its safe default, and a finding says so.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Product identifier; `None`: no release fits.
    pub compatible: Option<String>,
    /// Hardware revision.
    pub hardware: Option<String>,
    /// What the updater does by itself.
    pub mode: Mode,
    /// Channel followed.
    pub channel: String,
    /// Region whose approval is needed; `None` only with `standalone` or without updates.
    pub region: Option<String>,
    /// No approval needed.
    pub standalone: bool,
    /// The only release to take.
    pub pin: Option<Pin>,
    /// Identity in rollouts.
    pub device: Device,
    /// The update server.
    pub source: Source,
    /// The approval servers.
    pub approval: Approval,
    /// URL that outcomes are posted to; `None`: nowhere.
    pub report_url: Option<String>,
    /// Where images go; `None` when incomplete: nothing is written then.
    pub slots: Option<Slots>,
    /// The boot loader.
    pub boot: Boot,
    /// What a healthy system is.
    pub health: Health,
    /// When downloads and restarts may happen.
    pub windows: Windows,
    /// What to believe about time.
    pub clock: Clock,
    /// When to leave the appliance alone.
    pub limits: Limits,
}

/// Identity in rollouts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Device {
    /// Identifier from the configuration.
    pub id: Option<String>,
    /// File whose first line is the identifier; the machine id when neither is set.
    pub id_file: Option<PathBuf>,
    /// Deployment ring.
    pub ring: Option<String>,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
}

/// The update server.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// Base URL without a trailing slash.
    pub url: Option<String>,
    /// PEM certificates trusted instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest silence.
    pub idle_timeout: Duration,
    /// Bytes per second below which a link is dead.
    pub minimum_bytes_per_second: u64,
    /// Bytes per second that all transfers together keep below; `None`: as fast as it goes.
    pub maximum_bytes_per_second: Option<u64>,
    /// PEM file with a client certificate and its key.
    pub identity_file: Option<PathBuf>,
    /// Proxy for all requests; `None`: no proxy, whatever the environment says.
    pub proxy: Option<String>,
}

/// The approval servers.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Approval {
    /// Base URLs without trailing slash, tried in order. Never empty when `source.url` is set.
    pub urls: Vec<String>,
}

/// One image's place in one slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Image {
    /// A partition: `PARTLABEL=…`, `PARTUUID=…` or a device path.
    Block(String),
    /// A file.
    File(PathBuf),
    /// A folder.
    Tree(PathBuf),
}

/// Image name to place, per slot; both slots have the same names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slots {
    /// Slot `a`.
    pub a: BTreeMap<String, Image>,
    /// Slot `b`.
    pub b: BTreeMap<String, Image>,
}

/// The boot loader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// Backend name.
    pub backend: String,
    /// Where the EFI system partition is mounted.
    pub esp: PathBuf,
    /// Kernel command line; `%s` is the slot's letter.
    pub options: String,
    /// Boots a new slot gets to prove itself, 1 to 7.
    pub tries: u8,
    /// Environment block of the `grub` backend.
    pub grubenv: PathBuf,
    /// Both environment files of the `uboot` backend.
    pub uboot_env: Vec<PathBuf>,
    /// Executable of the `custom` backend.
    pub program: PathBuf,
    /// State file of the `sim` backend.
    pub sim_file: PathBuf,
}

/// What a healthy system is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Units that must be active through the soak.
    pub required_units: Vec<String>,
    /// Patterns of failed units that do not count.
    pub ignore_failed: Vec<String>,
    /// From the engine's start to healthy.
    pub deadline: Duration,
    /// How long all required checks must hold.
    pub soak: Duration,
    /// Longest run of one executable check.
    pub check_timeout: Duration,
    /// Whether the new system's own updater is run before a restart.
    pub rehearsal: bool,
    /// What the checks in `network.d` are for.
    pub network_checks: NetworkChecks,
}

/// When downloads and restarts may happen, local time; none = always.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Windows {
    /// Downloads.
    pub download: Vec<Window>,
    /// Restarts.
    pub reboot: Vec<Window>,
}

/// Reads a window; `None` when it makes no sense.
pub(super) fn window(f: &WindowFragment) -> Option<Window> {
    const WEEK: [Weekday; 7] =
        [Weekday::Mon, Weekday::Tue, Weekday::Wed, Weekday::Thu, Weekday::Fri, Weekday::Sat, Weekday::Sun];
    let start = f.start.clone()?;
    let (hours, minutes) = start.split_once(':')?;
    let sane =
        hours.len() == 2 && minutes.len() == 2 && hours.parse::<u8>().ok()? < 24 && minutes.parse::<u8>().ok()? < 60;
    let minutes = f.minutes.filter(|m| (1..=7 * 24 * 60).contains(m))?;
    let days = f.days.clone().filter(|d| !d.is_empty()).unwrap_or_else(|| WEEK.to_vec());
    sane.then_some(Window { days, start, minutes })
}

/// Reads a pin: a version, or 64 hex digits of a manifest.
pub(super) fn pin(text: &str) -> Option<Pin> {
    text.parse().map(Pin::Version).or_else(|_| text.parse().map(Pin::Manifest)).ok()
}

fn windows(f: Option<Vec<WindowFragment>>) -> Vec<Window> {
    f.unwrap_or_default().iter().filter_map(window).collect()
}

/// What to believe about time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Clock {
    /// The hardware clock counts as right.
    pub trust_rtc: bool,
}

/// When to leave the appliance alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Do not download over metered links.
    pub avoid_metered: bool,
    /// Charge below which nothing is started on battery, percent.
    pub minimum_battery_percent: u8,
    /// Bytes that may be fetched in full when a delta was offered and does not make everything; `None`: any amount.
    pub delta_fallback: Option<u64>,
}

type Problems = Vec<(Severity, String)>;

impl Config {
    /// Fills in the defaults and checks what depends on each other.
    #[must_use]
    pub fn from_merged(f: Fragment) -> (Self, Problems) {
        let mut problems = Problems::new();
        let source = source(f.source.unwrap_or_default());
        let slots = f.slots.and_then(|s| {
            let a = images("a", s.a.unwrap_or_default(), &mut problems);
            let b = images("b", s.b.unwrap_or_default(), &mut problems);
            slots(a, b, &mut problems)
        });
        let report_url = f.report.and_then(|report| report.url).filter(|url| !url.is_empty());
        let approval = Approval {
            urls: f.approval.and_then(|a| a.urls).map_or_else(
                || source.url.iter().cloned().collect(),
                |urls| urls.iter().map(|u| trim_url(u)).collect(),
            ),
        };
        let boot = f.boot.unwrap_or_default();
        let health = f.health.unwrap_or_default();
        let windows = f.windows.unwrap_or_default();
        let limits = f.limits.unwrap_or_default();
        let device = f.device.unwrap_or_default();
        let seconds = |value: Option<u64>, default| Duration::from_secs(value.unwrap_or(default));
        let config = Self {
            compatible: f.compatible,
            hardware: f.hardware,
            mode: f.mode.unwrap_or_default(),
            channel: f.channel.unwrap_or_else(|| "stable".to_owned()),
            region: f.region,
            standalone: f.standalone.unwrap_or(false),
            pin: f.pin.and_then(|text| pin(&text)),
            device: Device {
                id: device.id,
                id_file: device.id_file,
                ring: device.ring,
                labels: device.labels.unwrap_or_default(),
            },
            source,
            approval,
            report_url,
            slots,
            boot: Boot {
                backend: boot.backend.unwrap_or_else(|| "systemd-boot".to_owned()),
                esp: boot.esp.unwrap_or_else(|| PathBuf::from("/efi")),
                options: boot.options.unwrap_or_default(),
                tries: boot.tries.unwrap_or(3),
                grubenv: boot.grubenv.unwrap_or_else(|| PathBuf::from("/boot/grub/grubenv")),
                uboot_env: boot.uboot_env.unwrap_or_else(|| {
                    vec![PathBuf::from("/boot/flipside/uboot.env"), PathBuf::from("/boot/flipside/uboot-redund.env")]
                }),
                program: boot.program.unwrap_or_else(|| PathBuf::from("/usr/lib/flipside/boot-control")),
                sim_file: boot.sim_file.unwrap_or_else(|| PathBuf::from("/boot/sim.json")),
            },
            health: Health {
                required_units: health.required_units.unwrap_or_default(),
                ignore_failed: health.ignore_failed.unwrap_or_default(),
                deadline: seconds(health.deadline_seconds, 180),
                soak: seconds(health.soak_seconds, 10),
                check_timeout: seconds(health.check_timeout_seconds, 30),
                rehearsal: health.rehearsal.unwrap_or(true),
                network_checks: health.network_checks.unwrap_or_default(),
            },
            windows: Windows { download: self::windows(windows.download), reboot: self::windows(windows.reboot) },
            clock: Clock { trust_rtc: f.clock.and_then(|c| c.trust_rtc).unwrap_or(false) },
            limits: Limits {
                avoid_metered: limits.avoid_metered.unwrap_or(true),
                minimum_battery_percent: limits.minimum_battery_percent.unwrap_or(30),
                delta_fallback: limits.delta_fallback_megabytes.map(|mb| mb.saturating_mul(1_000_000)),
            },
        };
        config.needs(&mut problems);
        (config, problems)
    }

    /// What the chosen mode can not do without.
    fn needs(&self, problems: &mut Problems) {
        if self.mode == Mode::Off {
            return;
        }
        let mut need = |missing: bool, what: &str| {
            if missing {
                problems.push((Severity::Error, format!("mode = {:?} needs {what}", mode_word(self.mode))));
            }
        };
        need(self.source.url.is_none(), "source.url");
        need(self.compatible.is_none(), "compatible");
        need(self.region.is_none() && !self.standalone, "region (or standalone = true)");
        need(self.slots.is_none(), "[slots.a] and [slots.b]");
        if self.health.soak >= self.health.deadline {
            let message = "health.soak_seconds is not below health.deadline_seconds: no release could ever be kept";
            problems.push((Severity::Error, message.to_owned()));
        }
    }
}

/// The word in configuration and output.
#[must_use]
pub const fn mode_word(mode: Mode) -> &'static str {
    match mode {
        Mode::Off => "off",
        Mode::Notify => "notify",
        Mode::Stage => "stage",
        Mode::Apply => "apply",
    }
}

fn trim_url(url: &str) -> String {
    url.trim().trim_end_matches('/').to_owned()
}

fn source(f: super::fragment::SourceFragment) -> Source {
    let seconds = |value: Option<u64>, default| Duration::from_secs(value.unwrap_or(default));
    Source {
        url: f.url.map(|u| trim_url(&u)).filter(|u| !u.is_empty()),
        ca_file: f.ca_file,
        connect_timeout: seconds(f.connect_timeout_seconds, 15),
        idle_timeout: seconds(f.idle_timeout_seconds, 30),
        minimum_bytes_per_second: f.minimum_bytes_per_second.unwrap_or(1024),
        maximum_bytes_per_second: f.maximum_bytes_per_second.filter(|rate| *rate > 0),
        identity_file: f.identity_file,
        proxy: f.proxy.filter(|p| !p.is_empty()),
    }
}

fn images(slot: &str, f: BTreeMap<String, ImageFragment>, problems: &mut Problems) -> Option<BTreeMap<String, Image>> {
    let mut complete = true;
    let mut images = BTreeMap::new();
    for (name, image) in f {
        let place = match (image.kind, image.device, image.path) {
            (Some(ImageKind::Block), Some(device), _) => Some(Image::Block(device)),
            (Some(ImageKind::File), _, Some(path)) => Some(Image::File(path)),
            (Some(ImageKind::Tree), _, Some(path)) if !plain(&path) => {
                complete = false;
                let message = format!("slots.{slot}.{name}.path must be absolute and without .., and not / itself");
                problems.push((Severity::Error, message));
                continue;
            }
            (Some(ImageKind::Tree), _, Some(path)) => Some(Image::Tree(path)),
            _ => None,
        };
        if let Some(place) = place {
            images.insert(name, place);
        } else {
            complete = false;
            let message = format!("slots.{slot}.{name} needs kind and device (block) or path (file, tree)");
            problems.push((Severity::Error, message));
        }
    }
    complete.then_some(images)
}

/// A folder that is replaced as a whole needs a name of its own.
fn plain(path: &Path) -> bool {
    path.is_absolute() && path.file_name().is_some() && !path.components().any(|part| part == Component::ParentDir)
}

/// Whether writing one would write the other.
fn collide(a: &Image, b: &Image) -> bool {
    match (a, b) {
        (Image::Tree(a), Image::Tree(b) | Image::File(b)) | (Image::File(a), Image::Tree(b)) => overlap(a, b),
        _ => a == b,
    }
}

/// Both or nothing: with half a slot map an update would write half a system.
fn slots(
    a: Option<BTreeMap<String, Image>>,
    b: Option<BTreeMap<String, Image>>,
    problems: &mut Problems,
) -> Option<Slots> {
    let (a, b) = (a?, b?);
    if a.is_empty() || !a.keys().eq(b.keys()) {
        let message = "slots.a and slots.b must name the same images, at least one".to_owned();
        problems.push((Severity::Error, message));
        return None;
    }
    if let Some((name, _)) = a.iter().find(|(_, place)| b.values().any(|other| collide(place, other))) {
        problems.push((Severity::Error, format!("slots.a.{name} is also part of slot b, or stands in it")));
        return None;
    }
    Some(Slots { a, b })
}
