//! A bundle on disk, opened for reading anywhere, and its images as plain files.

use std::fs::File;
use std::io::{BufReader, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use bundle::build::OldFile;
use bundle::digest::Digest;
use bundle::dsse::Envelope;
use bundle::manifest::Manifest;
use bundle::random::{RandomReader, read_envelope};

use crate::content;
use crate::progress::Progress;

/// A bundle on disk. Its signatures are not checked: release engineers compare what they built themselves.
pub struct Release {
    /// Where it is.
    pub path: PathBuf,
    /// The envelope as it stands in the file.
    pub envelope: Vec<u8>,
    /// How many signatures that has.
    pub signatures: usize,
    /// Digest of the manifest.
    pub digest: Digest,
    /// The bundle.
    pub reader: RandomReader<BufReader<File>>,
}

impl Release {
    /// Opens a bundle.
    pub fn open(path: &Path) -> Result<Self> {
        let open = || -> Result<Self> {
            let mut file = BufReader::new(File::open(path)?);
            let envelope = read_envelope(&mut file)?;
            let parsed = Envelope::parse(&envelope)?;
            let manifest = Manifest::parse(&parsed.payload)?;
            let reader = RandomReader::new(file, envelope.len() as u64, manifest)?;
            let (signatures, digest) = (parsed.signatures.len(), Digest::of(&parsed.payload));
            Ok(Self { path: path.to_owned(), envelope, signatures, digest, reader })
        };
        open().with_context(|| path.display().to_string())
    }

    /// Its manifest.
    pub fn manifest(&self) -> &Manifest {
        self.reader.manifest()
    }

    /// Size of the bundle, bytes.
    pub fn size(&self) -> u64 {
        self.reader.layout().len()
    }

    /// Its images as unnamed temporary files in `folder`, every byte checked.
    pub fn unpack(&self, folder: &Path, progress: &Progress) -> Result<Vec<OldFile>> {
        let what = || format!("unpacking {}", self.path.display());
        let mut files = Vec::new();
        for image in &self.manifest().images {
            let file = tempfile::tempfile_in(folder).with_context(what)?;
            files.push(OldFile { name: image.name.clone(), file, size: image.size, sha256: image.sha256 });
        }
        let opened = content::open(content::input(&self.path)?, None).with_context(what)?;
        opened
            .check(progress, &mut |n, raw| match files.get_mut(n) {
                Some(old) => write_sparse(&mut old.file, raw).with_context(what),
                None => Ok(()),
            })
            .with_context(what)?;
        for old in &files {
            old.file.set_len(old.size).with_context(what)?;
        }
        Ok(files)
    }
}

/// Leaves a hole for a frame of zeros; the file's length is set at the end.
pub fn write_sparse(file: &mut File, raw: &[u8]) -> std::io::Result<()> {
    if raw.iter().all(|byte| *byte == 0) {
        file.seek(SeekFrom::Current(i64::try_from(raw.len()).unwrap_or(0))).map(drop)
    } else {
        file.write_all(raw)
    }
}
