//! Whoever stole the region's key: signs any approval the format allows.

use std::collections::BTreeMap;

use bundle::approval::{Approval, Entry, Hold, Match, ReleaseRef, RolloutState, Rule};
use bundle::digest::Digest;
use jiff::{SignedDuration, Timestamp};
use updater_core::event::SeenApproval;

use super::action::Quality;
use super::region::release;

/// Any sequence does, as long as it is the same every time (Knuth's MMIX generator).
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn number(&mut self) -> u64 {
        match self.below(4) {
            0 => u64::MAX,
            1 => 0,
            _ => self.below(12),
        }
    }
}

/// A document made at will.
pub fn approval(seed: u64, releases: &BTreeMap<u64, Quality>, at: Timestamp) -> SeenApproval {
    let mut dice = Dice(seed);
    let issued = at + SignedDuration::from_hours(i64::try_from(dice.below(400)).unwrap() - 300);
    let lifetime = SignedDuration::from_hours(i64::try_from(dice.below(10_000)).unwrap());
    let entries = (0..dice.below(4)).map(|_| entry(&mut dice, releases)).collect();
    let approval = Approval {
        kind: "approval/v1".into(),
        region: if dice.below(8) == 0 { "us" } else { "eu" }.into(),
        channel: if dice.below(8) == 0 { "beta" } else { "stable" }.into(),
        epoch: dice.number(),
        version: dice.number(),
        issued,
        expires: issued + lifetime,
        max_stale_seconds: u32::try_from(dice.below(1 << 31)).unwrap().into(),
        entries,
        crit: Vec::new(),
    };
    let digest = Digest::of(&seed.to_le_bytes());
    SeenApproval { approval, digest, live: true }
}

fn entry(dice: &mut Dice, releases: &BTreeMap<u64, Quality>) -> Entry {
    // A genuine release, old or new, often with another's counter; or one that nobody signed.
    let genuine = release(1 + dice.below(releases.len() as u64));
    let release = match dice.below(4) {
        0 => ReleaseRef { counter: dice.number(), ..genuine },
        1 => release(1000 + dice.below(9)),
        _ => genuine,
    };
    let states = [RolloutState::Rolling, RolloutState::Rolling, RolloutState::Paused, RolloutState::Halted];
    let anybody = || Match { ring: None, hardware: None, labels: BTreeMap::new(), ids: Vec::new() };
    let some = dice.below(5) == 0;
    Entry {
        rollout: "spring".into(),
        state: states[usize::try_from(dice.below(4)).unwrap()],
        priority: i64::try_from(dice.below(1 << 40)).unwrap() - (1 << 39),
        urls: vec![format!("{}.bundle", 1 + dice.below(releases.len() as u64 + 3))],
        release,
        salt: "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".into(),
        threshold_bp: if dice.below(3) == 0 { 0 } else { 10_000 },
        rules: some.then(|| Rule { matches: anybody(), threshold_bp: 10_000 }).into_iter().collect(),
        holds: (dice.below(9) == 0).then(|| Hold { matches: anybody(), reason: "no".into() }).into_iter().collect(),
        window: None,
    }
}
