//! `bundle-tool trust rotate`: the next version of a trust root.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use bundle::dsse::Envelope;
use bundle::trust::{Region, Role, TRUST_TYPE, TrustRoot};
use jiff::Timestamp;
use serde_json::json;

use crate::{files, output, text};

const EXAMPLE: &str = "Example: replace a stolen release key
  bundle-tool trust rotate trust.dsse.json --out trust-2.dsse.json --root-key keys/root.pem \\
      --add-release keys/release-2.pub.pem --remove-release 56cfcf3b0f26
  bundle-tool trust publish trust-2.dsse.json --previous trust.dsse.json --root /srv/updates

Devices take versions one at a time, and only when the root keys of the old *and* of the new version signed.
Keys are removed by id, or the first 8 or more digits of it. Signatures may be added later: bundle-tool sign.";

/// Make the next version of a trust root and sign it
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The present trust root
    file: PathBuf,
    /// The file to write; an existing one is not overwritten
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Private root key, old or new, signs the file; several times for several
    #[arg(long, value_name = "KEY.pem")]
    root_key: Vec<PathBuf>,
    /// When a newer trust root should have come: a date, or from now (default: the date stays)
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
    /// Add a public root key
    #[arg(long, value_name = "KEY.pub.pem")]
    add_root: Vec<PathBuf>,
    /// Remove a root key
    #[arg(long, value_name = "ID")]
    remove_root: Vec<String>,
    /// How many root keys must sign
    #[arg(long, value_name = "N")]
    root_threshold: Option<u32>,
    /// Add a public release key
    #[arg(long, value_name = "KEY.pub.pem")]
    add_release: Vec<PathBuf>,
    /// Remove a release key
    #[arg(long, value_name = "ID")]
    remove_release: Vec<String>,
    /// How many release keys must sign
    #[arg(long, value_name = "N")]
    release_threshold: Option<u32>,
    /// Add a public key of a region, and the region when it is new
    #[arg(long, value_name = "NAME=KEY.pub.pem", value_parser = text::pair)]
    add_region: Vec<(String, String)>,
    /// Remove a key of a region
    #[arg(long, value_name = "NAME=ID", value_parser = text::pair)]
    remove_region: Vec<(String, String)>,
    /// How many keys of a region must sign
    #[arg(long, value_name = "NAME=N", value_parser = text::pair)]
    region_threshold: Vec<(String, String)>,
    /// Print facts as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let old = files::trust(&args.file)?;
    let mut next = old.clone();
    next.version = old.version.checked_add(1).context("there is no version after this one")?;
    let now = Timestamp::now();
    if let Some(expires) = &args.expires {
        next.expires = text::time(expires, now)?;
    }
    anyhow::ensure!(next.expires > now, "the trust root would have expired on {}; say --expires TIME", next.expires);
    let keys = &mut next.keys;
    let mut add = |role: &mut Role, path: &Path| -> Result<()> {
        let key = files::public_key(path)?;
        let id = key.id().to_string();
        keys.insert(id.clone(), key.to_pem().to_owned());
        if !role.keys.contains(&id) {
            role.keys.push(id);
        }
        Ok(())
    };
    args.add_root.iter().try_for_each(|path| add(&mut next.roles.root, path))?;
    args.add_release.iter().try_for_each(|path| add(&mut next.roles.release, path))?;
    for (name, path) in &args.add_region {
        let empty = Region { approve: Role { keys: Vec::new(), threshold: 1 } };
        let region = next.regions.entry(name.clone()).or_insert(empty);
        add(&mut region.approve, Path::new(path))?;
    }
    args.remove_root.iter().try_for_each(|id| remove(&mut next.roles.root, id))?;
    args.remove_release.iter().try_for_each(|id| remove(&mut next.roles.release, id))?;
    for (name, id) in &args.remove_region {
        remove(&mut region(&mut next, name)?.approve, id)?;
    }
    next.roles.root.threshold = args.root_threshold.unwrap_or(next.roles.root.threshold);
    next.roles.release.threshold = args.release_threshold.unwrap_or(next.roles.release.threshold);
    for (name, threshold) in &args.region_threshold {
        region(&mut next, name)?.approve.threshold =
            threshold.parse().with_context(|| format!("{name}={threshold}"))?;
    }
    forget_unused(&mut next);
    write(args, &old, &next)
}

fn region<'a>(trust: &'a mut TrustRoot, name: &str) -> Result<&'a mut Region> {
    trust.regions.get_mut(name).with_context(|| format!("no region {name:?} in the trust root"))
}

fn remove(role: &mut Role, id: &str) -> Result<()> {
    anyhow::ensure!(id.len() >= 8, "{id:?}: name a key by at least 8 digits of its id");
    let before = role.keys.len();
    role.keys.retain(|key| !key.starts_with(id));
    anyhow::ensure!(before == role.keys.len() + 1, "{id:?} names {} keys of this role", before - role.keys.len());
    Ok(())
}

/// A key that no role names must not linger: somebody would take it for a trusted one.
fn forget_unused(trust: &mut TrustRoot) {
    let roles = [&trust.roles.root, &trust.roles.release].into_iter();
    let used: Vec<String> =
        roles.chain(trust.regions.values().map(|region| &region.approve)).flat_map(|role| role.keys.clone()).collect();
    trust.keys.retain(|id, _| used.contains(id));
}

fn write(args: &Args, old: &TrustRoot, next: &TrustRoot) -> Result<()> {
    let mut envelope = Envelope::new(TRUST_TYPE, next.to_bytes()?);
    for path in &args.root_key {
        envelope.sign(&files::private_key(path)?)?;
    }
    let bytes = envelope.to_bytes()?;
    files::write_new(&args.out, &bytes)?;
    let accepted = old.accept_next(&bytes);
    if args.json {
        let complete = accepted.is_ok();
        return output::json(
            &json!({ "file": args.out, "version": next.version, "complete": complete, "expires": next.expires }),
        );
    }
    match accepted {
        Ok(_) => println!(
            "{}: trust root {}, expires {}, devices with version {} accept it",
            args.out.display(),
            next.version,
            next.expires,
            old.version
        ),
        Err(error) => {
            let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            println!(
                "{}: trust root {}, expires {}, not complete yet ({why}); add signatures with `bundle-tool sign`",
                args.out.display(),
                next.version,
                next.expires
            );
        }
    }
    Ok(())
}
