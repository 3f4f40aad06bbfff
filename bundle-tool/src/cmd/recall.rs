//! `bundle-tool recall`: take a release back.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use bundle::approval::ReleaseRef;
use bundle::channel::{CHANNEL_TYPE, Channel};
use bundle::dsse::Envelope;
use bundle::keys::KeySet;
use bundle::recall::{RECALL_TYPE, Recall, Recalled};
use jiff::Timestamp;

use crate::cmd::publish::{self, now, raised};
use crate::place::{self, Needed};
use crate::webroot::{WebRoot, ensure_channel, ensure_own, is_release};
use crate::{files, output};

const EXAMPLE: &str = "Example:
  bundle-tool recall --root /srv/updates --channel stable --key keys/release.pem \\
      --release 2.4.1 --go-back-to 2.4.0 --reason 'loses settings'

Devices do not install a recalled release any more. Those that run it go back when their other slot still holds the
release named by --go-back-to; the others stay until a newer release comes.";

/// Take a release back, signed by the release keys
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Folder a web server serves
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// The channel
    #[arg(long)]
    channel: String,
    /// Private release key; several times for several. With --trust it may be left out: the recall then waits for
    /// signatures, of a hardware module for instance
    #[arg(long, value_name = "KEY.pem", required_unless_present = "trust")]
    key: Vec<PathBuf>,
    /// Release to recall: version, manifest digest, or the first 8 or more digits of it
    #[arg(long, value_name = "VERSION|DIGEST")]
    release: String,
    /// Release to go back to
    #[arg(long, value_name = "VERSION|DIGEST")]
    go_back_to: Option<String>,
    /// Why, for people
    #[arg(long, value_name = "TEXT", required_unless_present = "lift")]
    reason: Option<String>,
    /// Take the recall itself back
    #[arg(long, conflicts_with_all = ["go_back_to", "reason"])]
    lift: bool,
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
    let believed = publish::believed(args.trust.as_deref(), &keys)?;
    let web = WebRoot::new(&args.root);
    let path = web.recall(&args.channel);
    let channel_path = web.channel(&args.channel);
    let channel = Channel::parse(&payload(&channel_path, CHANNEL_TYPE, &believed)?)?;
    ensure_own(&channel_path, "channel", &args.channel, &channel.channel)?;
    let _lock = WebRoot::lock(&path)?;
    let mut recall = if path.exists() {
        let present = Recall::parse(&payload(&path, RECALL_TYPE, &believed)?)?;
        ensure_own(&path, "channel", &args.channel, &present.channel)?;
        present
    } else {
        let issued = Timestamp::UNIX_EPOCH;
        Recall { channel: args.channel.clone(), version: 0, issued, recalls: Vec::new(), crit: Vec::new() }
    };
    let release = find(&channel, &recall, &args.release)?;
    // Before the entry goes: it may be all that still knows the release.
    let go_back_to = args.go_back_to.as_deref().map(|wanted| find(&channel, &recall, wanted)).transpose()?;
    recall.recalls.retain(|each| each.release.manifest_sha256 != release.manifest_sha256);
    if let Some(reason) = args.reason.as_ref().filter(|_| !args.lift) {
        recall.recalls.push(Recalled { release, go_back_to, reason: reason.clone() });
    }
    recall.version = raised(recall.version, "the recall")?;
    recall.issued = now()?;
    let mut envelope = Envelope::new(RECALL_TYPE, recall.to_bytes()?);
    for key in &keys {
        envelope.sign(key)?;
    }
    place::replace(&path, &envelope, &Needed::new(args.trust.is_some().then_some(believed), false))?;
    if args.json {
        return output::json(&recall);
    }
    println!("{}: version {}", path.display(), recall.version);
    for each in &recall.recalls {
        let back = each.go_back_to.as_ref().map(|to| format!(", back to {}", to.version)).unwrap_or_default();
        println!("  {} (counter {}) is recalled{back}: {}", each.release.version, each.release.counter, each.reason);
    }
    Ok(())
}

/// What stands there, when those keys signed it.
fn payload(path: &Path, kind: &str, (keys, threshold): &(KeySet, usize)) -> Result<Vec<u8>> {
    let envelope = Envelope::parse(&files::document(path)?).with_context(|| path.display().to_string())?;
    Ok(envelope.verify(kind, keys, *threshold).with_context(|| path.display().to_string())?.payload)
}

/// In the index, or among what was recalled before: `publish --keep` may have taken it out of the index since.
fn find(channel: &Channel, recall: &Recall, wanted: &str) -> Result<ReleaseRef> {
    let named = recall.recalls.iter().flat_map(|each| std::iter::once(&each.release).chain(&each.go_back_to));
    let found = channel.releases.iter().map(|each| &each.release).chain(named).find(|each| is_release(each, wanted));
    let none = || {
        format!(
            "channel {} has no release {wanted}; one that `publish --keep` took out of its index can be recalled when \
             its bundle has been published again",
            channel.channel
        )
    };
    found.cloned().with_context(none)
}
