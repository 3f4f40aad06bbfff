//! Signed documents that are no bundles: what one is, whose signatures it needs, and what it says.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use bundle::approval::{APPROVAL_TYPE, Approval, ReleaseRef};
use bundle::channel::{CHANNEL_TYPE, Channel};
use bundle::delta::RECIPES_MEMBER;
use bundle::digest::Digest;
use bundle::dsse::Envelope;
use bundle::keys::KeySet;
use bundle::manifest::{MANIFEST_TYPE, Manifest};
use bundle::random::read_envelope;
use bundle::recall::{RECALL_TYPE, Recall};
use bundle::trust::{TRUST_TYPE, TrustRoot};
use serde_json::{Value, json};

use crate::files;
use crate::output::harmless;

/// What a person may expect to sign or see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// What a release is; at the head of its bundle
    Manifest,
    /// The releases of a channel
    Channel,
    /// What a region lets in
    Approval,
    /// What the vendor takes back
    Recall,
    /// Which keys count
    Trust,
}

/// A document that keeps its own rules. Who signed it is another question.
pub enum Document {
    Manifest(Manifest),
    Channel(Channel),
    Approval(Approval),
    Recall(Recall),
    Trust(TrustRoot),
}

impl Document {
    /// Reads what an envelope holds.
    ///
    /// # Errors
    /// When it is none of ours, or breaks the rules of its format.
    pub fn of(envelope: &Envelope) -> Result<Self> {
        let payload = &envelope.payload;
        Ok(match envelope.payload_type.as_str() {
            MANIFEST_TYPE => Self::Manifest(Manifest::parse(payload)?),
            CHANNEL_TYPE => Self::Channel(Channel::parse(payload)?),
            APPROVAL_TYPE => Self::Approval(Approval::parse(payload)?),
            RECALL_TYPE => Self::Recall(Recall::parse(payload)?),
            TRUST_TYPE => Self::Trust(TrustRoot::parse(payload)?),
            other => bail!("it holds {:?}, which is no document of Flipside", harmless(other)),
        })
    }

    /// What it is.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Manifest(_) => Kind::Manifest,
            Self::Channel(_) => Kind::Channel,
            Self::Approval(_) => Kind::Approval,
            Self::Recall(_) => Kind::Recall,
            Self::Trust(_) => Kind::Trust,
        }
    }

    /// The keys that sign such a document, and how many of them must.
    pub fn keys(&self, trust: &TrustRoot) -> (KeySet, usize) {
        match self {
            Self::Manifest(_) | Self::Channel(_) | Self::Recall(_) => trust.release_keys(),
            Self::Approval(approval) => trust.region_keys(&approval.region),
            Self::Trust(_) => trust.root_keys(),
        }
    }

    /// In one line, for the one who is about to sign it.
    pub fn sentence(&self) -> String {
        harmless(&match self {
            Self::Manifest(it) => format!("release {} (counter {}) for {}", it.version, it.counter, it.compatible),
            Self::Channel(it) => {
                format!("index {} of channel {}, {} releases", it.version, it.channel, it.releases.len())
            }
            Self::Approval(it) => {
                format!("approval {} (epoch {}) of {}/{}", it.version, it.epoch, it.region, it.channel)
            }
            Self::Recall(it) => format!("recall {} of channel {}", it.version, it.channel),
            Self::Trust(it) => format!("trust root {}, expires {}", it.version, it.expires),
        })
    }

    /// What it says, a line for each thing.
    pub fn lines(&self) -> Vec<String> {
        let release =
            |it: &ReleaseRef| format!("{} (counter {}, {})", it.version, it.counter, it.manifest_sha256.short());
        let lines: Vec<String> = match self {
            Self::Manifest(it) => {
                it.images.iter().map(|image| format!("image {}: {}", image.name, image.sha256)).collect()
            }
            Self::Channel(it) => it
                .releases
                .iter()
                .map(|each| format!("release {}, {} deltas", release(&each.release), each.deltas.len()))
                .collect(),
            Self::Approval(it) => {
                let entry = |each: &bundle::approval::Entry| {
                    let percent = f64::from(each.threshold_bp) / 100.0;
                    let state = format!("{:?}", each.state).to_lowercase();
                    let more = format!("{} rules, {} holds", each.rules.len(), each.holds.len());
                    format!("rollout {}: {} {state}, up to {percent} %, {more}", each.rollout, release(&each.release))
                };
                let dates = format!("issued {}, expires {}", it.issued, it.expires);
                std::iter::once(dates).chain(it.entries.iter().map(entry)).collect()
            }
            Self::Recall(it) => it
                .recalls
                .iter()
                .map(|each| {
                    let back =
                        each.go_back_to.as_ref().map_or(String::new(), |to| format!(", go back to {}", release(to)));
                    format!("takes back {}{back}: {}", release(&each.release), each.reason)
                })
                .collect(),
            Self::Trust(it) => {
                let role = |name: &str, role: &bundle::trust::Role| {
                    format!("{name}: {} of {}", role.threshold, role.keys.join(", "))
                };
                let regions = it.regions.iter().map(|(name, region)| role(&format!("region {name}"), &region.approve));
                [role("root", &it.roles.root), role("release", &it.roles.release)].into_iter().chain(regions).collect()
            }
        };
        lines.iter().map(|line| harmless(line)).collect()
    }
}

/// An envelope as facts: what it holds, as it stands there, and whose name its signatures bear.
pub fn facts(envelope: &Envelope) -> Result<Value> {
    let document: Value = serde_json::from_slice(&envelope.payload).context("the document is not JSON")?;
    let signatures: Vec<_> = envelope.signatures.iter().map(|each| &each.key_id).collect();
    Ok(json!({
        "type": envelope.payload_type, "payload_sha256": Digest::of(&envelope.payload), "signatures": signatures,
        "document": document,
    }))
}

/// The envelope of a file that is a document and no bundle; none for a bundle, and for standard input.
///
/// # Errors
/// When it can not be read, is no envelope, or is a delta, which is neither.
pub fn read(path: &Path) -> Result<Option<Envelope>> {
    if path == Path::new("-") {
        return Ok(None);
    }
    let what = || path.display().to_string();
    let mut file = File::open(path).with_context(what)?;
    if !file.metadata().with_context(what)?.is_file() {
        // A pipe can not be read twice.
        return Ok(None);
    }
    let mut first = [0];
    if file.read(&mut first).with_context(what)? == 1 && first == *b"{" {
        return Envelope::parse(&files::document(path)?).map(Some).with_context(what);
    }
    if is_delta(&mut file) {
        bail!("{}: a delta; `bundle-tool apply` checks it, with the old image", path.display());
    }
    Ok(None)
}

/// Whether recipes follow the manifest. What is neither is left for others to complain about.
fn is_delta(file: &mut File) -> bool {
    let Ok(envelope) = read_envelope(file) else { return false };
    let mut name = [0; RECIPES_MEMBER.len() + 1];
    let second = 512 + (envelope.len() as u64).next_multiple_of(512);
    file.read_exact_at(&mut name, second).is_ok() && name.strip_suffix(&[0]) == Some(RECIPES_MEMBER.as_bytes())
}
