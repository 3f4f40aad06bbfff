//! Deltas of small images: what goes in comes out, whatever the old image is.

use super::*;
use crate::build::{ChunkChoice, Source, build};
use crate::delta::{Item, Patcher, RecipesReader, check_recipes};
use crate::layout::Member;
use crate::manifest::ImageKind;
use crate::random::read_envelope;
use proptest::prelude::*;
use std::io::Read as _;

const FRAME: u32 = 64 << 10;

/// A program as compilers make them: much the same, with addresses that move.
fn program(len: usize, shift: u32) -> Vec<u8> {
    let mut state = 7u64;
    let words = (0..len / 4).map(|n| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        if n % 7 == 0 { (n as u32 * 4).wrapping_add(shift) } else { (state >> 33) as u32 }
    });
    words.flat_map(u32::to_le_bytes).collect()
}

fn settings() -> Settings {
    Settings { level: 3, frame_size: FRAME, threads: 2 }
}

struct Case {
    dir: tempfile::TempDir,
    built: BuiltDelta,
    envelope: Vec<u8>,
    new: Vec<u8>,
}

fn case(old: &[u8], new: &[u8]) -> Case {
    case_with(old, new, settings().threads)
}

fn case_with(old: &[u8], new: &[u8], threads: usize) -> Case {
    let settings = Settings { threads, ..settings() };
    let dir = tempfile::tempdir().unwrap();
    let (old_path, new_path, bundle) = (dir.path().join("old"), dir.path().join("new"), dir.path().join("x.bundle"));
    std::fs::write(&old_path, old).unwrap();
    std::fs::write(&new_path, new).unwrap();
    let source =
        Source { name: "rootfs".to_owned(), kind: ImageKind::Block, path: new_path, chunks: ChunkChoice::Auto };
    build(crate::build::tests::template(), &[source], &settings, &bundle, &|_| {}).unwrap();
    let mut file = BufReader::new(File::open(&bundle).unwrap());
    let envelope = read_envelope(&mut file).unwrap();
    let payload = crate::dsse::Envelope::parse(&envelope).unwrap().payload;
    let manifest = Manifest::parse(&payload).unwrap();
    let reader = RandomReader::new(file, envelope.len() as u64, manifest).unwrap();
    let mut release = NewRelease { envelope: &envelope, reader, digest: Digest::of(&payload) };
    let file = File::open(&old_path).unwrap();
    let old = OldFile { name: "rootfs".to_owned(), file, size: old.len() as u64, sha256: Digest::of(old) };
    let from = Digest::of(b"old release");
    let out = dir.path().join("x.delta");
    let built = build_delta(from, &[old], &mut release, &settings, &out, &|_| {}).unwrap();
    Case { dir, built, envelope, new: new.to_vec() }
}

/// Follows the delta as a device would; gives the image and the frames that could not be made.
fn apply(case: &Case, old: &[u8]) -> (Vec<u8>, Vec<u32>) {
    let bytes = std::fs::read(case.dir.path().join("x.delta")).unwrap();
    let payload = crate::dsse::Envelope::parse(&case.envelope).unwrap().payload;
    let manifest = Manifest::parse(&payload).unwrap();
    let mut sequential = crate::sequential::SequentialReader::new(bytes.as_slice()).unwrap();
    let recipes = sequential.begin_delta().unwrap();
    let mut table = Vec::new();
    sequential.read_to_end(&mut table).unwrap();
    let to = Digest::of(&payload);
    let (header, sections) = check_recipes(table.as_slice(), &manifest, &to).unwrap();
    assert_eq!((header.from, Digest::of(&table)), (Digest::of(b"old release"), case.built.recipes_sha256));
    let layout = delta_layout(case.envelope.len() as u64, recipes.size, &manifest, &sections).unwrap();
    assert_eq!((layout.len(), case.built.size), (bytes.len() as u64, bytes.len() as u64));
    sequential.accept_delta(&manifest, recipes.size, &sections).unwrap();
    while sequential.next_member().unwrap().is_some() {}

    let content = |member: &Member| &bytes[member.offset as usize..][..member.size as usize];
    let index = content(layout.index(0).unwrap());
    let records = crate::index::IndexReader::new(index, &manifest.images[0]).unwrap();
    let records = records.collect::<Result<Vec<_>, _>>().unwrap();
    let patch = layout.member(MemberKind::Patch, 0).map(content).unwrap_or_default();
    let mut image = vec![0; manifest.images[0].size as usize];
    let (mut patcher, mut decoder, mut out, mut failed) = (Patcher::new(), FrameDecoder::new(), Vec::new(), Vec::new());
    for item in RecipesReader::new(table.as_slice(), &manifest, &to).unwrap() {
        let Item::Recipe(recipe) = item.unwrap() else { continue };
        for n in recipe.frame..recipe.frame + recipe.count {
            let frame = &records[n as usize];
            let result = match recipe.source {
                FrameSource::Copy { old: at } => {
                    patcher.copy(frame, old, at + u64::from(n - recipe.frame) * u64::from(FRAME), &mut out)
                }
                FrameSource::Plain { offset, len } => {
                    let stored = &patch[offset as usize..][..len as usize];
                    decoder.decode(frame, stored, &mut out).map_err(crate::delta::DeltaError::Frame)
                }
                FrameSource::Patch { offset, len, sha256 } => {
                    let body = &patch[offset as usize..][..len as usize];
                    patcher.patch(frame, &sections[0], (body, &sha256), old, &mut out)
                }
            };
            match result {
                Ok(()) => image[n as usize * FRAME as usize..][..out.len()].copy_from_slice(&out),
                Err(_) => failed.push(n),
            }
        }
    }
    (image, failed)
}

fn works(old: &[u8], new: &[u8]) -> BuiltDelta {
    let case = case(old, new);
    let (image, failed) = apply(&case, old);
    assert!(failed.is_empty(), "{failed:?}");
    assert!(image == case.new);
    case.built
}

#[test]
fn an_unchanged_image_is_one_copy() {
    let image = program(10 * FRAME as usize, 0);
    let built = works(&image, &image);
    assert_eq!((built.stats.copied, built.stats.patch), (10, 0));
}

/// Blocks that stand in many places, zeros among them, tear no run apart.
#[test]
fn an_unchanged_image_of_common_blocks_is_one_copy_and_a_moved_one_is_runs() {
    let common = b"the quick brown fox ".repeat(64 << 10)[..FRAME as usize / 2].to_vec();
    let mut image = [program(FRAME as usize, 3), common.clone(), vec![0; FRAME as usize], common].concat();
    image.extend(program(FRAME as usize, 9));
    let built = works(&image, &image);
    assert_eq!((built.stats.copied, built.stats.zeros, built.stats.patch), (4, 0, 0), "{:?}", built.stats);
    // Also where it does not end on a block.
    image.extend_from_slice(b"the end");
    let built = works(&image, &image);
    assert_eq!((built.stats.copied, built.stats.patch), (5, 0), "{:?}", built.stats);
    let moved = [vec![1; 4096], image.clone()].concat();
    let built = works(&image, &moved);
    assert!(built.stats.patch < 400, "{:?}", built.stats);
}

#[test]
fn a_shifted_image_with_one_new_page_costs_little() {
    let old = program(40 * FRAME as usize, 0);
    let mut new = old.clone();
    new.splice(100_000..100_000, vec![0xaa; 4096]);
    new.truncate(old.len());
    let built = works(&old, &new);
    assert!(built.stats.patch < 6000, "{:?}", built.stats);
}

#[test]
fn moved_addresses_are_found_by_the_split() {
    let (old, new) = (program(8 * FRAME as usize, 0), program(8 * FRAME as usize, 0x40));
    let built = works(&old, &new);
    assert!(built.stats.split > 0, "{:?}", built.stats);
    assert!(built.stats.patch < u64::from(FRAME), "{:?}", built.stats);
}

#[test]
fn zeros_cost_nothing_and_odd_ends_are_kept() {
    let old = program(3 * FRAME as usize + 1001, 0);
    let mut new = old.clone();
    new.extend(vec![0; 3 * FRAME as usize]);
    new.extend_from_slice(b"the end");
    let built = works(&old, &new);
    assert_eq!(built.stats.zeros, 2);
}

#[test]
fn nothing_in_common_is_stored_plain() {
    let built = works(&program(FRAME as usize, 0)[..5000], &[b"abc".repeat(50_000), vec![1; 70_000]].concat());
    assert_eq!(built.stats.plain + built.stats.prefixed + built.stats.split, 4);
    works(b"", &program(FRAME as usize, 0));
    works(&program(FRAME as usize, 0), b"");
}

#[test]
fn a_modified_source_fails_only_the_frames_made_from_it() {
    let old = program(40 * FRAME as usize, 0);
    let mut new = old.clone();
    (0..40).for_each(|n| new[n * FRAME as usize + 5] ^= 1);
    let case = case(&old, &new);
    let mut modified = old.clone();
    modified[20 * FRAME as usize + 9000] ^= 1;
    let (image, failed) = apply(&case, &modified);
    assert_eq!(failed, [20]);
    let (before, after) = (20 * FRAME as usize, 21 * FRAME as usize);
    assert!(image[..before] == new[..before] && image[after..] == new[after..]);
}

#[test]
fn any_number_of_threads_makes_the_same_delta() {
    let (old, new) = (program(8 * FRAME as usize, 0), program(8 * FRAME as usize, 12));
    let read = |case: &Case| std::fs::read(case.dir.path().join("x.delta")).unwrap();
    let one = read(&case_with(&old, &new, 1));
    for threads in [2, 5] {
        assert!(read(&case_with(&old, &new, threads)) == one, "{threads} threads");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Whatever a hostile delta says: an error, or the signed frame; never a panic, never more memory than stated.
    #[test]
    fn a_hostile_body_makes_the_frame_or_nothing(at in 0usize..3000, bit in 0u8..8, cut in 0usize..3000) {
        let (old, new) = (program(2 * FRAME as usize, 0), program(2 * FRAME as usize, 0x40));
        let case = case(&old, &new);
        let bytes = std::fs::read(case.dir.path().join("x.delta")).unwrap();
        let payload = crate::dsse::Envelope::parse(&case.envelope).unwrap().payload;
        let manifest = Manifest::parse(&payload).unwrap();
        let mut sequential = crate::sequential::SequentialReader::new(bytes.as_slice()).unwrap();
        let recipes = sequential.begin_delta().unwrap();
        let mut table = Vec::new();
        sequential.read_to_end(&mut table).unwrap();
        let (_, sections) = check_recipes(table.as_slice(), &manifest, &Digest::of(&payload)).unwrap();
        let layout = delta_layout(case.envelope.len() as u64, recipes.size, &manifest, &sections).unwrap();
        let content = |member: &Member| &bytes[member.offset as usize..][..member.size as usize];
        let record = crate::index::IndexReader::new(content(layout.index(0).unwrap()), &manifest.images[0]).unwrap().next().unwrap().unwrap();
        let first = RecipesReader::new(table.as_slice(), &manifest, &Digest::of(&payload)).unwrap().find_map(|item| match item.unwrap() {
            Item::Recipe(Recipe { source: FrameSource::Patch { offset, len, .. }, .. }) => Some((offset, len)),
            _ => None,
        });
        let (offset, len) = first.unwrap();
        let patch = content(layout.member(MemberKind::Patch, 0).unwrap());
        let mut body = patch[offset as usize..][..len as usize].to_vec();
        let place = at % body.len();
        body[place] ^= 1 << bit;
        body.truncate(body.len() - cut % body.len());
        let mut out = Vec::new();
        let _ = Patcher::new().patch(&record, &sections[0], (&body, &Digest::of(&body)), old.as_slice(), &mut out)
            .map(|()| assert_eq!(Digest::of(&out), record.raw_sha256));
    }
}

/// An edit of an image: what is done, where, how much.
fn edit(image: &mut Vec<u8>, (kind, at, len): (u8, usize, usize)) {
    let at = at % (image.len() + 1);
    let end = (at + len).min(image.len());
    match kind {
        0 => image[at..end].fill(kind + len as u8),
        1 => image[at..end].fill(0),
        2 => drop(image.drain(at..end)),
        3 => drop(image.splice(at..at, program(len, len as u32))),
        4 => image.rotate_left(at / 4096 * 4096),
        _ => {
            let piece = image[at..end].to_vec();
            image.extend(piece);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Whatever happened between two images, the delta makes the new one, and any thread count the same delta.
    #[test]
    fn any_edits_come_out_right(
        len in 0usize..300_000,
        edits in proptest::collection::vec((0u8..6, any::<usize>(), 0usize..100_000), 0..6),
    ) {
        let old = program(len, 0);
        let mut new = old.clone();
        edits.into_iter().for_each(|each| edit(&mut new, each));
        works(&old, &new);
    }
}
