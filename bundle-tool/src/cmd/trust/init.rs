//! `bundle-tool trust init`: the first trust root, version 1.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use bundle::dsse::Envelope;
use bundle::trust::{Region, Role, Roles, TRUST_TYPE, TrustRoot};
use jiff::Timestamp;
use serde_json::json;

use crate::{files, output, text};

const EXAMPLE: &str = "Example:
  bundle-tool trust init --root-key keys/root.pem --release keys/release.pub.pem \\
      --region eu-west=keys/eu-west.pub.pem --expires 5y --out trust.dsse.json

The file goes into every image as /usr/lib/flipside/trust.dsse.json.";

/// Make the first trust root and sign it with the root keys
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Private root key, signs this file; several times for several
    #[arg(long, value_name = "KEY.pem", required = true)]
    root_key: Vec<PathBuf>,
    /// Public root key that is not here to sign
    #[arg(long, value_name = "KEY.pub.pem")]
    root: Vec<PathBuf>,
    /// How many root keys must sign a change
    #[arg(long, default_value_t = 1, value_name = "N")]
    root_threshold: u32,
    /// Public release key (says what is genuine); several times for several
    #[arg(long, value_name = "KEY.pub.pem", required = true)]
    release: Vec<PathBuf>,
    /// How many release keys must sign a release
    #[arg(long, default_value_t = 1, value_name = "N")]
    release_threshold: u32,
    /// Public key that approves for a region; several times for several
    #[arg(long, value_name = "NAME=KEY.pub.pem", value_parser = text::pair)]
    region: Vec<(String, String)>,
    /// How many keys of a region must approve (default 1)
    #[arg(long, value_name = "NAME=N", value_parser = text::pair)]
    region_threshold: Vec<(String, String)>,
    /// When a newer trust root should have come: a date, or from now (7d, 5y)
    #[arg(long, default_value = "10y", value_name = "TIME")]
    expires: String,
    /// The file to write; an existing one is not overwritten
    #[arg(long, value_name = "FILE", default_value = "trust.dsse.json")]
    out: PathBuf,
    /// Print facts as JSON
    #[arg(long)]
    json: bool,
}

/// Collects keys and hands their ids out.
#[derive(Default)]
pub struct Keys(pub BTreeMap<String, String>);

impl Keys {
    /// Adds the key in that file.
    pub fn add(&mut self, path: &Path) -> Result<String> {
        let key = files::public_key(path)?;
        let id = key.id().to_string();
        self.0.insert(id.clone(), key.to_pem().to_owned());
        Ok(id)
    }

    fn role<'a>(&mut self, paths: impl IntoIterator<Item = &'a PathBuf>, threshold: u32) -> Result<Role> {
        let mut keys = paths.into_iter().map(|path| self.add(path)).collect::<Result<Vec<_>>>()?;
        keys.sort();
        keys.dedup();
        Ok(Role { keys, threshold })
    }
}

pub fn run(args: &Args) -> Result<()> {
    let mut keys = Keys::default();
    let root = keys.role(args.root_key.iter().chain(&args.root), args.root_threshold)?;
    let release = keys.role(&args.release, args.release_threshold)?;
    let regions = regions(args, &mut keys)?;
    for region in regions.values() {
        if region.approve.keys.iter().any(|key| root.keys.contains(key) || release.keys.contains(key)) {
            eprintln!(
                "warning: a region's online key is also a root or release key; a stolen one could then forge releases"
            );
        }
    }
    let expires = text::time(&args.expires, Timestamp::now())?;
    let roles = Roles { root, release };
    let trust = TrustRoot { version: 1, expires, keys: keys.0, roles, regions, crit: Vec::new() };
    let mut envelope = Envelope::new(TRUST_TYPE, trust.to_bytes()?);
    for path in &args.root_key {
        envelope.sign(&files::private_key(path)?)?;
    }
    let bytes = envelope.to_bytes()?;
    files::write_new(&args.out, &bytes)?;
    let opened = TrustRoot::open(&bytes);
    if args.json {
        let complete = opened.is_ok();
        return output::json(&json!({ "file": args.out, "version": 1, "complete": complete, "expires": expires }));
    }
    match opened {
        Ok(_) => println!("{}: trust root 1, signed, expires {expires}", args.out.display()),
        Err(error) => println!(
            "{}: trust root 1, not complete yet ({error}: {}); add signatures with `bundle-tool sign`",
            args.out.display(),
            std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default()
        ),
    }
    Ok(())
}

fn regions(args: &Args, keys: &mut Keys) -> Result<BTreeMap<String, Region>> {
    let mut regions: BTreeMap<String, Region> = BTreeMap::new();
    for (name, path) in &args.region {
        let id = keys.add(Path::new(path))?;
        let role = Role { keys: Vec::new(), threshold: 1 };
        let region = regions.entry(name.clone()).or_insert(Region { approve: role });
        if !region.approve.keys.contains(&id) {
            region.approve.keys.push(id);
        }
    }
    for (name, threshold) in &args.region_threshold {
        let region =
            regions.get_mut(name).with_context(|| format!("--region-threshold {name}: no --region of that name"))?;
        region.approve.threshold =
            threshold.parse().with_context(|| format!("--region-threshold {name}={threshold}"))?;
    }
    Ok(regions)
}
