//! The seam's real version: from a request to a written, and a verified, slot.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bundle::approval::ReleaseRef;
use bundle::digest::Digest;
use bundle::manifest::{Image, Manifest};
use bundle::sequential::SequentialReader;
use bundle::trust::TrustRoot;
use tokio::task::spawn_blocking;
use updater_core::event::Transfer;
use updater_core::release::{Source, VerifiedManifest};
use updater_core::slot::SlotId;
use updater_core::status::ProgressPhase;

use super::access::{self, Access};
use super::error::Error;
use super::halt::{Halt, StopOnDrop};
use super::head::{Head, Ranged, Spool};
use super::meter::Meter;
use super::pipeline::{self, Crew, Work};
use super::place::{self, Finder, Found};
use super::stream::{Pass, Stream, unwrapped};
use super::target::{SlotIo, Target, read_full};
use super::{readback, scan};
use crate::http::Client;
use crate::http::retry::Patience;
use crate::seams::{BoxFuture, Cancel, InstallError, InstallRequest, Installer, ProgressSink};
use crate::store::Releases;

/// Bytes at either end of what is left behind an image that are zeroed.
///
/// A larger image of before leaves its tail behind. No file system reads beyond its own size, but tools that guess by
/// signature look at the first megabyte behind, and at the last one of the device, where RAID, GPT and others keep
/// copies of theirs. The rest is not worth the wear.
const TAIL: u64 = 1 << 20;

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
    /// Cores to use.
    pub cores: usize,
}

/// The installer.
pub struct Pipeline {
    setup: Setup,
    /// A pipe whose head was read by `manifest` and whose rest `install` will read.
    pipe: Mutex<Option<(Source, Stream)>>,
}

impl Pipeline {
    /// An installer for this device.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        Self { setup, pipe: Mutex::new(None) }
    }

    fn trust(&self) -> Result<TrustRoot, Error> {
        (self.setup.trust)().map_err(Error::Trust)
    }

    fn take_pipe(&self, source: &Source) -> Option<Stream> {
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        pipe.take_if(|(of, _)| of == source).map(|(_, stream)| stream)
    }

    /// Opens the bundle and believes its manifest, or not.
    async fn open(&self, source: &Source, expected: Option<&Digest>) -> Result<(Head, Opened), Error> {
        let trust = self.trust()?;
        if let Some(stream) = self.take_pipe(source) {
            let head = Head::open(stream.envelope(), &trust, expected)?;
            return Ok((head, Opened::Stream(stream)));
        }
        let places = access::places(source, self.setup.base.as_deref())?;
        match access::open(&self.setup.client, places, self.setup.patience).await? {
            Access::Ranged(source, first) => {
                let ranged = Ranged { source: source.as_ref(), patience: self.setup.patience, first: &first };
                let head = Head::open(&ranged.envelope().await?, &trust, expected)?;
                Ok((head, Opened::Ranged(source, first)))
            }
            Access::Stream(reader) => {
                let stream = blocking(move || SequentialReader::new(reader).map_err(unwrapped)).await?;
                let head = Head::open(stream.envelope(), &trust, expected)?;
                Ok((head, Opened::Stream(stream)))
            }
        }
    }

    async fn read_manifest(&self, source: &Source, expected: Option<&ReleaseRef>) -> Result<VerifiedManifest, Error> {
        let (head, opened) = self.open(source, expected.map(|release| &release.manifest_sha256)).await?;
        // A pipe can not be opened twice. A server's stream can, and would not stay open while the gate waits.
        if let (Source::Path(_), Opened::Stream(stream)) = (source, opened) {
            *self.pipe.lock().unwrap_or_else(PoisonError::into_inner) = Some((source.clone(), stream));
        }
        Ok(VerifiedManifest { manifest: head.manifest, digest: head.digest })
    }

    async fn write(&self, request: &InstallRequest, sink: &ProgressSink, halt: &Halt) -> Result<Transfer, Error> {
        let update = &request.update;
        if update.target == request.booted {
            return Err(Error::Booted(update.target));
        }
        let (head, opened) = unless(halt, self.open(&update.source, Some(&update.release.manifest_sha256))).await?;
        let places = self.setup.finder.all(&head.manifest, update.target)?;
        let meter = Meter::new(sink, ProgressPhase::Writing, head.raw_size());
        let spool = Spool::new(&self.setup.releases, head.digest);
        self.setup.releases.forget_slot(update.target).map_err(Error::spool(Path::new("releases")))?;
        spool.keep_envelope(&head.envelope)?;
        match opened {
            Opened::Ranged(source, first) => {
                let ranged = Ranged { source: source.as_ref(), patience: self.setup.patience, first: &first };
                let mut frame_sizes = Vec::new();
                for position in 0..head.manifest.images.len() {
                    let header = unless(halt, ranged.index(&head, position, &spool, &meter)).await?;
                    frame_sizes.push(header.frame_size as usize);
                }
                for (position, frame_size) in frame_sizes.into_iter().enumerate() {
                    self.bring(&head, position, &places, Arc::clone(&source), frame_size, halt, &meter).await?;
                }
            }
            // A thread that waits for a silent pipe can not be woken; it ends with the next byte, or with us.
            Opened::Stream(stream) => unless(halt, self.pass(&head, places, stream, halt, &meter)).await?,
        }
        Ok(meter.transfer())
    }

    /// One image, by range.
    #[expect(
        clippy::too_many_arguments,
        reason = "all of it is one image's business, and a struct would only be named here"
    )]
    async fn bring(
        &self,
        head: &Head,
        position: usize,
        places: &[Found],
        source: Arc<dyn crate::http::source::RangeSource>,
        frame_size: usize,
        halt: &Halt,
        meter: &Meter,
    ) -> Result<(), Error> {
        let (Some(image), Some(found), Some(payload)) =
            (head.manifest.images.get(position), places.get(position), head.layout.payload(position))
        else {
            return Err(Error::Unknown(head.digest));
        };
        if already_there(found, image, halt, meter).await? {
            return Ok(());
        }
        let (target, opening) = (found.clone(), image.clone());
        let io: Arc<dyn SlotIo> = Arc::new(blocking(move || place::open(&target, &opening)).await?);
        let work = Work {
            io: Arc::clone(&io),
            path: found.path().to_owned(),
            image: image.clone(),
            index: Spool::new(&self.setup.releases, head.digest).path(image),
            frame_size,
            source,
            patience: self.setup.patience,
            base: payload.offset,
            halt: halt.clone(),
            meter: meter.clone(),
            crew: Crew::for_frames(frame_size, self.setup.cores),
        };
        pipeline::bring(work).await?;
        let (found, image) = (found.clone(), image.clone());
        blocking(move || finish(&found, &image, io.as_ref())).await
    }

    /// All images, in one pass over a stream.
    async fn pass(
        &self,
        head: &Head,
        places: Vec<Found>,
        mut stream: Stream,
        halt: &Halt,
        meter: &Meter,
    ) -> Result<(), Error> {
        let (setup, head, halt, meter) = (self.setup.clone(), head.clone(), halt.clone(), meter.clone());
        blocking(move || {
            stream.accept(&head.manifest)?;
            let spool = Spool::new(&setup.releases, head.digest);
            let images = &head.manifest.images;
            let mut pass = Pass { stream: &mut stream, spool: &spool, halt: &halt, meter: &meter, cores: setup.cores };
            let lost = || Error::Unknown(head.digest);
            let open = |position: usize| {
                let (found, image) = (places.get(position).ok_or_else(lost)?, images.get(position).ok_or_else(lost)?);
                let io: Arc<dyn SlotIo> = Arc::new(place::open(found, image)?);
                Ok((Arc::clone(&io), io))
            };
            let close = |position: usize, io: Arc<dyn SlotIo>| {
                let (found, image) = (places.get(position).ok_or_else(lost)?, images.get(position).ok_or_else(lost)?);
                finish(found, image, io.as_ref())
            };
            pass.run(images, open, close)
        })
        .await
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

/// A bundle with a believed manifest.
enum Opened {
    Ranged(Arc<dyn crate::http::source::RangeSource>, Vec<u8>),
    Stream(Stream),
}

/// Waits for `work`, but not beyond a halt. Only for what may be left half done: the writing parts halt by themselves,
/// so that nothing writes any more when an install has returned.
async fn unless<T>(halt: &Halt, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::select! {
        result = work => result,
        () = halt.wait() => Err(halt.result().err().unwrap_or(Error::Cancelled)),
    }
}

/// Runs blocking work on a thread where that is allowed.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(Error::Lost(error.to_string())))
}

fn read_back_all(finder: &Finder, manifest: &Manifest, slot: SlotId, halt: &Halt, meter: &Meter) -> Result<(), Error> {
    for image in &manifest.images {
        let found = finder.one(image, slot)?;
        let io = place::open_read_only(&found)?;
        if matches!(found, Found::File { .. }) && io.capacity() != image.size {
            let digest = Digest::of(&[]);
            return Err(Error::Image { image: image.name.clone(), expected: image.sha256, found: digest });
        }
        readback::verify(&io, found.path(), image, halt, meter)?;
    }
    Ok(())
}

/// A file image that already is what it should be: the same kernel as before, or an install that was interrupted later.
async fn already_there(found: &Found, image: &Image, halt: &Halt, meter: &Meter) -> Result<bool, Error> {
    let Found::File { path, temp } = found.clone() else { return Ok(false) };
    let (image, halt, meter) = (image.clone(), halt.clone(), meter.clone());
    blocking(move || {
        let Ok(io) = Target::file_read_only(&path) else { return Ok(false) };
        if io.capacity() != image.size {
            return Ok(false);
        }
        let (sink, _) = tokio::sync::watch::channel(None);
        let unseen = Meter::new(&sink, ProgressPhase::Writing, 0);
        let right = readback::verify(&io, &path, &image, &halt, &unseen).is_ok();
        if right {
            meter.kept(image.size);
            // What an earlier try left behind only takes room.
            let _ = std::fs::remove_file(temp);
        }
        Ok(right)
    })
    .await
}

/// Flushes a complete target; a file gets its name.
fn finish(found: &Found, image: &Image, io: &dyn SlotIo) -> Result<(), Error> {
    let path = found.path();
    if let Found::Device(_) = found {
        wipe_tail(io, image.size).map_err(Error::target("writing", path))?;
    }
    io.sync().map_err(Error::target("flushing", path))?;
    io.forget_caches().map_err(Error::target("forgetting what is cached of", path))?;
    match found {
        Found::Device(_) => Ok(()),
        Found::File { path, temp } => place::finish_file(path, temp),
    }
}

/// Zeroes what could be taken for something behind the image; see [`TAIL`].
fn wipe_tail(io: &dyn SlotIo, size: u64) -> std::io::Result<()> {
    let capacity = io.capacity();
    // The piece up to the next block may hold the last bytes of the image; it was written with it.
    let start = size.next_multiple_of(super::buffer::ALIGN as u64).min(capacity);
    let first = (start, capacity.min(start + TAIL));
    let last = (capacity.saturating_sub(TAIL).max(first.1), capacity);
    for (start, end) in [first, last] {
        let len = usize::try_from(end.saturating_sub(start)).unwrap_or(0);
        let mut buffer = super::buffer::Buffer::new(len);
        let count = read_full(io, buffer.get_mut(len), start)?;
        if len > 0 && !(count == len && scan::is_zero(buffer.get(len))) {
            io.zero(start, len as u64)?;
        }
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
