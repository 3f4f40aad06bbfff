//! Runs the bodies of the fuzz targets for a bounded time over damaged golden data: never a panic, never much memory.
//!
//! The same bytes every time, so a failure comes back. `FLIPSIDE_FUZZ_SECONDS=60` looks longer at each body and
//! `FLIPSIDE_FUZZ_SEED=7` elsewhere; libFuzzer (see `fuzz/Cargo.toml`) looks better than both.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may fail loudly")]

#[path = "../fuzz/bodies.rs"]
mod bodies;
#[path = "fuzz/heap.rs"]
mod heap;
#[path = "fuzz/sound.rs"]
mod sound;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Rust memory that a body may hold at any instant, whatever its input says: two frames of 4 MiB, a prefix of 8 MiB,
/// and what a document of 1 MiB needs.
const MAX_HEAP: usize = 24 << 20;

/// Largest damaged input.
const MAX_INPUT: usize = 64 << 10;

/// A linear congruential generator (Knuth's constants): all that is needed, the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides.max(1)
    }
}

/// One to four damages of the kinds that parsers get wrong.
fn damage(dice: &mut Dice, seed: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=dice.roll(4) {
        let at = dice.roll(bytes.len() + 1).min(bytes.len().saturating_sub(1));
        let len = dice.roll(64).min(bytes.len() - at.min(bytes.len()));
        match dice.roll(8) {
            _ if bytes.is_empty() => bytes.push(dice.roll(256) as u8),
            0 => bytes[at] ^= 1 << dice.roll(8),
            1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'{', b'0'][dice.roll(8)],
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..at + len)),
            4 => {
                let piece = bytes[at..at + len].to_vec();
                bytes.splice(at..at, piece);
            }
            5 => {
                let from = dice.roll(other.len() + 1);
                let piece = other[from..(from + len).min(other.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            // Lengths and counts are little-endian words on four-byte borders in all our formats.
            6 => {
                let at = at & !3;
                let value = [0, 1, u32::MAX, 1 << 31, 1 << 24, 4096][dice.roll(6)].to_le_bytes();
                bytes.iter_mut().skip(at).zip(value).for_each(|(byte, value)| *byte = value);
            }
            _ => bytes.iter_mut().skip(at).take(len).for_each(|byte| *byte = dice.roll(256) as u8),
        }
    }
    bytes.truncate(MAX_INPUT);
    bytes
}

/// Everything that fixtures and attacks hold, and the payloads and members inside.
fn seeds() -> Vec<Vec<u8>> {
    fn visit(folder: &Path, out: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() { visit(&entry, out) } else { out.push(entry) }
        }
    }
    let mut paths = Vec::new();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    visit(&tests.join("golden"), &mut paths);
    visit(&tests.join("attacks"), &mut paths);
    paths.sort();
    let mut seeds = BTreeSet::from([Vec::new()]);
    for bytes in paths.iter().map(|path| std::fs::read(path).unwrap()).filter(|bytes| bytes.len() <= MAX_INPUT) {
        if let Ok(envelope) = bundle::dsse::Envelope::parse(&bytes) {
            if let Ok(trust) = bundle::trust::TrustRoot::parse(&envelope.payload) {
                seeds.extend(trust.keys.values().map(|pem| pem.clone().into_bytes()));
            }
            seeds.insert(envelope.payload);
        }
        // Members begin on blocks of a tar, frames with their magic number.
        let blocks = (0..bytes.len()).step_by(512).skip(1).map(|at| &bytes[at..]);
        let magic = [b"FSIX".as_slice(), b"FSCH", b"FSDL", b"\x28\xb5\x2f\xfd"];
        seeds.extend(blocks.filter(|rest| magic.iter().any(|it| rest.starts_with(it))).map(<[u8]>::to_vec));
        seeds.insert(bytes);
    }
    seeds.into_iter().collect()
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

fn run(name: &str, body: fn(&[u8])) {
    let mut seeds = seeds();
    if name == "body" {
        // No file holds a body at its beginning; half of the damage is done to such.
        let sound = sound::bodies().into_iter().map(|(body, _)| body).collect::<Vec<_>>();
        seeds.extend(sound.iter().cycle().take(seeds.len()).cloned().collect::<Vec<_>>());
    }
    let time =
        std::env::var_os("FLIPSIDE_FUZZ_SECONDS").map(|_| Duration::from_secs(number("FLIPSIDE_FUZZ_SECONDS", 1)));
    let mut dice = Dice(number("FLIPSIDE_FUZZ_SEED", 1));
    let started = Instant::now();
    // First as they are, then damaged: a fixed number of times, so that a slow machine tests no less than a fast one.
    let mut inputs = 0;
    while inputs < seeds.len() + 10_000 || time.is_some_and(|time| started.elapsed() < time) {
        let input = match seeds.get(inputs) {
            Some(seed) => seed.clone(),
            None => damage(&mut dice, &seeds[inputs % seeds.len()], &seeds[(inputs * 7) % seeds.len()]),
        };
        inputs += 1;
        let outcome = heap::peak_of(|| std::panic::catch_unwind(|| body(&input)));
        let bad = match outcome {
            (Ok(()), peak) if peak <= MAX_HEAP => continue,
            (Ok(()), peak) => format!("held {peak} bytes"),
            (Err(_), _) => "panicked".to_owned(),
        };
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{name}"));
        std::fs::write(&path, &input).unwrap();
        panic!("{name} {bad} over input number {inputs}, kept in {}", path.display());
    }
    println!("{name}: {inputs} inputs");
}

macro_rules! targets {
    ($($name:ident)+) => {
        $(#[test] fn $name() { run(stringify!($name), bodies::$name); })+
        const TESTED: &[&str] = &[$(stringify!($name)),+];
    };
}

targets! { approval body bundle channel chunks delta envelope frame index json keys manifest recall recipes tree trust ustar }

/// Otherwise damage would never get past the first check.
#[test]
fn sound_bodies_make_their_frames() {
    use bundle::delta::{Patcher, Section};
    use bundle::digest::Digest;
    let old = bodies::old_image();
    for (body, frame) in sound::bodies() {
        let (old_size, old_sha256) = (old.len() as u64, Digest::of(&old));
        let section = Section { image: 0, recipes: 1, old_size, old_sha256, patch_size: 1, max_prefix: 1 << 17 };
        let record = bundle::index::FrameRecord {
            offset: 0,
            stored_len: 1,
            raw_len: bodies::BODY_RAW,
            zero: false,
            stored_sha256: Digest::of(b""),
            raw_sha256: Digest::of(&frame),
        };
        let mut out = Vec::new();
        let sha256 = Digest::of(&body);
        Patcher::new().patch(&record, &section, (&body, &sha256), old.as_slice(), &mut out).unwrap();
        assert!(out == frame);
    }
}

#[test]
fn every_target_is_run_here_and_every_body_has_a_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files: BTreeSet<String> = files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    let bodies: BTreeSet<String> = bodies::ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    let tested: BTreeSet<String> = TESTED.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(files, bodies);
    assert_eq!(bodies, tested);
}
