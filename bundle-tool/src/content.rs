//! One pass over a bundle from front to back: every frame of every image, checked, on all cores, in bounded memory.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use bundle::digest::Digest;
use bundle::dsse::Envelope;
use bundle::frame::FrameDecoder;
use bundle::index::{FrameRecord, IndexReader, check_index};
use bundle::keys::{KeyId, KeySet};
use bundle::layout::MemberKind;
use bundle::manifest::{Image, MANIFEST_TYPE, Manifest};
use bundle::reason::Reason;
use bundle::sequential::SequentialReader;
use sha2::{Digest as _, Sha256};

use crate::crew;
use crate::document::Document;
use crate::files;
use crate::progress::Progress;
use crate::refusal::Refused;

/// Bytes of frames in flight, stored and raw: with the program itself, less than 32 MB.
const BUDGET: usize = 20 << 20;

/// Whom to believe.
#[derive(clap::Args)]
pub struct TrustArgs {
    /// Trust root; its keys for that kind of document must have signed: the release keys for a bundle
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    trust: Option<PathBuf>,
    /// Public key that must have signed; several times for several
    #[arg(long, value_name = "KEY.pub.pem")]
    key: Vec<PathBuf>,
}

/// Keys and how many of them must sign.
pub struct Believed {
    /// The keys.
    pub keys: KeySet,
    /// How many must sign.
    pub threshold: usize,
}

impl TrustArgs {
    /// Reads the files, for a document of any kind.
    pub fn read_for(&self, document: &Document, threshold: Option<usize>) -> Result<Believed> {
        let Some(path) = &self.trust else { return self.read(threshold) };
        let (keys, own) = document.keys(&files::trust(path)?);
        Ok(Believed { keys, threshold: threshold.unwrap_or(own) })
    }

    /// Reads the files, for a bundle.
    pub fn read(&self, threshold: Option<usize>) -> Result<Believed> {
        if let Some(path) = &self.trust {
            let (keys, own) = files::trust(path)?.release_keys();
            return Ok(Believed { keys, threshold: threshold.unwrap_or(own) });
        }
        anyhow::ensure!(!self.key.is_empty(), "say whom to believe: --trust FILE or --key KEY.pub.pem");
        let keys = self.key.iter().map(|path| files::public_key(path)).collect::<Result<KeySet>>()?;
        let threshold = threshold.unwrap_or(keys.len());
        Ok(Believed { keys, threshold })
    }
}

/// A bundle whose manifest was believed.
pub struct Opened<R> {
    reader: SequentialReader<R>,
    /// Its manifest.
    pub manifest: Manifest,
    /// The release's identity.
    pub digest: Digest,
    /// Who signed, of those we believe.
    pub signers: Vec<KeyId>,
}

/// The bytes of a bundle: a file, or standard input for `-`.
pub fn input(path: &Path) -> Result<Box<dyn Read + Send>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin()));
    }
    let file = File::open(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(Box::new(BufReader::with_capacity(1 << 20, file)))
}

/// Opens a bundle: signatures first, then the manifest. `None` believes anything.
pub fn open<R: Read>(input: R, believed: Option<&Believed>) -> Result<Opened<R>> {
    let mut reader = SequentialReader::new(input)?;
    let envelope = Envelope::parse(reader.envelope())?;
    let (payload, signers) = match believed {
        Some(believed) => {
            let verified = envelope.verify(MANIFEST_TYPE, &believed.keys, believed.threshold)?;
            (verified.payload, verified.signers)
        }
        None => (envelope.payload, Vec::new()),
    };
    let manifest = Manifest::parse(&payload)?;
    reader.accept(&manifest)?;
    Ok(Opened { reader, manifest, digest: Digest::of(&payload), signers })
}

/// Receives the raw bytes of image number `n`, in order.
pub type Sink<'a> = dyn FnMut(usize, &[u8]) -> Result<()> + 'a;

impl<R: Read + Send> Opened<R> {
    /// Checks every index, frame, payload and image; hands the raw bytes out as they are proven.
    pub fn check(mut self, progress: &Progress, sink: &mut Sink<'_>) -> Result<()> {
        let mut indexes = Vec::new();
        let manifest = self.manifest.clone();
        while let Some(member) = self.reader.next_member()? {
            let Some((n, image)) = member.image.and_then(|n| Some((n, manifest.images.get(n)?))) else { continue };
            match member.kind {
                MemberKind::Index => indexes.push(self.spool_index(image)?),
                MemberKind::Chunks => {
                    let chunks = image.chunks.as_ref().map(|chunks| chunks.sha256);
                    same(&image.name, "chunks", Some(hash_rest(&mut self.reader)?), chunks)?;
                }
                MemberKind::Payload => {
                    let index = indexes.get_mut(n).context("an index is missing")?;
                    progress.begin(&image.name, image.size);
                    self.payload(n, image, index, progress, sink)?;
                }
                MemberKind::Manifest | MemberKind::Recipes | MemberKind::Patch => {}
            }
        }
        progress.finish();
        Ok(())
    }

    /// An index may have 64 MiB, so it goes to disk; it is proven before it is used.
    fn spool_index(&mut self, image: &Image) -> Result<File> {
        let mut file = tempfile::tempfile().context("making a temporary file")?;
        io::copy(&mut self.reader, &mut file).with_context(|| format!("index of {}", image.name))?;
        file.rewind()?;
        check_index(BufReader::new(&file), image).with_context(|| format!("index of {}", image.name))?;
        Ok(file)
    }

    fn payload(
        &mut self,
        n: usize,
        image: &Image,
        index: &mut File,
        progress: &Progress,
        sink: &mut Sink<'_>,
    ) -> Result<()> {
        index.rewind()?;
        let mut records = IndexReader::new(BufReader::new(&*index), image)?;
        let frame_size = records.header().frame_size;
        let mut payload_hash = Sha256::new();
        let reader = &mut self.reader;
        let produce = || {
            let record = match records.next()? {
                Ok(record) => record,
                Err(error) => return Some(Err(error.into())),
            };
            let mut stored = vec![0; record.stored_len as usize];
            let read = reader.read_exact(&mut stored).map_err(bundle::sequential::ReadError::Io);
            payload_hash.update(&stored);
            Some(read.map(|()| (record, stored)).map_err(anyhow::Error::from))
        };
        let mut image_hash = Sha256::new();
        let mut frame = 0u64;
        let both = 2 * frame_size as usize;
        crew::run(crew::threads(None, BUDGET, both, both), produce, decode, |raw: Result<Vec<u8>>| {
            let raw = raw.with_context(|| format!("{}: frame {frame}", image.name))?;
            frame += 1;
            image_hash.update(&raw);
            progress.advance(raw.len() as u64);
            sink(n, &raw)
        })?;
        same(&image.name, "payload", Some(Digest(payload_hash.finalize().into())), Some(image.payload.sha256))?;
        same(&image.name, "image", Some(Digest(image_hash.finalize().into())), Some(image.sha256))
    }
}

/// One zstd context for each worker thread.
fn decode((record, stored): (FrameRecord, Vec<u8>)) -> Result<Result<Vec<u8>>> {
    thread_local!(static DECODER: RefCell<FrameDecoder> = RefCell::new(FrameDecoder::new()));
    let mut raw = Vec::new();
    let result = DECODER.with_borrow_mut(|decoder| {
        // The stored form of a frame of zeros is not looked at by devices; here it must be right all the same.
        decoder.decode(&FrameRecord { zero: false, ..record }, &stored, &mut raw)
    });
    Ok(result.map(|()| raw).map_err(anyhow::Error::from))
}

fn hash_rest(reader: &mut impl Read) -> Result<Digest> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(Digest(hash.finalize().into())),
            read => hash.update(buffer.get(..read).unwrap_or_default()),
        }
    }
}

fn same(image: &str, what: &str, actual: Option<Digest>, expected: Option<Digest>) -> Result<()> {
    if actual == expected {
        return Ok(());
    }
    Err(Refused(Reason::ImageMismatch, format!("{image}: the {what} is not the one the manifest names")).into())
}
