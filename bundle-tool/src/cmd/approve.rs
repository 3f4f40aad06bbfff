//! `bundle-tool approve`: what a region allows, for whom, now.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bundle::approval::{APPROVAL_TYPE, Approval, Entry, RolloutState, SALT_LEN};
use bundle::channel::Channel;
use bundle::dsse::Envelope;
use bundle::keys::KeySet;

use crate::cmd::publish::{self, now};
use crate::place::{self, Needed};
use crate::webroot::{WebRoot, ensure_channel, is_release};
use crate::{files, output, text};

mod change;
mod rank;

const EXAMPLE: &str = "Examples:
  bundle-tool approve --root /srv/updates --region eu-west --channel stable --release 2.4.1 \\
      --key keys/eu-west.pem --threshold 1% --rule ring=canary:100% --hold hardware=rev-a:known-bad-nic
  … --release 2.4.1 --threshold 25%       # go on: everything else stays as it was
  … --release 2.4.1 --halt                # stop it for good
  … --expires 7d                          # only renew; every change renews
  … --release 2.4.1 --window mon,tue@01:00+180 --expires 14d --max-stale 12h

The document is made when it is missing; its version rises with every change.";

/// Create or change a region's approval
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Folder a web server serves
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// The region
    #[arg(long)]
    region: String,
    /// The channel
    #[arg(long)]
    channel: String,
    /// Private key of the region; several times for several. With --trust it may be left out: the document then waits
    /// beside the present one for signatures, of a hardware module for instance
    #[arg(long, value_name = "KEY.pem", required_unless_present = "trust")]
    key: Vec<PathBuf>,
    /// Release to approve or change: version, manifest digest, or the first 8 or more digits of it
    #[arg(long, value_name = "VERSION|DIGEST")]
    release: Option<String>,
    #[command(flatten)]
    change: change::Change,
    /// When the approval ends: a date, or from now (default: as long from now as the document before; 7d for a new one)
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
    /// How long devices may use a stored copy (default 6h)
    #[arg(long, value_name = "DURATION", value_parser = text::seconds)]
    max_stale: Option<u64>,
    /// Raise the epoch, after a stolen region key: outranks every version signed so far
    #[arg(long)]
    raise_epoch: bool,
    /// Begin this epoch, when a thief may have signed higher ones than the document on the web root shows
    #[arg(long, value_name = "N", conflicts_with = "raise_epoch")]
    epoch: Option<u64>,
    /// Start a new document although the present one is not signed by these keys: only its epoch and version are read,
    /// to outrank them; it approves nothing until told
    #[arg(long)]
    blindly_replace_approval: bool,
    /// Trust root to count the signatures against
    #[arg(long, value_name = "FILE")]
    trust: Option<PathBuf>,
    /// Print the document as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<()> {
    ensure_channel(&args.channel)?;
    let keys = args.key.iter().map(|path| files::private_key(path)).collect::<Result<Vec<_>>>()?;
    let web = WebRoot::new(&args.root);
    let path = web.approval(&args.region, &args.channel);
    let now = now()?;
    let role = args.trust.as_deref().map(|trust| role(trust, &args.region)).transpose()?;
    let _lock = WebRoot::lock(&path)?;
    let believed = match &role {
        Some(role) => role.clone(),
        None => publish::believed(None, &keys)?,
    };
    let mut approval = rank::next(&path, args, &believed, now)?;
    approval.expires = match &args.expires {
        Some(expires) => text::time(expires, now)?,
        None => now.checked_add(approval.expires.duration_since(approval.issued))?,
    };
    approval.issued = now;
    approval.max_stale_seconds = args.max_stale.unwrap_or(approval.max_stale_seconds);
    match &args.release {
        Some(wanted) => edit(&mut approval, &web, args, wanted)?,
        None => ensure!(args.change.is_empty(), "say which release to change: --release VERSION"),
    }
    approval.crit = crit(&approval);
    let mut envelope = Envelope::new(APPROVAL_TYPE, approval.to_bytes()?);
    for key in &keys {
        envelope.sign(key)?;
    }
    place::replace(&path, &envelope, &Needed::new(role, args.blindly_replace_approval))?;
    if args.json {
        return output::json(&approval);
    }
    print(&approval, &path);
    Ok(())
}

/// Who approves for that region. Where nobody may, a document would wait for signatures for ever.
fn role(trust: &Path, region: &str) -> Result<(KeySet, usize)> {
    let root = files::trust(trust)?;
    let listed = root.regions.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let listed = if listed.is_empty() { "none" } else { &listed };
    ensure!(
        root.regions.contains_key(region),
        "the trust root {} has no region {region:?}; it lists: {listed}",
        trust.display()
    );
    Ok(root.region_keys(region))
}

fn edit(approval: &mut Approval, web: &WebRoot, args: &Args, wanted: &str) -> Result<()> {
    let place = approval.entries.iter().position(|entry| is_release(&entry.release, wanted));
    if args.change.removes() {
        let place = place.with_context(|| format!("no rollout of {wanted} to remove"))?;
        approval.entries.remove(place);
        return Ok(());
    }
    if let Some(entry) = place.and_then(|place| approval.entries.get(place)) {
        warn_when_gone(entry, web, args);
    }
    let place = match place {
        Some(place) => place,
        None => {
            approval.entries.push(new_entry(web, args, wanted)?);
            approval.entries.len() - 1
        }
    };
    match approval.entries.get_mut(place) {
        Some(entry) => args.change.apply(entry),
        None => Ok(()),
    }
}

/// Says so when a rollout names what the channel's index does not, or not any more: another bundle of the same version,
/// say, took its place.
fn warn_when_gone(entry: &Entry, web: &WebRoot, args: &Args) {
    let Ok(channel) = index(web, &args.channel) else { return };
    let named = &entry.release.manifest_sha256;
    if channel.releases.iter().all(|each| each.release.manifest_sha256 != *named) {
        eprintln!(
            "warning: channel {} does not name this {} (manifest {named}), and devices refuse it; publish it again, or \
             --remove the rollout and approve anew",
            args.channel, entry.release.version
        );
    }
}

/// The index of a channel. Not verified: the region does not hold the release keys, and devices check the release itself
/// anyway.
fn index(web: &WebRoot, channel: &str) -> Result<Channel> {
    let path = web.channel(channel);
    let envelope = Envelope::parse(&files::document(&path)?).with_context(|| path.display().to_string())?;
    Channel::parse(&envelope.payload).with_context(|| path.display().to_string())
}

fn new_entry(web: &WebRoot, args: &Args, wanted: &str) -> Result<Entry> {
    let channel = index(web, &args.channel)?;
    let mut found = channel.releases.iter().filter(|each| is_release(&each.release, wanted));
    let release = found.next().with_context(|| {
        let names = channel.releases.iter().map(|each| each.release.version.to_string()).collect::<Vec<_>>();
        format!("channel {} has no release {wanted}; it has {}", args.channel, names.join(", "))
    })?;
    ensure!(found.next().is_none(), "{wanted} names several releases; give more digits");
    let mut salt = [0; SALT_LEN];
    getrandom::fill(&mut salt).map_err(|error| anyhow::anyhow!("no randomness from the kernel: {error}"))?;
    Ok(Entry {
        rollout: release.release.version.to_string(),
        state: RolloutState::Rolling,
        priority: 0,
        release: release.release.clone(),
        salt: STANDARD.encode(salt),
        // Nobody, until somebody says how many.
        threshold_bp: 0,
        rules: Vec::new(),
        holds: Vec::new(),
        window: None,
        urls: Vec::new(),
    })
}

/// Fields that restrict: a reader that does not know one of them must not go on as if it were not there.
fn crit(approval: &Approval) -> Vec<String> {
    let any = |is_used: fn(&Entry) -> bool| approval.entries.iter().any(is_used);
    let used = [
        ("rules", any(|entry| !entry.rules.is_empty())),
        ("holds", any(|entry| !entry.holds.is_empty())),
        ("window", any(|entry| entry.window.is_some())),
    ];
    used.into_iter().filter(|(_, used)| *used).map(|(name, _)| name.to_owned()).collect()
}

fn print(approval: &Approval, path: &Path) {
    println!(
        "{}: {} {}, epoch {}, version {}",
        path.display(),
        approval.region,
        approval.channel,
        approval.epoch,
        approval.version
    );
    println!("valid until {}, stored copies for {} s", approval.expires, approval.max_stale_seconds);
    for entry in &approval.entries {
        let state = format!("{:?}", entry.state).to_lowercase();
        let share = f64::from(entry.threshold_bp) / 100.0;
        println!("  {} (counter {}): {state}, {share} % of devices", entry.release.version, entry.release.counter);
        entry.rules.iter().for_each(|rule| {
            println!("    {}: {} %", change::describe(&rule.matches), f64::from(rule.threshold_bp) / 100.0);
        });
        entry
            .holds
            .iter()
            .for_each(|hold| println!("    held for {}: {}", change::describe(&hold.matches), hold.reason));
        if let Some(window) = &entry.window {
            println!("    activated {:?} from {} for {} minutes", window.days, window.start, window.minutes);
        }
    }
}
