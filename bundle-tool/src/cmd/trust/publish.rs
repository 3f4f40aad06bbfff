//! `bundle-tool trust publish`: a new trust root to where devices look for it.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use bundle::dsse::Envelope;
use serde_json::json;

use crate::webroot::WebRoot;
use crate::{files, output};

/// Put a trust root onto a web root, where devices with the version before it find it
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  bundle-tool trust publish trust-2.dsse.json --previous trust.dsse.json --root /srv/updates"
)]
pub struct Args {
    /// The new trust root, signed by the thresholds of the old and the new one
    file: PathBuf,
    /// The version before it, which devices have
    #[arg(long, value_name = "FILE")]
    previous: PathBuf,
    /// Folder a web server serves
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// Print facts as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let previous = files::trust(&args.previous)?;
    let bytes = files::document(&args.file)?;
    // What devices would refuse must not be put where all of them look.
    let next = previous.accept_next(&bytes).with_context(|| {
        format!("devices with version {} would not accept {}", previous.version, args.file.display())
    })?;
    let path = WebRoot::new(&args.root).trust(next.version);
    if path.exists() {
        let there = Envelope::parse(&files::document(&path)?).with_context(|| path.display().to_string())?;
        let same = Envelope::parse(&bytes)?.payload == there.payload;
        anyhow::ensure!(
            same,
            "{} is there and says something else; some devices follow that one. Rotate from it, to version {}",
            path.display(),
            next.version.saturating_add(1)
        );
    }
    files::replace(&path, &bytes)?;
    if args.json {
        return output::json(&json!({ "file": path, "version": next.version }));
    }
    println!("{}: trust root {}", path.display(), next.version);
    Ok(())
}
