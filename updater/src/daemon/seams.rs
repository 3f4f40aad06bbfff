//! The adapters behind the engine's seams, for this device.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bundle::trust::{Role, Roles, TrustRoot};
use jiff::Timestamp;

use super::device::Device;
use super::served::Served;
use super::sim::{Restart, SimRebooter};
use crate::config::{Config, under};
use crate::dbus::Bus;
use crate::engine::Seams;
use crate::handed::Handed;
use crate::health::evidence::EvidenceFolder;
use crate::health::{SystemHealth, Systemd};
use crate::http::retry::Patience;
use crate::http::{Bearer, Client, Location, Settings};
use crate::install::place::Finder;
use crate::install::{Pipeline, Setup};
use crate::rehearsal::{NoRehearsal, SelfTest};
use crate::report::Poster;
use crate::seams::{Rebooter, Rehearsal};
use crate::store::Releases;
use crate::store::reports::Spool;
use crate::system::chain;
use crate::system::inhibit::LogindInhibitors;
use crate::system::reboot::SystemRebooter;
use crate::system::surroundings::SystemSurroundings;
use crate::trust::{TrustStore, TrustStoreError};

/// The trust root of the image, below the root.
const IMAGE_TRUST: &str = "usr/lib/flipside/trust.dsse.json";
/// systemd's name of the bearer token.
const TOKEN: &str = "flipside.token";

/// The trust root in force.
///
/// # Errors
/// The image's own root is missing or not signed by itself.
pub fn trust(device: &Device) -> Result<TrustStore, TrustStoreError> {
    TrustStore::load(&device.root.join(IMAGE_TRUST), &device.state.join("trust"))
}

/// A device's adapters.
pub(super) struct Assembled {
    /// Everything the engine may touch.
    pub seams: Seams,
    /// Tells when a simulated device wants to restart.
    pub restart: Restart,
    /// Where the installer finds files that come with a request.
    pub handed: Handed,
    /// Posts reports, where somebody wants them.
    pub poster: Option<Poster>,
}

/// Puts the adapters together. `host` is where logind and systemd are asked: none for a simulated device, which
/// must not ask the machine it lives on for anything.
pub(super) fn assemble(device: &Device, host: Option<Bus>) -> Assembled {
    let config = &device.loaded.config;
    let client = client(device);
    let trust = Arc::new(trust(device).unwrap_or_else(|e| {
        tracing::error!(error = chain(&e), "no trust root: every release is refused");
        TrustStore::of(nobody(), &device.state.join("trust"))
    }));
    let served = Arc::new(Served {
        client: client.clone(),
        base: config.source.url.clone(),
        approvals: config.approval.urls.clone(),
        region: config.region.clone().unwrap_or_default(),
        channel: config.channel.clone(),
        folder: device.state.join("approvals"),
        tags: Mutex::default(),
    });
    let (restart, handed) = (Restart::default(), Handed::default());
    let rebooter: Arc<dyn Rebooter> = if device.simulated {
        Arc::new(SimRebooter(restart.clone()))
    } else {
        Arc::new(SystemRebooter { bus: host.clone() })
    };
    let spool = Arc::new(Spool::new(&device.state.join("reports.jsonl")));
    let poster = poster(device, &client, &spool);
    let seams = Seams {
        boot: Arc::new(device.boot_control()),
        clock: Arc::new(device.clock()),
        releases: Arc::clone(&served) as _,
        approvals: served,
        surroundings: Arc::new(SystemSurroundings { bus: host.clone(), root: device.root.clone() }),
        evidence: Arc::new(evidence(device)),
        health: Arc::new(health(device, host.clone())),
        inhibitors: Arc::new(LogindInhibitors { bus: host }),
        installer: Arc::new(Pipeline::new(install(device, client, Arc::clone(&trust), handed.clone()))),
        journal: Arc::new(device.journal()),
        rebooter,
        rehearsal: rehearsal(device),
        reports: spool,
        trust,
    };
    Assembled { seams, restart, poster, handed }
}

fn poster(device: &Device, client: &Client, spool: &Arc<Spool>) -> Option<Poster> {
    let url = device.loaded.config.report_url.as_deref()?;
    let url = url.parse().inspect_err(|e| tracing::error!(url, "report.url: {e}; nothing is posted")).ok()?;
    Some(Poster {
        client: client.clone(),
        url,
        spool: Arc::clone(spool),
        key_file: device.state.join("report-key.pem"),
        device: device.setup().device.id,
    })
}

fn rehearsal(device: &Device) -> Arc<dyn Rehearsal> {
    if device.simulated || !device.loaded.config.health.rehearsal {
        return Arc::new(NoRehearsal);
    }
    // The link is the kernel's: it works even when the file was replaced by an upgrade of the package.
    Arc::new(SelfTest { program: "/proc/self/exe".into() })
}

fn evidence(device: &Device) -> EvidenceFolder {
    if device.simulated {
        EvidenceFolder::of_simulation(&device.state)
    } else {
        EvidenceFolder::of_systemd(&device.state, &device.root, device.booted())
    }
}

fn health(device: &Device, bus: Option<Bus>) -> SystemHealth {
    let systemd = match bus {
        _ if device.simulated => Systemd::Absent,
        Some(bus) => Systemd::Bus(bus),
        None => Systemd::Unreachable,
    };
    let (root, loaded) = (device.root.clone(), &device.loaded);
    SystemHealth { root, config: loaded.config.health.clone(), findings: loaded.findings.clone(), systemd }
}

fn install(device: &Device, client: Client, trust: Arc<TrustStore>, handed: Handed) -> Setup {
    let map = device.slot_map().unwrap_or_else(|e| {
        tracing::error!("slots: {e}; nothing can be installed");
        crate::slots::SlotMap::default()
    });
    // A file slot on the root file system means that its own partition is not mounted. A simulation has no partitions.
    let root_device = fs::metadata(&device.root).ok().map(|m| m.dev()).filter(|_| !device.simulated);
    Setup {
        finder: Finder { map, roots: device.roots(), root_device },
        releases: Releases::new(&device.state.join("releases")),
        fallback_limit: device.loaded.config.limits.delta_fallback,
        client,
        base: device.loaded.config.source.url.clone(),
        trust: Arc::new(move || Ok((*trust.current()).clone())),
        patience: Patience::default(),
        handed,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
    }
}

/// How this device talks to servers.
#[must_use]
pub fn http_settings(config: &Config, root: &Path, simulated: bool) -> Settings {
    let source = &config.source;
    // A simulated device has the files of the machine it lives on.
    let at = |path: &PathBuf| if simulated { path.clone() } else { under(root, path) };
    Settings {
        connect_timeout: source.connect_timeout,
        idle_timeout: source.idle_timeout,
        min_bytes_per_second: source.minimum_bytes_per_second,
        max_bytes_per_second: source.maximum_bytes_per_second,
        ca_file: source.ca_file.as_ref().map(at),
        identity_file: source.identity_file.as_ref().map(at),
        proxy: source.proxy.clone(),
        bearer: bearer(std::env::var_os("CREDENTIALS_DIRECTORY").as_deref().map(Path::new), source.url.as_deref()),
        ..Settings::default()
    }
}

fn client(device: &Device) -> Client {
    let settings = http_settings(&device.loaded.config, &device.root, device.simulated);
    Client::new(&settings).unwrap_or_else(|e| {
        tracing::error!(
            error = chain(&e),
            "the settings of the update server can not be used: nothing goes over https"
        );
        Client::closed(&settings, &e)
    })
}

/// The token from systemd, for the server of `source.url` and no other.
fn bearer(credentials: Option<&Path>, server: Option<&str>) -> Option<Bearer> {
    let text = fs::read_to_string(credentials?.join(TOKEN)).ok()?;
    let token = Some(text.trim()).filter(|token| !token.is_empty())?;
    let Ok(Location::Web(home)) = Location::parse(server?) else { return None };
    if home.scheme() == "http" {
        tracing::warn!("source.url is http: the token of the update server can be read by whoever is on the line");
    }
    // A server that wants one will refuse us, and says so.
    Bearer::new(token, home).inspect_err(|e| tracing::error!(error = chain(e), "no token is sent")).ok()
}

/// A root that believes nobody.
fn nobody() -> TrustRoot {
    let none = || Role { keys: Vec::new(), threshold: 1 };
    TrustRoot {
        version: 0,
        expires: Timestamp::MAX,
        keys: BTreeMap::new(),
        roles: Roles { root: none(), release: none() },
        regions: BTreeMap::new(),
        crit: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_the_update_servers() {
        let credentials = tempfile::tempdir().unwrap();
        let given = |server| bearer(Some(credentials.path()), server);
        assert!(given(Some("https://h/x")).is_none(), "there is none yet");
        fs::write(credentials.path().join(TOKEN), "secret\n").unwrap();
        let bearer = given(Some("https://h/x")).unwrap();
        let header = |url: &str| bearer.header_for(&url.parse().unwrap());
        assert_eq!(header("https://h/y").unwrap(), "Bearer secret");
        assert_eq!(header("https://reports/"), None);
        assert!(given(Some("/srv/www")).is_none() && given(None).is_none());
    }
}
