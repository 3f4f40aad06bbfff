//! `bundle-tool delta`: how devices that run one release make the next.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use bundle::build::{BuiltDelta, Event, NewRelease, Settings, build_delta};
use serde_json::json;

use crate::output::{self, bytes};
use crate::progress::Progress;
use crate::release::Release;

const EXAMPLE: &str = "Example:
  bundle-tool delta demo-2.4.0.bundle demo-2.4.1.bundle --out 2.4.0-2.4.1.delta

`publish --deltas N` makes and publishes the deltas from the last N releases by itself.";

/// Make a delta between two bundles
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The bundle that devices run
    old: PathBuf,
    /// The bundle they are to run; must be signed, the delta carries its manifest
    new: PathBuf,
    /// The delta to write; it appears when it is complete
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    effort: Effort,
    /// No progress
    #[arg(long, short)]
    quiet: bool,
    /// Print facts as JSON
    #[arg(long)]
    json: bool,
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
    let (old, new) = (Release::open(&args.old)?, Release::open(&args.new)?);
    anyhow::ensure!(new.signatures > 0, "{} is not signed; devices would refuse its delta", args.new.display());
    let full = new.size();
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

/// Builds a delta between two opened bundles.
pub fn make(old: &Release, new: Release, settings: &Settings, out: &Path, progress: &Progress) -> Result<BuiltDelta> {
    let folder = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let images = old.unpack(folder, progress)?;
    let report = |event: Event<'_>| match event {
        Event::Image { name, size } => progress.begin(name, size),
        Event::Frame { raw, .. } => progress.advance(raw),
    };
    let mut release = NewRelease { envelope: &new.envelope, reader: new.reader, digest: new.digest };
    let built = build_delta(old.digest, &images, &mut release, settings, out, &report)
        .with_context(|| format!("building {}", out.display()))?;
    progress.finish();
    Ok(built)
}
