//! One spoiled thing, one reason.

use bundle::approval::{Hold, Match, RolloutState, Rule, Weekday, Window};
use bundle::reason::Reason;
use jiff::SignedDuration;

use super::fixture::{NOON, Scene, approval, channel, entry, manifest, release};
use super::select::choose;
use super::{Candidate, Decision, Lines, Point, ask, suits};
use crate::event::Failure;
use crate::facts::SlotBoot;
use crate::journal::{ApprovalFloor, Blocked};
use crate::policy::{Mode, Pin};
use crate::release::Intent;

fn at(scene: &Scene, point: Point) -> Decision {
    with(scene, point, Intent::default())
}

fn with(scene: &Scene, point: Point, intent: Intent) -> Decision {
    let release = release(6);
    ask(&scene.inputs(), point, &Candidate { release: &release, intent, over_network: true }).decision
}

fn everywhere(spoil: impl Fn(&mut Scene)) -> Option<Reason> {
    let mut scene = Scene::new();
    spoil(&mut scene);
    let answers = [Point::Download, Point::Activate, Point::Reboot].map(|point| at(&scene, point).reason());
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0], answers[2]);
    answers[0]
}

fn floor(version: u64) -> ApprovalFloor {
    ApprovalFloor {
        epoch: 1,
        version,
        digest: bundle::digest::Digest::of(b"other"),
        issued: "2026-11-01T00:00:00Z".parse().unwrap(),
        seen: None,
        keys: vec!["key-1".into()],
    }
}

#[test]
fn says_yes_when_nothing_is_wrong() {
    assert_eq!(everywhere(|_| ()), None);
}

#[test]
fn each_spoiled_thing_has_its_reason_at_every_point() {
    type Spoil = fn(&mut Scene);
    let table: &[(Reason, Spoil)] = &[
        (Reason::Disabled, |s| s.policy.mode = Mode::Off),
        (Reason::BootedSlotUnconfirmed, |s| s.facts.slots.a = SlotBoot::Trying { left: 1, done: 1 }),
        (Reason::SlotUnknown, |s| s.facts.booted = None),
        (Reason::ClockUntrusted, |s| s.now.wall_trusted = false),
        (Reason::KeyUnknown, |s| s.documents.trust_expires = Some(NOON.parse().unwrap())),
        (Reason::ApprovalMissing, |s| s.documents.approvals.clear()),
        (Reason::ApprovalMissing, |s| s.approval().entries.clear()),
        (Reason::ApprovalMissing, |s| s.entry().release.counter = 7),
        (Reason::ApprovalExpired, |s| s.approval().expires = NOON.parse().unwrap()),
        (Reason::RegionMismatch, |s| s.approval().region = "us".into()),
        (Reason::RegionMismatch, |s| s.approval().channel = "beta".into()),
        (Reason::RegionMismatch, |s| s.documents.channel = Some(channel(&[5]))),
        (Reason::ApprovalRollback, |s| drop(s.journal.floor.approvals.insert("eu/stable".into(), floor(11)))),
        (Reason::ApprovalRollback, |s| drop(s.journal.floor.approvals.insert("eu/stable".into(), floor(10)))),
        (Reason::ApprovalStale, |s| s.documents.approvals[0].live = false),
        (Reason::NoUpdate, |s| s.journal.slots.a.as_mut().unwrap().release = release(6)),
        (Reason::CounterRollback, |s| s.journal.slots.a.as_mut().unwrap().release = release(9)),
        (Reason::CounterRollback, |s| s.journal.floor.counter = 7),
        // Built again under the same number.
        (Reason::CounterRollback, |s| s.journal.slots.a.as_mut().unwrap().release.counter = 6),
        (Reason::Pinned, |s| s.policy.pin = Some(Pin::Version("9.9.9".parse().unwrap()))),
        (Reason::Pinned, |s| s.policy.pin = Some(Pin::Manifest(release(5).manifest_sha256))),
        (Reason::RolloutPaused, |s| s.entry().state = RolloutState::Paused),
        (Reason::RolloutHalted, |s| s.entry().state = RolloutState::Halted),
        (Reason::BucketClosed, |s| s.entry().threshold_bp = 4643),
        (Reason::Malformed, |s| s.entry().salt = "short".into()),
        (Reason::Held, |s| {
            let matches = Match { hardware: Some("rev-*".into()), ..Match::default() };
            s.entry().holds.push(Hold { matches, reason: "known-bad-nic".into() });
        }),
    ];
    for (index, (reason, spoil)) in table.iter().enumerate() {
        assert_eq!(everywhere(spoil), Some(*reason), "row {index}");
    }
}

#[test]
fn a_blocked_release_stays_blocked_even_for_an_operator() {
    for (stored, told) in [(Reason::HealthFailed, Reason::BlockedAfterFallback), (Reason::Cancelled, Reason::Cancelled)]
    {
        let mut scene = Scene::new();
        let blocked = Blocked { counter: 6, reason: stored, detail: String::new(), at: None };
        scene.journal.blocked.insert(release(6).manifest_sha256, blocked);
        let all = Intent { stage: true, activate: true, reboot: true, force: true };
        assert_eq!(with(&scene, Point::Download, all), Decision::Refuse { reason: told });
    }
}

#[test]
fn thresholds_and_rules() {
    let mut scene = Scene::new();
    scene.entry().threshold_bp = 4644;
    assert_eq!(at(&scene, Point::Download), Decision::Proceed);
    let rule = |ring: &str, threshold_bp| {
        let matches = Match { ring: Some(ring.into()), ..Match::default() };
        Rule { matches, threshold_bp }
    };
    scene.entry().rules = vec![rule("canary", 10_000), rule("general", 0), rule("general", 10_000)];
    assert_eq!(at(&scene, Point::Download).reason(), Some(Reason::BucketClosed), "the first rule that matches counts");
    scene.device.ring = Some("canary".into());
    assert_eq!(at(&scene, Point::Download), Decision::Proceed);
}

#[test]
fn conditions_match_only_when_all_hold() {
    let scene = Scene::new();
    let fits = |matches: Match| super::rollout::matches(&matches, &scene.device);
    assert!(fits(Match::default()));
    assert!(fits(Match { ids: vec!["x".into(), "dev-0001".into()], ..Match::default() }));
    assert!(!fits(Match { ids: vec!["x".into()], ..Match::default() }));
    let label = |value: &str| std::collections::BTreeMap::from([("site".to_owned(), value.to_owned())]);
    assert!(fits(Match { labels: label("north"), hardware: Some("rev-?*".replace('?', "")), ..Match::default() }));
    assert!(!fits(Match { labels: label("south"), ..Match::default() }));
    assert!(!fits(Match { labels: label("north"), ring: Some("canary".into()), ..Match::default() }));
}

#[test]
fn modes_go_as_far_as_they_say_and_operators_further() {
    let table =
        [(Mode::Notify, [false, false, false]), (Mode::Stage, [true, false, false]), (Mode::Apply, [true, true, true])];
    let points = [Point::Download, Point::Activate, Point::Reboot];
    for (mode, allowed) in table {
        let mut scene = Scene::new();
        scene.policy.mode = mode;
        for (point, allowed) in points.into_iter().zip(allowed) {
            let expected = if allowed { None } else { Some(Reason::NotifyOnly) };
            assert_eq!(at(&scene, point).reason(), expected, "{mode:?} {point:?}");
            let all = Intent { stage: true, activate: true, reboot: true, force: false };
            assert_eq!(with(&scene, point, all), Decision::Proceed, "{mode:?} {point:?}");
        }
    }
}

#[test]
fn local_hindrances_wait_and_force_overrides_all_but_the_battery() {
    let mut scene = Scene::new();
    scene.policy.download_window = vec![Window { days: vec![Weekday::Tue], start: "01:00".into(), minutes: 60 }];
    scene.policy.reboot_window = vec![Window { days: vec![Weekday::Wed], start: "01:00".into(), minutes: 60 }];
    let until = |text: &str| Decision::Wait { until: Some(text.parse().unwrap()), reason: Reason::WindowClosed };
    assert_eq!(at(&scene, Point::Download), until("2026-11-24T01:00:00Z"));
    assert_eq!(at(&scene, Point::Reboot), until("2026-11-25T01:00:00Z"));
    scene.surroundings.metered = true;
    scene.surroundings.inhibitors = vec!["player: film".into()];
    let force = Intent { force: true, ..Intent::default() };
    for point in [Point::Download, Point::Activate, Point::Reboot] {
        assert_eq!(with(&scene, point, force), Decision::Proceed);
    }
    scene.policy.download_window.clear();
    scene.policy.reboot_window.clear();
    assert_eq!(at(&scene, Point::Download).reason(), Some(Reason::Metered));
    assert_eq!(at(&scene, Point::Reboot).reason(), Some(Reason::Inhibited));
    scene.policy.min_battery = Some(30);
    scene.surroundings.battery = Some(29);
    assert_eq!(with(&scene, Point::Reboot, force).reason(), Some(Reason::LowBattery));
}

#[test]
fn the_rollouts_hours_bind_operators_too_but_not_the_download() {
    let mut scene = Scene::new();
    scene.entry().window = Some(Window { days: vec![Weekday::Tue], start: "01:00".into(), minutes: 60 });
    let force = Intent { force: true, ..Intent::default() };
    assert_eq!(with(&scene, Point::Download, force), Decision::Proceed);
    assert_eq!(with(&scene, Point::Activate, force).reason(), Some(Reason::WindowClosed));
}

#[test]
fn a_stored_copy_counts_while_it_is_young() {
    let mut scene = Scene::new();
    let seen = &mut scene.documents.approvals[0];
    seen.live = false;
    let mut known = floor(10);
    known.digest = seen.digest;
    for (age, reason) in [(21_600, None), (21_601, Some(Reason::ApprovalStale))] {
        known.seen = Some(scene.now.wall - SignedDuration::from_secs(age));
        scene.journal.floor.approvals.insert("eu/stable".into(), known.clone());
        assert_eq!(at(&scene, Point::Download).reason(), reason);
    }
}

#[test]
fn the_newest_document_counts_even_when_it_says_no() {
    let mut scene = Scene::new();
    let mut halted = approval(11, vec![entry(6)]);
    halted.approval.entries[0].state = RolloutState::Halted;
    scene.documents.approvals.push(halted);
    assert_eq!(at(&scene, Point::Download).reason(), Some(Reason::RolloutHalted));
    scene.documents.approvals[0].approval.epoch = 2;
    assert_eq!(at(&scene, Point::Download), Decision::Proceed, "the epoch outranks the version");
}

#[test]
fn a_replaced_region_key_lifts_what_it_had_set() {
    let mut scene = Scene::new();
    let mut poisoned = floor(u64::MAX);
    poisoned.issued = "2090-01-01T00:00:00Z".parse().unwrap();
    poisoned.keys = vec!["stolen".into(), "key-1".into()];
    scene.journal.floor.approvals.insert("eu/stable".into(), poisoned);
    scene.documents.region_keys = vec!["stolen".into(), "key-1".into()];
    assert_eq!(at(&scene, Point::Download).reason(), Some(Reason::ApprovalRollback));
    scene.documents.region_keys = vec!["key-1".into(), "key-2".into()];
    assert_eq!(at(&scene, Point::Download), Decision::Proceed);
}

#[test]
fn a_replaced_release_key_lifts_what_it_had_set() {
    let mut scene = Scene::new();
    scene.journal.lift_replaced(&["stolen".into(), "release-1".into()]);
    scene.journal.floor.channels.insert("stable".into(), u64::MAX);
    scene.journal.floor.signed_time = Some("2090-01-01T00:00:00Z".parse().unwrap());
    scene.journal.floor.counter = 5;
    let poisoned = |journal: &crate::journal::Journal| journal.floor.signed_time.is_some();
    for known in [vec![], vec!["release-1".to_owned(), "stolen".to_owned(), "release-2".to_owned()]] {
        scene.journal.lift_replaced(&known);
        assert!(poisoned(&scene.journal), "{known:?} still has the key");
    }
    assert_eq!(at(&scene, Point::Download).reason(), Some(Reason::ApprovalExpired));
    scene.journal.lift_replaced(&["release-1".into(), "release-2".into()]);
    assert!(!poisoned(&scene.journal) && scene.journal.floor.channels.is_empty());
    assert_eq!(scene.journal.floor.counter, 5);
    assert_eq!(at(&scene, Point::Download), Decision::Proceed);
}

#[test]
fn why_there_is_no_approval() {
    let table = [
        (vec![Reason::Network], Reason::ApprovalMissing),
        (vec![Reason::Network, Reason::SignatureInvalid], Reason::SignatureInvalid),
        (vec![Reason::ThresholdNotMet, Reason::Network], Reason::ThresholdNotMet),
    ];
    for (failures, reason) in table {
        let mut scene = Scene::new();
        scene.documents.approvals.clear();
        scene.documents.approval_failures = failures.into_iter().map(|reason| Failure::new(reason, "x")).collect();
        assert_eq!(at(&scene, Point::Download).reason(), Some(reason));
        assert_eq!(choose(&scene.inputs(), Intent::default()).unwrap_err().reason, reason);
    }
}

#[test]
fn standalone_needs_no_approval_and_no_clock() {
    let mut scene = Scene::new();
    scene.policy.standalone = true;
    scene.documents.approvals.clear();
    scene.now.wall_trusted = false;
    let choice = choose(&scene.inputs(), Intent::default()).unwrap();
    assert_eq!(choice.release, release(6));
    assert_eq!(choice.verdict.decision, Decision::Proceed);
    scene.documents.channel = None;
    scene.documents.channel_failure = Some(Failure::new(Reason::Network, "no route"));
    assert_eq!(choose(&scene.inputs(), Intent::default()).unwrap_err().reason, Reason::Network);
}

#[test]
fn a_release_whose_place_nobody_names_is_refused_for_the_reason_of_the_channel() {
    let mut scene = Scene::new();
    scene.documents.channel = None;
    scene.entry().urls.clear();
    assert_eq!(choose(&scene.inputs(), Intent::default()).unwrap_err().reason, Reason::ServerError);
    scene.documents.channel_failure = Some(Failure::new(Reason::KeyUnknown, "a stranger's"));
    assert_eq!(choose(&scene.inputs(), Intent::default()).unwrap_err().reason, Reason::KeyUnknown);
    scene.entry().urls.push("a.bundle".into());
    assert!(choose(&scene.inputs(), Intent::default()).is_ok());
}

#[test]
fn chooses_by_admission_then_priority_then_counter() {
    let mut scene = Scene::new();
    scene.documents.channel = Some(channel(&[9, 8, 7, 6, 5]));
    let mut entries = vec![entry(6), entry(7), entry(8), entry(9)];
    entries[0].priority = 5;
    entries[1].priority = 5;
    entries[2].threshold_bp = 0;
    entries[2].priority = 100;
    entries[3].state = RolloutState::Halted;
    entries[3].priority = 200;
    scene.documents.approvals = vec![approval(10, entries)];
    let choice = choose(&scene.inputs(), Intent::default()).unwrap();
    assert_eq!(choice.release, release(7));
    assert_eq!(choice.source, crate::release::Source::Urls(vec!["a.bundle".into(), "bundles/7.bundle".into()]));
    assert_eq!(choice.verdict.rollout.as_deref(), Some("rollout-7"));
}

#[test]
fn a_device_that_is_up_to_date_says_so() {
    let mut scene = Scene::new();
    scene.journal.slots.a.as_mut().unwrap().release = release(6);
    scene.documents.approvals = vec![approval(10, vec![entry(4), entry(6), entry(5)])];
    assert_eq!(choose(&scene.inputs(), Intent::default()).unwrap_err().reason, Reason::NoUpdate);
}

#[test]
fn two_rollouts_of_one_release_either_may_let_in() {
    let mut scene = Scene::new();
    let mut canary = entry(6);
    canary.rollout = "canary".into();
    canary.threshold_bp = 0;
    canary.priority = 10;
    scene.documents.approvals = vec![approval(10, vec![canary, entry(6)])];
    let verdict = {
        let release = release(6);
        let candidate = Candidate { release: &release, intent: Intent::default(), over_network: true };
        ask(&scene.inputs(), Point::Reboot, &candidate)
    };
    assert_eq!((verdict.decision, verdict.rollout.as_deref()), (Decision::Proceed, Some("rollout-6")));
}

#[test]
fn manifests_that_do_not_suit() {
    use bundle::manifest::{FromRange, SchemaRange};
    type Spoil = fn(&mut bundle::manifest::Manifest);
    let table: &[(Option<Reason>, Spoil)] = &[
        (None, |_| ()),
        (Some(Reason::Incompatible), |m| m.compatible = "other".into()),
        (Some(Reason::HardwareMismatch), |m| m.hardware = vec!["pro-*".into()]),
        (Some(Reason::SteppingStoneRequired), |m| m.from = Some(FromRange { min_counter: 6, max_counter: None })),
        (Some(Reason::SteppingStoneRequired), |m| m.from = Some(FromRange { min_counter: 0, max_counter: Some(4) })),
        (None, |m| m.state_schema = Some(SchemaRange { min: 2, max: 4 })),
        (Some(Reason::SteppingStoneRequired), |m| m.state_schema = Some(SchemaRange { min: 4, max: 5 })),
        (Some(Reason::CounterRollback), |m| m.state_schema = Some(SchemaRange { min: 1, max: 2 })),
    ];
    for (index, (reason, spoil)) in table.iter().enumerate() {
        let mut scene = Scene::new();
        scene.journal.floor.data_schema = Some(3);
        let mut manifest = manifest(6).manifest;
        spoil(&mut manifest);
        let mut lines = Lines::default();
        suits(&mut lines, &scene.device, &scene.journal, &manifest, 5);
        assert_eq!(lines.decide().reason(), *reason, "row {index}");
    }
}
