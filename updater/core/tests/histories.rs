//! Random histories of a device: power cuts between any two effects, lost journals, wrong clocks, operators at any
//! moment, bad releases. Every invariant after every action, liveness at the end.
//!
//! The same histories each time, so that a change is judged by what it changed; `make soak` looks for new ones. A
//! failing history is saved as JSON; `cargo run -p updater-core --example replay -- FILE` prints it step by step.

mod world;

use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, RngSeed};
use world::action::arbitrary;
use world::{Action, play};

/// Where the histories begin; `PROPTEST_RNG_SEED` overrides, `random` means another place each time.
const SEED: u64 = 2026;

fn seed() -> RngSeed {
    match std::env::var("PROPTEST_RNG_SEED") {
        Ok(text) => text.parse().map_or(RngSeed::Random, RngSeed::Fixed),
        Err(_) => RngSeed::Fixed(SEED),
    }
}

/// Random histories per run; `PROPTEST_CASES` overrides.
const CASES: u32 = 200;

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(CASES)
}

/// Plays and, when it fails, saves. proptest shrinks afterwards, so the last file written is the shortest.
fn play_or_save(actions: &[Action]) -> Result<(), TestCaseError> {
    let played = std::panic::catch_unwind(|| play(actions, None));
    let played = played.unwrap_or_else(|_| Err("it panicked".into()));
    played.map_err(|violation| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("world-failure.json");
        let saved = std::fs::write(&path, serde_json::to_vec_pretty(actions).unwrap_or_default()).is_ok();
        TestCaseError::fail(format!("{violation}\n(replay: {} {saved})", path.display()))
    })
}

proptest! {
    #![proptest_config(Config {
        cases: cases(),
        rng_seed: seed(),
        max_shrink_iters: 400,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/fixtures/world.regressions"))),
        ..Config::default()
    })]

    #[test]
    fn any_history_keeps_every_invariant(actions in prop::collection::vec(arbitrary(), 1..160)) {
        play_or_save(&actions)?;
    }
}

#[test]
fn an_undisturbed_device_updates_and_falls_back() {
    play(&[], None).unwrap();
}
