//! The head of a bundle: envelope, manifest, indexes. Fetched once, kept on the data partition, checked at each use.

use std::fs::{self, File};
use std::io::{BufReader, Write as _};
use std::path::{Path, PathBuf};

use bundle::approval::ReleaseRef;
use bundle::digest::Digest;
use bundle::index::{IndexHeader, check_index};
use bundle::layout::{Layout, MANIFEST_MEMBER, Member};
use bundle::manifest::{Image, Manifest};
use bundle::open::open_manifest;
use bundle::sequential::{ReadError, SequentialReader};
use bundle::trust::TrustRoot;
use bundle::ustar::{self, BLOCK};

use super::error::Error;
use super::meter::Meter;
use crate::http::retry::{Patience, Reader};
use crate::http::source::RangeSource;
use crate::store::{Releases, durable};

/// Largest envelope.
const MAX_ENVELOPE: u64 = 1 << 20;

/// A bundle whose manifest is believed.
#[derive(Debug, Clone)]
pub struct Head {
    /// The envelope as it came.
    pub envelope: Vec<u8>,
    /// The manifest.
    pub manifest: Manifest,
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Where the members are.
    pub layout: Layout,
}

impl Head {
    /// Believes an envelope, or not.
    ///
    /// # Errors
    /// [`Error`]: signatures, content, or another release than expected.
    pub fn open(envelope: &[u8], trust: &TrustRoot, expected: Option<&Digest>) -> Result<Self, Error> {
        let (manifest, digest) = open_manifest(envelope, trust)?;
        if let Some(expected) = expected.filter(|expected| **expected != digest) {
            return Err(Error::OtherRelease { expected: *expected, found: digest });
        }
        let layout = Layout::new(envelope.len() as u64, &manifest).map_err(ReadError::Layout)?;
        Ok(Self { envelope: envelope.to_vec(), manifest, digest, layout })
    }

    /// The release it describes.
    #[must_use]
    pub fn release(&self) -> ReleaseRef {
        let manifest = &self.manifest;
        ReleaseRef { version: manifest.version.clone(), counter: manifest.counter, manifest_sha256: self.digest }
    }

    /// Raw bytes of all images.
    #[must_use]
    pub fn raw_size(&self) -> u64 {
        self.manifest.images.iter().fold(0, |sum, image| sum.saturating_add(image.size))
    }
}

/// Any part of a bundle, or of a delta.
pub struct Ranged<'a> {
    /// Where it is.
    pub source: &'a dyn RangeSource,
    /// Patience with it.
    pub patience: Patience,
}

impl Ranged<'_> {
    /// Calls `take` with the bytes of `start..end`, in order.
    ///
    /// # Errors
    /// [`Error`], that of `take` included.
    pub async fn read(
        &self,
        start: u64,
        end: u64,
        mut take: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut reader = Reader::new(self.source, self.patience, start, end);
        while let Some(bytes) = reader.next().await? {
            take(&bytes)?;
        }
        Ok(())
    }

    /// The envelope.
    ///
    /// # Errors
    /// [`Error`]: not a bundle, or not to be had.
    pub async fn envelope(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let mut keep = |piece: &[u8]| {
            bytes.extend_from_slice(piece);
            Ok(())
        };
        self.read(0, BLOCK, &mut keep).await?;
        let header =
            bytes.first_chunk::<{ BLOCK as usize }>().ok_or(ReadError::Io(std::io::ErrorKind::UnexpectedEof.into()))?;
        let entry = ustar::parse(header).map_err(ReadError::Tar)?;
        // Its size is a stranger's word until the signature is checked: bounded before anything is asked for.
        let size = entry.map_or(0, |entry| entry.size);
        if size > MAX_ENVELOPE {
            return Err(ReadError::EnvelopeTooLarge(size).into());
        }
        let end = BLOCK + ustar::padded(size).unwrap_or(0);
        let mut keep = |piece: &[u8]| {
            bytes.extend_from_slice(piece);
            Ok(())
        };
        self.read(BLOCK, end, &mut keep).await?;
        let reader = SequentialReader::new(bytes.as_slice())?;
        Ok(reader.envelope().to_vec())
    }

    /// Makes sure that the index of an image is kept here, and right; `member` is where it stands.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn index(
        &self,
        image: &Image,
        member: &Member,
        spool: &Spool<'_>,
        meter: &Meter,
    ) -> Result<IndexHeader, Error> {
        if let Some(header) = spool.kept(image) {
            return Ok(header);
        }
        let mut attempts = self.source.places();
        loop {
            let mut file = spool.begin(image)?;
            let take = |piece: &[u8]| {
                meter.fetched(piece.len() as u64);
                file.write_all(piece).map_err(Error::spool(&spool.temp(image)))
            };
            self.read(member.offset, member.offset + member.size, take).await?;
            match spool.finish(image, &file) {
                // One mirror may hold another file under this name.
                Err(error @ Error::Index { .. }) if attempts > 0 => {
                    tracing::warn!(%error, "the index came wrong; asking again");
                    attempts -= 1;
                    self.source.failed(&crate::http::FetchError::WrongRange { host: "the server".into() });
                }
                result => return result,
            }
        }
    }
}

/// Where the head of one release is kept.
#[derive(Debug)]
pub struct Spool<'a> {
    releases: &'a Releases,
    digest: Digest,
}

impl<'a> Spool<'a> {
    /// The spool of the release with this manifest digest.
    #[must_use]
    pub const fn new(releases: &'a Releases, digest: Digest) -> Self {
        Self { releases, digest }
    }

    /// Where the index of an image is.
    #[must_use]
    pub fn path(&self, image: &Image) -> PathBuf {
        self.releases.file(&self.digest, &format!("{}.index", image.name))
    }

    /// Where something else that belongs to this release is kept: found again by a resumed install, and removed with the
    /// release.
    #[must_use]
    pub fn extra(&self, name: &str) -> PathBuf {
        self.releases.file(&self.digest, name)
    }

    fn temp(&self, image: &Image) -> PathBuf {
        self.releases.file(&self.digest, &format!("{}.index.tmp", image.name))
    }

    /// Keeps the envelope.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub fn keep_envelope(&self, envelope: &[u8]) -> Result<(), Error> {
        let path = self.releases.file(&self.digest, MANIFEST_MEMBER);
        if fs::read(&path).is_ok_and(|kept| kept == envelope) {
            return Ok(());
        }
        self.releases.make(&self.digest).map_err(Error::spool(&path))?;
        durable::replace(&path, envelope).map_err(Error::spool(&path))
    }

    /// The manifest that was kept. Its digest is what the journal says was approved; that is what makes it genuine
    /// here, even when the keys that signed it have been replaced since.
    ///
    /// # Errors
    /// [`Error::Unknown`] when it is not here, or damaged.
    pub fn manifest(&self) -> Result<Manifest, Error> {
        let path = self.releases.file(&self.digest, MANIFEST_MEMBER);
        let kept = || {
            let envelope = bundle::dsse::Envelope::parse(&fs::read(&path).ok()?).ok()?;
            let payload = envelope.payload.as_slice();
            if Digest::of(payload) != self.digest {
                return None;
            }
            Manifest::parse(payload).ok()
        };
        kept().ok_or(Error::Unknown(self.digest))
    }

    /// The header of an index that is here and right.
    #[must_use]
    pub fn kept(&self, image: &Image) -> Option<IndexHeader> {
        check(&self.path(image), image).ok()
    }

    /// Begins to write an index.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub fn begin(&self, image: &Image) -> Result<File, Error> {
        let path = self.temp(image);
        self.releases.make(&self.digest).map_err(Error::spool(&path))?;
        // Read as well: it is checked through the same handle's name.
        File::create(&path).map_err(Error::spool(&path))
    }

    /// Proves that what was written is the signed index, and keeps it.
    ///
    /// # Errors
    /// [`Error`].
    pub fn finish(&self, image: &Image, file: &File) -> Result<IndexHeader, Error> {
        let (temp, path) = (self.temp(image), self.path(image));
        let header = check(&temp, image)?;
        let keep = || {
            file.sync_all()?;
            fs::rename(&temp, &path)?;
            File::open(self.releases.folder(&self.digest))?.sync_all()
        };
        keep().map_err(Error::spool(&path))?;
        Ok(header)
    }
}

fn check(path: &Path, image: &Image) -> Result<IndexHeader, Error> {
    let file = File::open(path).map_err(Error::spool(path))?;
    check_index(BufReader::new(file), image).map_err(|source| Error::Index { image: image.name.clone(), source })
}
