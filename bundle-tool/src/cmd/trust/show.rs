//! `bundle-tool trust show`: a trust root in words.

use std::path::PathBuf;

use anyhow::Result;
use bundle::trust::Role;

use crate::{files, output};

/// Show what a trust root says; refuses one that is not signed as it must be
#[derive(clap::Args)]
#[command(after_help = "Example:\n  bundle-tool trust show trust.dsse.json")]
pub struct Args {
    /// The trust root
    file: PathBuf,
    /// Print facts as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let trust = files::trust(&args.file)?;
    if args.json {
        return output::json(&trust);
    }
    println!("trust root {}, expires {}", trust.version, trust.expires);
    let role = |name: &str, role: &Role| {
        println!("{name}: {} of {} must sign", role.threshold, role.keys.len());
        role.keys.iter().for_each(|key| println!("  {key}"));
    };
    role("root (may replace this file)", &trust.roles.root);
    role("release (says what is genuine)", &trust.roles.release);
    trust.regions.iter().for_each(|(name, region)| role(&format!("region {name} (approves)"), &region.approve));
    Ok(())
}
