//! One 512-byte tar header, written and read.
//!
//! POSIX.1-1988 `ustar`, plain files only. Sizes above 8 GiB use the base-256 form that GNU tar and all others read.
//! There are no PAX or long-name records: a reader that follows those can be made to allocate what a stranger says.
//! Only memory.

use crate::reason::Reason;

/// Size of a header, and the unit to which contents are padded.
pub const BLOCK: u64 = 512;

const BLOCK_LEN: usize = 512;

/// Longest member name, bytes.
pub const MAX_NAME: usize = 100;

/// Why a header is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TarError {
    /// Not a tar header: magic or checksum.
    #[error("not a tar header")]
    NotTar,
    /// A link, device, directory or extension record where a plain file must stand.
    #[error("a tar member of type {0:?}, only plain files are allowed")]
    NotAFile(char),
    /// A number that is not octal, or too large.
    #[error("a tar header with an unreadable size")]
    Size,
    /// A name that is not UTF-8 or longer than 100 bytes.
    #[error("a tar member with an unusable name")]
    Name,
}

impl TarError {
    /// The reason code of this refusal.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        Reason::Malformed
    }
}

/// What a header says of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its content's size, bytes.
    pub size: u64,
}

/// `size` rounded up to whole blocks; none on overflow.
#[must_use]
pub fn padded(size: u64) -> Option<u64> {
    size.checked_next_multiple_of(BLOCK)
}

/// The fields of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawHeader {
    /// Name, with its prefix if it has one.
    pub name: String,
    /// Type: `0` file, `1` hard link, `2` symbolic link, `5` folder, `x` extended header, and others.
    pub kind: u8,
    /// Target of a link.
    pub link: String,
    /// Permission bits.
    pub mode: u64,
    /// Numeric owner.
    pub uid: u64,
    /// Numeric group.
    pub gid: u64,
    /// Bytes of content.
    pub size: u64,
    /// Modification time, seconds since 1970.
    pub mtime: u64,
}

impl RawHeader {
    /// Reads a header; none for the block of zeros that ends an archive.
    ///
    /// # Errors
    /// When it is not a `ustar` header.
    pub fn parse(block: &[u8; BLOCK_LEN]) -> Result<Option<Self>, TarError> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let stored = octal(field(block, 148, 8)).ok_or(TarError::NotTar)?;
        if field(block, 257, 5) != b"ustar" || stored != checksum(block) {
            return Err(TarError::NotTar);
        }
        let text = |at, len| {
            let bytes = field(block, at, len).split(|byte| *byte == 0).next().unwrap_or_default();
            std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| TarError::Name)
        };
        let value = |at, len| size(field(block, at, len)).ok_or(TarError::Size);
        // Empty in extended headers of some writers; GNU tar and libarchive read that as zero, too.
        let or_zero =
            |at, len| if field(block, at, len).iter().all(|byte| *byte == 0) { Ok(0) } else { value(at, len) };
        let (prefix, name) = (text(345, 155)?, text(0, MAX_NAME)?);
        Ok(Some(Self {
            name: if prefix.is_empty() { name } else { format!("{prefix}/{name}") },
            kind: field(block, 156, 1).first().copied().unwrap_or_default(),
            link: text(157, 100)?,
            mode: or_zero(100, 8)?,
            uid: or_zero(108, 8)?,
            gid: or_zero(116, 8)?,
            size: value(124, 12)?,
            mtime: or_zero(136, 12)?,
        }))
    }

    /// As it is stored, without prefix and without names of owners.
    ///
    /// # Errors
    /// When a name or a number does not fit.
    pub fn to_bytes(&self) -> Result<[u8; BLOCK_LEN], TarError> {
        if self.name.is_empty() || self.name.len() > MAX_NAME || self.link.len() > MAX_NAME {
            return Err(TarError::Name);
        }
        let mut block = [0u8; BLOCK_LEN];
        put(&mut block, 0, self.name.as_bytes());
        for (at, value) in [(100, self.mode), (108, self.uid), (116, self.gid)] {
            if value >= 1 << 21 {
                return Err(TarError::Size);
            }
            put(&mut block, at, format!("{value:07o}\0").as_bytes());
        }
        put(&mut block, 124, &number(self.size)?);
        put(&mut block, 136, &number(self.mtime)?);
        put(&mut block, 156, &[self.kind]);
        put(&mut block, 157, self.link.as_bytes());
        put(&mut block, 257, b"ustar\x0000");
        seal(&mut block);
        Ok(block)
    }
}

/// The header of a plain file: mode 0644, owner 0:0, no names of owners.
///
/// # Errors
/// When the name is too long or the size does not fit.
pub fn header(name: &str, size: u64, mtime: u64) -> Result<[u8; BLOCK_LEN], TarError> {
    let (name, link) = (name.to_owned(), String::new());
    RawHeader { name, kind: b'0', link, mode: 0o644, uid: 0, gid: 0, size, mtime }.to_bytes()
}

/// Reads the header of a plain file; none for the block of zeros that ends an archive.
///
/// # Errors
/// When it is anything but a plain file.
pub fn parse(block: &[u8; BLOCK_LEN]) -> Result<Option<Entry>, TarError> {
    let Some(raw) = RawHeader::parse(block)? else { return Ok(None) };
    match raw.kind {
        b'0' | 0 => {}
        other => return Err(TarError::NotAFile(char::from(other))),
    }
    // The prefix would let longer names in; ours are never that long.
    if field(block, 345, 1) != [0] {
        return Err(TarError::Name);
    }
    Ok(Some(Entry { name: raw.name, size: raw.size }))
}

fn put(block: &mut [u8; BLOCK_LEN], at: usize, bytes: &[u8]) {
    block.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
}

fn field(block: &[u8; BLOCK_LEN], at: usize, len: usize) -> &[u8] {
    block.get(at..at + len).unwrap_or_default()
}

/// Writes the checksum.
fn seal(block: &mut [u8; BLOCK_LEN]) {
    let sum = checksum(block);
    put(block, 148, format!("{sum:06o}\0 ").as_bytes());
}

/// Sum of all bytes, with the checksum field read as spaces.
fn checksum(block: &[u8; BLOCK_LEN]) -> u64 {
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    let own: u64 = field(block, 148, 8).iter().map(|byte| u64::from(*byte)).sum();
    sum - own + 8 * u64::from(b' ')
}

/// Eleven octal digits, or base-256 with the top bit set.
fn number(value: u64) -> Result<[u8; 12], TarError> {
    let mut out = [0u8; 12];
    if value < 1 << 33 {
        out.iter_mut().zip(format!("{value:011o}").bytes()).for_each(|(to, from)| *to = from);
    } else if value < 1 << 63 {
        out = (0x80u128 << 88 | u128::from(value)).to_be_bytes().last_chunk().copied().ok_or(TarError::Size)?;
    } else {
        return Err(TarError::Size);
    }
    Ok(out)
}

fn size(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if *first != 0x80 {
        return octal(field);
    }
    let (high, low) = rest.split_at_checked(3)?;
    let value = u64::from_be_bytes(low.try_into().ok()?);
    (high.iter().all(|byte| *byte == 0) && value < 1 << 63).then_some(value)
}

fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?.trim_end_matches([' ', '\0']).trim_start_matches(' ');
    let digits = !text.is_empty() && text.bytes().all(|c| (b'0'..=b'7').contains(&c));
    digits.then(|| u64::from_str_radix(text, 8).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn headers_round_trip_and_the_tar_crate_agrees() {
        for size in [0, 1, 511, (1 << 33) - 1, 1 << 33, 1 << 44] {
            let block = header("rootfs.index", size, 1_700_000_000).unwrap();
            assert_eq!(parse(&block).unwrap().unwrap(), Entry { name: "rootfs.index".to_owned(), size });
            let mut archive = tar::Archive::new(block.as_slice());
            let entry = archive.entries().unwrap().raw(true).next().unwrap().unwrap();
            assert_eq!(entry.header().size().unwrap(), size);
            assert_eq!(entry.header().mtime().unwrap(), 1_700_000_000);
            assert_eq!(entry.path().unwrap().to_str().unwrap(), "rootfs.index");
        }
    }

    #[test]
    fn names_and_sizes_have_ends() {
        assert!(header(&"n".repeat(100), 0, 0).is_ok());
        assert_eq!(header(&"n".repeat(101), 0, 0), Err(TarError::Name));
        assert_eq!(header("n", 1 << 63, 0), Err(TarError::Size));
        assert_eq!(padded(u64::MAX), None);
        assert_eq!((padded(0), padded(1), padded(512)), (Some(0), Some(512), Some(512)));
    }

    #[test]
    fn links_devices_and_extensions_are_refused() {
        for kind in b"123456xgLK" {
            let mut block = header("n", 0, 0).unwrap();
            block[156] = *kind;
            seal(&mut block);
            assert_eq!(parse(&block), Err(TarError::NotAFile(char::from(*kind))));
        }
    }

    #[test]
    fn any_flipped_bit_is_refused_or_changes_nothing() {
        let block = header("manifest.dsse.json", 1234, 5).unwrap();
        let good = parse(&block).unwrap();
        for bit in 0..BLOCK_LEN * 8 {
            let mut flipped = block;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&flipped).is_err() || parse(&flipped).unwrap() == good, "bit {bit}");
        }
    }

    #[test]
    fn an_empty_mode_is_zero_and_an_empty_size_is_none() {
        for (at, len, good) in [(100, 8, true), (136, 12, true), (124, 12, false)] {
            let mut block = header("n", 5, 7).unwrap();
            put(&mut block, at, &[0; 12][..len]);
            seal(&mut block);
            assert_eq!(RawHeader::parse(&block).is_ok(), good, "{at}");
        }
    }

    #[test]
    fn what_gnu_tar_writes_is_read() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), b"hello").unwrap();
        let run = std::process::Command::new("tar")
            .args(["--format=ustar", "-cf", "t.tar", "a"])
            .current_dir(dir.path())
            .status();
        assert!(run.unwrap().success());
        let mut block = [0; BLOCK_LEN];
        std::fs::File::open(dir.path().join("t.tar")).unwrap().read_exact(&mut block).unwrap();
        assert_eq!(parse(&block).unwrap().unwrap(), Entry { name: "a".to_owned(), size: 5 });
    }
}
