//! One install, as the daemon does it, with what it cost: for `bench/install.sh`.
//!
//! The real installer over real devices, without bus, policy and boot loader. It writes the device it is given and its
//! own state folder, and prints facts as `key=value` lines. Installing into `a` first makes a running slot for a later
//! install into `b`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, anyhow};
use bundle::approval::ReleaseRef;
use bundle::trust::TrustRoot;
use clap::Parser;
use tokio::sync::watch;
use updater::handed::Handed;
use updater::http::{self, retry::Patience};
use updater::install::place::Finder;
use updater::install::{Pipeline, Setup};
use updater::seams::{Cancel, InstallRequest, Installer as _};
use updater::slots::{Place, Roots, SlotMap};
use updater::store::Releases;
use updater_core::release::{DeltaOffer, Intent, Source, Update};
use updater_core::slot::{PerSlot, SlotId};

/// Installs a bundle into a slot and prints seconds, bytes and memory.
#[derive(Parser)]
struct Args {
    /// The bundle: a web address or a path
    bundle: String,
    /// Device of slot a
    #[arg(long)]
    a: String,
    /// Device of slot b
    #[arg(long)]
    b: String,
    /// Write slot a, not b
    #[arg(long)]
    into_a: bool,
    /// Trust root
    #[arg(long)]
    trust: PathBuf,
    /// Folder that remembers what the slots hold
    #[arg(long)]
    state: PathBuf,
    /// Read the target back and compare
    #[arg(long)]
    read_back: bool,
    /// Web address of a delta from the release in the other slot
    #[arg(long, requires = "from")]
    delta: Option<String>,
    /// Size of the delta in bytes
    #[arg(long, default_value_t = 0)]
    delta_size: u64,
    /// Manifest digest of the release in the other slot
    #[arg(long, requires = "recipes")]
    from: Option<String>,
    /// SHA-256 of the delta's recipes, as the channel names it
    #[arg(long)]
    recipes: Option<String>,
}

impl Args {
    /// The device as far as an install sees it.
    fn pipeline(&self) -> anyhow::Result<Pipeline> {
        let envelope = std::fs::read(&self.trust).with_context(|| self.trust.display().to_string())?;
        let trust = TrustRoot::open(&envelope).context("the trust root")?;
        let slot = |device: &str| anyhow::Ok(BTreeMap::from([("rootfs".to_owned(), Place::block(device)?)]));
        let places = PerSlot { a: slot(&self.a)?, b: slot(&self.b)? };
        Ok(Pipeline::new(Setup {
            finder: Finder { map: SlotMap::new(places)?, roots: Roots::default(), root_device: None },
            releases: Releases::new(&self.state.join("releases")),
            client: http::Client::new(&http::Settings::default())?,
            base: None,
            trust: Arc::new(move || Ok(trust.clone())),
            patience: Patience::default(),
            fallback_limit: None,
            handed: Handed::default(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        }))
    }

    fn source(&self) -> Source {
        if self.bundle.contains("://") {
            Source::Urls(vec![self.bundle.clone()])
        } else {
            Source::Path(self.bundle.clone())
        }
    }

    fn offer(&self) -> anyhow::Result<Option<DeltaOffer>> {
        let (Some(url), Some(from), Some(recipes)) = (&self.delta, &self.from, &self.recipes) else { return Ok(None) };
        let digest = |text: &String| text.parse().map_err(|_| anyhow!("{text} is not a digest"));
        let (from, recipes_sha256) = (digest(from)?, Some(digest(recipes)?));
        Ok(Some(DeltaOffer { from, size: self.delta_size, urls: vec![url.clone()], recipes_sha256 }))
    }

    fn request(&self, release: ReleaseRef) -> anyhow::Result<InstallRequest> {
        let (target, booted) = if self.into_a { (SlotId::A, SlotId::B) } else { (SlotId::B, SlotId::A) };
        let update = Update {
            release,
            target,
            source: self.source(),
            delta: self.offer()?,
            rollout: None,
            intent: Intent::default(),
            by_operator: false,
            state_schema: None,
            rollback_floor: 0,
            size: 0,
            offered_at: None,
            network: Vec::new(),
        };
        Ok(InstallRequest { update, booted })
    }
}

fn main() -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(measure(&Args::parse()))
}

async fn measure(args: &Args) -> anyhow::Result<()> {
    let pipeline = args.pipeline()?;
    let (sink, _progress) = watch::channel(None);
    let cancel = Cancel::new();
    let start = Instant::now();
    let head = pipeline.manifest(&args.source(), None).await.context("reading the manifest")?;
    let manifest = head.manifest;
    let release = ReleaseRef { version: manifest.version, counter: manifest.counter, manifest_sha256: head.digest };
    let request = args.request(release)?;
    let transfer = pipeline.install(&request, &sink, &cancel).await.context("installing")?;
    println!("install_s={}", start.elapsed().as_secs_f64());
    println!(
        "fetched_bytes={}\nreused_bytes={}\nwritten_bytes={}",
        transfer.fetched, transfer.reused, transfer.written
    );
    if args.read_back {
        let start = Instant::now();
        pipeline.verify(&request, &sink, &cancel).await.context("reading back")?;
        println!("read_back_s={}", start.elapsed().as_secs_f64());
    }
    println!("peak_kib={}", peak_kib()?);
    Ok(())
}

/// The most memory this process ever had: `VmHWM` of `proc(5)`, in KiB.
fn peak_kib() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
