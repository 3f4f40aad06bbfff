//! What each fuzz target does with its bytes: parse, follow, and check what must hold whatever they are.
//!
//! Shared by `cargo fuzz` (`fuzz_targets/`, needs nightly) and by the ordinary test `tests/fuzz.rs`, so that the bodies
//! are run on every commit. A panic is a finding.

use std::io::Read;

use bundle::approval::Approval;
use bundle::channel::Channel;
use bundle::chunks::{ChunksHeader, ChunksReader, HEADER_LEN as CHUNKS_HEADER, KnownChunks, read_group};
use bundle::delta::{Body, FrameSource, Item, Patcher, RecipesReader, Section, delta_layout};
use bundle::digest::Digest;
use bundle::dsse::Envelope;
use bundle::frame::{FrameDecoder, check_raw};
use bundle::index::{FrameRecord, HEADER_LEN as INDEX_HEADER, IndexHeader, IndexReader, check_index};
use bundle::keys::{PrivateKey, PublicKey};
use bundle::layout::MemberKind;
use bundle::manifest::{Blob, Chunks, Image, ImageKind, Manifest};
use bundle::recall::Recall;
use bundle::sequential::SequentialReader;
use bundle::tree::{TreeKind, TreeReader};
use bundle::trust::TrustRoot;
use bundle::ustar::{BLOCK, RawHeader};

/// A target: its name, and what it does with its bytes.
pub type Target = (&'static str, fn(&[u8]));

/// Every body, under the name of its target.
pub const ALL: &[Target] = &[
    ("approval", approval),
    ("body", body),
    ("bundle", bundle),
    ("channel", channel),
    ("chunks", chunks),
    ("delta", delta),
    ("envelope", envelope),
    ("frame", frame),
    ("index", index),
    ("json", json),
    ("keys", keys),
    ("manifest", manifest),
    ("recall", recall),
    ("recipes", recipes),
    ("tree", tree),
    ("trust", trust),
    ("ustar", ustar),
];

/// A document that was read is written and read again the same.
macro_rules! document {
    ($name:ident, $kind:ty) => {
        pub fn $name(data: &[u8]) {
            let Ok(read) = <$kind>::parse(data) else { return };
            let Ok(bytes) = read.to_bytes() else { panic!("what was read can not be written") };
            assert!(<$kind>::parse(&bytes).is_ok_and(|again| again == read), "written, it reads otherwise");
        }
    };
}

document!(approval, Approval);
document!(channel, Channel);
document!(envelope, Envelope);
document!(manifest, Manifest);
document!(recall, Recall);
document!(trust, TrustRoot);

pub fn json(data: &[u8]) {
    // What passes the strict reader passes any other, too.
    if bundle::json::check(data, bundle::json::DOCUMENT).is_ok() {
        assert!(std::str::from_utf8(data).is_ok());
    }
}

pub fn keys(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(key) = PublicKey::from_pem(text) {
        assert!(PublicKey::from_pem(key.to_pem()).is_ok_and(|again| again.id() == key.id()));
    }
    if let Ok(key) = PrivateKey::from_pem(text) {
        let _ = key.public();
    }
}

/// An image of that size whose members are just these bytes.
fn image(size: u64, member: &[u8], payload: u64) -> Image {
    let blob = Blob { size: member.len() as u64, sha256: Digest::of(member) };
    let chunks =
        Chunks { size: blob.size, sha256: blob.sha256, method: "blocks".to_owned(), target: bundle::delta::BLOCK };
    Image {
        name: "rootfs".to_owned(),
        kind: ImageKind::Block,
        size,
        sha256: Digest::of(b""),
        index: blob,
        chunks: Some(chunks),
        payload: Blob { size: payload, sha256: Digest::of(b"") },
        frame_size: None,
        level: None,
    }
}

pub fn index(data: &[u8]) {
    // What the manifest says of it is what it says of itself, so that its records are reached.
    let header = data.first_chunk::<INDEX_HEADER>().and_then(|bytes| IndexHeader::parse(bytes).ok());
    let (size, payload) = header.map_or((0, 0), |header| (header.image_size, header.payload_size));
    let image = image(size, data, payload);
    let whole = check_index(data, &image).is_ok();
    let Ok(records) = IndexReader::new(data, &image) else { return };
    let (mut raw, mut stored) = (0u64, 0u64);
    for record in records {
        let Ok(record) = record else { return };
        assert_eq!(record.offset, stored);
        raw += u64::from(record.raw_len);
        stored += u64::from(record.stored_len);
    }
    assert!(!whole || (raw, stored) == (size, payload), "a whole index covers image and payload");
}

pub fn chunks(data: &[u8]) {
    let header = data.first_chunk::<CHUNKS_HEADER>().and_then(|it| ChunksHeader::parse(it, data.len() as u64).ok());
    let image = image(header.map_or(0, |header| header.image_size), data, 0);
    let Ok(reader) = ChunksReader::new(data, &image) else { return };
    let offset = usize::try_from(reader.header().chunks_offset()).unwrap_or(usize::MAX);
    let Some(mut records) = data.get(offset..) else { return };
    let _ = KnownChunks::read(data, records, &image);
    let mut covered = 0u64;
    for group in reader {
        let Ok(group) = group else { return };
        covered += u64::from(group.raw_len);
        let Some((own, rest)) = usize::try_from(group.records_len()).ok().and_then(|len| records.split_at_checked(len))
        else {
            return;
        };
        records = rest;
        if let Ok(chunks) = read_group(&group, own) {
            assert_eq!(chunks.iter().map(|chunk| u64::from(chunk.len)).sum::<u64>(), u64::from(group.raw_len));
        }
    }
    assert_eq!(covered, image.size, "a table that was read to its end covers the image");
}

/// The manifest that recipes are held against: one image of 8 MiB.
fn release() -> Option<Manifest> {
    let text = format!(
        r#"{{"compatible":"x","version":"1.0.0","counter":1,"created":"2026-01-01T00:00:00Z","images":[{{"name":"rootfs",
        "kind":"block","size":8388608,"sha256":"{0}","index":{{"size":736,"sha256":"{0}"}},
        "payload":{{"size":4096,"sha256":"{0}"}}}}]}}"#,
        "00".repeat(32)
    );
    Manifest::parse(text.as_bytes()).ok()
}

pub fn recipes(data: &[u8]) {
    let Some(manifest) = release() else { panic!("the manifest of this body is not one") };
    let to = data.get(64..96).and_then(|bytes| bytes.try_into().ok()).map_or(Digest([0; 32]), Digest);
    let Ok(reader) = RecipesReader::new(data, &manifest, &to) else { return };
    let (mut items, mut old_size) = (0, 0);
    for item in reader.map_while(Result::ok) {
        items += 1;
        match item {
            Item::Section(section) => old_size = section.old_size,
            Item::Recipe(recipe) => {
                if let FrameSource::Copy { old } = recipe.source {
                    follow(old, recipe.frame, recipe.count, old_size);
                }
            }
        }
    }
    // 56 bytes each: a table never has more items than it has room for.
    assert!(items <= data.len() / 56);
}

/// Where each frame of a copy is read, added up as whoever follows it does.
fn follow(old: u64, frame: u32, count: u32, old_size: u64) {
    // The frame size that the image and the index above make.
    const FRAME: u64 = 1 << 20;
    for n in [frame, frame + count - 1] {
        let start = old + u64::from(n - frame) * FRAME;
        assert!(start < old_size, "a copy from behind the old image");
        // And where nothing is known of the frame size.
        let _ = old + u64::from(u32::MAX) * u64::from(bundle::index::MAX_FRAME_SIZE);
    }
}

/// Bytes of the frame that a body makes.
pub const BODY_RAW: u32 = 64 << 10;

/// The image that a body copies from.
pub fn old_image() -> Vec<u8> {
    (0..1u32 << 18).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

pub fn body(data: &[u8]) {
    const RAW: u32 = BODY_RAW;
    let old = old_image();
    let _ = Body::parse(data, RAW, old.len() as u64);
    let section = Section {
        image: 0,
        recipes: 1,
        old_size: old.len() as u64,
        old_sha256: Digest::of(b""),
        patch_size: 1,
        max_prefix: 1 << 17,
    };
    let record = record(b"", RAW);
    let mut out = Vec::new();
    let made = Patcher::new().patch(&record, &section, (data, &Digest::of(data)), old.as_slice(), &mut out);
    assert!(made.is_err() || check_raw(&record, &out).is_ok(), "only the signed frame may come out");
}

fn record(stored: &[u8], raw_len: u32) -> FrameRecord {
    let raw_sha256 = Digest::of(b"the genuine frame");
    let stored_len = u32::try_from(stored.len()).unwrap_or(u32::MAX);
    FrameRecord { offset: 0, stored_len, raw_len, zero: false, stored_sha256: Digest::of(stored), raw_sha256 }
}

pub fn frame(data: &[u8]) {
    // Signed as stored, so that it reaches zstd: a careless signer, or a bomb.
    let mut out = Vec::new();
    let record = record(data, 64 << 10);
    assert!(FrameDecoder::new().decode(&record, data, &mut out).is_err());
    assert!(out.is_empty());
}

pub fn ustar(data: &[u8]) {
    let Some(block) = data.first_chunk::<{ BLOCK as usize }>() else { return };
    let _ = bundle::ustar::parse(block);
    let Ok(Some(header)) = RawHeader::parse(block) else { return };
    if let Ok(bytes) = header.to_bytes() {
        assert!(matches!(RawHeader::parse(&bytes), Ok(Some(again)) if again == header));
    }
}

pub fn tree(data: &[u8]) {
    let mut reader = TreeReader::new(data);
    while let Ok(Some(entry)) = reader.next_entry() {
        let inside = |name: &str| !name.starts_with('/') && name.split('/').all(|part| part != "..");
        assert!(inside(&entry.path), "{:?} leads outside", entry.path);
        if let TreeKind::HardLink { target } = &entry.kind {
            assert!(inside(target) && !target.is_empty(), "{target:?} leads outside");
        }
        assert!(entry.mode <= 0o7777);
    }
}

/// Reads a bundle to its end as a device would, but for the signatures.
pub fn bundle(data: &[u8]) {
    let Ok(mut reader) = SequentialReader::new(data) else { return };
    let Ok(envelope) = Envelope::parse(reader.envelope()) else { return };
    let Ok(manifest) = Manifest::parse(&envelope.payload) else { return };
    if reader.accept(&manifest).is_err() {
        return;
    }
    let (mut indexes, mut decoder) = (Vec::new(), FrameDecoder::new());
    while let Ok(Some(member)) = reader.next_member() {
        let Some(image) = member.image.and_then(|n| manifest.images.get(n)) else { return };
        if member.kind == MemberKind::Index {
            let mut index = Vec::new();
            if reader.read_to_end(&mut index).is_err() || check_index(index.as_slice(), image).is_err() {
                return;
            }
            indexes.push(index);
        } else if member.kind == MemberKind::Payload {
            let index = member.image.and_then(|n| indexes.get(n)).map(Vec::as_slice).unwrap_or_default();
            let Ok(records) = IndexReader::new(index, image) else { return };
            let (mut stored, mut raw) = (Vec::new(), Vec::new());
            for record in records {
                let Ok(record) = record else { return };
                stored.resize(record.stored_len as usize, 0);
                if reader.read_exact(&mut stored).is_err() || decoder.decode(&record, &stored, &mut raw).is_err() {
                    return;
                }
                assert!(check_raw(&record, &raw).is_ok());
            }
        }
    }
}

/// Reads a delta to its end, but for the signatures.
pub fn delta(data: &[u8]) {
    let Ok(mut reader) = SequentialReader::new(data) else { return };
    let Ok(envelope) = Envelope::parse(reader.envelope()) else { return };
    let Ok(manifest) = Manifest::parse(&envelope.payload) else { return };
    let Ok(recipes) = reader.begin_delta() else { return };
    let mut table = Vec::new();
    if reader.read_to_end(&mut table).is_err() {
        return;
    }
    let to = Digest::of(&envelope.payload);
    let Ok((_, sections)) = bundle::delta::check_recipes(table.as_slice(), &manifest, &to) else { return };
    let Ok(layout) = delta_layout(reader.envelope().len() as u64, recipes.size, &manifest, &sections) else { return };
    if reader.accept_delta(&manifest, recipes.size, &sections).is_err() {
        return;
    }
    let mut members = 2;
    while let Ok(Some(_)) = reader.next_member() {
        members += 1;
    }
    assert!(members <= layout.members().len());
}
