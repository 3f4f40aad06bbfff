//! One release into one slot, by the cheapest ways there are.
//!
//! First by delta, where the channel offers one from the running release. Then what is left from the bundle: by chunks of
//! the running slot, or frame by frame. A server that gives no ranges, and a pipe, are read from start to end.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use bundle::digest::Digest;
use bundle::layout::MemberKind;
use bundle::manifest::{Image, Manifest};
use bundle::sequential::SequentialReader;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use updater_core::release::{Source, Update};
use updater_core::slot::SlotId;

use super::access::{self, Access};
use super::addresses;
use super::delta::Delta;
use super::error::Error;
use super::fetch::Member;
use super::finish::{already_there, blocking, finish};
use super::frames::FrameSet;
use super::halt::Halt;
use super::head::{Head, Ranged, Spool};
use super::installer::Setup;
use super::meter::Meter;
use super::pipeline::{self, Allowance, Crew, Plan, Work};
use super::place::{self, Found};
use super::scan::Expect;
use super::stream::{Pass, Stream, unwrapped};
use super::target::SlotIo;
use super::writer::Old;
use crate::http::source::RangeSource;
use crate::system::messages;

/// A bundle with a believed manifest.
pub enum Opened {
    /// Any part can be read.
    Ranged(Arc<dyn RangeSource>),
    /// From start to end; the envelope was read.
    Stream(Stream),
}

/// Opens the bundle and believes its manifest, or not.
///
/// # Errors
/// [`Error`].
pub async fn open_bundle(setup: &Setup, source: &Source, expected: Option<&Digest>) -> Result<(Head, Opened), Error> {
    let trust = (setup.trust)().map_err(Error::Trust)?;
    let places = access::places(source, setup.base.as_deref())?;
    match access::open(&setup.client, places, setup.patience, &setup.handed).await? {
        Access::Ranged(source) => {
            let ranged = Ranged { source: source.as_ref(), patience: setup.patience };
            let head = Head::open(&ranged.envelope().await?, &trust, expected)?;
            Ok((head, Opened::Ranged(source)))
        }
        Access::Stream(reader) => {
            let stream = blocking(move || SequentialReader::new(reader).map_err(unwrapped)).await?;
            let head = Head::open(stream.envelope(), &trust, expected)?;
            Ok((head, Opened::Stream(stream)))
        }
    }
}

/// What is still missing of an image.
#[derive(Clone)]
enum Left {
    /// Nobody looked yet.
    All,
    /// These frames.
    These(Arc<FrameSet>),
    /// Nothing.
    Nothing,
}

/// One install.
pub struct Delivery<'a> {
    setup: &'a Setup,
    update: &'a Update,
    booted: SlotId,
    halt: &'a Halt,
    meter: &'a Meter,
    allowance: Arc<Allowance>,
    /// What may be in the target: asked before anything of this release is kept here.
    expect: Expect,
}

impl<'a> Delivery<'a> {
    /// An install of `update` on a device that runs `booted`.
    #[must_use]
    pub fn new(setup: &'a Setup, update: &'a Update, booted: SlotId, halt: &'a Halt, meter: &'a Meter) -> Self {
        let limit = setup.fallback_limit.filter(|_| update.delta.is_some());
        // Nothing is written before the envelope is kept: where there is none, no install was interrupted.
        let begun = Spool::new(&setup.releases, update.release.manifest_sha256).manifest().is_ok();
        let expect = if begun { Expect::Begun } else { Expect::Unknown };
        Self { setup, update, booted, halt, meter, allowance: Arc::new(Allowance::new(limit)), expect }
    }

    /// Makes the target hold the release; everything is flushed. `opened`: a pipe whose head was read.
    ///
    /// # Errors
    /// The first failure.
    pub async fn run(&self, opened: Option<(Head, Opened)>) -> Result<(), Error> {
        let mut begun = None;
        let mut left = Vec::new();
        if let (Source::Urls(_), None) = (&self.update.source, &opened)
            && let Some(delta) = self.delta().await?
        {
            let places = self.begin(&delta.head)?;
            for position in 0..delta.head.manifest.images.len() {
                left.push(self.by_delta(&delta, position, &places).await?);
            }
            begun = Some(places);
        }
        if begun.is_some() && left.iter().all(|left| matches!(left, Left::Nothing)) {
            return Ok(());
        }
        let (head, opened) = match opened {
            Some(opened) => opened,
            None => {
                let expected = Some(&self.update.release.manifest_sha256);
                unless(self.halt, open_bundle(self.setup, &self.update.source, expected)).await?
            }
        };
        let places = match begun {
            Some(places) => places,
            None => self.begin(&head)?,
        };
        left.resize_with(head.manifest.images.len(), || Left::All);
        match opened {
            Opened::Ranged(source) => {
                for (position, left) in left.into_iter().enumerate() {
                    self.by_bundle(&head, position, &places, &source, left).await?;
                }
                Ok(())
            }
            // A thread that waits for a silent pipe can not be woken; it ends with the next byte, or with us.
            Opened::Stream(stream) => unless(self.halt, self.pass(&head, places, stream)).await,
        }
    }

    /// Opens the delta, if one was offered and can be used.
    async fn delta(&self) -> Result<Option<Delta>, Error> {
        let Some(offer) = &self.update.delta else { return Ok(None) };
        let trust = (self.setup.trust)().map_err(Error::Trust)?;
        let to = &self.update.release.manifest_sha256;
        match unless(self.halt, Delta::open(self.setup, offer, to, &trust, self.meter)).await {
            Ok(delta) => Ok(Some(delta)),
            Err(Error::Cancelled) => Err(Error::Cancelled),
            Err(error) => {
                let error = crate::system::chain(&error);
                let message_id = messages::DELTA_NOT_USED;
                tracing::warn!(error, message_id, "the delta can not be used; the bundle is");
                Ok(None)
            }
        }
    }

    /// Finds and checks every place, and forgets what the slot held.
    fn begin(&self, head: &Head) -> Result<Vec<Found>, Error> {
        let places = self.setup.finder.all(&head.manifest, self.update.target)?;
        self.meter.expect(head.raw_size());
        let releases = &self.setup.releases;
        releases.forget_slot(self.update.target).map_err(Error::spool(Path::new("releases")))?;
        Spool::new(releases, head.digest).keep_envelope(&head.envelope)?;
        if let Err(error) = releases.forget_attempts_but(&head.digest) {
            tracing::warn!(%error, "what is left of other attempts stays");
        }
        Ok(places)
    }

    async fn by_delta(&self, delta: &Delta, position: usize, places: &[Found]) -> Result<Left, Error> {
        let head = &delta.head;
        let (image, found) = of_position(head, position, places)?;
        let (Some((section, patch)), Some(index), Some(file)) =
            (delta.of_image(position), delta.index(position), self.old_image(image))
        else {
            return Ok(Left::All);
        };
        if already_there(found, image, &head.manifest, self.halt, self.meter).await? {
            return Ok(Left::Nothing);
        }
        let spool = Spool::new(&self.setup.releases, head.digest);
        let ranged = Ranged { source: delta.source.as_ref(), patience: self.setup.patience };
        let header = unless(self.halt, ranged.index(image, index, &spool, self.meter)).await?;
        let plan = Plan::Delta {
            recipes: delta.recipes.clone(),
            manifest: Arc::new(head.manifest.clone()),
            to: head.digest,
            position: section.image,
        };
        let frame_size = header.frame_size as usize;
        let parts = Parts {
            bundle: None,
            delta: Some(patch),
            old: Some(Old { file, section: Some(section) }),
            plan,
            only: None,
            expect: self.expect,
            crew: Crew::for_delta(frame_size, section.max_prefix as usize, self.setup.cores),
            frame_size,
        };
        let left = self.bring(head, image, found, parts).await?;
        if let Left::These(frames) = &left {
            self.tell_left(image, frames);
        }
        Ok(left)
    }

    async fn by_bundle(
        &self,
        head: &Head,
        position: usize,
        places: &[Found],
        source: &Arc<dyn RangeSource>,
        left: Left,
    ) -> Result<(), Error> {
        let (image, found) = of_position(head, position, places)?;
        let only = match left {
            Left::Nothing => return Ok(()),
            Left::All => None,
            Left::These(frames) => Some(frames),
        };
        if only.is_none() && already_there(found, image, &head.manifest, self.halt, self.meter).await? {
            return Ok(());
        }
        let (Some(index), Some(payload)) = (head.layout.index(position), head.layout.payload(position)) else {
            return Err(Error::Unknown(head.digest));
        };
        let spool = Spool::new(&self.setup.releases, head.digest);
        let ranged = Ranged { source: source.as_ref(), patience: self.setup.patience };
        let header = unless(self.halt, ranged.index(image, index, &spool, self.meter)).await?;
        let bundle = Member { source: Arc::clone(source), base: payload.offset };
        // Where a delta made nearly all, the rest is fetched sooner than addresses are compared.
        let chunks = match &only {
            None => self.addresses(head, position, image, &bundle).await?,
            Some(_) => None,
        };
        let (plan, old) = match chunks {
            Some((addresses, file)) => {
                let plan = Plan::Chunks { addresses: addresses.path, known: addresses.known };
                (plan, Some(Old { file, section: None }))
            }
            None => (Plan::Bundle, None),
        };
        let frame_size = header.frame_size as usize;
        let crew = Crew::for_frames(frame_size, self.setup.cores);
        // What is left was looked at before.
        let expect = if only.is_some() { Expect::Missing } else { self.expect };
        let parts = Parts { bundle: Some(bundle), delta: None, old, plan, only, expect, crew, frame_size };
        match self.bring(head, image, found, parts).await? {
            Left::These(frames) => {
                self.tell_left(image, &frames);
                Box::pin(self.by_bundle(head, position, places, source, Left::These(frames))).await
            }
            _ => Ok(()),
        }
    }

    /// Where the running slot has the image of the same name, if it does. A folder is none: its tar is not kept.
    fn old_place(&self, image: &Image) -> Option<Found> {
        self.setup.finder.one(image, self.booted).ok().filter(|found| !matches!(found, Found::Tree(_)))
    }

    /// The running slot's image of the same name, if it has one.
    fn old_image(&self, image: &Image) -> Option<File> {
        File::open(self.old_place(image)?.path()).ok()
    }

    async fn addresses(
        &self,
        head: &Head,
        position: usize,
        image: &Image,
        bundle: &Member,
    ) -> Result<Option<(addresses::Addresses, File)>, Error> {
        let place = head.layout.member(MemberKind::Chunks, position);
        let (Some(place), Some(found)) = (place, self.old_place(image)) else { return Ok(None) };
        let (Ok(old), Ok(file)) = (place::open_read_only(&found), File::open(found.path())) else { return Ok(None) };
        let spool = Spool::new(&self.setup.releases, head.digest);
        let getting = addresses::get(image, old, (bundle, place), self.setup.patience, &spool, self.halt, self.meter);
        Ok(unless(self.halt, getting).await?.map(|addresses| (addresses, file)))
    }

    fn tell_left(&self, image: &Image, frames: &FrameSet) {
        let (image, frames, message_id) = (&image.name, frames.len(), messages::FRAMES_NOT_MADE);
        tracing::warn!(image, frames, message_id, "not made from the running slot; the bundle has them");
    }

    /// Runs the pipeline over one image; flushes it when nothing is left.
    async fn bring(&self, head: &Head, image: &Image, found: &Found, parts: Parts) -> Result<Left, Error> {
        let (target, opening) = (found.clone(), image.clone());
        let io: Arc<dyn SlotIo> = Arc::new(blocking(move || place::open(&target, &opening)).await?);
        let frames = Arc::<FrameSet>::default();
        let read = parts.old.as_ref().and_then(|old| old.file.try_clone().ok());
        let work = Work {
            io: Arc::clone(&io),
            path: found.path().to_owned(),
            image: image.clone(),
            index: Spool::new(&self.setup.releases, head.digest).path(image),
            frame_size: parts.frame_size,
            bundle: parts.bundle,
            delta: parts.delta,
            old: parts.old,
            plan: parts.plan,
            only: parts.only,
            expect: parts.expect,
            left: Arc::clone(&frames),
            allowance: Arc::clone(&self.allowance),
            patience: self.setup.patience,
            halt: self.halt.clone(),
            meter: self.meter.clone(),
            crew: parts.crew,
        };
        pipeline::bring(work).await?;
        // What was read of the running image would push the application's pages out of memory.
        if let Some(old) = read {
            let _ = posix_fadvise(&old, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        }
        if !frames.is_empty() {
            return Ok(Left::These(frames));
        }
        let (found, image, halt) = (found.clone(), image.clone(), self.halt.clone());
        blocking(move || finish(&found, &image, io.as_ref(), &halt)).await?;
        Ok(Left::Nothing)
    }

    /// All images, in one pass over a stream.
    async fn pass(&self, head: &Head, places: Vec<Found>, mut stream: Stream) -> Result<(), Error> {
        if !self.allowance.take(head.layout.len()) {
            return Err(Error::OverAllowance);
        }
        let (setup, manifest, digest) = (self.setup.clone(), head.manifest.clone(), head.digest);
        let (halt, meter) = (self.halt.clone(), self.meter.clone());
        blocking(move || {
            stream.accept(&manifest)?;
            let spool = Spool::new(&setup.releases, digest);
            let mut pass = Pass { stream: &mut stream, spool: &spool, halt: &halt, meter: &meter, cores: setup.cores };
            let at = |position: usize| both(&manifest, &places, position).ok_or(Error::Unknown(digest));
            let open = |position: usize| {
                let (image, found) = at(position)?;
                let io: Arc<dyn SlotIo> = Arc::new(place::open(found, image)?);
                Ok((Arc::clone(&io), io))
            };
            let close = |position: usize, io: Arc<dyn SlotIo>| {
                let (image, found) = at(position)?;
                finish(found, image, io.as_ref(), &halt)
            };
            pass.run(&manifest.images, open, close)
        })
        .await
    }
}

/// What is particular to one way of bringing an image.
struct Parts {
    bundle: Option<Member>,
    delta: Option<Member>,
    old: Option<Old>,
    plan: Plan,
    only: Option<Arc<FrameSet>>,
    expect: Expect,
    crew: Crew,
    frame_size: usize,
}

fn of_position<'a>(head: &'a Head, position: usize, places: &'a [Found]) -> Result<(&'a Image, &'a Found), Error> {
    both(&head.manifest, places, position).ok_or(Error::Unknown(head.digest))
}

fn both<'a>(manifest: &'a Manifest, places: &'a [Found], position: usize) -> Option<(&'a Image, &'a Found)> {
    Some((manifest.images.get(position)?, places.get(position)?))
}

/// Waits for `work`, but not beyond a halt. Only for what may be left half done: the writing parts halt by themselves,
/// so that nothing writes any more when an install has returned.
async fn unless<T>(halt: &Halt, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::select! {
        result = work => result,
        () = halt.wait() => Err(halt.result().err().unwrap_or(Error::Cancelled)),
    }
}
