//! The seam's real version: from a request to a written, and a verified, slot.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bundle::approval::ReleaseRef;
use bundle::digest::Digest;
use bundle::manifest::Manifest;
use bundle::trust::TrustRoot;
use updater_core::event::Transfer;
use updater_core::release::{Source, Update, VerifiedManifest};
use updater_core::slot::SlotId;
use updater_core::status::ProgressPhase;

use super::delivery::{Delivery, Opened, open_bundle};
use super::error::Error;
use super::finish::blocking;
use super::halt::{Halt, StopOnDrop};
use super::head::{Head, Spool};
use super::meter::Meter;
use super::place::{self, Finder, Found};
use super::readback;
use super::room;
use super::stream::Stream;
use super::target::SlotIo as _;
use crate::handed::Handed;
use crate::http::Client;
use crate::http::retry::Patience;
use crate::seams::{BoxFuture, Cancel, InstallError, InstallRequest, Installer, ProgressSink};
use crate::store::Releases;

/// Gives the trust root in use; asked anew for each bundle, because it may be replaced.
pub type TrustSource = Arc<dyn Fn() -> Result<TrustRoot, String> + Send + Sync>;

/// What the pipeline needs to know of the device.
#[derive(Clone)]
pub struct Setup {
    /// Where images go.
    pub finder: Finder,
    /// Where heads of releases are kept.
    pub releases: Releases,
    /// For bundles on the web.
    pub client: Client,
    /// What relative addresses are meant from.
    pub base: Option<String>,
    /// Whom to believe.
    pub trust: TrustSource,
    /// Patience with servers.
    pub patience: Patience,
    /// Stored bytes that may be fetched from a bundle when a delta was offered and does not make everything; none: any
    /// amount. What falls back is always said.
    pub fallback_limit: Option<u64>,
    /// Cores to use.
    pub cores: usize,
    /// Files that came with a request.
    pub handed: Handed,
}

/// The installer.
pub struct Pipeline {
    setup: Setup,
    /// A pipe whose head was read by `manifest` and whose rest `install` will read.
    pipe: Mutex<Option<(Source, Stream)>>,
    /// What `manifest` read last.
    read: Mutex<Option<VerifiedManifest>>,
}

impl Pipeline {
    /// An installer for this device.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        Self { setup, pipe: Mutex::new(None), read: Mutex::new(None) }
    }

    fn take_pipe(&self, source: &Source) -> Option<Stream> {
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        pipe.take_if(|(of, _)| of == source).map(|(_, stream)| stream)
    }

    /// The pipe that was opened before, its manifest believed.
    fn piped(&self, source: &Source, expected: Option<&Digest>) -> Result<Option<(Head, Opened)>, Error> {
        let Some(stream) = self.take_pipe(source) else { return Ok(None) };
        let trust = (self.setup.trust)().map_err(Error::Trust)?;
        Ok(Some((Head::open(stream.envelope(), &trust, expected)?, Opened::Stream(stream))))
    }

    async fn write(&self, request: &InstallRequest, sink: &ProgressSink, halt: &Halt) -> Result<Transfer, Error> {
        let update = &request.update;
        if update.target == request.booted {
            return Err(Error::Booted(update.target));
        }
        let opened = self.piped(&update.source, Some(&update.release.manifest_sha256))?;
        let meter = Meter::new(sink, ProgressPhase::Writing, 0);
        Delivery::new(&self.setup, update, request.booted, halt, &meter).run(opened).await?;
        Ok(meter.transfer())
    }

    async fn read_manifest(&self, source: &Source, expected: Option<&ReleaseRef>) -> Result<VerifiedManifest, Error> {
        let expected = expected.map(|release| &release.manifest_sha256);
        // What came with a request goes before what is left of an earlier one.
        if let Source::Path(name) = source
            && self.setup.handed.is_waiting(name)
        {
            drop(self.take_pipe(source));
        }
        let (head, opened) = match self.piped(source, expected)? {
            Some(piped) => piped,
            None => open_bundle(&self.setup, source, expected).await?,
        };
        // A pipe can not be opened twice. A server's stream can, and would not stay open while the gate waits.
        if let (Source::Path(_), Opened::Stream(stream)) = (source, opened) {
            *self.pipe.lock().unwrap_or_else(PoisonError::into_inner) = Some((source.clone(), stream));
        }
        let read = VerifiedManifest { manifest: head.manifest, digest: head.digest };
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = Some(read.clone());
        Ok(read)
    }

    /// The manifest of this release, where it is the one that was read last.
    fn manifest_read(&self, digest: &Digest) -> Option<Manifest> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.as_ref().filter(|read| read.digest == *digest).map(|read| read.manifest.clone())
    }

    async fn look_for_room(&self, update: &Update) -> Result<(), Error> {
        let (digest, target) = (update.release.manifest_sha256, update.target);
        let kept = || Spool::new(&self.setup.releases, digest).manifest().ok();
        let manifest = match self.manifest_read(&digest).or_else(kept) {
            Some(manifest) => manifest,
            // It was offered to a daemon before this one.
            None => self.read_manifest(&update.source, Some(&update.release)).await?.manifest,
        };
        let (finder, releases) = (self.setup.finder.clone(), self.setup.releases.root().to_owned());
        let looked = blocking(move || {
            finder.all(&manifest, target)?;
            room::of_indexes(&releases, &manifest)
        });
        let looked = looked.await;
        if looked.is_err() {
            // Whoever feeds a pipe shall not wait for a reader that never comes.
            drop(self.take_pipe(&update.source));
        }
        looked
    }

    async fn read_back(&self, request: &InstallRequest, sink: &ProgressSink, halt: &Halt) -> Result<(), Error> {
        let (slot, digest) = (request.update.target, request.update.release.manifest_sha256);
        let manifest = Spool::new(&self.setup.releases, digest).manifest()?;
        let total = manifest.images.iter().fold(0, |sum: u64, image| sum.saturating_add(image.size));
        let meter = Meter::new(sink, ProgressPhase::Verifying, total);
        let (finder, releases, halt) = (self.setup.finder.clone(), self.setup.releases.clone(), halt.clone());
        blocking(move || {
            read_back_all(&finder, &manifest, slot, &halt, &meter)?;
            // Only now is it known what the slot holds.
            releases.note_slot(slot, &digest).map_err(Error::spool(Path::new("releases")))
        })
        .await
    }
}

fn read_back_all(finder: &Finder, manifest: &Manifest, slot: SlotId, halt: &Halt, meter: &Meter) -> Result<(), Error> {
    for image in &manifest.images {
        let found = finder.one(image, slot)?;
        if let Found::Tree(place) = &found {
            place.verify(image, manifest.mtime(), halt, meter)?;
            continue;
        }
        let io = place::open_read_only(&found)?;
        if matches!(found, Found::File { .. }) && io.capacity() != image.size {
            let digest = Digest::of(&[]);
            return Err(Error::Image { image: image.name.clone(), expected: image.sha256, found: digest });
        }
        readback::verify(&io, found.path(), image, halt, meter)?;
    }
    Ok(())
}

impl Installer for Pipeline {
    fn manifest<'a>(
        &'a self,
        source: &'a Source,
        expected: Option<&'a ReleaseRef>,
    ) -> BoxFuture<'a, Result<VerifiedManifest, InstallError>> {
        Box::pin(async move { Ok(self.read_manifest(source, expected).await?) })
    }

    fn fits<'a>(&'a self, update: &'a Update) -> BoxFuture<'a, Result<(), InstallError>> {
        Box::pin(async move { Ok(self.look_for_room(update).await?) })
    }

    fn install<'a>(
        &'a self,
        request: &'a InstallRequest,
        progress: &'a ProgressSink,
        cancel: &'a Cancel,
    ) -> BoxFuture<'a, Result<Transfer, InstallError>> {
        Box::pin(async move {
            let halt = Halt::new(cancel);
            let _stop = StopOnDrop(halt.clone());
            Ok(self.write(request, progress, &halt).await?)
        })
    }

    fn verify<'a>(
        &'a self,
        request: &'a InstallRequest,
        progress: &'a ProgressSink,
        cancel: &'a Cancel,
    ) -> BoxFuture<'a, Result<(), InstallError>> {
        Box::pin(async move {
            let halt = Halt::new(cancel);
            let _stop = StopOnDrop(halt.clone());
            Ok(self.read_back(request, progress, &halt).await?)
        })
    }
}
