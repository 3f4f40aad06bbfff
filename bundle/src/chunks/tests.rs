//! Cutting, reading back, finding; lies and noise.
#![cfg(feature = "build")]

use super::*;
use crate::build::{ChunkMethod, write_chunks};
use crate::digest::Digest;
use crate::manifest::{Blob, Chunks, Image, ImageKind};
use proptest::prelude::*;

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

fn cut(raw: &[u8], method: ChunkMethod) -> (Vec<u8>, Image) {
    let member = write_chunks(raw, raw.len() as u64, method).unwrap();
    let blob = Blob { size: 0, sha256: Digest::of(b"") };
    let chunks = Chunks { size: member.len() as u64, sha256: Digest::of(&member), method: "x".to_owned(), target: 1 };
    let image = Image {
        name: "rootfs".to_owned(),
        kind: ImageKind::Block,
        size: raw.len() as u64,
        sha256: Digest::of(raw),
        index: blob,
        chunks: Some(chunks),
        payload: blob,
        frame_size: None,
        level: None,
    };
    (member, image)
}

#[test]
fn a_device_knows_its_image_without_the_member() {
    let raw = noise(3 << 20, 9);
    for method in [ChunkMethod::FastCdc(4 << 10), ChunkMethod::Blocks(4096)] {
        let (member, image) = cut(&raw, method);
        let (kept, own) = (known(&member, &image), KnownChunks::of_image(raw.as_slice(), u64::MAX, method).unwrap());
        for group in ChunksReader::new(member.as_slice(), &image).unwrap() {
            let group = group.unwrap();
            assert!(kept.group(&group, 0).is_some());
            assert_eq!(kept.group(&group, 0), own.group(&group, 0));
        }
    }
}

/// The cutter of the crate, which makes one chunk after the other and knows nothing of zeros.
#[test]
fn chunks_are_those_of_fastcdc() {
    let (average, mut raw) = (8 << 10, noise(900_000, 3));
    raw.extend(vec![0; 1_700_001]);
    raw.extend(noise(300_000, 4));
    raw.extend(vec![0; 33_000]);
    for len in [0, 1, 500, 32_768, 900_000, 900_001, 2_000_000, raw.len() - 1, raw.len()] {
        let mut own = Vec::new();
        super::cut(&raw[..len], u64::MAX, ChunkMethod::FastCdc(average), |group, records| {
            own.extend(read_group(&group, records).unwrap().into_iter().map(|chunk| chunk.len as usize));
        })
        .unwrap();
        let average = average as usize;
        let theirs = fastcdc::v2020::StreamCDC::new(&raw[..len], average / 4, average, average * 4);
        assert_eq!(own, theirs.map(|chunk| chunk.unwrap().length).collect::<Vec<_>>(), "{len} bytes");
    }
}

fn known(member: &[u8], image: &Image) -> KnownChunks {
    let offset = ChunksReader::new(member, image).unwrap().header().chunks_offset() as usize;
    KnownChunks::read(member, &member[offset..], image).unwrap()
}

/// Bytes of the new image that the old one does not have, and bytes of addresses fetched to find that out.
fn missing(old: &[u8], new: &[u8], method: ChunkMethod) -> (u64, u64) {
    let (old_member, old_image) = cut(old, method);
    let (member, image) = cut(new, method);
    let known = known(&old_member, &old_image);
    let reader = ChunksReader::new(member.as_slice(), &image).unwrap();
    let mut records = &member[reader.header().chunks_offset() as usize..];
    let (mut lacking, mut fetched, mut at) = (0, reader.header().chunks_offset(), 0);
    for group in reader {
        let group = group.unwrap();
        let (own, rest) = records.split_at(group.records_len() as usize);
        records = rest;
        let pieces = match known.group(&group, at) {
            Some(piece) => vec![piece],
            None => {
                fetched += own.len() as u64;
                let mut at = at;
                let piece = |chunk: &Chunk| {
                    let piece = known.chunk(chunk, at);
                    at += u64::from(chunk.len);
                    piece
                };
                read_group(&group, own).unwrap().iter().map(piece).collect()
            }
        };
        for piece in pieces {
            let own = &new[piece.new as usize..][..piece.len as usize];
            match piece.old {
                Some(at) => assert!(own == &old[at as usize..][..piece.len as usize]),
                None => lacking += own.len() as u64,
            }
        }
        at += u64::from(group.raw_len);
    }
    assert_eq!(at, new.len() as u64);
    (lacking, fetched)
}

#[test]
fn an_insertion_costs_the_chunks_around_it() {
    let old = noise(12 << 20, 1);
    let mut new = old.clone();
    new.splice(5_000_000..5_000_000, noise(1000, 2));
    let (lacking, fetched) = missing(&old, &new, ChunkMethod::FastCdc(4 << 10));
    assert!(lacking < 40 << 10, "{lacking}");
    let (member, _) = cut(&new, ChunkMethod::FastCdc(4 << 10));
    assert!(fetched < member.len() as u64 / 5, "{fetched} of {}", member.len());
    // Blocks that moved by less than a block are found nowhere.
    assert!(missing(&old, &new, ChunkMethod::Blocks(4096)).0 > 6 << 20);
}

#[test]
fn moved_blocks_are_found_by_blocks() {
    let old = noise(4 << 20, 1);
    let mut new = noise(4096, 3);
    new.extend_from_slice(&old);
    assert_eq!(missing(&old, &new, ChunkMethod::Blocks(4096)).0, 4096);
}

#[test]
fn the_default_follows_the_file_system() {
    let mut erofs = vec![0; 2048];
    erofs[1024..1028].copy_from_slice(&0xe0f5_e1e2u32.to_le_bytes());
    assert_eq!(ChunkMethod::for_image(&erofs), ChunkMethod::Blocks(4096));
    assert_eq!(ChunkMethod::for_image(b"hsqs"), ChunkMethod::FastCdc(32 << 10));
    assert_eq!(ChunkMethod::for_image(b""), ChunkMethod::FastCdc(32 << 10));
}

#[test]
fn newer_and_truncated_members_are_told_apart() {
    let (member, image) = cut(&noise(300_000, 1), ChunkMethod::FastCdc(8 << 10));
    let mut newer = member.clone();
    newer[4] = 2;
    assert_eq!(ChunksReader::new(newer.as_slice(), &image).unwrap_err().reason(), Reason::FormatTooNew);
    for len in 0..HEADER_LEN {
        assert_eq!(ChunksReader::new(&member[..len], &image).unwrap_err().reason(), Reason::Truncated);
    }
}

proptest! {
    #[test]
    fn any_lie_is_an_error_or_a_wrong_hint(at in 0usize..1000, byte: u8) {
        let (mut member, image) = cut(&noise(300_000, 1), ChunkMethod::FastCdc(8 << 10));
        let at = at % member.len();
        member[at] = byte;
        let Ok(reader) = ChunksReader::new(member.as_slice(), &image) else { return Ok(()) };
        let offset = (reader.header().chunks_offset() as usize).min(member.len());
        let _ = KnownChunks::read(member.as_slice(), &member[offset..], &image);
    }
}
