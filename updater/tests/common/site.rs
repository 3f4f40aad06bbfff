//! Bundles to install, and devices to install them on.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bundle::approval::ReleaseRef;
use bundle::build::{self, NewRelease, OldFile, Settings, Source as ImageSource};
use bundle::digest::Digest;
use bundle::dsse::Envelope;
use bundle::keys::PrivateKey;
use bundle::manifest::{ImageKind, MANIFEST_TYPE, Manifest};
use bundle::random::{RandomReader, read_envelope};
use bundle::trust::{Role, Roles, TrustRoot};
use updater::handed::Handed;
use updater::http;
use updater::http::retry::Patience;
use updater::install::installer::{Pipeline, Setup};
use updater::install::place::Finder;
use updater::seams::InstallRequest;
use updater::slots::{Place, Roots, SlotMap};
use updater::store::Releases;
use updater_core::release::{DeltaOffer, Intent, Source, Update};
use updater_core::slot::{PerSlot, SlotId};

/// The only key of these tests.
pub fn key() -> PrivateKey {
    PrivateKey::from_seed(&[7; 32])
}

/// A trust root that believes that key.
pub fn trust() -> TrustRoot {
    let public = key().public().unwrap();
    let id = public.id().to_string();
    let role = Role { keys: vec![id.clone()], threshold: 1 };
    TrustRoot {
        version: 1,
        expires: "2099-01-01T00:00:00Z".parse().unwrap(),
        keys: BTreeMap::from([(id, public.to_pem().to_owned())]),
        roles: Roles { root: role.clone(), release: role },
        regions: BTreeMap::new(),
        crit: Vec::new(),
    }
}

/// A signed bundle.
pub struct Release {
    pub path: PathBuf,
    pub release: ReleaseRef,
    pub manifest: Manifest,
}

/// Builds and signs a bundle of these images at `out`.
pub fn release(out: &Path, counter: u64, images: &[(&str, ImageKind, &Path)], level: i32) -> Release {
    let sources: Vec<_> = images
        .iter()
        .map(|(name, kind, path)| ImageSource {
            name: (*name).to_owned(),
            kind: *kind,
            path: (*path).to_owned(),
            chunks: Default::default(),
        })
        .collect();
    let manifest = Manifest {
        compatible: "test".into(),
        hardware: Vec::new(),
        version: semver(counter),
        counter,
        rollback_floor: 0,
        from: None,
        state_schema: None,
        created: "2026-11-20T00:00:00Z".parse().unwrap(),
        images: Vec::new(),
        hooks: Vec::new(),
        attestations: BTreeMap::new(),
        crit: Vec::new(),
    };
    let unsigned = out.with_extension("unsigned");
    let settings = Settings { level, ..Settings::default() };
    let built = build::build(manifest, &sources, &settings, &unsigned, &|_| {}).unwrap();
    let payload = built.manifest.to_bytes().unwrap();
    let mut envelope = Envelope::new(MANIFEST_TYPE, payload);
    let old = envelope.to_bytes().unwrap().len() as u64;
    envelope.sign(&key()).unwrap();
    let mut from = File::open(&unsigned).unwrap();
    let mut to = File::create(out).unwrap();
    build::replace_envelope(&mut from, old, &envelope.to_bytes().unwrap(), &built.manifest, &mut to).unwrap();
    fs::remove_file(unsigned).unwrap();
    let release = ReleaseRef { version: semver(counter), counter, manifest_sha256: built.digest };
    Release { path: out.to_owned(), release, manifest: built.manifest }
}

fn semver<T: std::str::FromStr>(counter: u64) -> T
where
    T::Err: std::fmt::Debug,
{
    format!("1.{counter}.0").parse().unwrap()
}

/// Text, noise and zeros, the same for the same seed. About a third of it compresses.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut out = Vec::with_capacity(len + (64 << 10));
    while out.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let run = usize::try_from(state >> 50).unwrap() + 1;
        match state >> 62 {
            0 => out.resize(out.len() + run * 100, 0),
            1 | 2 => {
                let mut word = state;
                for _ in 0..run {
                    word ^= word << 13;
                    word ^= word >> 7;
                    word ^= word << 17;
                    out.extend_from_slice(&word.to_le_bytes());
                }
            }
            _ => out.extend(b"the quick brown fox jumps over ".iter().cycle().take(run)),
        }
    }
    out.truncate(len);
    out
}

/// Content as dense as a system's, the same for the same seed: about half of it compresses, hardly any zeros.
pub fn files(len: usize, seed: u64) -> Vec<u8> {
    let mut word = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + (16 << 10));
    while out.len() < len {
        for _ in 0..1024 {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend(format!("configuration {word:x} of a service\n").bytes().cycle().take(8 << 10));
    }
    out.truncate(len);
    out
}

/// Patience for tests: the same tries, hardly any pauses.
pub const HASTY: Patience =
    Patience { attempts: 4, first_pause: Duration::from_millis(1), longest_pause: Duration::from_millis(50) };

/// Limits for tests: faults are noticed in a fraction of a second.
pub fn hasty_http() -> http::Settings {
    http::Settings {
        connect_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_millis(700),
        min_bytes_per_second: 2000,
        rate_window: Duration::from_millis(400),
        ..http::Settings::default()
    }
}

/// An installer that writes slot b to these places and keeps its state in `state`; slot a is empty.
pub fn pipeline(state: &Path, places: &[(&str, Place)], settings: &http::Settings, patience: Patience) -> Pipeline {
    Pipeline::new(setup(state, [&[], places], settings, patience))
}

/// A device that runs slot a and writes slot b, both at these places.
pub fn setup(state: &Path, places: [&[(&str, Place)]; 2], settings: &http::Settings, patience: Patience) -> Setup {
    let slot = |places: &[(&str, Place)]| places.iter().map(|(name, at)| ((*name).to_owned(), at.clone())).collect();
    let map = SlotMap::new(PerSlot { a: slot(places[0]), b: slot(places[1]) }).unwrap();
    Setup {
        finder: Finder { map, roots: Roots::default(), root_device: None },
        releases: Releases::new(&state.join("releases")),
        client: http::Client::new(settings).unwrap(),
        base: None,
        trust: Arc::new(|| Ok(trust())),
        patience,
        fallback_limit: None,
        handed: Handed::default(),
        cores: 2,
    }
}

/// A delta between two releases of one image `rootfs`, at `out`; as the channel would offer it from `url`.
pub fn delta(old: (&Release, &Path), new: &Release, out: &Path, url: String) -> DeltaOffer {
    let image = &old.0.manifest.images[0];
    let file = File::open(old.1).unwrap();
    let files = [OldFile { name: image.name.clone(), file, size: image.size, sha256: image.sha256 }];
    let mut bundle = std::io::BufReader::new(File::open(&new.path).unwrap());
    let envelope = read_envelope(&mut bundle).unwrap();
    let reader = RandomReader::new(bundle, envelope.len() as u64, new.manifest.clone()).unwrap();
    let mut new = NewRelease { envelope: &envelope, reader, digest: new.release.manifest_sha256 };
    let settings = Settings { level: 3, ..Settings::default() };
    let from = old.0.release.manifest_sha256;
    let built = build::build_delta(from, &files, &mut new, &settings, out, &|_| {}).unwrap();
    DeltaOffer { from, size: built.size, urls: vec![url], recipes_sha256: Some(built.recipes_sha256) }
}

/// A request to put this release into slot b from there.
pub fn request(release: &ReleaseRef, source: Source) -> InstallRequest {
    let update = Update {
        release: release.clone(),
        target: SlotId::B,
        source,
        delta: None,
        rollout: None,
        intent: Intent::default(),
        by_operator: false,
        state_schema: None,
        rollback_floor: 0,
        size: 0,
        offered_at: None,
        network: Vec::new(),
    };
    InstallRequest { update, booted: SlotId::A }
}

/// SHA-256 of the first `size` bytes at `path`.
pub fn digest_of(path: &Path, size: u64) -> Digest {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    File::open(path).unwrap().take(size).read_to_end(&mut bytes).unwrap();
    Digest::of(&bytes)
}
