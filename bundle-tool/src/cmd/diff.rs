//! `bundle-tool diff`: what a device that runs one release would fetch for another.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::bychunks;
use crate::cmd::delta::{Effort, Old, make, stats};
use crate::output::{self, bytes};
use crate::progress::Progress;
use crate::release::Release;

const EXAMPLE: &str = "Example:
  bundle-tool diff demo-2.4.0.bundle demo-2.4.1.bundle";

/// Say what a device running OLD would fetch for NEW
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The bundle that devices run
    old: PathBuf,
    /// The bundle they are to run
    new: PathBuf,
    #[command(flatten)]
    effort: Effort,
    /// No progress
    #[arg(long, short)]
    quiet: bool,
    /// Print facts as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let progress = Progress::new(args.quiet);
    let (mut old, mut new) = (Release::open(&args.old)?, Release::open(&args.new)?);
    let full = new.size();
    let chunks = bychunks::compare(&mut old, &mut new).context("comparing chunks")?;
    let scratch = tempfile::tempdir().context("making a temporary folder")?;
    let out = scratch.path().join("delta");
    let old = Old::unpack(&old, &out, &progress)?;
    let built = make(&old, new, &args.effort.settings(), &out, &progress)?;
    if args.json {
        return output::json(&json!({
            "from": built.from, "to": built.to, "full": full, "delta": built.size, "stats": stats(&built),
            "by_chunks": chunks.total(), "chunks": chunks,
        }));
    }
    let share = |n: u64| n as f64 * 100.0 / full.max(1) as f64;
    println!("in full   {:>10}", bytes(full));
    println!("by delta  {:>10}  {:.1} %", bytes(built.size), share(built.size));
    println!(
        "by chunks {:>10}  {:.1} %  ({} of {} frames, {} of addresses)",
        bytes(chunks.total()),
        share(chunks.total()),
        chunks.frames_fetched,
        chunks.frames_fetched + chunks.frames_built,
        bytes(chunks.addresses)
    );
    Ok(())
}
