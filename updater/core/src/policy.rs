//! What the configuration says, once merged and validated: who this device is and what it may do by itself.

use std::collections::BTreeMap;
use std::time::Duration;

use bundle::approval::Window;
use bundle::digest::Digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How far the device goes by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Nothing at all; the default of a system without configuration.
    #[default]
    Off,
    /// Looks for releases and announces them.
    Notify,
    /// Also downloads and writes the other slot.
    Stage,
    /// Also switches and reboots.
    Apply,
}

/// The only release this device may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pin {
    /// By version.
    Version(semver::Version),
    /// By manifest digest.
    Manifest(Digest),
}

/// Who this device is: what approvals and manifests are matched against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The product; must equal the manifest's.
    pub compatible: String,
    /// Hardware revision.
    pub hardware: String,
    /// Stable device id; decides the bucket.
    pub id: String,
    /// Ring, such as `canary`.
    pub ring: Option<String>,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// When this image was built: the clock can not be earlier.
    pub build_time: Timestamp,
    /// The counter baked into the running image, where the image says one. Used while no slot record exists, so that
    /// a device fresh from the factory (or one that lost its data partition) does not go back.
    pub image_counter: Option<u64>,
}

/// Health of a new system: how long, how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthPolicy {
    /// From the start of the trial in this boot until it has failed.
    pub deadline: Duration,
    /// How long all required checks must hold without a break.
    pub soak: Duration,
    /// Between two looks.
    pub interval: Duration,
    /// Looks in a row with the same required check failed after which waiting longer is pointless. At least 1.
    pub strikes: u32,
    /// Network checks that passed in the old slot just before the reboot are required of the new one. Otherwise they are
    /// reported only.
    pub network_required: bool,
}

impl Default for HealthPolicy {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(180),
            soak: Duration::from_secs(10),
            interval: Duration::from_secs(2),
            // A service that systemd restarts is failed for an instant; three looks tell a stumble from a death.
            strikes: 3,
            network_required: false,
        }
    }
}

/// Waiting after failures: full jitter below a doubling bound, so that a fleet that failed together does not come
/// back together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Bound after the first failure.
    pub base: Duration,
    /// Highest bound.
    pub cap: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { base: Duration::from_secs(60), cap: Duration::from_secs(6 * 3600) }
    }
}

/// What the device may do.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// How far it goes by itself.
    pub mode: Mode,
    /// Needs no approval. The only switch that does this.
    pub standalone: bool,
    /// Region whose approvals count.
    pub region: String,
    /// Channel it follows.
    pub channel: String,
    /// The only release it may take.
    pub pin: Option<Pin>,
    /// Hours in which it may download; empty: always.
    pub download_window: Vec<Window>,
    /// Hours in which it may switch and reboot; empty: always.
    pub reboot_window: Vec<Window>,
    /// Downloads over a metered link too.
    pub allow_metered: bool,
    /// Least battery charge in percent for writing and rebooting on battery power; none: do not ask.
    pub min_battery: Option<u8>,
    /// Boots a new slot gets to prove itself.
    pub tries: u8,
    /// Health of a new system.
    pub health: HealthPolicy,
    /// Waiting after failures.
    pub retry: RetryPolicy,
    /// How often the daemon looks by itself while it is resident; none: a systemd timer asks.
    pub poll: Option<Duration>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: Mode::Off,
            standalone: false,
            region: String::new(),
            channel: "stable".into(),
            pin: None,
            download_window: Vec::new(),
            reboot_window: Vec::new(),
            allow_metered: false,
            min_battery: None,
            // One would make a power cut during the first boot look like a bad release; many would hide a crash loop
            // for minutes. The boot loader counts; we only set the number when arming.
            tries: 3,
            health: HealthPolicy::default(),
            retry: RetryPolicy::default(),
            poll: None,
        }
    }
}
