//! Round trip, every kind of lie, any flipped bit, any truncation.

use super::*;
use crate::manifest::{Blob, Image, ImageKind};
use proptest::prelude::*;

const FRAME: u32 = 4096;

/// An index of `n` frames (the last of 100 bytes, the second all zeros) and the image it belongs to.
fn example(n: u32) -> (Vec<u8>, Image) {
    let mut records = Vec::new();
    let mut offset = 0;
    for i in 0..n {
        let raw_len = if i + 1 == n { 100 } else { FRAME };
        let zero = i == 1;
        let raw = if zero { vec![0; raw_len as usize] } else { vec![i as u8 + 1; raw_len as usize] };
        let stored_len = 50 + i;
        let (stored_sha256, raw_sha256) = (Digest::of(&i.to_le_bytes()), Digest::of(&raw));
        records.push(FrameRecord { offset, stored_len, raw_len, zero, stored_sha256, raw_sha256 });
        offset += u64::from(stored_len);
    }
    let image_size = if n == 0 { 0 } else { u64::from(FRAME) * u64::from(n - 1) + 100 };
    let header = IndexHeader { frame_size: FRAME, frame_count: n, image_size, payload_size: offset };
    build(header, &records)
}

fn build(header: IndexHeader, records: &[FrameRecord]) -> (Vec<u8>, Image) {
    let mut bytes = header.to_bytes().to_vec();
    records.iter().for_each(|record| bytes.extend_from_slice(&record.to_bytes()));
    let blob = |size: u64, sha256| Blob { size, sha256 };
    let image = Image {
        name: "rootfs".to_owned(),
        kind: ImageKind::Block,
        size: header.image_size,
        sha256: Digest::of(b""),
        index: blob(bytes.len() as u64, Digest::of(&bytes)),
        chunks: None,
        payload: blob(header.payload_size, Digest::of(b"")),
        frame_size: None,
        level: None,
    };
    (bytes, image)
}

/// As if the change had been signed: digests are right, only the rules are broken.
fn refused_though_signed(change: impl FnOnce(&mut IndexHeader, &mut Vec<FrameRecord>)) -> IndexError {
    let (bytes, image) = example(4);
    let mut header = check_index(bytes.as_slice(), &image).unwrap();
    let mut records = IndexReader::new(bytes.as_slice(), &image).unwrap().map(Result::unwrap).collect::<Vec<_>>();
    change(&mut header, &mut records);
    let (bytes, image) = build(header, &records);
    check_index(bytes.as_slice(), &image).unwrap_err()
}

#[test]
fn round_trip() {
    for n in [0, 1, 2, 5] {
        let (bytes, image) = example(n);
        let reader = IndexReader::new(bytes.as_slice(), &image).unwrap();
        let records = reader.collect::<Result<Vec<_>, _>>().unwrap();
        assert_eq!(records.len(), n as usize);
        let again = records.iter().flat_map(|record| record.to_bytes()).collect::<Vec<_>>();
        assert_eq!(again, bytes[HEADER_LEN..]);
    }
}

#[test]
fn lies_are_found_even_when_signed() {
    let malformed = |error: IndexError| assert!(matches!(error, IndexError::Malformed(_)), "{error:?}");
    malformed(refused_though_signed(|header, _| header.frame_size = 0));
    malformed(refused_though_signed(|header, _| header.frame_size = 4097));
    malformed(refused_though_signed(|header, _| header.frame_size = 8 << 20));
    malformed(refused_though_signed(|header, _| header.frame_count = u32::MAX));
    malformed(refused_though_signed(|header, _| header.image_size = u64::MAX));
    malformed(refused_though_signed(|header, _| header.payload_size = u64::MAX));
    malformed(refused_though_signed(|header, _| header.payload_size += 1));
    malformed(refused_though_signed(|_, records| records[0].offset = 1));
    malformed(refused_though_signed(|_, records| records[2].offset = u64::MAX));
    malformed(refused_though_signed(|_, records| records[1].raw_len = 1));
    malformed(refused_though_signed(|_, records| records[1].stored_len = u32::MAX));
    malformed(refused_though_signed(|_, records| records[1].stored_len = 0));
    malformed(refused_though_signed(|_, records| records[0].zero = true));
    malformed(refused_though_signed(|_, records| records.truncate(3)));
}

#[test]
fn a_newer_format_is_called_newer_whatever_its_digest() {
    let (bytes, image) = example(3);
    for (at, value) in [(4, 2), (8, 1), (HEADER_LEN + 16, 2)] {
        let mut newer = bytes.clone();
        newer[at] = value;
        let error = check_index(newer.as_slice(), &image).unwrap_err();
        assert_eq!(error.reason(), Reason::FormatTooNew, "byte {at}");
    }
}

#[test]
fn any_flipped_bit_and_any_truncation_is_refused() {
    let (bytes, image) = example(4);
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(check_index(flipped.as_slice(), &image).is_err(), "bit {bit}");
    }
    for len in 0..bytes.len() {
        assert_eq!(check_index(&bytes[..len], &image).unwrap_err().reason(), Reason::Truncated, "{len} bytes");
    }
}

proptest! {
    #[test]
    fn noise_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), honest in 0usize..80) {
        let (good, image) = example(3);
        let honest = honest.min(bytes.len());
        bytes[..honest].copy_from_slice(&good[..honest]);
        prop_assert!(check_index(bytes.as_slice(), &image).is_err());
    }
}
