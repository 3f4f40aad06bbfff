//! The chunk addresses of a new image, as far as a device needs them: all groups, and the chunks of those it lacks.
//!
//! They are hints, so nothing here fails an install but the network: what can not be used means that frames come from
//! the bundle.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use bundle::chunks::{ChunksError, ChunksHeader, HEADER_LEN, KnownChunks, Method};
use bundle::frame::is_zero;
use bundle::layout::Member as Place;
use bundle::manifest::Image;
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};

use super::ahead::Ahead;
use super::buffer::Buffer;
use super::error::Error;
use super::fetch::Member;
use super::finish::blocking;
use super::halt::Halt;
use super::head::{Ranged, Spool};
use super::meter::Meter;
use super::target::{SlotIo as _, Target, read_full};
use super::way::needed_records;
use crate::http::retry::Patience;
use crate::http::source::RangeSource;

/// Bytes between two groups that are fetched along: records are small, requests are not free.
const MAX_GAP: u64 = 4 << 10;
/// Requests in flight.
const IN_FLIGHT: usize = 4;

/// Places looked at to tell whether a device holds anything.
const LOOKS: u64 = 256;
/// Bytes looked at in each.
const LOOK: usize = 4 << 10;

/// What it takes to make frames from chunks of the running image.
pub struct Addresses {
    /// The addresses, kept here.
    pub path: PathBuf,
    /// What the running image has.
    pub known: Arc<KnownChunks>,
}

/// Why there are no addresses.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("the chunk addresses")]
    Chunks(#[from] ChunksError),
    #[error("reading the running image")]
    Old(#[source] std::io::Error),
    #[error(transparent)]
    Install(#[from] Error),
}

/// Reads the running image, and fetches what is needed to find the new one in it. None where there is nothing to find,
/// and, with a line in the log, where that can not be.
///
/// # Errors
/// [`Error::Fetch`]: the bundle, which all else comes from too, is not to be had.
pub async fn get(
    image: &Image,
    old: Target,
    bundle: (&Member, &Place),
    patience: Patience,
    spool: &Spool<'_>,
    halt: &Halt,
    meter: &Meter,
) -> Result<Option<Addresses>, Error> {
    let Some(method) = image.chunks.as_ref().and_then(Method::of_manifest) else { return Ok(None) };
    // The running image is read while the network is waited for.
    let halt = halt.clone();
    let (empty, old) = blocking(move || Ok((looks_empty(&old), old))).await?;
    if empty {
        return Ok(None);
    }
    let reading = spawn_blocking(move || known(&old, method, &halt));
    match fetch(image, reading, bundle, patience, spool, meter).await {
        Ok(addresses) => Ok(Some(addresses)),
        Err(Unusable::Install(error @ Error::Fetch(_))) => Err(error),
        Err(error) => {
            tracing::warn!(error = crate::system::chain(&error), image = image.name, "going on without chunks");
            Ok(None)
        }
    }
}

async fn fetch(
    image: &Image,
    reading: JoinHandle<io::Result<KnownChunks>>,
    (bundle, place): (&Member, &Place),
    patience: Patience,
    spool: &Spool<'_>,
    meter: &Meter,
) -> Result<Addresses, Unusable> {
    let path = spool.extra(&place.name);
    let ranged = Ranged { source: bundle.source.as_ref(), patience };
    let whole = path.exists();
    let temp = spool.extra(&format!("{}.tmp", place.name));
    if !whole {
        groups(&ranged, place, &temp, meter).await?;
    }
    let known = reading.await.map_err(|error| Error::Lost(error.to_string()))?.map_err(Unusable::Old)?;
    if !whole {
        let wanted = needed_records(&temp, image, &known)?;
        records(&bundle.source, patience, place, &temp, coalesced(&wanted), meter).await?;
        let keep = || {
            File::open(&temp)?.sync_all()?;
            fs::rename(&temp, &path)
        };
        keep().map_err(Error::spool(&path))?;
    }
    Ok(Addresses { path, known: Arc::new(known) })
}

/// Whether a device holds nothing anywhere one looks: that of a system that runs from elsewhere. Reading all of it to
/// find that out would take as long as an install.
fn looks_empty(old: &Target) -> bool {
    let (mut buffer, step) = (Buffer::new(LOOK), old.capacity() / LOOKS);
    (0..LOOKS).all(|n| {
        let offset = (n * step).next_multiple_of(LOOK as u64);
        read_full(old, buffer.get_mut(LOOK), offset).is_ok_and(|count| is_zero(buffer.get(count)))
    })
}

/// Cuts the running image.
fn known(old: &Target, method: Method, halt: &Halt) -> io::Result<KnownChunks> {
    thread::scope(|scope| KnownChunks::of_image(Ahead::begin(scope, old, old.capacity(), halt), u64::MAX, method))
}

/// Fetches header and groups into the front of `temp`.
async fn groups(ranged: &Ranged<'_>, place: &Place, temp: &Path, meter: &Meter) -> Result<(), Unusable> {
    let mut bytes = Vec::new();
    let mut keep = |piece: &[u8]| {
        meter.fetched(piece.len() as u64);
        bytes.extend_from_slice(piece);
        Ok(())
    };
    ranged.read(place.offset, place.offset + HEADER_LEN as u64, &mut keep).await?;
    let header = bytes.first_chunk().ok_or(ChunksError::Malformed("too short"))?;
    // Its numbers were checked against the signed size of the member, which is bounded.
    let end = ChunksHeader::parse(header, place.size)?.chunks_offset();
    let file = File::create(temp).map_err(Error::spool(temp))?;
    file.set_len(place.size).and_then(|()| file.write_all_at(&bytes, 0)).map_err(Error::spool(temp))?;
    into_file(ranged, place, (HEADER_LEN as u64, end), &file, temp, meter).await?;
    Ok(())
}

/// Fetches ranges of the member, several at once, to where they belong in `temp`.
async fn records(
    source: &Arc<dyn RangeSource>,
    patience: Patience,
    place: &Place,
    temp: &Path,
    ranges: Vec<(u64, u64)>,
    meter: &Meter,
) -> Result<(), Unusable> {
    let mut waiting = ranges.into_iter();
    let mut requests = JoinSet::new();
    loop {
        while requests.len() < IN_FLIGHT
            && let Some(range) = waiting.next()
        {
            let (source, place, temp, meter) = (Arc::clone(source), place.clone(), temp.to_owned(), meter.clone());
            requests.spawn(async move {
                let file = File::options().write(true).open(&temp).map_err(Error::spool(&temp))?;
                let ranged = Ranged { source: source.as_ref(), patience };
                into_file(&ranged, &place, range, &file, &temp, &meter).await
            });
        }
        match requests.join_next().await {
            Some(done) => done.map_err(|error| Error::Lost(error.to_string()))??,
            None => return Ok(()),
        }
    }
}

async fn into_file(
    ranged: &Ranged<'_>,
    place: &Place,
    (start, end): (u64, u64),
    file: &File,
    path: &Path,
    meter: &Meter,
) -> Result<(), Error> {
    let mut at = start;
    ranged
        .read(place.offset + start, place.offset + end, |piece| {
            meter.fetched(piece.len() as u64);
            file.write_all_at(piece, at).map_err(Error::spool(path))?;
            at += piece.len() as u64;
            Ok(())
        })
        .await
}

/// Ranges in order, near ones as one.
fn coalesced(ranges: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut out: Vec<(u64, u64)> = Vec::new();
    for (start, end) in ranges {
        match out.last_mut() {
            Some((_, last)) if start.saturating_sub(*last) <= MAX_GAP => *last = *end,
            _ => out.push((*start, *end)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::coalesced;

    #[test]
    fn near_ranges_are_one_request() {
        assert_eq!(coalesced(&[]), []);
        assert_eq!(coalesced(&[(0, 10), (10, 20), (4116, 4200), (9000, 9001)]), [(0, 4200), (9000, 9001)]);
    }
}
