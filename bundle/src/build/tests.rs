//! Building and reading back.

use super::*;
use crate::frame::FrameDecoder;
use crate::index::{IndexReader, check_index};
use crate::keys::PrivateKey;
use crate::layout::{Layout, MemberKind};
use crate::sequential::SequentialReader;
use proptest::prelude::*;
use std::io::Read;
use std::process::Command;

pub(crate) fn template() -> Manifest {
    Manifest {
        compatible: "demo".to_owned(),
        hardware: Vec::new(),
        version: semver::Version::new(1, 0, 0),
        counter: 1,
        rollback_floor: 0,
        from: None,
        state_schema: None,
        created: "2026-11-20T00:00:00Z".parse().unwrap(),
        images: Vec::new(),
        hooks: Vec::new(),
        attestations: Default::default(),
        crit: Vec::new(),
    }
}

/// Text, noise and zeros, in runs that cross frames.
fn image(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut out = Vec::with_capacity(len);
    while out.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let run = (state >> 40) as usize % 9000 + 1;
        match state >> 62 {
            0 => out.extend(std::iter::repeat_n(0, run)),
            1 => out.extend((0..run as u64).map(|n| (state.wrapping_mul(n * 2 + 1) >> 56) as u8)),
            _ => out.extend(b"the quick brown fox ".iter().cycle().take(run)),
        }
    }
    out.truncate(len);
    out
}

struct Built {
    dir: tempfile::TempDir,
    path: PathBuf,
    built: super::Built,
}

fn build_with(images: &[(&str, &[u8])], threads: usize) -> Built {
    let dir = tempfile::tempdir().unwrap();
    let sources = images.iter().map(|(name, bytes)| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        Source { name: (*name).to_owned(), kind: ImageKind::Block, path, chunks: ChunkChoice::Auto }
    });
    let sources = sources.collect::<Vec<_>>();
    let settings = Settings { level: 3, frame_size: 16 << 10, threads };
    let path = dir.path().join("x.bundle");
    let built = build(template(), &sources, &settings, &path, &|_| {}).unwrap();
    Built { dir, path, built }
}

/// Reads everything a device would, from front to back; gives the raw images.
fn read_back(bytes: &[u8], manifest: &Manifest) -> Result<Vec<Vec<u8>>, Box<dyn std::error::Error>> {
    let mut reader = SequentialReader::new(bytes)?;
    let parsed = Manifest::parse(&Envelope::parse(reader.envelope())?.payload)?;
    if parsed != *manifest {
        return Err("another manifest".into());
    }
    reader.accept(manifest)?;
    let (mut indexes, mut images, mut decoder) = (Vec::new(), Vec::new(), FrameDecoder::new());
    while let Some(member) = reader.next_member()? {
        let n = member.image.unwrap();
        if member.kind == MemberKind::Chunks {
            continue;
        }
        if member.kind == MemberKind::Index {
            let mut index = Vec::new();
            reader.read_to_end(&mut index)?;
            check_index(index.as_slice(), &manifest.images[n])?;
            indexes.push(index);
        } else {
            let (mut image, mut raw, mut stored) = (Vec::new(), Vec::new(), Vec::new());
            for record in IndexReader::new(indexes[n].as_slice(), &manifest.images[n])? {
                let record = record?;
                stored.resize(record.stored_len as usize, 0);
                reader.read_exact(&mut stored)?;
                decoder.decode(&record, &stored, &mut raw)?;
                image.extend_from_slice(&raw);
            }
            if Digest::of(&image) != manifest.images[n].sha256 {
                return Err("another image".into());
            }
            images.push(image);
        }
    }
    Ok(images)
}

#[test]
fn what_goes_in_comes_out() {
    let (root, kernel) = (image(300_000, 1), image(20_001, 2));
    let built = build_with(&[("rootfs", &root), ("kernel", &kernel), ("empty", b"")], 2);
    let bytes = std::fs::read(&built.path).unwrap();
    assert_eq!(bytes.len() as u64, built.built.size);
    assert_eq!(read_back(&bytes, &built.built.manifest).unwrap(), [root, kernel, Vec::new()]);
}

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    let root = image(500_000, 3);
    let one = build_with(&[("rootfs", &root)], 1);
    for threads in [2, 5] {
        let many = build_with(&[("rootfs", &root)], threads);
        assert_eq!(std::fs::read(&one.path).unwrap(), std::fs::read(many.path).unwrap());
    }
}

#[test]
fn tar_lists_it_and_zstd_opens_it() {
    let root = image(200_000, 4);
    let built = build_with(&[("rootfs", &root)], 2);
    let run = |program: &str, args: &[&str]| {
        let out = Command::new(program).args(args).current_dir(built.dir.path()).output().unwrap();
        assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    };
    let names = run("tar", &["tf", "x.bundle"]);
    assert_eq!(String::from_utf8(names).unwrap(), "manifest.dsse.json\nrootfs.index\nrootfs.zst\n");
    run("tar", &["xf", "x.bundle"]);
    assert_eq!(run("zstd", &["-dcq", "rootfs.zst"]), root);
}

#[test]
fn layout_finds_every_member() {
    let built = build_with(&[("rootfs", &image(100_000, 5)), ("kernel", &image(5_000, 6))], 2);
    let bytes = std::fs::read(&built.path).unwrap();
    let reader = SequentialReader::new(bytes.as_slice()).unwrap();
    let layout = Layout::new(reader.envelope().len() as u64, &built.built.manifest).unwrap();
    assert_eq!(layout.len(), built.built.size);
    for (n, image) in built.built.manifest.images.iter().enumerate() {
        let slice = |member: &crate::layout::Member| &bytes[member.offset as usize..][..member.size as usize];
        assert_eq!(Digest::of(slice(layout.index(n).unwrap())), image.index.sha256);
        assert_eq!(Digest::of(slice(layout.payload(n).unwrap())), image.payload.sha256);
    }
    let first = layout.payload(0).unwrap().offset - crate::ustar::BLOCK;
    assert_eq!(layout.preamble_len(), first);
}

#[test]
fn zeros_are_cheap_and_a_new_envelope_leaves_the_rest() {
    let built = build_with(&[("rootfs", &vec![0; 1 << 20])], 2);
    assert_eq!(built.built.frames[0].zero_frames, 64);
    assert!(built.built.frames[0].stored < 64 * 60, "{:?}", built.built.frames[0]);

    let before = std::fs::read(&built.path).unwrap();
    let mut envelope = Envelope::parse(SequentialReader::new(before.as_slice()).unwrap().envelope()).unwrap();
    let old_len = envelope.to_bytes().unwrap().len() as u64;
    for n in 0..9 {
        envelope.sign(&PrivateKey::from_seed(&[n; 32])).unwrap();
    }
    let signed = envelope.to_bytes().unwrap();
    let mut from = File::open(&built.path).unwrap();
    publish(&built.path, |out| replace_envelope(&mut from, old_len, &signed, &built.built.manifest, out)).unwrap();
    let after = std::fs::read(&built.path).unwrap();
    assert_eq!(SequentialReader::new(after.as_slice()).unwrap().envelope(), signed);
    assert_eq!(read_back(&after, &built.built.manifest).unwrap(), [vec![0; 1 << 20]]);
}

#[test]
fn any_flipped_bit_is_refused_or_harmless_and_any_truncation_refused() {
    let root = image(40_000, 7);
    let built = build_with(&[("rootfs", &root)], 1);
    let bytes = std::fs::read(&built.path).unwrap();
    for byte in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[byte] ^= 1 << (byte % 8);
        if let Ok(images) = read_back(&flipped, &built.built.manifest) {
            assert_eq!(images, std::slice::from_ref(&root), "byte {byte}");
        }
    }
    for len in (0..bytes.len()).step_by(97).chain([bytes.len() - 1]) {
        assert!(read_back(&bytes[..len], &built.built.manifest).is_err(), "{len} bytes");
    }
}

#[test]
fn settings_outside_the_format_are_refused() {
    let refused = |settings: Settings| write_frames(&mut io::empty(), 0, &settings, &mut Vec::new(), &|_| {}).is_err();
    assert!(!refused(Settings { level: 1, ..Default::default() }));
    assert!(refused(Settings { level: 23, ..Default::default() }));
    assert!(refused(Settings { frame_size: 5000, ..Default::default() }));
    assert!(refused(Settings { frame_size: 8 << 20, ..Default::default() }));
}

#[test]
fn an_image_that_ends_early_is_an_error() {
    let settings = Settings { level: 1, ..Default::default() };
    let result = write_frames(&mut [1u8; 100].as_slice(), 101, &settings, &mut Vec::new(), &|_| {});
    assert!(matches!(result, Err(BuildError::Read { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn any_image_survives(bytes in proptest::collection::vec(any::<u8>(), 0..70_000), zeros in 0usize..70_000) {
        let mut root = bytes;
        root.resize(root.len() + zeros, 0);
        let built = build_with(&[("rootfs", &root)], 2);
        prop_assert_eq!(read_back(&std::fs::read(&built.path).unwrap(), &built.built.manifest).unwrap(), [root]);
    }

    /// Any number of images of any kind of chunk, at any setting: the same bytes at any number of threads, and back.
    #[test]
    fn any_images_at_any_setting_survive_and_are_the_same_bytes(
        lens in proptest::collection::vec(0usize..90_000, 1..4),
        (seed, level, blocks) in (1u64..1000, 1i32..8, 1u32..9),
        (chunks, threads) in (0u8..4, 2usize..6),
    ) {
        let images = lens.iter().zip(seed..).map(|(len, seed)| image(*len, seed)).collect::<Vec<_>>();
        let dir = tempfile::tempdir().unwrap();
        let sources = images.iter().enumerate().map(|(n, bytes)| {
            let path = dir.path().join(n.to_string());
            std::fs::write(&path, bytes).unwrap();
            let cut = |method| ChunkChoice::Cut(method);
            let all = [ChunkChoice::None, ChunkChoice::Auto, cut(ChunkMethod::FastCdc(4096)), cut(ChunkMethod::Blocks(4096))];
            Source { name: format!("i{n}"), kind: ImageKind::File, path, chunks: all[(chunks as usize + n) % 4] }
        }).collect::<Vec<_>>();
        let build_at = |threads: usize| {
            let settings = Settings { level, frame_size: blocks * 4096, threads };
            let path = dir.path().join(format!("{threads}.bundle"));
            let built = build(template(), &sources, &settings, &path, &|_| {}).unwrap();
            (std::fs::read(path).unwrap(), built.manifest)
        };
        let ((one, manifest), (many, _)) = (build_at(1), build_at(threads));
        prop_assert!(one == many);
        prop_assert!(read_back(&one, &manifest).unwrap() == images);
    }
}

#[test]
fn a_manifest_too_large_to_be_signed_is_refused_before_anything_is_compressed() {
    let dir = tempfile::tempdir().unwrap();
    let mut manifest = template();
    let build = |manifest: Manifest| {
        // An image that is not there: only what is asked before it is read can answer.
        let path = dir.path().join("missing");
        let source = Source { name: "x".to_owned(), kind: ImageKind::Block, path, chunks: ChunkChoice::Auto };
        build(manifest, &[source], &Settings::default(), &dir.path().join("out"), &|_| {}).unwrap_err()
    };
    // 778 kB of body just fit into 1 MiB of envelope, were it not for the signatures.
    manifest.attestations.insert("log".to_owned(), "x".repeat(777_500).into());
    let error = build(manifest.clone()).to_string();
    assert!(error.contains("the manifest is too large") && error.contains("1048576"), "{error}");
    manifest.attestations.insert("log".to_owned(), "x".repeat(770_000).into());
    assert!(matches!(build(manifest), BuildError::Read { .. }));
}

#[test]
fn without_a_number_of_threads_memory_bounds_them() {
    for (level, frame_size) in [(19, 1 << 20), (19, 4 << 20), (22, 1 << 20), (3, 1 << 20)] {
        let each = Compressor::new(level, frame_size).memory(frame_size).unwrap();
        let fixed = BUILD_BASE + 4 * frame_size;
        for cores in [1, 2, 8, 64, 512] {
            let workers = as_many(cores, BUILD_MEMORY - fixed, each);
            assert!((1..=cores).contains(&workers) && fixed + workers * each <= BUILD_MEMORY, "{level} {cores}");
            // All cores of an ordinary build host.
            assert!(workers >= cores.min(8) || frame_size > 1 << 20, "{level} {cores}: {workers}");
        }
    }
    assert_eq!(Settings { threads: 1000, ..Settings::default() }.workers(1, 1), MAX_THREADS);
    assert_eq!(Settings { threads: 3, ..Settings::default() }.workers(1, 1), 3);
}
