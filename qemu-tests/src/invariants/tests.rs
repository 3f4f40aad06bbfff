//! Each invariant, on a world that is well and on one where exactly it is broken.

use super::*;
use serde_json::json;

fn release(name: &str, counter: u64, what: &str) -> (Release, ReleaseSums) {
    let release =
        Release { name: name.into(), version: format!("{counter}.0.0"), counter, what: what.into(), dir: "/x".into() };
    let files = ["vmlinuz", "initrd.img"].map(|f| (f.to_owned(), format!("{f} {name}"))).into();
    (release, ReleaseSums { length: 10, rootfs: format!("root {name}"), files })
}

fn sums() -> Sums {
    Sums(vec![release("v1", 1, "good"), release("v2", 2, "good"), release("v3", 3, "bad: x")])
}

fn slot(name: &str) -> SlotImages {
    SlotImages {
        rootfs: [(10, format!("root {name}"))].into(),
        files: ["vmlinuz", "initrd.img"].map(|f| (f.to_owned(), format!("{f} {name}"))).into(),
        foreign: vec![],
    }
}

fn disk(entries: &[(&str, u32)], a: &str, b: &str) -> DiskFacts {
    let entries = entries.iter().map(|(file, version)| {
        let text = format!("sort-key flipside\nversion {version:010}\n");
        Entry::parse(file, &text).unwrap()
    });
    DiskFacts { entries: entries.collect(), slots: [("a".into(), slot(a)), ("b".into(), slot(b))].into() }
}

/// A copy of a journal; the digest is that of generation 7.
fn copy(generation: u64) -> Vec<u8> {
    let body = b"{\"format\":1}";
    let digest = sha256(&mut [&7_u64.to_be_bytes()[..], body].concat().as_slice()).unwrap();
    [format!("flipside-copy 1 {generation} {} {digest}\n", body.len()).as_bytes(), body].concat()
}

/// An appliance that went from v1 on a to v2 on b.
fn well(sums: &Sums) -> World<'_> {
    World {
        sums,
        before: disk(&[("flipside-a.conf", 1)], "v1", "nothing"),
        after: disk(&[("flipside-a.conf", 1), ("flipside-b.conf", 2)], "v1", "v2"),
        said: Said {
            facts: Facts { boot_id: "1".into(), slot: "b".into(), entries: vec![], version: "2".into(), oom_kills: 0 },
            status: Ok(json!({"state": "trying", "booted_slot": "b"})),
            history: Ok(json!([{"reason": "health_failed"}, {"deep": {"reason": null}}])),
            journal: vec![("journal.0".into(), Some(copy(7))), ("journal.1".into(), None)],
            memory_kib: Some(9000),
            oom_kills: 0,
        },
        approved: ["v2".to_owned()].into(),
    }
}

fn broken(change: impl FnOnce(&mut World)) -> Vec<String> {
    let sums = sums();
    let mut world = well(&sums);
    change(&mut world);
    let text = check_all(&world, &[]).err().map(|e| e.to_string()).unwrap_or_default();
    text.lines().filter_map(|l| Some(l.trim().strip_prefix("invariant_")?.get(..2)?.to_owned())).collect()
}

#[test]
fn a_good_update_breaks_nothing() {
    assert!(broken(|_| {}).is_empty());
}

#[test]
fn each_break_is_seen() {
    assert_eq!(broken(|w| w.after = disk(&[("flipside-a.conf", 1)], "v1", "half")), ["01"]);
    assert_eq!(
        broken(|w| w.after = disk(&[("flipside-a.conf", 2), ("flipside-b+3.conf", 1)], "v1", "half")),
        ["01", "03"]
    );
    assert_eq!(
        broken(|w| w.after.entries = disk(&[("flipside-a.conf", 1), ("flipside-b+3.conf", 2)], "", "").entries),
        ["04"]
    );
    assert_eq!(
        broken(|w| w.after.entries.push(Entry::parse("flipside-a+0-3.conf", "sort-key flipside").unwrap())),
        ["04"]
    );
    let bad_is_confirmed = broken(|w| {
        w.after = disk(&[("flipside-a.conf", 1), ("flipside-b.conf", 2)], "v1", "v3");
        w.approved.insert("v3".into());
    });
    assert_eq!(bad_is_confirmed, ["05"]);
    assert_eq!(broken(|w| w.after.slots.get_mut("a").unwrap().foreign.push(4096)), ["02"]);
    assert_eq!(broken(|w| w.said.status.as_mut().unwrap()["booted_slot"] = "a".into()), ["06"]);
    let settled = |a: &str| {
        json!({"state": "idle", "booted_slot": "b",
            "slots": {"a": {"boot": {"record": a}}, "b": {"boot": {"record": "confirmed"}}}})
    };
    assert_eq!(broken(|w| w.said.status = Ok(settled("trying"))), ["06"]);
    assert!(broken(|w| w.said.status = Ok(settled("confirmed"))).is_empty());
    let again = |kind: &str| {
        let release = json!({"version": "3.0.0", "manifest_sha256": "ab"});
        json!({"outcomes": [{"kind": "trial", "release": release},
            {"kind": "rolled_back", "release": release, "reason": "health_failed"},
            {"kind": kind, "release": release, "reason": "health_failed"}]})
    };
    assert_eq!(broken(|w| w.said.history = Ok(again("trial"))), ["07"]);
    assert!(broken(|w| w.said.history = Ok(again("rolled_back"))).is_empty());
    let older = broken(|w| {
        w.before = disk(&[("flipside-a.conf", 1)], "v3", "v1");
        w.approved.insert("v1".into());
    });
    assert_eq!(older, ["08"]);
    let by_operator = broken(|w| {
        w.before = disk(&[("flipside-a.conf", 1)], "v3", "v1");
        w.approved.insert("v1".into());
        let outcome = json!({"kind": "rolled_back", "release": {"counter": 3}, "reason": "cancelled"});
        w.said.history = Ok(json!({"outcomes": [outcome]}));
    });
    assert!(by_operator.is_empty());
    assert_eq!(broken(|w| w.approved.clear()), ["09"]);
    assert_eq!(broken(|w| w.said.memory_kib = Some(1 << 20)), ["10"]);
    assert_eq!(broken(|w| w.said.oom_kills = 1), ["10"]);
    assert_eq!(broken(|w| w.said.history = Ok(json!([{"reason": "internal"}]))), ["11"]);
    assert_eq!(broken(|w| w.said.status.as_mut().unwrap()["waiting"] = json!({"reason": "internal"})), ["11"]);
    assert_eq!(broken(|w| w.said.history = Err(anyhow!("no"))), ["12"]);
    assert_eq!(broken(|w| w.said.journal[0].1 = Some(copy(8))), ["12"]);
    assert_eq!(broken(|w| w.said.journal[0].1.as_mut().unwrap().truncate(70)), ["12"]);
    let unread = broken(|w| {
        w.said.journal.clear();
        w.said.history = Ok(json!({"outcomes": [{"kind": "started", "release": {"version": "2.0.0"}}]}));
    });
    assert_eq!(unread, ["12"]);
    let begun = |ended: &str| {
        let kinds = ["trial", ended, "started"];
        let outcomes = kinds.map(|kind| json!({"kind": kind, "reason": "network", "release": {"version": "2.0.0"}}));
        json!({"outcomes": outcomes})
    };
    assert_eq!(broken(|w| w.said.history = Ok(begun("deferred"))), ["01"]);
    assert!(broken(|w| w.said.history = Ok(begun("healthy"))).is_empty());
}

#[test]
fn another_release_than_the_approved_one_is_seen() {
    assert_eq!(broken(|w| w.approved = ["v1".to_owned()].into()), ["09"]);
    // What was there before needs no approval, and what is not whole can not boot.
    assert!(broken(|w| w.before = w.after.clone()).is_empty());
    let cut_off = broken(|w| {
        w.approved = ["v1".to_owned()].into();
        w.before = disk(&[("flipside-a.conf", 1)], "v1", "v2");
        w.after = disk(&[("flipside-a.conf", 1)], "v1", "half");
        w.said.facts.slot = "a".into();
        w.said.status = Ok(json!({"state": "writing", "booted_slot": "a"}));
    });
    assert!(cut_off.is_empty());
}

#[test]
fn a_confirmation_without_a_trial_is_seen() {
    let told = |kinds: &[&str]| {
        let release = json!({"version": "2.0.0", "manifest_sha256": "ab"});
        let outcome = |kind: &&str| json!({"kind": kind, "release": release, "reason": "cancelled"});
        let outcomes: Vec<_> = kinds.iter().map(outcome).collect();
        broken(|w| w.said.history = Ok(json!({"outcomes": outcomes})))
    };
    assert!(told(&["started", "installed", "trial", "healthy", "rolled_back"]).is_empty());
    assert_eq!(told(&["started", "installed", "healthy"]), ["05"]);
    assert_eq!(told(&["trial", "healthy", "healthy"]), ["05"]);
    assert_eq!(told(&["trial", "rolled_back", "healthy"]), ["05"]);
}

#[test]
fn a_bad_end_without_a_known_reason_is_seen() {
    for kind in ["rolled_back", "failed", "deferred"] {
        let told = |reason: Value| {
            let outcome = json!({"kind": kind, "release": {"version": "2.0.0"}, "reason": reason});
            broken(|w| w.said.history = Ok(json!({"outcomes": [outcome]})))
        };
        assert!(told(json!("cancelled")).is_empty());
        assert_eq!(told(json!(null)), ["11"], "{kind}");
        assert_eq!(told(json!("sunspots")), ["11"], "{kind}");
    }
}

#[test]
fn a_slot_with_a_foreign_kernel_is_not_whole() {
    let sums = sums();
    let mut world = well(&sums);
    let images = world.after.slots.get_mut("b").unwrap();
    images.files.insert("vmlinuz".into(), "vmlinuz v1".into());
    let e = world.after.release("b", &sums).unwrap_err().to_string();
    assert!(e.contains("vmlinuz is not that of v2"), "{e}");
}

#[test]
fn a_skipped_invariant_is_not_checked() {
    let sums = sums();
    let mut world = well(&sums);
    world.approved.clear();
    assert!(check_all(&world, &["invariant_09_no_approval_no_install".into()]).is_ok());
}
