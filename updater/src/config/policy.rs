//! The configuration in the words of the core: what the device may do, and who it is.
//!
//! Reads the identity files (`id_file`, machine id, build time, counter) under the injected root.

use std::fs;
use std::path::Path;

use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use sha2::Sha256;
use updater_core::policy::{Device, HealthPolicy, Policy};

use super::{Config, NetworkChecks, under};

/// When this image was built, RFC 3339, one line; written by the package and by image recipes.
const BUILD_TIME: &str = "/usr/lib/flipside/build-time";
/// The release counter of this image, one line; written by image recipes.
const COUNTER: &str = "/usr/lib/flipside/counter";

impl Config {
    /// What the device may do by itself.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy {
            mode: self.mode,
            standalone: self.standalone,
            region: self.region.clone().unwrap_or_default(),
            channel: self.channel.clone(),
            pin: self.pin.clone(),
            download_window: self.windows.download.clone(),
            reboot_window: self.windows.reboot.clone(),
            allow_metered: !self.limits.avoid_metered,
            min_battery: Some(self.limits.minimum_battery_percent).filter(|p| *p > 0),
            tries: self.boot.tries,
            health: HealthPolicy {
                deadline: self.health.deadline,
                soak: self.health.soak,
                network_required: self.health.network_checks == NetworkChecks::Required,
                ..HealthPolicy::default()
            },
            ..Policy::default()
        }
    }

    /// Who this device is.
    #[must_use]
    pub fn device(&self, root: &Path) -> Device {
        let id_file = self.device.id_file.as_deref().and_then(|path| first_line(root, path));
        let id = self.device.id.clone().or(id_file).or_else(|| own_id(root));
        Device {
            compatible: self.compatible.clone().unwrap_or_default(),
            hardware: self.hardware.clone().unwrap_or_default(),
            id: id.unwrap_or_default(),
            ring: self.device.ring.clone(),
            labels: self.device.labels.clone(),
            build_time: build_time(root),
            image_counter: counter(root),
        }
    }
}

/// What the running image says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunningImage {
    /// `IMAGE_VERSION` of os-release(5).
    pub version: Option<String>,
    /// Its release counter.
    pub counter: Option<u64>,
}

impl RunningImage {
    /// Reads it.
    #[must_use]
    pub fn of(root: &Path) -> Self {
        Self { version: image_version(root), counter: counter(root) }
    }
}

fn image_version(root: &Path) -> Option<String> {
    let places =
        ["/etc/os-release", "/usr/lib/os-release"].map(|path| fs::read_to_string(under(root, Path::new(path))));
    let text = places.into_iter().find_map(Result::ok)?;
    let value = text.lines().find_map(|line| line.strip_prefix("IMAGE_VERSION="))?;
    let plain = value.trim().trim_matches(['"', '\'']);
    // Letters, digits and `.-_` by the standard; what else stands there goes to no terminal.
    let fine = |c: char| c.is_ascii_alphanumeric() || ".-_+~^".contains(c);
    (!plain.is_empty() && plain.chars().all(fine)).then(|| plain.to_owned())
}

fn counter(root: &Path) -> Option<u64> {
    first_line(root, Path::new(COUNTER)).and_then(|text| text.parse().ok())
}

/// When the running image was built: the clock can not be earlier. The epoch when the image does not say.
#[must_use]
pub fn build_time(root: &Path) -> Timestamp {
    first_line(root, Path::new(BUILD_TIME)).and_then(|text| text.parse().ok()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Separates this use of the machine id from every other (systemd's `machine-id --app-specific=`).
const APPLICATION: [u8; 16] = 0xfbff_e057_5b12_43fa_a8b1_b4ea_cd51_a71c_u128.to_be_bytes();

/// What a device without a configured identifier is called: derived from the machine id, which itself is to be kept
/// confidential (machine-id(5)). The same as `systemd-id128 machine-id
/// --app-specific=fbffe0575b1243faa8b1b4eacd51a71c`: sd_id128_get_machine_app_specific(3), HMAC-SHA256 cut to a
/// version 4 identifier.
fn own_id(root: &Path) -> Option<String> {
    let machine = u128::from_str_radix(&first_line(root, Path::new("/etc/machine-id"))?, 16).ok()?;
    let mac = Hmac::<Sha256>::new_from_slice(&machine.to_be_bytes()).ok()?.chain_update(APPLICATION).finalize();
    let id = mac.into_bytes().iter().take(16).fold(0u128, |id, byte| id << 8 | u128::from(*byte));
    let version = (id & !(0xf000_u128 << 64)) | 0x4000_u128 << 64;
    let variant = (version & !(0xc000_u128 << 48)) | 0x8000_u128 << 48;
    Some(format!("{variant:032x}"))
}

fn first_line(root: &Path, path: &Path) -> Option<String> {
    let text = fs::read_to_string(under(root, path)).ok()?;
    text.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
}
