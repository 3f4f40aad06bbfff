//! `bundle-tool build`: from images and a recipe to an unsigned bundle.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use bundle::build::{Built, Event, Settings, Source};
use bundle::manifest::{ImageKind, Manifest};
use jiff::Timestamp;
use serde_json::json;

use crate::output::{self, bytes};
use crate::progress::Progress;
use crate::recipe::Recipe;
use crate::text;

const EXAMPLE: &str = r#"Example of a bundle.toml:
  compatible = "demo-appliance"
  version = "2.4.1"           # semver, for people
  counter = 57                # strictly rising, for machines
  hardware = ["rev-*"]        # optional; also: rollback_floor, from, state_schema, hooks, attestations

  [[image]]
  name = "rootfs"
  kind = "block"              # or "file", or "tree" (path is then a folder)
  path = "rootfs.ext4"        # beside this file

Example:
  bundle-tool build bundle.toml --out demo-2.4.1.bundle
  bundle-tool sign demo-2.4.1.bundle --key keys/release.pem

Reproducible: the same inputs give the same bytes, at any number of threads (`created` or SOURCE_DATE_EPOCH set)."#;

/// Build an unsigned bundle from a recipe
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The recipe
    #[arg(default_value = "bundle.toml")]
    recipe: PathBuf,
    /// The bundle to write; it appears when it is complete
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// zstd level, 1 to 22 (default 19)
    #[arg(long)]
    level: Option<i32>,
    /// Raw size of a frame (default 1MiB)
    #[arg(long, value_name = "SIZE", value_parser = text::size)]
    frame_size: Option<u32>,
    /// Threads (default: all cores, as far as 300 MB allow)
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Version instead of the recipe's
    #[arg(long, value_name = "SEMVER")]
    release_version: Option<semver::Version>,
    /// Counter instead of the recipe's
    #[arg(long, value_name = "N")]
    counter: Option<u64>,
    /// No progress
    #[arg(long, short)]
    quiet: bool,
    /// Print facts as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let recipe = Recipe::read(&args.recipe)?;
    let mut manifest = recipe.manifest(build_time()?);
    manifest.version = args.release_version.clone().unwrap_or(manifest.version);
    manifest.counter = args.counter.unwrap_or(manifest.counter);
    recipe.check_plan(&manifest).with_context(|| args.recipe.display().to_string())?;
    let sources = recipe.sources(args.recipe.parent().unwrap_or(Path::new("")))?;
    let mut settings = recipe.settings()?;
    settings.level = args.level.unwrap_or(settings.level);
    settings.frame_size = args.frame_size.unwrap_or(settings.frame_size);
    settings.threads = args.threads.unwrap_or(settings.threads);
    let started = Instant::now();
    let built = package(manifest, &sources, &settings, &args.out, args.quiet)?;

    let seconds = started.elapsed().as_secs_f64();
    let raw: u64 = built.frames.iter().map(|stats| stats.raw).sum();
    if args.json {
        return output::json(&json!({
            "bundle": args.out, "size": built.size, "raw": raw, "seconds": seconds,
            "version": built.manifest.version, "counter": built.manifest.counter, "manifest_sha256": built.digest,
        }));
    }
    println!("{}: {} from {} of images, {seconds:.1} s", args.out.display(), bytes(built.size), bytes(raw));
    println!("release {} (counter {}), manifest {}", built.manifest.version, built.manifest.counter, built.digest);
    println!("not signed yet: bundle-tool sign {} --key release.pem", args.out.display());
    Ok(())
}

/// Builds the bundle, with advice and progress on standard error.
pub fn package(manifest: Manifest, sources: &[Source], settings: &Settings, out: &Path, quiet: bool) -> Result<Built> {
    for source in sources {
        if let Some(advice) = advice(source)? {
            eprintln!("note: {}: {advice}", source.name);
        }
    }
    let progress = Progress::new(quiet);
    let report = |event: Event<'_>| match event {
        Event::Image { name, size } => progress.begin(name, size),
        Event::Frame { raw, .. } => progress.advance(raw),
    };
    let built = bundle::build::build(manifest, sources, settings, out, &report)
        .with_context(|| format!("building {}", out.display()))?;
    progress.finish();
    Ok(built)
}

/// `SOURCE_DATE_EPOCH` (reproducible-builds.org), else now, to the second.
pub fn build_time() -> Result<Timestamp> {
    let seconds = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text.parse().with_context(|| format!("SOURCE_DATE_EPOCH={text:?} is not a number of seconds"))?,
        Err(_) => Timestamp::now().as_second(),
    };
    Timestamp::from_second(seconds).context("SOURCE_DATE_EPOCH is out of range")
}

/// What an image that is itself compressed costs, and what to do instead.
///
/// Measured: of a 29 MB update, 12 were a compressed initrd that would have been 3 as plain cpio.
fn advice(source: &Source) -> Result<Option<&'static str>> {
    if source.kind == ImageKind::Tree {
        return Ok(None);
    }
    let mut head = Vec::new();
    let file = File::open(&source.path).with_context(|| format!("image {}: {}", source.name, source.path.display()))?;
    file.take(8).read_to_end(&mut head).with_context(|| format!("reading {}", source.path.display()))?;
    Ok(advice_for(&head))
}

fn advice_for(head: &[u8]) -> Option<&'static str> {
    match head {
        [b'h', b's', b'q', b's', ..] => Some(
            "squashfs is compressed inside, so updates can reuse little; ext4 or uncompressed erofs make them smaller",
        ),
        [0x28, 0xb5, 0x2f, 0xfd, ..]
        | [0x1f, 0x8b, ..]
        | [0xfd, b'7', b'z', b'X', b'Z', ..]
        | [0x04, 0x22, 0x4d, 0x18, ..] => Some(
            "it is compressed already, so updates can reuse little of it; store it plain (initramfs-tools: COMPRESS=cat)",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressed_images_get_advice_and_plain_ones_none() {
        assert!(advice_for(b"hsqs1234").unwrap().contains("squashfs"));
        assert!(advice_for(&[0x28, 0xb5, 0x2f, 0xfd, 0, 0]).unwrap().contains("COMPRESS=cat"));
        assert!(advice_for(b"070701").is_none() && advice_for(b"").is_none());
    }
}
