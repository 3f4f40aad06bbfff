//! A device in memory: every seam of the engine over shared, inspectable state, with faults on demand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bundle::approval::{APPROVAL_TYPE, Approval, Entry, ReleaseRef, RolloutState};
use bundle::channel::{CHANNEL_TYPE, Channel, ChannelRelease};
use bundle::digest::Digest;
use bundle::dsse::Envelope as Dsse;
use bundle::keys::PrivateKey;
use bundle::manifest::{Blob, Image, ImageKind, Manifest};
use bundle::reason::Reason;
use bundle::trust::{Region, Role, Roles, TrustRoot};
use jiff::Timestamp;
use updater_core::effect::EvidenceRequest;
use updater_core::event::{HealthCheck, HealthReport, Surroundings, Transfer, Verdict};
use updater_core::facts::{Boot, BootFacts, BootId, SlotBoot};
use updater_core::history::Report;
use updater_core::machine::Setup;
use updater_core::now::Now;
use updater_core::policy::{Device, HealthPolicy, Mode, Policy, RetryPolicy};
use updater_core::release::{Source, Update, VerifiedManifest};
use updater_core::slot::{PerSlot, SlotId};

use super::super::Seams;
use crate::seams::*;
use crate::trust::TrustStore;

const NOW: &str = "2026-11-21T12:00:00Z";

pub(super) struct World {
    pub log: Arc<Mutex<Vec<String>>>,
    pub facts: Mutex<BootFacts>,
    pub journal: Mutex<Option<Vec<u8>>>,
    pub journal_broken: AtomicBool,
    /// The boot loader's state can be read and not be written.
    pub boot_broken: AtomicBool,
    pub healthy: AtomicBool,
    pub health_hangs: AtomicBool,
    /// What the network check reaches is away.
    pub offline: AtomicBool,
    pub installer_waits: AtomicBool,
    /// No release fits into a slot.
    pub full: AtomicBool,
    /// Whether it does is never found out.
    pub looks_for_ever: AtomicBool,
    /// How the next installs end.
    pub disk_faults: Mutex<Vec<Reason>>,
    pub updater_broken: AtomicBool,
    pub approval: Mutex<Option<Vec<u8>>>,
    pub channel: Vec<u8>,
    pub recall: Mutex<Option<Vec<u8>>>,
    /// Trust roots that the server has, by version.
    pub roots: Mutex<BTreeMap<u64, Vec<u8>>>,
    pub manifest: VerifiedManifest,
    start: Instant,
    pub trust: Arc<TrustStore>,
    _folder: tempfile::TempDir,
}

pub(super) fn key(seed: u8) -> PrivateKey {
    PrivateKey::from_seed(&[seed; 32])
}

pub(super) fn sign(kind: &str, payload: Vec<u8>, by: &PrivateKey) -> Vec<u8> {
    let mut envelope = Dsse::new(kind, payload);
    envelope.sign(by).unwrap();
    envelope.to_bytes().unwrap()
}

pub(super) fn role(key: &PrivateKey) -> Role {
    Role { keys: vec![key.public().unwrap().id().to_string()], threshold: 1 }
}

pub(super) fn trust_root() -> TrustRoot {
    let (root, release, region) = (key(1), key(2), key(3));
    let keys = [&root, &release, &region].map(|key| key.public().unwrap());
    TrustRoot {
        version: 1,
        expires: "2036-01-01T00:00:00Z".parse().unwrap(),
        keys: keys.iter().map(|key| (key.id().to_string(), key.to_pem().to_owned())).collect(),
        roles: Roles { root: role(&root), release: role(&release) },
        regions: [("eu-west".to_owned(), Region { approve: role(&region) })].into(),
        crit: Vec::new(),
    }
}

fn manifest() -> VerifiedManifest {
    let blob = Blob { size: 1, sha256: Digest::of(b"x") };
    let image = Image {
        name: "rootfs".into(),
        kind: ImageKind::Block,
        size: 4096,
        sha256: Digest::of(b"image"),
        index: blob,
        chunks: None,
        payload: blob,
        frame_size: None,
        level: None,
    };
    let manifest = Manifest {
        compatible: "demo".into(),
        hardware: Vec::new(),
        version: "2.0.0".parse().unwrap(),
        counter: 2,
        rollback_floor: 0,
        from: None,
        state_schema: None,
        created: NOW.parse().unwrap(),
        images: vec![image],
        hooks: Vec::new(),
        attestations: Default::default(),
        crit: Vec::new(),
    };
    VerifiedManifest { manifest, digest: Digest::of(b"manifest of 2.0.0") }
}

/// The region's word on `release`, signed by the key of `seed` (3 is the region's).
pub(super) fn approval(release: ReleaseRef, state: RolloutState, seed: u8) -> Vec<u8> {
    let entry = Entry {
        rollout: "spring".into(),
        state,
        priority: 0,
        release,
        salt: "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".into(),
        threshold_bp: 10_000,
        rules: Vec::new(),
        holds: Vec::new(),
        window: None,
        urls: Vec::new(),
    };
    let approval = Approval {
        kind: "approval/v1".into(),
        region: "eu-west".into(),
        channel: "stable".into(),
        epoch: 1,
        version: 1,
        issued: "2026-11-21T11:00:00Z".parse().unwrap(),
        expires: "2026-11-28T11:00:00Z".parse().unwrap(),
        max_stale_seconds: 3600,
        entries: vec![entry],
        crit: Vec::new(),
    };
    sign(APPROVAL_TYPE, approval.to_bytes().unwrap(), &key(seed))
}

impl World {
    /// A device that runs a confirmed slot a; release 2 is published and approved.
    pub fn new() -> Arc<Self> {
        let manifest = manifest();
        let folder = tempfile::tempdir().unwrap();
        let release =
            ChannelRelease { release: manifest.release(), size: 1, urls: vec!["b".into()], deltas: Vec::new() };
        let channel = Channel {
            channel: "stable".into(),
            version: 1,
            issued: "2026-11-21T11:00:00Z".parse().unwrap(),
            releases: vec![release],
            crit: Vec::new(),
        };
        Arc::new(Self {
            log: Arc::default(),
            facts: Mutex::new(BootFacts {
                boot_id: BootId("boot-1".into()),
                booted: Some(SlotId::A),
                slots: PerSlot { a: SlotBoot::Confirmed, b: SlotBoot::Empty },
            }),
            journal: Mutex::default(),
            journal_broken: AtomicBool::new(false),
            boot_broken: AtomicBool::new(false),
            healthy: AtomicBool::new(true),
            health_hangs: AtomicBool::new(false),
            offline: AtomicBool::new(false),
            installer_waits: AtomicBool::new(false),
            full: AtomicBool::new(false),
            looks_for_ever: AtomicBool::new(false),
            disk_faults: Mutex::default(),
            updater_broken: AtomicBool::new(false),
            approval: Mutex::new(Some(approval(manifest.release(), RolloutState::Rolling, 3))),
            channel: sign(CHANNEL_TYPE, channel.to_bytes().unwrap(), &key(2)),
            recall: Mutex::default(),
            roots: Mutex::default(),
            manifest,
            start: Instant::now(),
            trust: Arc::new(TrustStore::of(trust_root(), folder.path())),
            _folder: folder,
        })
    }

    pub fn setup() -> Setup {
        let device = Device {
            compatible: "demo".into(),
            hardware: "rev-a".into(),
            id: "dev-0001".into(),
            ring: None,
            labels: Default::default(),
            build_time: "2026-11-01T00:00:00Z".parse().unwrap(),
            image_counter: Some(1),
        };
        let moment = Duration::from_millis(5);
        let policy = Policy {
            mode: Mode::Apply,
            region: "eu-west".into(),
            health: HealthPolicy {
                deadline: Duration::from_secs(5),
                soak: moment,
                interval: moment,
                strikes: 2,
                network_required: false,
            },
            retry: RetryPolicy { base: moment, cap: moment },
            ..Policy::default()
        };
        let boot = Boot { id: BootId("boot-1".into()), slot: Some(SlotId::A) };
        Setup { device, policy, version: "test".into(), boot }
    }

    pub fn seams(self: &Arc<Self>) -> Seams {
        Seams {
            boot: self.clone(),
            clock: self.clone(),
            releases: self.clone(),
            approvals: self.clone(),
            surroundings: self.clone(),
            evidence: self.clone(),
            health: self.clone(),
            inhibitors: self.clone(),
            installer: self.clone(),
            journal: self.clone(),
            rebooter: self.clone(),
            rehearsal: self.clone(),
            reports: self.clone(),
            trust: self.trust.clone(),
        }
    }

    /// What the boot loader does: another boot, of the slot it would choose.
    pub fn reboot_into(&self, slot: SlotId, boot: &str) {
        let mut facts = self.facts.lock().unwrap();
        facts.boot_id = BootId(boot.into());
        facts.booted = Some(slot);
        if let SlotBoot::Trying { left, done } = *facts.slots.get(slot) {
            *facts.slots.get_mut(slot) = SlotBoot::Trying { left: left - 1, done: done + 1 };
        }
    }

    pub fn did(&self, what: &str) -> bool {
        self.log.lock().unwrap().iter().any(|line| line == what)
    }

    /// The log without what happens over and over.
    pub fn story(&self) -> Vec<String> {
        let mut told = BTreeSet::new();
        self.log.lock().unwrap().iter().filter(|line| told.insert((*line).clone())).cloned().collect()
    }

    fn note(&self, what: impl Into<String>) {
        self.log.lock().unwrap().push(what.into());
    }

    fn network_check(&self) -> HealthCheck {
        let verdict = if self.offline.load(Ordering::SeqCst) { Verdict::Failed } else { Verdict::Passed };
        HealthCheck { name: "gateway".into(), required: false, verdict, detail: String::new(), restarts: 0 }
    }

    fn change(&self, what: String, slot: SlotId, to: SlotBoot) -> Result<BootFacts, BootError> {
        self.note(what);
        let mut facts = self.facts.lock().unwrap();
        *facts.slots.get_mut(slot) = to;
        Ok(facts.clone())
    }
}

impl BootControl for World {
    fn facts(&self) -> Result<BootFacts, BootError> {
        Ok(self.facts.lock().unwrap().clone())
    }
    fn clear(&self, slot: SlotId) -> Result<BootFacts, BootError> {
        self.change(format!("clear {slot}"), slot, SlotBoot::Empty)
    }
    fn arm(&self, slot: SlotId, tries: u8) -> Result<BootFacts, BootError> {
        self.change(format!("arm {slot}"), slot, SlotBoot::Trying { left: tries, done: 0 })
    }
    fn confirm(&self, slot: SlotId) -> Result<BootFacts, BootError> {
        self.change(format!("confirm {slot}"), slot, SlotBoot::Confirmed)
    }
    fn reject(&self, slot: SlotId) -> Result<BootFacts, BootError> {
        self.change(format!("reject {slot}"), slot, SlotBoot::Exhausted { done: 1 })
    }
    fn self_test(&self) -> Result<(), BootError> {
        self.note("self-test");
        if self.boot_broken.load(Ordering::SeqCst) {
            return Err(BootError::new(BootErrorKind::Write, "read-only file system"));
        }
        Ok(())
    }
}

impl Clock for World {
    fn now(&self) -> Now {
        let wall: Timestamp = NOW.parse().unwrap();
        Now { wall, wall_trusted: true, uptime: Duration::from_secs(100) + self.start.elapsed(), random: 7 }
    }
}

impl ReleaseSource for World {
    fn channel<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Envelope, DocumentError>> {
        let envelope = Envelope { bytes: self.channel.clone(), origin: "memory".into(), live: true };
        Box::pin(async move { Ok(envelope) })
    }

    fn recall<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Envelope, DocumentError>> {
        let served = self.recall.lock().unwrap().clone();
        Box::pin(async move { Self::served(served) })
    }

    fn trust(&self, version: u64) -> BoxFuture<'_, Result<Envelope, DocumentError>> {
        let served = self.roots.lock().unwrap().get(&version).cloned();
        Box::pin(async move { Self::served(served) })
    }
}

impl World {
    fn served(document: Option<Vec<u8>>) -> Result<Envelope, DocumentError> {
        let none = || DocumentError { reason: Reason::NoUpdate, detail: "404".into(), retry_after: None };
        document.map(|bytes| Envelope { bytes, origin: "memory".into(), live: true }).ok_or_else(none)
    }
}

impl ApprovalSource for World {
    fn approvals<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        fetch: bool,
    ) -> BoxFuture<'a, (Vec<Envelope>, Vec<DocumentError>)> {
        let bytes = self.approval.lock().unwrap().clone();
        let failure = DocumentError { reason: Reason::ApprovalMissing, detail: "404".into(), retry_after: None };
        Box::pin(async move {
            match bytes {
                Some(bytes) => (vec![Envelope { bytes, origin: "memory".into(), live: fetch }], vec![]),
                None => (vec![], vec![failure]),
            }
        })
    }
    fn keep<'a>(&'a self, _: &'a Envelope) -> BoxFuture<'a, Result<(), DocumentError>> {
        Box::pin(async { Ok(()) })
    }
}

impl SurroundingsProbe for World {
    fn look(&self) -> BoxFuture<'_, Surroundings> {
        Box::pin(async { Surroundings::default() })
    }
}

impl Evidence for World {
    fn keep<'a>(&'a self, request: &'a EvidenceRequest) -> BoxFuture<'a, Result<(), String>> {
        self.note(format!("evidence {}", request.reason));
        Box::pin(async { Ok(()) })
    }
}

impl Rehearsal for World {
    fn rehearse(&self, slot: SlotId) -> BoxFuture<'_, Result<(), RehearsalError>> {
        self.note(format!("rehearse {slot}"));
        let broken = self.updater_broken.load(Ordering::SeqCst);
        Box::pin(async move { if broken { Err(RehearsalError("no trust root".into())) } else { Ok(()) } })
    }
}

impl HealthProbe for World {
    fn check(&self) -> BoxFuture<'_, HealthReport> {
        let verdict = if self.healthy.load(Ordering::SeqCst) { Verdict::Passed } else { Verdict::Failed };
        let check = HealthCheck { name: "app".into(), required: true, verdict, detail: String::new(), restarts: 0 };
        let network = self.network_check();
        let hangs = self.health_hangs.load(Ordering::SeqCst);
        Box::pin(async move {
            if hangs {
                std::future::pending::<()>().await;
            }
            HealthReport { checks: vec![check, network] }
        })
    }
    fn network(&self) -> BoxFuture<'_, HealthReport> {
        self.note("network");
        let check = self.network_check();
        Box::pin(async move { HealthReport { checks: vec![check] } })
    }
}

struct Held(Arc<Mutex<Vec<String>>>);

impl Hold for Held {}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.lock().unwrap().push("let go".to_owned());
    }
}

impl Inhibitors for World {
    fn hold<'a>(&'a self, why: &'a str) -> BoxFuture<'a, Option<Box<dyn Hold>>> {
        self.note(format!("hold {why}"));
        let held: Box<dyn Hold> = Box::new(Held(Arc::clone(&self.log)));
        Box::pin(async { Some(held) })
    }
}

impl Installer for World {
    fn manifest<'a>(
        &'a self,
        _: &'a Source,
        _: Option<&'a ReleaseRef>,
    ) -> BoxFuture<'a, Result<VerifiedManifest, InstallError>> {
        Box::pin(async { Ok(self.manifest.clone()) })
    }
    fn fits<'a>(&'a self, _: &'a Update) -> BoxFuture<'a, Result<(), InstallError>> {
        self.note("look for room");
        Box::pin(async move {
            if self.looks_for_ever.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            if self.full.load(Ordering::SeqCst) { Err(InstallError::new(Reason::NoSpace, "too small")) } else { Ok(()) }
        })
    }
    fn install<'a>(
        &'a self,
        request: &'a InstallRequest,
        _: &'a ProgressSink,
        cancel: &'a Cancel,
    ) -> BoxFuture<'a, Result<Transfer, InstallError>> {
        self.note(format!("install {}", request.update.target));
        Box::pin(async move {
            if self.installer_waits.load(Ordering::SeqCst) {
                cancel.cancelled().await;
                self.note("install cancelled");
                return Err(InstallError::new(Reason::Cancelled, "cancelled"));
            }
            match self.disk_faults.lock().unwrap().pop() {
                Some(reason) => Err(InstallError::new(reason, "the disk says no")),
                None => Ok(Transfer::default()),
            }
        })
    }
    fn verify<'a>(
        &'a self,
        request: &'a InstallRequest,
        _: &'a ProgressSink,
        _: &'a Cancel,
    ) -> BoxFuture<'a, Result<(), InstallError>> {
        self.note(format!("verify {}", request.update.target));
        Box::pin(async { Ok(()) })
    }
}

impl JournalStore for World {
    fn load(&self) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.journal.lock().unwrap().clone())
    }
    fn save(&self, bytes: &[u8]) -> Result<(), StoreError> {
        if self.journal_broken.load(Ordering::SeqCst) {
            return Err(StoreError::Io("the disk is full".into()));
        }
        let value: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        let phase = match &value["phase"] {
            serde_json::Value::String(name) => name.clone(),
            serde_json::Value::Object(map) => map.keys().next().unwrap().clone(),
            other => panic!("a phase is a name or an object, not {other}"),
        };
        self.note(format!("save {phase}"));
        *self.journal.lock().unwrap() = Some(bytes.to_vec());
        Ok(())
    }
}

impl Rebooter for World {
    fn reboot(&self) -> BoxFuture<'_, Result<(), RebootError>> {
        self.note("reboot");
        Box::pin(async { Ok(()) })
    }
}

impl ReportSpool for World {
    fn append<'a>(&'a self, _: &'a Report) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }
}
