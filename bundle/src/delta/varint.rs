//! Variable-length integers: seven bits a byte, lowest first (LEB128); signed ones zigzag.

use super::DeltaError;

/// Writes `value`.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Writes a signed `value`.
pub(crate) fn put_zigzag(out: &mut Vec<u8>, value: i64) {
    put_varint(out, (value << 1 ^ value >> 63) as u64);
}

/// Takes integers off the front of a slice.
pub(super) struct Varints<'a>(pub &'a [u8]);

impl Varints<'_> {
    pub fn next(&mut self) -> Result<u64, DeltaError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(DeltaError::Malformed("a number ends early"))?;
            self.0 = rest;
            let bits = u64::from(byte & 0x7f);
            let shifted = bits << shift;
            if shifted >> shift != bits {
                return Err(DeltaError::Malformed("a number too large"));
            }
            value |= shifted;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DeltaError::Malformed("a number too large"))
    }

    pub fn u32(&mut self) -> Result<u32, DeltaError> {
        u32::try_from(self.next()?).map_err(|_| DeltaError::Malformed("a number too large"))
    }

    pub fn zigzag(&mut self) -> Result<i64, DeltaError> {
        let value = self.next()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_round_trip(a: u64, b: i64) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, a);
            put_zigzag(&mut bytes, b);
            let mut read = Varints(&bytes);
            prop_assert_eq!((read.next().unwrap(), read.zigzag().unwrap()), (a, b));
            prop_assert!(read.0.is_empty());
        }

        #[test]
        fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            let mut read = Varints(&bytes);
            while read.next().is_ok() {}
        }
    }

    #[test]
    fn numbers_beyond_64_bits_are_refused() {
        assert!(Varints(&[0xff; 9]).next().is_err());
        assert!(Varints(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]).next().is_err());
        assert_eq!(Varints(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]).next().unwrap(), u64::MAX);
    }
}
