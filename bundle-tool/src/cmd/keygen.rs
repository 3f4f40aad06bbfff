//! `bundle-tool keygen`: an Ed25519 key pair as PEM.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use bundle::keys::PrivateKey;
use serde_json::json;

use crate::{files, output};

const EXAMPLE: &str = "Example:
  bundle-tool keygen --out keys/release
  openssl pkey -in keys/release.pem -noout -text      # any tool reads it

Keep the private half (release.pem) offline or in a hardware module; only release.pub.pem goes anywhere.";

/// Make a key pair: OUT.pem (private, mode 0600) and OUT.pub.pem
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Where, without extension; existing keys are never overwritten
    #[arg(long, value_name = "OUT")]
    out: PathBuf,
    /// Print facts as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| anyhow::anyhow!("no randomness from the kernel: {error}"))?;
    let private = PrivateKey::from_seed(&seed);
    let public = private.public()?;
    let with = |extension: &str| {
        let mut path = args.out.clone().into_os_string();
        path.push(extension);
        PathBuf::from(path)
    };
    let (private_path, public_path) = (with(".pem"), with(".pub.pem"));
    if let Some(folder) = args.out.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    // The public half may be left over from a lost private one: refuse before anything is written.
    anyhow::ensure!(!public_path.exists(), "{} exists; keys are never overwritten", public_path.display());
    files::write_secret(&private_path, private.to_pem()?.as_bytes())?;
    files::write_new(&public_path, public.to_pem().as_bytes())?;
    if args.json {
        return output::json(&json!({
            "key_id": public.id().to_string(), "private": private_path, "public": public_path,
        }));
    }
    println!("key id   {}", public.id());
    println!("private  {} (keep it safe)", private_path.display());
    println!("public   {}", public_path.display());
    Ok(())
}
