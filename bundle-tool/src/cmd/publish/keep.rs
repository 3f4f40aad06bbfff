//! How many releases a channel index names: it has at most 1 MiB, and every release stays in it until somebody says.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use bundle::approval::Approval;
use bundle::channel::{Channel, ChannelRelease};
use bundle::digest::Digest;
use bundle::dsse::Envelope;
use bundle::json::DOCUMENT;

use crate::files;
use crate::webroot::WebRoot;

/// Takes all but the newest `keep` releases out of the index; gives those that went.
///
/// The one just published stays, and so does whatever an approval on this web root names, also one that waits for
/// signatures: devices that may take it find its URL here. Deltas from a release that went stay: devices may still run
/// it.
pub fn keep(
    channel: &mut Channel,
    keep: Option<usize>,
    published: &Digest,
    web: &WebRoot,
) -> Result<Vec<ChannelRelease>> {
    let Some(keep) = keep.filter(|keep| *keep < channel.releases.len()) else { return Ok(Vec::new()) };
    let approved = approved(web, &channel.channel)?;
    let mut dropped = Vec::new();
    let mut place = 0;
    channel.releases.retain(|each| {
        place += 1;
        let digest = &each.release.manifest_sha256;
        let stays = place <= keep || digest == published || approved.contains(digest);
        if !stays {
            dropped.push(each.clone());
        }
        stays
    });
    Ok(dropped)
}

/// Manifests that an approval of any region names for the channel, or one that waits for signatures.
pub fn approved(web: &WebRoot, channel: &str) -> Result<BTreeSet<Digest>> {
    let mut named = BTreeSet::new();
    let regions = match fs::read_dir(web.approvals()) {
        Ok(regions) => regions,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(named),
        Err(error) => return Err(error).with_context(|| format!("reading {}", web.approvals().display())),
    };
    for region in regions {
        let region = region.with_context(|| format!("reading {}", web.approvals().display()))?;
        let live = web.approval(&region.file_name().to_string_lossy(), channel);
        for path in [WebRoot::pending(&live), live].iter().filter(|path| path.exists()) {
            named.extend(named_by(path).with_context(|| format!("which releases {} approves", path.display()))?);
        }
    }
    Ok(named)
}

/// Not verified: who publishes need not have the regions' keys, and a wrong one only keeps too much.
fn named_by(approval: &Path) -> Result<Vec<Digest>> {
    let approval = Approval::parse(&Envelope::parse(&files::document(approval)?)?.payload)?;
    Ok(approval.entries.iter().map(|entry| entry.release.manifest_sha256).collect())
}

/// Says which releases an approval names and the index does not: devices can not take them. Of a new index after a loss.
pub fn warn_of_missing(channel: &Channel, web: &WebRoot) {
    let Ok(mut missing) = approved(web, &channel.channel) else { return };
    missing.retain(|digest| channel.releases.iter().all(|each| each.release.manifest_sha256 != *digest));
    if !missing.is_empty() {
        let digests: Vec<String> = missing.iter().map(ToString::to_string).collect();
        eprintln!(
            "warning: an approval names what the index does not, and devices refuse it; publish it again: manifest {}",
            digests.join(", ")
        );
    }
}

/// Says when the index nears what readers accept, while there is still time to choose.
pub fn warn_when_nearly_full(bytes: usize) {
    if bytes > DOCUMENT.bytes / 10 * 8 {
        eprintln!(
            "note: the channel index has {} of the 1 MiB that devices accept; `publish --keep N` keeps the newest N releases",
            crate::output::bytes(bytes as u64)
        );
    }
}
