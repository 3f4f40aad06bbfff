//! PAX extended headers (POSIX.1-2001): only what a tree needs, bounded.

use super::TreeError;

/// Largest extended header, bytes: extended attributes are at most 64 KiB on Linux.
pub const MAX_SIZE: u64 = 64 << 10;

/// Prefix under which all tars keep extended attributes.
pub const XATTR: &str = "SCHILY.xattr.";

/// What a record says about the entry behind it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Pax {
    pub path: Option<String>,
    pub linkpath: Option<String>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub xattrs: Vec<(String, Vec<u8>)>,
}

impl Pax {
    /// Reads records of `<length> <key>=<value>\n`; unknown keys are ignored.
    pub fn parse(mut bytes: &[u8]) -> Result<Self, TreeError> {
        let mut pax = Self::default();
        while !bytes.is_empty() {
            let space = bytes.iter().position(|byte| *byte == b' ').ok_or(TreeError::Pax)?;
            let len = number(bytes.get(..space).unwrap_or_default())?;
            let len = usize::try_from(len).map_err(|_| TreeError::Pax)?;
            let (record, rest) = bytes.split_at_checked(len).ok_or(TreeError::Pax)?;
            let record = record.get(space + 1..).and_then(|record| record.strip_suffix(b"\n")).ok_or(TreeError::Pax)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or(TreeError::Pax)?;
            let (key, value) = record.split_at(equals);
            let value = value.get(1..).unwrap_or_default();
            pax.set(std::str::from_utf8(key).map_err(|_| TreeError::Pax)?, value)?;
            bytes = rest;
        }
        Ok(pax)
    }

    fn set(&mut self, key: &str, value: &[u8]) -> Result<(), TreeError> {
        let text = || String::from_utf8(value.to_vec()).map_err(|_| TreeError::Pax);
        match key {
            "path" => self.path = Some(text()?),
            "linkpath" => self.linkpath = Some(text()?),
            "size" => self.size = Some(number(value)?),
            "uid" => self.uid = Some(number(value)?),
            "gid" => self.gid = Some(number(value)?),
            _ => {
                if let Some(name) = key.strip_prefix(XATTR).filter(|name| !name.is_empty()) {
                    self.xattrs.push((name.to_owned(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// One record, with the length that counts itself.
#[cfg(any(test, feature = "unpack"))]
pub fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    [format!("{len} {key}=").as_bytes(), value, b"\n"].concat()
}

fn number(digits: &[u8]) -> Result<u64, TreeError> {
    let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|c| c.is_ascii_digit()));
    text.and_then(|text| text.parse().ok()).filter(|value| *value < 1 << 63).ok_or(TreeError::Pax)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn records_count_their_own_length() {
        assert_eq!(record("path", b"ab"), b"11 path=ab\n");
        for len in 0..300 {
            let bytes = record("path", &vec![b'x'; len]);
            assert!(bytes.starts_with(format!("{} ", bytes.len()).as_bytes()));
            assert_eq!(Pax::parse(&bytes).unwrap().path.unwrap().len(), len);
        }
    }

    proptest! {
        #[test]
        fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100), digits in "[0-9 =a]{0,20}") {
            let _ = Pax::parse(&bytes);
            let _ = Pax::parse(digits.as_bytes());
        }
    }
}
