//! A delta of the first version of its format, kept for ever, and bits flipped all over it.
//!
//! `delta/` holds the old image, the signed new bundle (with chunk addresses) and the delta. Made with
//! `FLIPSIDE_MAKE_FIXTURES=1 cargo test -p bundle --all-features --test delta`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may fail loudly")]

mod kit;

use std::io::Read as _;
use std::path::PathBuf;

use bundle::chunks::{ChunksReader, KnownChunks};
use bundle::delta::{FrameSource, Item, Patcher, RecipesReader, Section, check_recipes, delta_layout};
use bundle::digest::Digest;
use bundle::frame::FrameDecoder;
use bundle::index::{FrameRecord, IndexReader, check_index};
use bundle::layout::{Layout, MemberKind};
use bundle::manifest::Manifest;
use bundle::open::open_manifest;
use bundle::reason::Reason;
use bundle::sequential::SequentialReader;
use bundle::trust::TrustRoot;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1/delta").join(name)
}

fn golden(name: &str) -> Vec<u8> {
    if kit::making() && !path(name).exists() {
        make::all();
    }
    std::fs::read(path(name)).unwrap()
}

fn root() -> TrustRoot {
    kit::trust(1, &[kit::RELEASE], 1)
}

/// Follows a delta as a device does; each frame is the genuine one or a reason.
fn apply(delta: &[u8], old: &[u8]) -> Result<Vec<Result<Vec<u8>, Reason>>, Reason> {
    let mut reader = SequentialReader::new(delta).map_err(|error| error.reason())?;
    let (manifest, digest) = open_manifest(reader.envelope(), &root()).map_err(|error| error.reason())?;
    let recipes = reader.begin_delta().map_err(|error| error.reason())?;
    let mut table = Vec::new();
    reader.read_to_end(&mut table).map_err(|_| Reason::Truncated)?;
    let (_, sections) = check_recipes(table.as_slice(), &manifest, &digest).map_err(|error| error.reason())?;
    let layout = delta_layout(reader.envelope().len() as u64, recipes.size, &manifest, &sections);
    let layout = layout.map_err(|error| error.reason())?;
    reader.accept_delta(&manifest, recipes.size, &sections).map_err(|error| error.reason())?;
    while reader.next_member().map_err(|error| error.reason())?.is_some() {}
    let content = |kind| layout.member(kind, 0).map(|it| &delta[it.offset as usize..][..it.size as usize]);
    let index = content(MemberKind::Index).unwrap();
    check_index(index, &manifest.images[0]).map_err(|error| error.reason())?;
    let records = IndexReader::new(index, &manifest.images[0]).map_err(|error| error.reason())?;
    let records = records.collect::<Result<Vec<_>, _>>().map_err(|error| error.reason())?;
    let patch = content(MemberKind::Patch).unwrap_or_default();
    let to_follow = Following { manifest: &manifest, digest, section: &sections[0], table: &table, patch, old };
    Ok(to_follow.frames(&records))
}

struct Following<'a> {
    manifest: &'a Manifest,
    digest: Digest,
    section: &'a Section,
    table: &'a [u8],
    patch: &'a [u8],
    old: &'a [u8],
}

impl Following<'_> {
    fn frames(&self, records: &[FrameRecord]) -> Vec<Result<Vec<u8>, Reason>> {
        // A frame without a recipe is zeros or must be fetched.
        let mut frames = records
            .iter()
            .map(|record| if record.zero { Ok(vec![0; record.raw_len as usize]) } else { Err(Reason::NoUpdate) })
            .collect::<Vec<_>>();
        let (mut patcher, mut decoder, mut out) = (Patcher::new(), FrameDecoder::new(), Vec::new());
        for item in RecipesReader::new(self.table, self.manifest, &self.digest).unwrap() {
            let Item::Recipe(recipe) = item.unwrap() else { continue };
            for n in recipe.frame..recipe.frame + recipe.count {
                let record = &records[n as usize];
                let step = u64::from(n - recipe.frame) * u64::from(records[0].raw_len);
                let piece = |offset: u64, len: u32| &self.patch[offset as usize..][..len as usize];
                let made = match recipe.source {
                    FrameSource::Copy { old } => patcher.copy(record, self.old, old + step, &mut out),
                    FrameSource::Plain { offset, len } => {
                        decoder.decode(record, piece(offset, len), &mut out).map_err(bundle::delta::DeltaError::Frame)
                    }
                    FrameSource::Patch { offset, len, sha256 } => {
                        patcher.patch(record, self.section, (piece(offset, len), &sha256), self.old, &mut out)
                    }
                };
                frames[n as usize] = made.map(|()| out.clone()).map_err(|error| error.reason());
            }
        }
        frames
    }
}

#[test]
fn a_golden_delta_makes_the_golden_image() {
    let image = kit::read_bundle(&golden("new.bundle"), &root()).unwrap().remove(0);
    let frames = apply(&golden("x.delta"), &golden("old.img")).unwrap();
    let made = frames.into_iter().collect::<Result<Vec<_>, _>>().unwrap().concat();
    assert!(made == image);
}

#[test]
fn golden_chunk_addresses_are_read() {
    let bytes = golden("new.bundle");
    let reader = SequentialReader::new(bytes.as_slice()).unwrap();
    let (manifest, _) = open_manifest(reader.envelope(), &root()).unwrap();
    let layout = Layout::new(reader.envelope().len() as u64, &manifest).unwrap();
    let member = layout.member(MemberKind::Chunks, 0).unwrap();
    let member = &bytes[member.offset as usize..][..member.size as usize];
    let image = &manifest.images[0];
    let reader = ChunksReader::new(member, image).unwrap();
    let records = &member[reader.header().chunks_offset() as usize..];
    KnownChunks::read(member, records, image).unwrap();
    let covered: u64 = reader.map(|group| u64::from(group.unwrap().raw_len)).sum();
    assert_eq!(covered, image.size);
}

#[test]
fn any_flipped_bit_of_a_delta_makes_genuine_frames_or_none() {
    let (mut delta, old) = (golden("x.delta"), golden("old.img"));
    let genuine = apply(&delta, &old).unwrap();
    // One bit of each byte, another one from byte to byte: all of them take a minute.
    for bit in (0..delta.len()).map(|byte| byte * 8 + byte % 8) {
        delta[bit / 8] ^= 1 << (bit % 8);
        for (frame, genuine) in apply(&delta, &old).unwrap_or_default().iter().zip(&genuine) {
            assert!(frame.is_err() || frame == genuine, "bit {} of byte {}", bit % 8, bit / 8);
        }
        delta[bit / 8] ^= 1 << (bit % 8);
    }
    for len in (0..delta.len()).step_by(7).chain([delta.len() - 1]) {
        assert!(apply(&delta[..len], &old).is_err(), "cut to {len} bytes");
    }
}

#[test]
fn any_flipped_bit_of_the_old_image_costs_the_frames_made_from_it() {
    let (delta, mut old) = (golden("x.delta"), golden("old.img"));
    let genuine = apply(&delta, &old).unwrap();
    let mut spoilt = 0;
    for byte in (0..old.len()).step_by(97) {
        old[byte] ^= 1 << (byte % 8);
        for (frame, genuine) in apply(&delta, &old).unwrap().iter().zip(&genuine) {
            assert!(frame.is_err() || frame == genuine, "byte {byte}");
            spoilt += usize::from(frame.is_err());
        }
        old[byte] ^= 1 << (byte % 8);
    }
    assert!(spoilt > 0, "the delta reads nothing of the old image");
}

#[cfg(not(feature = "build"))]
mod make {
    pub fn all() {
        panic!("making these fixtures needs --all-features");
    }
}

#[cfg(feature = "build")]
mod make {
    use super::*;
    use bundle::build::*;
    use bundle::dsse::Envelope;
    use bundle::manifest::ImageKind;
    use bundle::random::{RandomReader, read_envelope};
    use std::fs::File;
    use std::io::BufReader;

    const FRAME: u32 = 16 << 10;

    /// Something like a program: words of which every seventh is an address.
    fn program(len: usize, shift: u32) -> Vec<u8> {
        let mut state = 7u64;
        let words = (0..len / 4).map(|n| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if n % 7 == 0 { (n as u32 * 4).wrapping_add(shift) } else { (state >> 33) as u32 }
        });
        words.flat_map(u32::to_le_bytes).collect()
    }

    pub fn all() {
        std::fs::create_dir_all(path("")).unwrap();
        let frame = FRAME as usize;
        let old = program(3 * frame, 0);
        let mut new = old.clone();
        // A copied frame, one with a prefix, one in split streams, zeros, one that is nowhere, and a short rest.
        new[frame + 5000..frame + 5040].fill(9);
        new[2 * frame..].copy_from_slice(&program(3 * frame, 0x40)[2 * frame..]);
        new.extend(vec![0; frame]);
        new.extend(b"new text ".iter().cycle().take(frame));
        new.extend_from_slice(b"the end");
        std::fs::write(path("old.img"), &old).unwrap();
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("new.img"), &new).unwrap();
        let source = Source {
            name: "rootfs".to_owned(),
            kind: ImageKind::Block,
            path: scratch.path().join("new.img"),
            chunks: ChunkChoice::Cut(ChunkMethod::Blocks(4096)),
        };
        let settings = Settings { level: 19, frame_size: FRAME, threads: 1 };
        let unsigned = scratch.path().join("unsigned");
        let manifest = kit::parts("golden").manifest;
        build(manifest, &[source], &settings, &unsigned, &|_| {}).unwrap();
        sign(&unsigned);
        let mut file = BufReader::new(File::open(path("new.bundle")).unwrap());
        let envelope = read_envelope(&mut file).unwrap();
        let (manifest, digest) = open_manifest(&envelope, &root()).unwrap();
        let reader = RandomReader::new(file, envelope.len() as u64, manifest).unwrap();
        let mut release = NewRelease { envelope: &envelope, reader, digest };
        let file = File::open(path("old.img")).unwrap();
        let old = OldFile { name: "rootfs".to_owned(), file, size: old.len() as u64, sha256: Digest::of(&old) };
        let out = path("x.delta");
        build_delta(Digest::of(b"old release"), &[old], &mut release, &settings, &out, &|_| {}).unwrap();
    }

    fn sign(unsigned: &std::path::Path) {
        let mut from = File::open(unsigned).unwrap();
        let bytes = read_envelope(&mut from).unwrap();
        let mut envelope = Envelope::parse(&bytes).unwrap();
        envelope.sign(&kit::key(kit::RELEASE)).unwrap();
        let manifest = Manifest::parse(&envelope.payload).unwrap();
        let signed = envelope.to_bytes().unwrap();
        publish(&path("new.bundle"), |out| replace_envelope(&mut from, bytes.len() as u64, &signed, &manifest, out))
            .unwrap();
    }
}
