//! `bundle-tool delta`: how devices that run one release make the next.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Instant;

use anyhow::{Context as _, Result};
use bundle::build::{BuiltDelta, Event, NewRelease, OldFile, Settings, build_delta};
use bundle::digest::Digest;
use bundle::dsse::Envelope;
use bundle::manifest::{Image, Manifest};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::cmd::sign::Signable;
use crate::output::{self, bytes};
use crate::progress::Progress;
use crate::release::Release;

const EXAMPLE: &str = "Example:
  bundle-tool delta demo-2.4.0.bundle demo-2.4.1.bundle --out 2.4.0-2.4.1.delta

Example with the old image instead of the bundle it went into; its manifest tells which release it is:
  tar xf demo-2.4.0.bundle manifest.dsse.json
  bundle-tool delta manifest.dsse.json demo-2.4.1.bundle --old-image rootfs=rootfs-2.4.0.ext4 --out 2.4.0-2.4.1.delta

`publish --deltas N` makes and publishes the deltas from the last N releases by itself.";

/// Make a delta between two bundles, or from old images to a bundle
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The bundle that devices run; with --old-image, its manifest.dsse.json is enough
    old: PathBuf,
    /// The bundle they are to run; must be signed, the delta carries its manifest
    new: PathBuf,
    /// The delta to write; it appears when it is complete
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// An image of the old release as a file, instead of unpacking the bundle; each of its images must be given
    #[arg(long, value_name = "NAME=FILE")]
    old_image: Vec<OldImage>,
    #[command(flatten)]
    effort: Effort,
    /// No progress
    #[arg(long, short)]
    quiet: bool,
    /// Print facts as JSON
    #[arg(long)]
    json: bool,
}

/// An image and where it lies.
#[derive(Debug, Clone)]
struct OldImage {
    name: String,
    file: PathBuf,
}

impl FromStr for OldImage {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((name, file)) if !name.is_empty() && !file.is_empty() => {
                Ok(Self { name: name.to_owned(), file: file.into() })
            }
            _ => Err("write it as NAME=FILE, for example rootfs=rootfs.ext4"),
        }
    }
}

/// How hard to try.
#[derive(clap::Args, Debug, Clone, Copy, Default)]
pub struct Effort {
    /// zstd level, 1 to 22 (default 19)
    #[arg(long)]
    pub level: Option<i32>,
    /// Threads, about 65 MB of memory each (default: all cores, as far as a gigabyte allows)
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}

impl Effort {
    /// As settings of the library.
    pub fn settings(&self) -> Settings {
        let default = Settings::default();
        Settings {
            level: self.level.unwrap_or(default.level),
            threads: self.threads.unwrap_or(default.threads),
            ..default
        }
    }
}

pub fn run(args: &Args) -> Result<()> {
    let progress = Progress::new(args.quiet);
    let started = Instant::now();
    let new = Release::open(&args.new)?;
    anyhow::ensure!(new.signatures > 0, "{} is not signed; devices would refuse its delta", args.new.display());
    let full = new.size();
    let old = if args.old_image.is_empty() {
        Old::unpack(&Release::open(&args.old)?, &args.out, &progress)?
    } else {
        Old::of_images(&args.old, &args.old_image, &progress)?
    };
    let built = make(&old, new, &args.effort.settings(), &args.out, &progress)?;
    let seconds = started.elapsed().as_secs_f64();
    if args.json {
        return output::json(&json!({
            "delta": args.out, "size": built.size, "from": built.from, "to": built.to, "full": full,
            "recipes_sha256": built.recipes_sha256, "seconds": seconds, "stats": stats(&built),
        }));
    }
    let stats = built.stats;
    let share = built.size as f64 * 100.0 / full.max(1) as f64;
    println!("{}: {}, {share:.1} % of the bundle, {seconds:.1} s", args.out.display(), bytes(built.size));
    println!(
        "frames: {} as they are, {} zeros, {} with prefix, {} split, {} plain; reads {} of the old image",
        stats.copied,
        stats.zeros,
        stats.prefixed,
        stats.split,
        stats.plain,
        bytes(stats.old_read)
    );
    Ok(())
}

/// Counts as JSON.
pub fn stats(built: &BuiltDelta) -> serde_json::Value {
    let stats = built.stats;
    json!({
        "copied": stats.copied, "zeros": stats.zeros, "plain": stats.plain, "prefixed": stats.prefixed,
        "split": stats.split, "patch": stats.patch, "old_read": stats.old_read,
    })
}

/// A release that devices run, and its images.
pub struct Old {
    digest: Digest,
    images: Vec<OldFile>,
}

impl Old {
    /// The release of a bundle, its images unpacked beside `out`.
    pub fn unpack(release: &Release, out: &Path, progress: &Progress) -> Result<Self> {
        let folder = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(Self { digest: release.digest, images: release.unpack(folder, progress)? })
    }

    /// The release whose manifest is at the head of `manifest`, with images that lie there as files.
    fn of_images(manifest: &Path, given: &[OldImage], progress: &Progress) -> Result<Self> {
        let signable = Signable::open(manifest)?;
        let payload = Envelope::parse(signable.envelope()).with_context(|| manifest.display().to_string())?.payload;
        let parsed = Manifest::parse(&payload).with_context(|| format!("the manifest in {}", manifest.display()))?;
        if let Some(stranger) = given.iter().find(|each| parsed.images.iter().all(|image| image.name != each.name)) {
            anyhow::bail!("release {} has no image {:?}", parsed.version, stranger.name);
        }
        let images = parsed.images.iter().map(|image| {
            let given = given.iter().find(|each| each.name == image.name);
            let given = given.with_context(|| {
                format!("image {0:?} of release {1} is not given; add --old-image {0}=FILE", image.name, parsed.version)
            })?;
            let file = whole(image, &given.file, progress).with_context(|| {
                format!("{} as {:?} of release {}", given.file.display(), image.name, parsed.version)
            })?;
            Ok(OldFile { name: image.name.clone(), file, size: image.size, sha256: image.sha256 })
        });
        Ok(Self { digest: Digest::of(&payload), images: images.collect::<Result<_>>()? })
    }
}

/// That file, when it is the image.
fn whole(image: &Image, path: &Path, progress: &Progress) -> Result<File> {
    let file = File::open(path)?;
    let (mut hash, mut rest, mut buffer) = (Sha256::new(), (&file).take(image.size), vec![0; 1 << 20]);
    progress.begin(&image.name, image.size);
    loop {
        let read = rest.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hash.update(buffer.get(..read).unwrap_or_default());
        progress.advance(read as u64);
    }
    progress.finish();
    anyhow::ensure!(rest.limit() == 0, "it has {} bytes, the image has {}", image.size - rest.limit(), image.size);
    let read = Digest(hash.finalize().into());
    anyhow::ensure!(
        read == image.sha256,
        "it is another image: its SHA-256 is {read}, the manifest says {}",
        image.sha256
    );
    Ok(file)
}

/// Builds a delta from a release to an opened bundle.
pub fn make(old: &Old, new: Release, settings: &Settings, out: &Path, progress: &Progress) -> Result<BuiltDelta> {
    let report = |event: Event<'_>| match event {
        Event::Image { name, size } => progress.begin(name, size),
        Event::Frame { raw, .. } => progress.advance(raw),
    };
    let mut release = NewRelease { envelope: &new.envelope, reader: new.reader, digest: new.digest };
    let built = build_delta(old.digest, &old.images, &mut release, settings, out, &report)
        .with_context(|| format!("building {}", out.display()))?;
    progress.finish();
    Ok(built)
}
