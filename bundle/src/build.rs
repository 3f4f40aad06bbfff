//! Writes bundles: frames compressed on all cores, in bounded memory, the same bytes at any number of threads.
//!
//! Touches the files it is told to: images are read from front to back, once for their frames and, where they get chunk
//! addresses, once more for those; payloads wait in unnamed temporary files
//! beside the output (the manifest, which stands first, names their digests), then everything is put together.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::document::DocumentError;
use crate::dsse::{DsseError, Envelope};
use crate::manifest::{Blob, Chunks, Image, ImageKind, MANIFEST_TYPE, Manifest};

mod assemble;
mod chunks;
mod compress;
mod delta;
mod frames;
mod pipeline;
mod room;
mod tree;

pub use assemble::replace_envelope;
pub use chunks::{Method as ChunkMethod, write_chunks};
pub use compress::{Compressor, window_log};
pub use delta::{BuiltDelta, DeltaStats, NewRelease, OldFile, build_delta};
pub use frames::{FrameStats, write_frames};
pub use pipeline::{Stopped, in_order};
pub use tree::{rewrite_tree, write_tree};

/// Why a bundle could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Reading an input.
    #[error("reading {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Writing the output or its temporary files.
    #[error("writing the bundle")]
    Write(#[source] io::Error),
    /// zstd refused.
    #[error("compressing: {0}")]
    Zstd(&'static str),
    /// A setting outside what the format allows.
    #[error("{0}")]
    Setting(String),
    /// The manifest would break its own rules.
    #[error("the manifest would not be accepted")]
    Document(#[from] DocumentError),
    /// The envelope could not be written or read.
    #[error("the envelope")]
    Envelope(#[from] DsseError),
    /// An index could not be read.
    #[error("the index")]
    Index(#[from] crate::index::IndexError),
    /// A frame of an input bundle is damaged.
    #[error("a frame")]
    Frame(#[from] crate::frame::FrameError),
    /// Something in a folder that a tree can not hold.
    #[error("{}: {why}", path.display())]
    Tree {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A helper thread ended early.
    #[error(transparent)]
    Worker(#[from] Stopped),
}

/// Most threads that are ever started.
const MAX_THREADS: usize = 256;

/// Memory that building a bundle may take when nobody says how many threads, bytes.
pub const BUILD_MEMORY: usize = 300_000_000;

/// Of that: the program itself, and what it holds of the index of a large image.
const BUILD_BASE: usize = 30_000_000;

/// How frames are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// zstd level, 1 to 22.
    pub level: i32,
    /// Raw bytes of a frame: a multiple of 4 KiB, at most 4 MiB.
    pub frame_size: u32,
    /// Worker threads; 0: one for each core, as far as memory allows.
    pub threads: usize,
}

impl Default for Settings {
    /// Level 19 (22 gains nothing at this frame size) and 1 MiB frames: within 9 % of one single stream, while a
    /// broken frame costs a device one request and its memory stays that of a few frames.
    fn default() -> Self {
        Self { level: 19, frame_size: 1 << 20, threads: 0 }
    }
}

impl Settings {
    /// Worker threads to start: what was asked for, else one for each core as long as all of them, at `each` bytes,
    /// stay within `memory`. Their number never shows in what they make.
    #[must_use]
    pub fn workers(&self, memory: usize, each: usize) -> usize {
        match self.threads {
            0 => as_many(std::thread::available_parallelism().map_or(1, Into::into), memory, each),
            threads => threads.min(MAX_THREADS),
        }
    }
}

fn as_many(cores: usize, memory: usize, each: usize) -> usize {
    cores.min(memory / each.max(1)).clamp(1, MAX_THREADS)
}

/// An image to put into a bundle.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its name in the manifest.
    pub name: String,
    /// How the device writes it.
    pub kind: ImageKind,
    /// The file to read; for a tree the folder, or a tar made elsewhere.
    pub path: PathBuf,
    /// Whether to write chunk addresses, and how to cut.
    pub chunks: ChunkChoice,
}

/// Chunk addresses of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChunkChoice {
    /// As fits the file system; none for a small image.
    #[default]
    Auto,
    /// None.
    None,
    /// So.
    Cut(ChunkMethod),
}

/// What happens while building.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// An image begins.
    Image {
        /// Its name.
        name: &'a str,
        /// Its raw size, bytes.
        size: u64,
    },
    /// Another frame is done.
    Frame {
        /// Raw bytes.
        raw: u64,
        /// Stored bytes.
        stored: u64,
    },
}

/// A finished bundle.
#[derive(Debug, Clone, PartialEq)]
pub struct Built {
    /// Its manifest, with the images filled in.
    pub manifest: Manifest,
    /// SHA-256 of the manifest: the release's identity.
    pub digest: Digest,
    /// Size of the bundle, bytes.
    pub size: u64,
    /// Frames of each image, in order.
    pub frames: Vec<FrameStats>,
}

/// Builds an unsigned bundle at `out` from a manifest whose `images` are still empty.
///
/// `out` appears complete or not at all. A file of that name is replaced.
///
/// # Errors
/// When an image can not be read, a setting or the manifest breaks a rule, or the output can not be written.
pub fn build(
    mut manifest: Manifest,
    sources: &[Source],
    settings: &Settings,
    out: &Path,
    progress: &(dyn Fn(Event<'_>) + Sync),
) -> Result<Built, BuildError> {
    let folder = folder_of(out);
    let mut parts = Vec::new();
    let mut frames = Vec::new();
    manifest.images.clear();
    room::check(&manifest, sources)?;
    for source in sources {
        let created = manifest.mtime();
        let (image, part, stats) = build_image(source, created, settings, folder, progress)?;
        manifest.images.push(image);
        parts.push(part);
        frames.push(stats);
    }
    let payload = manifest.to_bytes()?;
    let digest = Digest::of(&payload);
    let envelope = Envelope::new(MANIFEST_TYPE, payload).to_bytes()?;
    let size = publish(out, |file| assemble::assemble(file, &envelope, &manifest, &mut parts))?;
    Ok(Built { manifest, digest, size, frames })
}

/// Members of one image, waiting to be put in place.
struct Part {
    index: Vec<u8>,
    chunks: Vec<u8>,
    payload: File,
}

fn build_image(
    source: &Source,
    created: u64,
    settings: &Settings,
    folder: &Path,
    progress: &(dyn Fn(Event<'_>) + Sync),
) -> Result<(Image, Part, FrameStats), BuildError> {
    let read = |error| BuildError::Read { path: source.path.clone(), source: error };
    let mut input = open(source, created, folder)?;
    // By seeking, not by metadata: a block device has no length there.
    let size = input.seek(SeekFrom::End(0)).map_err(read)?;
    input.rewind().map_err(read)?;
    progress(Event::Image { name: &source.name, size });
    let mut payload = tempfile::tempfile_in(folder).map_err(BuildError::Write)?;
    let written = write_frames(&mut input, size, settings, &mut payload, progress).map_err(|error| match error {
        BuildError::Read { source: error, .. } => read(error),
        other => other,
    })?;
    let (chunks, named) = chunk_addresses(source, &mut input, size).map_err(|error| match error {
        BuildError::Write(error) => read(error),
        other => other,
    })?;
    let image = Image {
        name: source.name.clone(),
        kind: source.kind,
        size,
        sha256: written.image_sha256,
        index: Blob { size: written.index.len() as u64, sha256: Digest::of(&written.index) },
        chunks: named,
        payload: written.payload,
        frame_size: Some(settings.frame_size),
        level: Some(settings.level),
    };
    Ok((image, Part { index: written.index, chunks, payload }, written.stats))
}

/// The bytes of an image. A folder is written as a tree first; a tar made elsewhere is held against the rules and
/// written anew.
fn open(source: &Source, created: u64, folder: &Path) -> Result<File, BuildError> {
    let read = |error| BuildError::Read { path: source.path.clone(), source: error };
    let input = File::open(&source.path).map_err(read)?;
    if source.kind != ImageKind::Tree {
        return Ok(input);
    }
    let mut file = tempfile::tempfile_in(folder).map_err(BuildError::Write)?;
    if input.metadata().map_err(read)?.is_dir() {
        write_tree(&source.path, created, &mut file)?;
    } else {
        rewrite_tree(io::BufReader::new(input), &source.path, created, &mut file)?;
    }
    file.rewind().map_err(BuildError::Write)?;
    Ok(file)
}

fn chunk_addresses(source: &Source, input: &mut File, size: u64) -> Result<(Vec<u8>, Option<Chunks>), BuildError> {
    input.rewind().map_err(BuildError::Write)?;
    let method = match source.chunks {
        ChunkChoice::Cut(method) => method,
        ChunkChoice::Auto if size >= chunks::MIN_IMAGE => {
            let mut head = Vec::new();
            (&*input).take(2048).read_to_end(&mut head).map_err(BuildError::Write)?;
            input.rewind().map_err(BuildError::Write)?;
            ChunkMethod::for_image(&head)
        }
        ChunkChoice::Auto | ChunkChoice::None => return Ok((Vec::new(), None)),
    };
    let member = write_chunks(input, size, method)?;
    let (name, target) = method.name();
    let chunks = Chunks { size: member.len() as u64, sha256: Digest::of(&member), method: name.to_owned(), target };
    Ok((member, Some(chunks)))
}

/// The folder a file stands in.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes a file so that a reader sees all of it or nothing, and durably: temporary file, fsync, rename, fsync of the
/// folder.
///
/// # Errors
/// When `write` fails, or the file system does.
pub fn publish<T>(out: &Path, write: impl FnOnce(&mut File) -> Result<T, BuildError>) -> Result<T, BuildError> {
    let mut file = tempfile::NamedTempFile::new_in(folder_of(out)).map_err(BuildError::Write)?;
    let result = write(file.as_file_mut())?;
    file.as_file_mut().flush().map_err(BuildError::Write)?;
    file.as_file().sync_all().map_err(BuildError::Write)?;
    make_readable(file.as_file()).map_err(BuildError::Write)?;
    file.persist(out).map_err(|error| BuildError::Write(error.error))?;
    File::open(folder_of(out)).and_then(|folder| folder.sync_all()).map_err(BuildError::Write)?;
    Ok(result)
}

/// Temporary files are private; what we publish is for everyone.
fn make_readable(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(test)]
#[path = "build/tests.rs"]
pub(crate) mod tests;
