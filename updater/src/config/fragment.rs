//! One configuration file as it is written: every value optional, nothing decided.
//!
//! Touches nothing. Which keys are known is told by the fields themselves ([`Knows`]), so the two can not drift apart.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bundle::approval::Weekday;
use serde::Deserialize;
use updater_core::policy::Mode;

use super::leaves;
use crate::bootctl::loader::MAX_TRIES;

/// How an image of a slot is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageKind {
    /// A partition.
    Block,
    /// A file.
    File,
    /// A folder.
    Tree,
}

/// What network checks are for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkChecks {
    /// They are reported.
    #[default]
    Advisory,
    /// Those that passed in the old system just before the restart must pass in the new one.
    Required,
}

/// Tells which keys a value has.
trait Knows {
    /// True when `path` (empty: the value itself) is something that is read.
    fn knows(path: &[&str]) -> bool;
}

macro_rules! leaf {
    ($($ty:ty),+) => { $( impl Knows for $ty { fn knows(path: &[&str]) -> bool { path.is_empty() } } )+ };
}
leaf!(String, PathBuf, bool, u8, u32, u64, Mode, ImageKind, NetworkChecks, Weekday);

/// An array is one value; what its tables hold is not looked at.
impl<T> Knows for Vec<T> {
    fn knows(path: &[&str]) -> bool {
        path.is_empty()
    }
}

/// Keys that the integrator chooses.
impl<T: Knows> Knows for BTreeMap<String, T> {
    fn knows(path: &[&str]) -> bool {
        path.split_first().is_some_and(|(_, rest)| T::knows(rest))
    }
}

macro_rules! fragment {
    ($(#[doc = $doc:literal])+ $name:ident { $( $(#[doc = $fdoc:literal])+ $field:ident : $ty:ty ),+ $(,)? }) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, PartialEq, Default, Deserialize)]
        pub struct $name {
            $( $(#[doc = $fdoc])+
               pub $field: Option<$ty>, )+
        }

        impl Knows for $name {
            fn knows(path: &[&str]) -> bool {
                match path.split_first() {
                    $( Some((&stringify!($field), rest)) => <$ty>::knows(rest), )+
                    _ => false,
                }
            }
        }
    };
}

fragment! {
    /// A whole file.
    Fragment {
        /// Product identifier; a release for another is refused.
        compatible: String,
        /// Hardware revision, matched against a release's patterns.
        hardware: String,
        /// What the updater does by itself.
        mode: Mode,
        /// Channel followed.
        channel: String,
        /// Region whose approval is needed.
        region: String,
        /// `true`: no approval needed.
        standalone: bool,
        /// Version to stay on.
        pin: String,
        /// Identity in rollouts.
        device: DeviceFragment,
        /// The update server.
        source: SourceFragment,
        /// The approval servers.
        approval: ApprovalFragment,
        /// The fleet host.
        report: ReportFragment,
        /// Where images go.
        slots: SlotsFragment,
        /// The boot loader.
        boot: BootFragment,
        /// What a healthy system is.
        health: HealthFragment,
        /// When downloads and restarts may happen.
        windows: WindowsFragment,
        /// What to believe about time.
        clock: ClockFragment,
        /// When to leave the appliance alone.
        limits: LimitsFragment,
    }
}
fragment! {
    /// `[device]`
    DeviceFragment {
        /// Device identifier.
        id: String,
        /// File whose first line is the identifier.
        id_file: PathBuf,
        /// Deployment ring.
        ring: String,
        /// Free labels that rollout rules match.
        labels: BTreeMap<String, String>,
    }
}
fragment! {
    /// `[source]`
    SourceFragment {
        /// Base URL of what `bundle-tool publish` wrote.
        url: String,
        /// PEM certificates trusted instead of the system's.
        ca_file: PathBuf,
        /// Seconds to wait for a connection.
        connect_timeout_seconds: u64,
        /// Seconds a connection may be silent.
        idle_timeout_seconds: u64,
        /// Bytes per second below which a link is dead.
        minimum_bytes_per_second: u64,
        /// Bytes per second that updates keep below.
        maximum_bytes_per_second: u64,
        /// PEM file with a client certificate and its key.
        identity_file: PathBuf,
        /// Proxy for all requests.
        proxy: String,
    }
}
fragment! {
    /// `[approval]`
    ApprovalFragment {
        /// Base URLs of approval servers, tried in order.
        urls: Vec<String>,
    }
}
fragment! {
    /// `[report]`
    ReportFragment {
        /// URL that outcomes are posted to.
        url: String,
    }
}
fragment! {
    /// `[slots]`
    SlotsFragment {
        /// Image name to place, slot `a`.
        a: BTreeMap<String, ImageFragment>,
        /// Image name to place, slot `b`.
        b: BTreeMap<String, ImageFragment>,
    }
}
fragment! {
    /// One image's place in one slot.
    ImageFragment {
        /// How it is stored.
        kind: ImageKind,
        /// `PARTLABEL=…`, `PARTUUID=…` or a device path, for `block`.
        device: String,
        /// Path, for `file` and `tree`.
        path: PathBuf,
    }
}
fragment! {
    /// `[boot]`
    BootFragment {
        /// Name of the boot control backend.
        backend: String,
        /// Where the EFI system partition is mounted.
        esp: PathBuf,
        /// Kernel command line; `%s` is the slot's letter.
        options: String,
        /// Boots a new slot gets to prove itself.
        tries: u8,
        /// Environment block of the `grub` backend.
        grubenv: PathBuf,
        /// Both environment files of the `uboot` backend.
        uboot_env: Vec<PathBuf>,
        /// Executable of the `custom` backend.
        program: PathBuf,
        /// State file of the `sim` backend.
        sim_file: PathBuf,
    }
}
fragment! {
    /// `[health]`
    HealthFragment {
        /// Units that must be active through the soak.
        required_units: Vec<String>,
        /// Patterns of failed units that do not count.
        ignore_failed: Vec<String>,
        /// Seconds from the engine's start to healthy.
        deadline_seconds: u64,
        /// Seconds all required checks must hold.
        soak_seconds: u64,
        /// Seconds one executable check may take.
        check_timeout_seconds: u64,
        /// Run the new system's own updater, read-only, before a restart.
        rehearsal: bool,
        /// What the checks in `network.d` are for.
        network_checks: NetworkChecks,
    }
}
fragment! {
    /// `[windows]`
    WindowsFragment {
        /// Hours for downloads, local time; none = always.
        download: Vec<WindowFragment>,
        /// Hours for restarts.
        reboot: Vec<WindowFragment>,
    }
}
fragment! {
    /// Hours on some days.
    WindowFragment {
        /// On which days it opens; none = every day.
        days: Vec<Weekday>,
        /// `HH:MM` at which it opens.
        start: String,
        /// Minutes it stays open, 1 to 10080.
        minutes: u32,
    }
}
fragment! {
    /// `[clock]`
    ClockFragment {
        /// The hardware clock counts as right.
        trust_rtc: bool,
    }
}
fragment! {
    /// `[limits]`
    LimitsFragment {
        /// Do not download over metered links.
        avoid_metered: bool,
        /// Charge below which nothing is started on battery, percent.
        minimum_battery_percent: u8,
        /// Most that is fetched in full when a delta does not do, MB.
        delta_fallback_megabytes: u64,
    }
}

/// What serde_json says, without line and column.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(text, _)| text.to_owned())
}

impl Fragment {
    /// Reads a file's text. The table is what stands there, unknown keys included.
    ///
    /// # Errors
    /// A sentence: the text is not TOML, or a known key has a value of the wrong type.
    pub fn parse(text: &str) -> Result<(Self, toml::Table), String> {
        let said = |e: toml::de::Error| e.to_string().trim().replace('\n', " ");
        let table: toml::Table = text.parse().map_err(said)?;
        Ok((Self::typed(&table)?, table))
    }

    /// A table as a fragment; keys that nobody knows are passed over.
    ///
    /// By way of JSON, so that one deserializer serves everything that is read ([`bundle::json`]).
    ///
    /// # Errors
    /// A sentence that names the key: a value of the wrong type.
    pub fn typed(table: &toml::Table) -> Result<Self, String> {
        let leaves = leaves::of_table(table);
        // JSON has no word for these; they would count as not set.
        if let Some((key, _)) =
            leaves.iter().find(|(k, v)| Self::knows_key(k) && v.as_float().is_some_and(|n| !n.is_finite()))
        {
            return Err(format!("not a number that can be used in `{key}`"));
        }
        let read = |table: &toml::Table| serde_json::to_vec(table).and_then(|text| serde_json::from_slice(&text));
        let whole: serde_json::Error = match read(table) {
            Ok(fragment) => return Ok(fragment),
            Err(error) => error,
        };
        // Its place in the JSON tells nobody anything: each key is read alone to find the one.
        for (key, value) in leaves {
            let alone = key
                .rsplit('.')
                .fold(value, |value, name| toml::Value::Table(std::iter::once((name.to_owned(), value)).collect()));
            if let Some(Err(error)) = alone.as_table().map(|alone| read(alone).map(|_: Self| ())) {
                return Err(format!("{} in `{key}`", without_place(&error)));
            }
        }
        Err(without_place(&whole))
    }

    /// True for a dotted key that some field takes.
    #[must_use]
    pub fn knows_key(key: &str) -> bool {
        let path: Vec<&str> = key.split('.').collect();
        Self::knows(&path)
    }

    /// Values that have the right type and make no sense.
    #[must_use]
    pub fn nonsense(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut check = |bad: bool, sentence: &str| {
            if bad {
                found.push(sentence.to_owned());
            }
        };
        if let Some(boot) = &self.boot {
            check(boot.tries.is_some_and(|t| !(1..=MAX_TRIES).contains(&t)), "boot.tries must be 1 to 7");
            check(boot.uboot_env.as_ref().is_some_and(|e| e.len() != 2), "boot.uboot_env must name two files");
            check(boot.options.as_ref().is_some_and(|o| o.contains('\n')), "boot.options must be one line");
        }
        if let Some(health) = &self.health {
            check(health.deadline_seconds == Some(0), "health.deadline_seconds must not be 0");
            check(health.check_timeout_seconds == Some(0), "health.check_timeout_seconds must not be 0");
        }
        if let Some(pin) = &self.pin {
            check(super::validated::pin(pin).is_none(), "pin is neither a version nor a manifest digest");
        }
        let urls = self.source.iter().filter_map(|s| s.url.as_ref());
        for url in urls.chain(self.approval.iter().filter_map(|a| a.urls.as_ref()).flatten()) {
            // file: a tree on a stick, or beside a simulation.
            let known = ["https://", "http://", "file:///"].iter().any(|scheme| url.starts_with(scheme));
            check(!known, &format!("{url:?} is not an http, https or file URL"));
        }
        if let Some(windows) = &self.windows {
            for window in [&windows.download, &windows.reboot].into_iter().flatten().flatten() {
                check(
                    super::validated::window(window).is_none(),
                    "a window needs start = \"HH:MM\" and minutes = 1 to 10080",
                );
            }
        }
        let percent = self.limits.as_ref().and_then(|l| l.minimum_battery_percent);
        check(percent.is_some_and(|p| p > 100), "limits.minimum_battery_percent is above 100");
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_keys_are_those_of_the_fields() {
        for known in ["mode", "health.soak_seconds", "device.labels.site", "slots.a.rootfs.kind", "windows.reboot"] {
            assert!(Fragment::knows_key(known), "{known}");
        }
        for unknown in ["regoin", "health", "health.soak", "mode.x", "slots.c.rootfs.kind", "slots.a.rootfs.size"] {
            assert!(!Fragment::knows_key(unknown), "{unknown}");
        }
    }

    #[test]
    fn a_mistake_is_said_with_its_place() {
        let error = Fragment::parse("channel = \"x\"\nmode = \"sometimes\"\n").unwrap_err();
        assert!(error.contains("`mode`") && error.contains("sometimes"), "{error}");
        let error = Fragment::parse("[health]\nsoak_seconds = nan\n").unwrap_err();
        assert!(error.contains("`health.soak_seconds`"), "{error}");
        let error = Fragment::parse("[slots.a]\nrootfs = { kind = 1 }\n[boot]\ntries = 3\n").unwrap_err();
        assert!(error.contains("`slots.a.rootfs.kind`") && !error.contains("line"), "{error}");
        let error = Fragment::parse("channel = \"x\"\nmode = \n").unwrap_err();
        assert!(error.contains("line 2"), "{error}");
    }

    #[test]
    fn nonsense_is_found() {
        let text =
            "[boot]\ntries = 0\n[source]\nurl = \"ftp://x\"\n[[windows.reboot]]\nstart = \"25:00\"\nminutes = 5\n";
        assert_eq!(Fragment::parse(text).unwrap().0.nonsense().len(), 3);
    }
}
