//! Rotation and refusals of trust roots.

use super::*;
use crate::keys::PrivateKey;

fn key(n: u8) -> PrivateKey {
    PrivateKey::from_seed(&[n; 32])
}

fn id(n: u8) -> String {
    key(n).public().unwrap().id().to_string()
}

fn role(keys: &[u8], threshold: u32) -> Role {
    Role { keys: keys.iter().map(|n| id(*n)).collect(), threshold }
}

fn root(version: u64, root: &[u8], threshold: u32) -> TrustRoot {
    let keys = (1..=9u8).map(|n| (id(n), key(n).public().unwrap().to_pem().to_owned())).collect();
    let regions = [("eu-west".to_owned(), Region { approve: role(&[9], 1) })].into();
    let roles = Roles { root: self::role(root, threshold), release: role(&[8], 1) };
    TrustRoot { version, expires: "2030-01-01T00:00:00Z".parse().unwrap(), keys, roles, regions, crit: Vec::new() }
}

fn signed(trust: &TrustRoot, by: &[u8]) -> Vec<u8> {
    let mut envelope = Envelope::new(TRUST_TYPE, trust.to_bytes().unwrap());
    for n in by {
        envelope.sign(&key(*n)).unwrap();
    }
    envelope.to_bytes().unwrap()
}

#[test]
fn a_root_opens_when_its_own_threshold_signed() {
    let trust = root(1, &[1, 2, 3], 2);
    assert_eq!(TrustRoot::open(&signed(&trust, &[1, 3])).unwrap(), trust);
    assert_eq!(TrustRoot::open(&signed(&trust, &[1])).unwrap_err().reason(), Reason::ThresholdNotMet);
    assert_eq!(TrustRoot::open(&signed(&trust, &[8, 9])).unwrap_err().reason(), Reason::KeyUnknown);
}

#[test]
fn roles_hand_out_their_keys_only() {
    let trust = root(1, &[1, 2], 2);
    assert_eq!((trust.root_keys().0.len(), trust.root_keys().1), (2, 2));
    assert!(trust.release_keys().0.get(&key(8).public().unwrap().id()).is_some());
    assert!(trust.region_keys("eu-west").0.get(&key(9).public().unwrap().id()).is_some());
    assert!(trust.region_keys("mars").0.is_empty());
}

#[test]
fn rotation_needs_both_thresholds_and_the_very_next_version() {
    let (old, new) = (root(1, &[1, 2], 2), root(2, &[2, 3], 2));
    assert_eq!(old.accept_next(&signed(&new, &[1, 2, 3])).unwrap(), new);
    assert_eq!(old.accept_next(&signed(&new, &[1, 2])).unwrap_err().reason(), Reason::ThresholdNotMet);
    assert_eq!(old.accept_next(&signed(&new, &[2, 3])).unwrap_err().reason(), Reason::ThresholdNotMet);
    let skipped = root(3, &[1, 2], 2);
    assert!(matches!(old.accept_next(&signed(&skipped, &[1, 2])), Err(TrustError::NotNext { offered: 3, .. })));
    let same = root(1, &[1, 2], 2);
    assert_eq!(old.accept_next(&signed(&same, &[1, 2])).unwrap_err().reason(), Reason::CounterRollback);
}

#[test]
fn contradictions_are_refused() {
    let refused = |what: &str, change: fn(&mut TrustRoot)| {
        let mut trust = root(1, &[1, 2], 2);
        change(&mut trust);
        assert!(trust.to_bytes().is_err(), "{what}");
    };
    refused("version 0", |t| t.version = 0);
    refused("threshold 0", |t| t.roles.root.threshold = 0);
    refused("unreachable", |t| t.roles.release.threshold = 2);
    refused("one key twice", |t| t.roles.root = role(&[1, 1], 2));
    refused("not listed", |t| t.roles.root = role(&[1, 77], 1));
    refused("wrong id", |t| drop(t.keys.insert(id(1), key(2).public().unwrap().to_pem().to_owned())));
    refused("not a key", |t| drop(t.keys.insert(id(1), "PEM".to_owned())));
    refused("region name", |t| drop(t.regions.insert("a/b".to_owned(), Region { approve: role(&[9], 1) })));
}

#[test]
fn a_newer_kind_of_trust_root_is_called_newer_whatever_it_holds() {
    let reason = |kind: &str, payload: &[u8]| {
        let mut envelope = Envelope::new(kind, payload.to_vec());
        envelope.sign(&key(1)).unwrap();
        let bytes = envelope.to_bytes().unwrap();
        let opened = TrustRoot::open(&bytes).unwrap_err().reason();
        assert_eq!(root(1, &[1], 1).accept_next(&bytes).unwrap_err().reason(), opened);
        opened
    };
    assert_eq!(reason(&TRUST_TYPE.replace("v1", "v2"), b"[\"another shape\"]"), Reason::FormatTooNew);
    assert_eq!(reason("application/vnd.flipside.manifest.v1+json", b"{}"), Reason::Malformed);
    assert_eq!(reason(TRUST_TYPE, b"{}"), Reason::Malformed);
}
