//! Keys that are replaced, and releases that are taken back, from the served document to what the device does.

use bundle::approval::RolloutState;
use bundle::reason::Reason;
use bundle::recall::{RECALL_TYPE, Recall, Recalled};
use bundle::trust::{Region, TRUST_TYPE, TrustRoot};
use updater_core::status::Status;

use super::world::{World, approval, key, role, sign, trust_root};
use super::{check, start, until, until_did};

/// Root `version`, in which the region's key is the one of seed 5, signed by the key of that seed.
fn rotated(version: u64, signer: u8) -> Vec<u8> {
    let new = key(5);
    let public = new.public().unwrap();
    let mut root = TrustRoot { version, ..trust_root() };
    root.keys.remove(&key(3).public().unwrap().id().to_string());
    root.keys.insert(public.id().to_string(), public.to_pem().to_owned());
    root.regions.insert("eu-west".into(), Region { approve: role(&new) });
    sign(TRUST_TYPE, root.to_bytes().unwrap(), &key(signer))
}

async fn refused(world: &std::sync::Arc<World>) -> Status {
    let handle = start(world).await;
    check(&handle).await;
    let status = until(&handle, "a refusal", |status| status.waiting.is_some()).await;
    assert!(!world.did("clear b"), "{:?}", world.story());
    status
}

#[tokio::test]
async fn a_stolen_region_key_counts_no_more_once_it_is_replaced() {
    let world = World::new();
    world.roots.lock().unwrap().insert(2, rotated(2, 1));
    assert_eq!(refused(&world).await.waiting.unwrap().reason, Reason::KeyUnknown);
    assert_eq!(world.trust.current().version, 2);

    *world.approval.lock().unwrap() = Some(approval(world.manifest.release(), RolloutState::Rolling, 5));
    let handle = start(&world).await;
    check(&handle).await;
    until_did(&world, "reboot").await;
}

#[tokio::test]
async fn a_root_by_a_stranger_or_out_of_order_changes_nothing_and_stops_nothing() {
    for (version, document) in [(2, rotated(2, 9)), (2, rotated(3, 1)), (3, rotated(3, 1)), (2, b"{}".to_vec())] {
        let world = World::new();
        world.roots.lock().unwrap().insert(version, document);
        let handle = start(&world).await;
        check(&handle).await;
        until_did(&world, "reboot").await;
        assert_eq!(world.trust.current().version, 1);
    }
}

#[tokio::test]
async fn only_the_release_keys_take_a_release_back() {
    let recall = |seed: u8| {
        let world = World::new();
        let recalled = Recalled { release: world.manifest.release(), go_back_to: None, reason: "burns".into() };
        let issued = "2026-11-21T11:00:00Z".parse().unwrap();
        let recall = Recall { channel: "stable".into(), version: 1, issued, recalls: vec![recalled], crit: Vec::new() };
        *world.recall.lock().unwrap() = Some(sign(RECALL_TYPE, recall.to_bytes().unwrap(), &key(seed)));
        world
    };
    let waiting = refused(&recall(2)).await.waiting.unwrap();
    assert_eq!(waiting.reason, Reason::Recalled);
    assert!(waiting.detail.contains("burns"), "{}", waiting.detail);

    let by_region = recall(3);
    let handle = start(&by_region).await;
    check(&handle).await;
    until_did(&by_region, "reboot").await;
}
