//! A bundle from a pipe: first the manifest, then, once it is trusted, every member in its order.
//!
//! The reader holds the envelope (at most 1 MiB) and nothing else; members go to the caller as they come. It believes
//! the signed layout and only checks that the tar agrees, so a duplicated, reordered or foreign member is an error
//! before its first byte is used. No async, no seeking.

use std::io::{self, Read};

use crate::delta::{MAX_RECIPES_SIZE, RECIPES_MEMBER, Section, delta_layout};
use crate::document::DocumentError;
use crate::json;
use crate::layout::{Layout, MANIFEST_MEMBER, Member, MemberKind};
use crate::manifest::Manifest;
use crate::reason::Reason;
use crate::ustar::{self, BLOCK, TarError};

/// Why a bundle can not be read on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Reading failed or ended early.
    #[error("reading the bundle")]
    Io(#[from] io::Error),
    /// A header that no bundle has.
    #[error("not a bundle")]
    Tar(#[from] TarError),
    /// Another member than the signed layout says.
    #[error("member {found:?} of {size} bytes stands where {expected:?} belongs")]
    WrongMember {
        /// What belongs here.
        expected: String,
        /// What stands here.
        found: String,
        /// The size it states.
        size: u64,
    },
    /// An envelope above 1 MiB.
    #[error("a manifest of {0} bytes, more than the 1 MiB allowed")]
    EnvelopeTooLarge(u64),
    /// The sizes of the manifest do not fit a bundle.
    #[error("the manifest's sizes do not fit a bundle")]
    Layout(#[from] DocumentError),
    /// Members were asked for before the manifest was accepted.
    #[error("the manifest was not accepted yet")]
    NotOpened,
}

impl ReadError {
    /// The reason code of this refusal.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => Reason::Truncated,
            Self::Io(_) | Self::NotOpened => Reason::Internal,
            Self::Tar(error) => error.reason(),
            Self::WrongMember { .. } | Self::EnvelopeTooLarge(_) => Reason::Malformed,
            Self::Layout(error) => error.reason(),
        }
    }
}

/// Reads a bundle from its first byte to its last. As [`Read`] it gives the content of the current member.
#[derive(Debug)]
pub struct SequentialReader<R> {
    inner: R,
    envelope: Vec<u8>,
    members: std::vec::IntoIter<Member>,
    opened: bool,
    left: u64,
    padding: u64,
}

impl<R: Read> SequentialReader<R> {
    /// Reads the envelope; nothing is trusted yet.
    ///
    /// # Errors
    /// When the first member is anything but a manifest of at most 1 MiB.
    pub fn new(mut inner: R) -> Result<Self, ReadError> {
        let found = read_header(&mut inner)?;
        if found.as_ref().is_none_or(|entry| entry.name != MANIFEST_MEMBER) {
            return Err(wrong(MANIFEST_MEMBER, found));
        }
        let size = found.map_or(0, |entry| entry.size);
        if size > json::DOCUMENT.bytes as u64 {
            return Err(ReadError::EnvelopeTooLarge(size));
        }
        let mut envelope = vec![0; usize::try_from(size).unwrap_or(json::DOCUMENT.bytes)];
        inner.read_exact(&mut envelope)?;
        let mut reader = Self { inner, envelope, members: Vec::new().into_iter(), opened: false, left: 0, padding: 0 };
        reader.padding = pad(size);
        reader.skip_rest()?;
        Ok(reader)
    }

    /// The envelope, for [`crate::open::open_manifest`].
    #[must_use]
    pub fn envelope(&self) -> &[u8] {
        &self.envelope
    }

    /// Goes on with the manifest that was opened from [`SequentialReader::envelope`].
    ///
    /// # Errors
    /// When its sizes do not fit a bundle.
    pub fn accept(&mut self, manifest: &Manifest) -> Result<(), ReadError> {
        let layout = Layout::new(self.envelope.len() as u64, manifest)?;
        self.members = layout.members().iter().skip(1).cloned().collect::<Vec<_>>().into_iter();
        self.opened = true;
        Ok(())
    }

    /// Goes on with a delta: the recipes stand second, and their content is then read from this reader.
    ///
    /// # Errors
    /// When something else stands there, or the recipes are larger than a device stores.
    pub fn begin_delta(&mut self) -> Result<Member, ReadError> {
        self.skip_rest()?;
        let found = read_header(&mut self.inner)?;
        let fits = |entry: &ustar::Entry| entry.name == RECIPES_MEMBER && entry.size <= MAX_RECIPES_SIZE;
        let Some(entry) = found.clone().filter(fits) else { return Err(wrong(RECIPES_MEMBER, found)) };
        self.left = entry.size;
        self.padding = pad(entry.size);
        let header = ustar::padded(self.envelope.len() as u64).unwrap_or_default() + BLOCK;
        Ok(Member {
            name: entry.name,
            kind: MemberKind::Recipes,
            image: None,
            offset: header + BLOCK,
            size: entry.size,
        })
    }

    /// Goes on with the members behind the recipes.
    ///
    /// # Errors
    /// When the sizes do not fit a delta.
    pub fn accept_delta(&mut self, manifest: &Manifest, recipes: u64, sections: &[Section]) -> Result<(), ReadError> {
        let layout = delta_layout(self.envelope.len() as u64, recipes, manifest, sections)?;
        self.members = layout.members().iter().skip(2).cloned().collect::<Vec<_>>().into_iter();
        self.opened = true;
        Ok(())
    }

    /// The next member, whose content is then read from this reader; none after the last, once the end was seen.
    /// What is left of the previous member is skipped.
    ///
    /// # Errors
    /// When the tar holds something else here, or ends early.
    pub fn next_member(&mut self) -> Result<Option<Member>, ReadError> {
        if !self.opened {
            return Err(ReadError::NotOpened);
        }
        self.skip_rest()?;
        let found = read_header(&mut self.inner)?;
        let Some(member) = self.members.next() else {
            // An archive ends with two blocks of zeros; a missing second one is a truncation.
            let second = if found.is_none() { read_header(&mut self.inner)? } else { found };
            return if second.is_none() { Ok(None) } else { Err(wrong("the end", second)) };
        };
        if found.as_ref().is_none_or(|entry| entry.name != member.name || entry.size != member.size) {
            return Err(wrong(&member.name, found));
        }
        self.left = member.size;
        self.padding = pad(member.size);
        Ok(Some(member))
    }

    fn skip_rest(&mut self) -> Result<(), ReadError> {
        let rest = self.left + self.padding;
        let skipped = io::copy(&mut self.inner.by_ref().take(rest), &mut io::sink())?;
        (self.left, self.padding) = (0, 0);
        if skipped < rest { Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()) } else { Ok(()) }
    }
}

impl<R: Read> Read for SequentialReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.by_ref().take(self.left).read(buffer)?;
        if read == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        Ok(read)
    }
}

fn read_header(inner: &mut impl Read) -> Result<Option<ustar::Entry>, ReadError> {
    let mut block = [0; BLOCK as usize];
    inner.read_exact(&mut block)?;
    Ok(ustar::parse(&block)?)
}

fn wrong(expected: &str, found: Option<ustar::Entry>) -> ReadError {
    let (found, size) = found.map_or_else(|| ("the end".to_owned(), 0), |entry| (entry.name, entry.size));
    ReadError::WrongMember { expected: expected.to_owned(), found, size }
}

/// Bytes between the end of a content and the next header.
fn pad(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK
}
