//! A delta that was offered, opened: its recipes kept and proven, its members found.

use std::fs::File;
use std::io::{BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bundle::delta::{DeltaError, MAX_RECIPES_SIZE, RECIPES_MEMBER, Section, check_recipes, delta_layout};
use bundle::digest::Digest;
use bundle::layout::{Layout, MemberKind};
use bundle::sequential::ReadError;
use bundle::trust::TrustRoot;
use bundle::ustar::{self, BLOCK, padded};
use sha2::{Digest as _, Sha256};
use updater_core::release::{DeltaOffer, Source};

use super::access::{self, Access};
use super::error::Error;
use super::fetch::Member;
use super::head::{Head, Ranged, Spool};
use super::installer::Setup;
use super::meter::Meter;
use crate::http::FetchError;
use crate::http::source::RangeSource;

/// A delta whose manifest is the expected one and whose recipes are those the channel names.
pub struct Delta {
    /// The head: the same release as the bundle's.
    pub head: Head,
    /// The recipes, kept here.
    pub recipes: PathBuf,
    /// Where the delta is.
    pub source: Arc<dyn RangeSource>,
    sections: Vec<Section>,
    layout: Layout,
}

impl Delta {
    /// Opens what was offered.
    ///
    /// # Errors
    /// [`Error`]: it can not be had, or is not what was offered. The bundle then serves.
    pub async fn open(
        setup: &Setup,
        offer: &DeltaOffer,
        to: &Digest,
        trust: &TrustRoot,
        meter: &Meter,
    ) -> Result<Self, Error> {
        // Bodies are not signed one by one; the signed channel vouches for the recipes, and they name each body.
        let Some(recipes_sha256) = offer.recipes_sha256 else {
            return Err(DeltaError::Malformed("the channel does not name the digest of its recipes").into());
        };
        let places = access::places(&Source::Urls(offer.urls.clone()), setup.base.as_deref())?;
        let Access::Ranged(source) = access::open(&setup.client, places, setup.patience, &setup.handed).await? else {
            return Err(DeltaError::Malformed("its server does not give ranges").into());
        };
        let ranged = Ranged { source: source.as_ref(), patience: setup.patience };
        let head = Head::open(&ranged.envelope().await?, trust, Some(to))?;
        meter.fetched(head.envelope.len() as u64);
        let spool = Spool::new(&setup.releases, head.digest);
        let recipes = spool.extra(RECIPES_MEMBER);
        spool.keep_envelope(&head.envelope)?;
        let size = recipes_of(&ranged, &head, &recipes, &recipes_sha256, meter).await?;
        let (sections, layout) = checked(&recipes, &head, offer, size)?;
        Ok(Self { head, recipes, source, sections, layout })
    }

    /// Where the index of an image stands.
    #[must_use]
    pub fn index(&self, position: usize) -> Option<&bundle::layout::Member> {
        self.layout.index(position)
    }

    /// What it says of an image, and its patch; none when it does not make this one.
    #[must_use]
    pub fn of_image(&self, position: usize) -> Option<(Section, Member)> {
        let section = self.sections.iter().find(|section| section.image as usize == position)?;
        let patch = self.layout.member(MemberKind::Patch, position)?;
        Some((*section, Member { source: Arc::clone(&self.source), base: patch.offset }))
    }
}

/// Makes sure that the recipes are kept here; gives their size.
async fn recipes_of(
    ranged: &Ranged<'_>,
    head: &Head,
    path: &Path,
    sha256: &Digest,
    meter: &Meter,
) -> Result<u64, Error> {
    if let Some(size) = kept(path, sha256) {
        return Ok(size);
    }
    let start = BLOCK + padded(head.envelope.len() as u64).unwrap_or_default();
    // One wrong byte on the way must not cost a full download.
    for _ in 0..=ranged.source.places() {
        fetch_recipes(ranged, start, path, meter).await?;
        if let Some(size) = kept(path, sha256) {
            return Ok(size);
        }
        ranged.source.failed(&FetchError::WrongRange { host: "the server".into() });
    }
    Err(DeltaError::Malformed("other recipes than the channel names").into())
}

/// Fetches the member that begins at `start`, if it is that of the recipes.
async fn fetch_recipes(ranged: &Ranged<'_>, start: u64, path: &Path, meter: &Meter) -> Result<(), Error> {
    let mut header = Vec::new();
    ranged
        .read(start, start + BLOCK, |piece| {
            header.extend_from_slice(piece);
            Ok(())
        })
        .await?;
    let size = announced(&header)?;
    let mut file = File::create(path).map_err(Error::spool(path))?;
    ranged
        .read(start + BLOCK, start + BLOCK + size, |piece| {
            meter.fetched(piece.len() as u64);
            file.write_all(piece).map_err(Error::spool(path))
        })
        .await?;
    file.sync_all().map_err(Error::spool(path))
}

/// Size of the recipes that this tar header announces: a stranger's word, bounded before anything is asked for.
fn announced(header: &[u8]) -> Result<u64, Error> {
    let entry = header.first_chunk().map(ustar::parse).transpose().map_err(ReadError::Tar)?.flatten();
    let fits = entry.filter(|entry| entry.name == RECIPES_MEMBER && entry.size <= MAX_RECIPES_SIZE);
    Ok(fits.ok_or(DeltaError::Malformed("no recipes where they belong"))?.size)
}

/// Size of the recipes that are here and right.
fn kept(path: &Path, sha256: &Digest) -> Option<u64> {
    let (mut file, mut hash, mut size) = (File::open(path).ok()?, Sha256::new(), 0);
    let mut piece = vec![0; 64 << 10];
    loop {
        let count = file.read(&mut piece).ok()?;
        if count == 0 {
            break;
        }
        hash.update(piece.get(..count)?);
        size += count as u64;
    }
    (Digest(hash.finalize().into()) == *sha256).then_some(size)
}

/// Reads all recipes once: sections and places.
fn checked(path: &Path, head: &Head, offer: &DeltaOffer, size: u64) -> Result<(Vec<Section>, Layout), Error> {
    let file = File::open(path).map_err(Error::spool(path))?;
    let (header, sections) = check_recipes(BufReader::new(file), &head.manifest, &head.digest)?;
    if header.from != offer.from {
        return Err(DeltaError::WrongRelease.into());
    }
    let layout =
        delta_layout(head.envelope.len() as u64, size, &head.manifest, &sections).map_err(ReadError::Layout)?;
    Ok((sections, layout))
}
