//! One folder for each known attack on an updater, with the attacker's files and the answer they must get.
//!
//! The names are those of The Update Framework's threat list where it has one. Folders are kept for ever, like golden
//! fixtures; `FLIPSIDE_MAKE_FIXTURES=1 cargo test -p bundle --test attacks` adds those that are missing.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may fail loudly")]

mod kit;
#[path = "attack/make.rs"]
mod make;

use std::path::{Path, PathBuf};

use bundle::chunks::ChunksReader;
use bundle::delta::check_recipes;
use bundle::open::{open_approval, open_channel, open_manifest, open_recall};
use bundle::reason::Reason;
use bundle::trust::TrustRoot;
use serde::{Deserialize, Serialize};

/// `attack.json`: what the files are, and what must come of them.
#[derive(Debug, Serialize, Deserialize)]
struct Attack {
    /// What the attacker hopes for.
    hope: String,
    /// Which reader meets the files: `bundle`, `manifest`, `channel`, `approval`, `recall`, `rotation`, `device`,
    /// `time`, `tree`, `delta`, `chunks`.
    reader: String,
    /// The reason code of the refusal.
    expect: Reason,
    /// The device, for the reader `device`: compatible, hardware, counter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device: Option<(String, String, u64)>,
    /// The device's clock and the highest rank it has seen, for the reader `time`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    clock: Option<(jiff::Timestamp, (u64, u64))>,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/attacks")
}

fn answer(attack: &Attack, folder: &Path) -> Result<(), Reason> {
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let trust = TrustRoot::open(&read("trust.dsse.json")).map_err(|error| error.reason())?;
    let input = read("input");
    match attack.reader.as_str() {
        "bundle" => kit::read_bundle(&input, &trust).map(drop),
        "manifest" => open_manifest(&input, &trust).map(drop).map_err(|error| error.reason()),
        "channel" => open_channel(&input, &trust, "stable").map(drop).map_err(|error| error.reason()),
        "recall" => open_recall(&input, &trust, "stable").map(drop).map_err(|error| error.reason()),
        "chunks" => {
            let (manifest, _) = open_manifest(&read("manifest.dsse.json"), &trust).map_err(|error| error.reason())?;
            let mut reader =
                ChunksReader::new(input.as_slice(), &manifest.images[0]).map_err(|error| error.reason())?;
            reader.try_for_each(|group| group.map(drop).map_err(|error| error.reason()))
        }
        "approval" => open_approval(&input, &trust, "eu-west", "stable").map(drop).map_err(|error| error.reason()),
        "rotation" => trust.accept_next(&input).map(drop).map_err(|error| error.reason()),
        "device" => {
            let (compatible, hardware, counter) = attack.device.as_ref().unwrap();
            let (manifest, _) = open_manifest(&input, &trust).map_err(|error| error.reason())?;
            manifest.refusal_for(compatible, Some(hardware), Some(*counter)).map_or(Ok(()), Err)
        }
        "time" => {
            let (now, seen) = attack.clock.unwrap();
            let approval = open_approval(&input, &trust, "eu-west", "stable").map_err(|error| error.reason())?;
            approval.refusal_at(now, Some(seen)).map_or(Ok(()), Err)
        }
        "tree" => {
            let mut tree = bundle::tree::TreeReader::new(input.as_slice());
            while tree.next_entry().map_err(|error| error.reason())?.is_some() {}
            Ok(())
        }
        "delta" => {
            let (manifest, digest) =
                open_manifest(&read("manifest.dsse.json"), &trust).map_err(|error| error.reason())?;
            check_recipes(input.as_slice(), &manifest, &digest).map(drop).map_err(|error| error.reason())
        }
        other => panic!("no reader {other}"),
    }
}

#[test]
fn every_attack_gets_its_answer() {
    if kit::making() {
        make::all(&folder());
    }
    let mut seen = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read(folder.join("attack.json")).unwrap_or_else(|error| panic!("{name}: {error}"));
        let attack: Attack = serde_json::from_slice(&text).unwrap();
        assert_eq!(answer(&attack, &folder), Err(attack.expect), "{name}: {}", attack.hope);
        seen += 1;
    }
    assert_eq!(seen, make::NAMES, "a folder is missing or was forgotten in make.rs");
}

/// The same files without the attack are accepted, so each refusal is for the stated reason and no other.
#[test]
fn the_honest_files_are_accepted() {
    let trust = kit::trust(1, &[kit::RELEASE], 1);
    let parts = kit::parts("honest");
    assert!(kit::read_bundle(&parts.bundle(&[kit::RELEASE]), &trust).is_ok());
    assert!(open_manifest(&parts.envelope(&[kit::RELEASE]), &trust).is_ok());
    assert_eq!(parts.manifest.refusal_for("demo-appliance", Some("rev-a"), Some(56)), None);
    let approval = make::approval(3, 412);
    let opened = open_approval(&make::signed_approval(&approval, kit::REGION), &trust, "eu-west", "stable").unwrap();
    assert_eq!(opened.refusal_at("2026-11-21T00:00:00Z".parse().unwrap(), Some((3, 411))), None);
}

/// After a stolen region key was used to sign the highest version there is, a raised epoch still outranks it.
#[test]
fn fast_forward_does_not_end_an_approval_for_ever() {
    let stolen = make::approval(3, u64::MAX);
    let next = make::approval(4, 1);
    assert!(next.rank() > stolen.rank());
    assert_eq!(next.refusal_at("2026-11-21T00:00:00Z".parse().unwrap(), Some(stolen.rank())), None);
}
