//! `bundle-tool publish`: a bundle onto the web root, and the channel index that names it.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use bundle::approval::ReleaseRef;
use bundle::channel::{CHANNEL_TYPE, Channel, ChannelDelta, ChannelRelease};
use bundle::digest::Digest;
use bundle::dsse::Envelope;
use bundle::keys::{KeySet, PrivateKey};
use bundle::manifest::{MANIFEST_TYPE, Manifest};
use bundle::random::{RandomReader, read_envelope};
use bundle::reason::Reason;
use jiff::Timestamp;
use serde_json::json;

use crate::cmd::delta::Effort;
use crate::cmd::verify::tell_signers;
use crate::content::{self, Believed};
use crate::place::{self, Needed};
use crate::progress::Progress;
use crate::refusal::Refused;
use crate::webroot::{WebRoot, ensure_channel};
use crate::{files, output};

mod deltas;
mod index;
mod keep;

pub use index::{ensure_not_lost, load};

const EXAMPLE: &str = "Example:
  bundle-tool publish demo-2.4.1.bundle --root /srv/updates --channel stable --key keys/release.pem

Writes ROOT/bundles/<digest>.bundle, with --deltas 3 also ROOT/deltas/<from>-<to>.delta for devices that run one of
the last three releases, then ROOT/channels/<channel>/channel.dsse.json, each in one step.
Devices take it only once their region approves it: bundle-tool approve.";

/// Copy a signed bundle onto a web root and add it to a channel
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The bundle; must be signed
    pub bundle: PathBuf,
    /// Folder a web server serves
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// The channel
    #[arg(long)]
    pub channel: String,
    /// Private release key that signs the channel index; several times for several. With --trust it may be left out: the
    /// index then waits beside the present one for signatures, of a hardware module for instance
    #[arg(long, value_name = "KEY.pem", required_unless_present = "trust")]
    pub key: Vec<PathBuf>,
    /// Trust root to hold bundle and channel index against (default: the keys given)
    #[arg(long, value_name = "FILE")]
    pub trust: Option<PathBuf>,
    /// Start a new channel index although the present one is not signed by these keys: only its version is read, to
    /// come above it; the new one names no release but this
    #[arg(long)]
    pub blindly_replace_channel: bool,
    /// Version of the channel index, when its file was lost or somebody else wrote the one that stands there: any above
    /// the highest that devices saw (default: one above the present index)
    #[arg(long, value_name = "N")]
    pub channel_version: Option<u64>,
    /// Make deltas from that many of the releases before
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub deltas: usize,
    /// Name only the newest N releases in the channel index, and those an approval names, also one that waits for
    /// signatures (default: all). It has at most 1 MiB; bundles and deltas of the others stay below ROOT
    #[arg(long, value_name = "N")]
    pub keep: Option<usize>,
    #[command(flatten)]
    pub effort: Effort,
    /// No progress
    #[arg(long, short)]
    pub quiet: bool,
    /// Print facts as JSON
    #[arg(long)]
    pub json: bool,
}

/// What is on the web root now.
pub struct Published {
    manifest: Manifest,
    digest: Digest,
    size: u64,
    url: String,
    deltas: Vec<ChannelDelta>,
    dropped: Vec<ChannelRelease>,
    channel: Channel,
}

impl Published {
    /// As JSON.
    pub fn facts(&self) -> serde_json::Value {
        json!({
            "deltas": self.deltas, "channel": self.channel.channel, "channel_version": self.channel.version,
            "manifest_sha256": self.digest, "version": self.manifest.version, "counter": self.manifest.counter,
            "size": self.size, "url": self.url,
            "dropped": self.dropped.iter().map(|each| each.release.manifest_sha256).collect::<Vec<_>>(),
        })
    }

    /// For people.
    pub fn print(&self, web: &WebRoot) {
        let (manifest, channel) = (&self.manifest, &self.channel);
        println!("release {} (counter {}), manifest {}", manifest.version, manifest.counter, self.digest);
        println!("bundle  {} ({})", web.file(&self.url).display(), output::bytes(self.size));
        for delta in &self.deltas {
            println!("delta   from {} ({})", delta.from.short(), output::bytes(delta.size));
        }
        for dropped in &self.dropped {
            println!("dropped {} (counter {}) from the index", dropped.release.version, dropped.release.counter);
        }
        println!(
            "channel {} version {}: {}",
            channel.channel,
            channel.version,
            web.channel(&channel.channel).display()
        );
    }
}

pub fn run(args: &Args) -> Result<()> {
    let published = publish(args)?;
    if args.json {
        return output::json(&published.facts());
    }
    published.print(&WebRoot::new(&args.root));
    Ok(())
}

/// Copies the bundle, makes deltas, then writes the channel index.
pub fn publish(args: &Args) -> Result<Published> {
    ensure_channel(&args.channel)?;
    let keys = args.key.iter().map(|path| files::private_key(path)).collect::<Result<Vec<_>>>()?;
    let believed = believed(args.trust.as_deref(), &keys)?;
    let by = (&believed.0, believed.1);
    let web = WebRoot::new(&args.root);
    let (manifest, digest, size) = open(&args.bundle, by.0, by.1).with_context(|| args.bundle.display().to_string())?;
    whole(args, &args.bundle, by.0, by.1)?;
    let path = web.channel(&args.channel);
    let _lock = WebRoot::lock(&path)?;
    let (mut channel, present) = index::next(args, &web, by)?;
    let url = WebRoot::bundle_url(&digest);
    // The bundle first: once the index names it, it must be there.
    let size = put(args, &web, digest, by)?.unwrap_or(size);
    add(&mut channel, &manifest, digest, size)?;
    let made = deltas::make(args, &web, &channel, &digest)?;
    if let Some(release) = channel.releases.iter_mut().find(|each| each.release.manifest_sha256 == digest) {
        release.deltas.retain(|each| made.iter().all(|delta| delta.from != each.from));
        release.deltas.extend(made.iter().cloned());
    }
    let dropped = keep::keep(&mut channel, args.keep, &digest, &web)?;
    if let Some(before) = present.filter(|before| args.channel_version.is_none() && says_the_same(before, &channel)) {
        // Done before, or in place since the others signed it.
        return Ok(Published { manifest, digest, size, url, deltas: made, dropped, channel: before });
    }
    let too_large = || format!("{}: `publish --keep N` keeps the newest N releases in it", path.display());
    let mut envelope = Envelope::new(CHANNEL_TYPE, channel.to_bytes().with_context(too_large)?);
    for key in &keys {
        envelope.sign(key)?;
    }
    keep::warn_when_nearly_full(envelope.to_bytes().with_context(too_large)?.len());
    let role = args.trust.is_some().then_some(believed);
    place::replace(&path, &envelope, &Needed::new(role, args.blindly_replace_channel))?;
    keep::warn_of_missing(&channel, &web);
    Ok(Published { manifest, digest, size, url, deltas: made, dropped, channel })
}

/// Nothing of it is new but its number and its time.
fn says_the_same(before: &Channel, channel: &Channel) -> bool {
    Channel { version: channel.version, issued: channel.issued, ..before.clone() } == *channel
}

/// Whose signatures count: the trust root's release role, else any one of the given keys.
pub fn believed(trust: Option<&Path>, keys: &[PrivateKey]) -> Result<(KeySet, usize)> {
    match trust {
        Some(path) => Ok(files::trust(path)?.release_keys()),
        None => Ok((keys.iter().map(PrivateKey::public).collect::<Result<KeySet, _>>()?, 1)),
    }
}

/// A bundle that those keys signed: its manifest, the digest of that, and its size. Frames are not looked at.
pub fn open(path: &Path, keys: &KeySet, threshold: usize) -> Result<(Manifest, Digest, u64)> {
    let mut file = BufReader::new(File::open(path)?);
    let bytes = read_envelope(&mut file)?;
    let envelope = Envelope::parse(&bytes)?;
    if envelope.signatures.is_empty() {
        let why = format!("it is not signed yet: bundle-tool sign {} --key KEY.pem", path.display());
        return Err(Refused(Reason::KeyUnknown, why).into());
    }
    let verified = envelope.verify(MANIFEST_TYPE, keys, threshold).inspect_err(|_| tell_signers(&envelope, keys))?;
    let manifest = Manifest::parse(&verified.payload)?;
    let reader = RandomReader::new(file, bytes.len() as u64, manifest)?;
    Ok((reader.manifest().clone(), Digest::of(&verified.payload), reader.layout().len()))
}

/// Puts the bundle in place. What is there under its name and genuine stays, for devices may be in the middle of it; its
/// size then.
fn put(args: &Args, web: &WebRoot, digest: Digest, by: (&KeySet, usize)) -> Result<Option<u64>> {
    let url = WebRoot::bundle_url(&digest);
    let there = web.file(&url);
    let genuine = there.exists() && whole(args, &there, by.0, by.1).is_ok();
    if genuine && has_all_signatures(&there, &args.bundle)? {
        let (_, present, size) = open(&there, by.0, by.1)?;
        if present == digest {
            return Ok(Some(size));
        }
    }
    web.put(&args.bundle, &url).map(|()| None)
}

/// Whether every key that signed the bundle signed the one that is there: a signature that came later is to be served.
fn has_all_signatures(there: &Path, bundle: &Path) -> Result<bool> {
    let ids = |path: &Path| -> Result<Vec<String>> {
        let envelope = Envelope::parse(&read_envelope(&mut BufReader::new(File::open(path)?))?)?;
        Ok(envelope.signatures.into_iter().map(|each| each.key_id).collect())
    };
    let (there, own) = (ids(there)?, ids(bundle)?);
    Ok(own.iter().all(|id| there.contains(id)))
}

/// Every frame of the bundle: a byte that flipped on the way here would go to the whole fleet, under a name that never
/// changes.
fn whole(args: &Args, bundle: &Path, keys: &KeySet, threshold: usize) -> Result<()> {
    let believed = Believed { keys: keys.clone(), threshold };
    let progress = Progress::new(args.quiet || args.json);
    let opened = content::open(content::input(bundle)?, Some(&believed))?;
    opened.check(&progress, &mut |_, _| Ok(())).with_context(|| bundle.display().to_string())?;
    Ok(())
}

fn add(channel: &mut Channel, manifest: &Manifest, digest: Digest, size: u64) -> Result<()> {
    let release = ReleaseRef { version: manifest.version.clone(), counter: manifest.counter, manifest_sha256: digest };
    free(channel, &release.version, release.counter, Some(digest))?;
    let deltas = channel.find(&digest).map(|each| each.deltas.clone()).unwrap_or_default();
    channel.releases.retain(|each| each.release.manifest_sha256 != digest);
    channel.releases.push(ChannelRelease { release, size, urls: vec![WebRoot::bundle_url(&digest)], deltas });
    channel.releases.sort_by_key(|each| std::cmp::Reverse(each.release.counter));
    channel.issued = now()?;
    Ok(())
}

/// The version after this one. The highest there is has none: devices that saw it take nothing any more.
pub fn raised(version: u64, what: &str) -> Result<u64> {
    version.checked_add(1).with_context(|| format!("{what} has the highest version there is, {version}"))
}

/// Refuses a version or counter that another release than `digest` has already.
pub fn free(channel: &Channel, version: &semver::Version, counter: u64, digest: Option<Digest>) -> Result<()> {
    let clash = channel
        .releases
        .iter()
        .map(|each| &each.release)
        .find(|each| Some(each.manifest_sha256) != digest && (each.counter == counter || each.version == *version));
    let Some(clash) = clash else { return Ok(()) };
    let (version, counter) = (&clash.version, clash.counter);
    let why = format!(
        "the channel already has another release {version} with counter {counter}; counters rise and are never used twice"
    );
    Err(Refused(Reason::CounterRollback, why).into())
}

/// To the second: nobody needs more, and documents stay short.
pub fn now() -> Result<Timestamp> {
    Ok(Timestamp::from_second(Timestamp::now().as_second())?)
}
