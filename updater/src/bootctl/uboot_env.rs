//! U-Boot's environment as `env export -c` makes it: a CRC-32 (little endian) of the rest, then `name=value` texts
//! that end in a zero byte, an empty text, zero padding.
//!
//! Pure bytes. Source: U-Boot, `cmd/nvedit.c` and `include/env_internal.h`.

use std::collections::BTreeMap;

/// Size of the file: `env export -c -s 0x1000`.
pub const SIZE: usize = 4096;
const CRC: usize = 4;

/// Why a copy can not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// Another size.
    #[error("an environment has {SIZE} bytes, this has {0}")]
    Size(usize),
    /// The CRC does not match: a torn write.
    #[error("the CRC does not match")]
    Crc,
    /// A text without `=`, or not UTF-8.
    #[error("a variable is damaged")]
    Variable,
    /// The variables do not fit.
    #[error("the variables need {0} bytes")]
    Full(usize),
}

/// CRC-32 as zlib, Ethernet and U-Boot use it (polynomial 0xEDB88320, reflected). Four kilobytes a few times a year:
/// no table.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 })
    })
}

/// Reads one copy.
///
/// # Errors
/// [`EnvError`]: it is not whole.
pub fn parse(file: &[u8]) -> Result<BTreeMap<String, String>, EnvError> {
    if file.len() != SIZE {
        return Err(EnvError::Size(file.len()));
    }
    let (stored, data) = file.split_first_chunk::<CRC>().ok_or(EnvError::Size(file.len()))?;
    if u32::from_le_bytes(*stored) != crc32(data) {
        return Err(EnvError::Crc);
    }
    let mut variables = BTreeMap::new();
    for text in data.split(|byte| *byte == 0).take_while(|text| !text.is_empty()) {
        let (name, value) = std::str::from_utf8(text).ok().and_then(|t| t.split_once('=')).ok_or(EnvError::Variable)?;
        variables.insert(name.to_owned(), value.to_owned());
    }
    Ok(variables)
}

/// Makes one copy.
///
/// # Errors
/// [`EnvError`]: too much, or a zero byte or `=` where none can be.
pub fn render(variables: &BTreeMap<String, String>) -> Result<Vec<u8>, EnvError> {
    let mut file = vec![0; CRC];
    for (name, value) in variables {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(EnvError::Variable);
        }
        file.extend_from_slice(format!("{name}={value}\0").as_bytes());
    }
    if file.len() >= SIZE {
        return Err(EnvError::Full(file.len()));
    }
    file.resize(SIZE, 0);
    let crc = crc32(file.get(CRC..).unwrap_or_default());
    if let Some(start) = file.first_chunk_mut::<CRC>() {
        *start = crc.to_le_bytes();
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_crc_everybody_uses() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn a_torn_copy_is_noticed() {
        let mut file = render(&BTreeMap::from([("BOOT_ORDER".into(), "A B".into())])).unwrap();
        assert_eq!(parse(&file).unwrap().get("BOOT_ORDER").unwrap(), "A B");
        file[10] ^= 1;
        assert_eq!(parse(&file), Err(EnvError::Crc));
        assert_eq!(parse(&file[..100]), Err(EnvError::Size(100)));
    }

    proptest! {
        #[test]
        fn round_trip(variables in proptest::collection::btree_map("[a-zA-Z_]{1,8}", "[ -~]{0,20}", 0..30)) {
            prop_assert_eq!(parse(&render(&variables).unwrap()).unwrap(), variables);
        }
    }
}
