//! Deltas of a release that is published. Writes below `deltas/` on the web root.
//!
//! What stands there under a name may be named by the index of another channel, or by one that waits for signatures, and
//! devices may be in the middle of it: it stays as it is. Another delta of the same pair gets a name of its own.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use bundle::channel::{Channel, ChannelDelta};
use bundle::digest::Digest;

use super::Args;
use crate::cmd::delta::{self, Old};
use crate::files;
use crate::progress::Progress;
use crate::release::Release;
use crate::webroot::WebRoot;

/// Above this share of the bundle, in percent, a delta is not worth its reads of the old image: the bundle streams.
const MAX_SHARE: u64 = 65;

/// Deltas from the releases before, those that do not pay left out.
pub fn make(args: &Args, web: &WebRoot, channel: &Channel, digest: &Digest) -> Result<Vec<ChannelDelta>> {
    let full = channel.find(digest).map_or(0, |release| release.size);
    let counter = channel.find(digest).map_or(0, |release| release.release.counter);
    let before = channel.releases.iter().filter(|each| each.release.counter < counter).take(args.deltas);
    let mut made = Vec::new();
    for release in before {
        let from = release.release.manifest_sha256;
        let named = channel.find(digest).and_then(|release| release.deltas.iter().find(|delta| delta.from == from));
        if let Some(delta) = named.filter(|delta| stands(web, delta)) {
            made.push(delta.clone());
            continue;
        }
        let url = WebRoot::delta_url(&from, digest);
        let folder = web.file(&url).parent().context("no folder")?.to_owned();
        files::make_folder(&folder).with_context(|| folder.display().to_string())?;
        let old = Release::open(&web.file(&WebRoot::bundle_url(&from)))?;
        ensure!(old.digest == from, "{} is not the bundle its name says", old.path.display());
        let new = Release::open(&args.bundle)?;
        let progress = Progress::new(args.quiet || args.json);
        // Removed again unless it is put in place.
        let scratch = tempfile::tempdir_in(&folder).with_context(|| folder.display().to_string())?;
        let unnamed = scratch.path().join("delta");
        let old = Old::unpack(&old, &unnamed, &progress)?;
        let built = delta::make(&old, new, &args.effort.settings(), &unnamed, &progress)?;
        if built.size.saturating_mul(100) > full.saturating_mul(MAX_SHARE) {
            eprintln!(
                "note: no delta from {}: it would have {} % of the bundle",
                release.release.version,
                built.size * 100 / full.max(1)
            );
            continue;
        }
        let url = put(web, &unnamed, url, &built.recipes_sha256)?;
        let recipes_sha256 = Some(built.recipes_sha256);
        made.push(ChannelDelta { from, size: built.size, urls: vec![url], recipes_sha256 });
    }
    Ok(made)
}

/// Whether the file that an index names is there, at its size.
fn stands(web: &WebRoot, delta: &ChannelDelta) -> bool {
    let there = |url: &String| fs::metadata(web.file(url)).is_ok_and(|file| file.len() == delta.size);
    delta.urls.first().is_some_and(there)
}

/// Gives a delta its name; that is a second one where another file has the first.
fn put(web: &WebRoot, unnamed: &Path, url: String, recipes: &Digest) -> Result<String> {
    let path = web.file(&url);
    let url = match path.exists() {
        true if same(unnamed, &path).with_context(|| path.display().to_string())? => return Ok(url),
        true => url.replace(".delta", &format!("-{}.delta", recipes.short())),
        false => url,
    };
    web.take(unnamed, &url)?;
    Ok(url)
}

/// Whether two files hold the same bytes.
fn same(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let mut left = one.metadata()?.len();
    if other.metadata()?.len() != left {
        return Ok(false);
    }
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    while left > 0 {
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(a.len());
        let (a, b) = (a.get_mut(..len).unwrap_or_default(), b.get_mut(..len).unwrap_or_default());
        one.read_exact(a)?;
        other.read_exact(b)?;
        if a != b {
            return Ok(false);
        }
        left -= len as u64;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_delta_gets_its_name_without_a_copy() {
        let folder = tempfile::tempdir().unwrap();
        let (web, unnamed) = (WebRoot::new(folder.path()), folder.path().join("unnamed"));
        fs::write(&unnamed, "delta").unwrap();
        let made = fs::metadata(&unnamed).unwrap().ino();
        let url = put(&web, &unnamed, "deltas/x.delta".to_owned(), &Digest::of(b"recipes")).unwrap();
        assert_eq!(fs::metadata(web.file(&url)).unwrap().ino(), made);
    }
}
