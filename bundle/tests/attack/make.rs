//! Makes the attackers' files.

use std::path::Path;

use bundle::approval::{APPROVAL_KIND, APPROVAL_TYPE, Approval};
use bundle::channel::{CHANNEL_TYPE, Channel};
use bundle::delta::{DeltaHeader, FrameSource, Recipe, Section};
use bundle::digest::Digest;
use bundle::dsse::Envelope;
use bundle::manifest::{Blob, MANIFEST_TYPE};
use bundle::reason::Reason;
use bundle::ustar::RawHeader;

use super::Attack;
use crate::kit::{self, FRAME, Parts, REGION, RELEASE, RELEASE_2, ROOT, STRANGER, parts, sign, tar};

#[path = "more.rs"]
mod more;

/// How many folders there are.
pub const NAMES: usize = 64;

pub fn approval(epoch: u64, version: u64) -> Approval {
    Approval {
        kind: APPROVAL_KIND.to_owned(),
        region: "eu-west".to_owned(),
        channel: "stable".to_owned(),
        epoch,
        version,
        issued: "2026-11-20T19:55:00Z".parse().unwrap(),
        expires: "2026-11-27T19:55:00Z".parse().unwrap(),
        max_stale_seconds: 21_600,
        entries: Vec::new(),
        crit: Vec::new(),
    }
}

pub fn signed_approval(approval: &Approval, by: u8) -> Vec<u8> {
    sign(APPROVAL_TYPE, approval.to_bytes().unwrap(), &[by])
}

/// Writes folders that are not there yet.
struct Maker<'a> {
    folder: &'a Path,
    trust: Vec<u8>,
}

impl Maker<'_> {
    fn add(&self, name: &str, reader: &str, expect: Reason, hope: &str, input: Vec<u8>) {
        let attack = Attack { hope: hope.to_owned(), reader: reader.to_owned(), expect, device: None, clock: None };
        self.write(name, &attack, &input);
    }

    fn device(&self, name: &str, expect: Reason, hope: &str, device: (&str, &str, u64)) {
        let device = Some((device.0.to_owned(), device.1.to_owned(), device.2));
        let attack = Attack { hope: hope.to_owned(), reader: "device".to_owned(), expect, device, clock: None };
        self.write(name, &attack, &parts("honest").envelope(&[RELEASE]));
    }

    fn time(&self, name: &str, expect: Reason, hope: &str, (now, seen): (&str, (u64, u64)), input: &Approval) {
        let clock = Some((now.parse().unwrap(), seen));
        let attack = Attack { hope: hope.to_owned(), reader: "time".to_owned(), expect, device: None, clock };
        self.write(name, &attack, &signed_approval(input, REGION));
    }

    fn write(&self, name: &str, attack: &Attack, input: &[u8]) {
        let folder = self.folder.join(name);
        if folder.exists() {
            return;
        }
        std::fs::create_dir_all(&folder).unwrap();
        let mut json = serde_json::to_vec_pretty(attack).unwrap();
        json.push(b'\n');
        std::fs::write(folder.join("attack.json"), json).unwrap();
        std::fs::write(folder.join("trust.dsse.json"), &self.trust).unwrap();
        std::fs::write(folder.join("input"), input).unwrap();
    }

    fn with_region(&self, region: u8) -> Maker<'_> {
        let mut trust = kit::trust(2, &[RELEASE], 1);
        trust.keys.insert(kit::id(region), kit::key(region).public().unwrap().to_pem().to_owned());
        if let Some(role) = trust.regions.get_mut("eu-west") {
            role.approve.keys = vec![kit::id(region)];
        }
        Maker { folder: self.folder, trust: kit::signed_trust(&trust, &[ROOT]) }
    }

    fn with_trust(&self, release: &[u8], threshold: u32, version: u64) -> Maker<'_> {
        Maker { folder: self.folder, trust: kit::signed_trust(&kit::trust(version, release, threshold), &[ROOT]) }
    }
}

/// A genuine bundle with a change that was signed with it, as by a careless or coerced build host.
fn signed_lie(change: impl FnOnce(&mut Parts)) -> Vec<u8> {
    let mut parts = parts("honest");
    change(&mut parts);
    parts.bundle(&[RELEASE])
}

/// The JSON of the honest manifest with one text replaced, genuinely signed.
fn signed_text(from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(serde_json::to_vec(&parts("honest").manifest).unwrap()).unwrap();
    assert!(text.contains(from), "{from}");
    sign(MANIFEST_TYPE, text.replacen(from, to, 1).into_bytes(), &[RELEASE])
}

pub fn all(folder: &Path) {
    let maker = Maker { folder, trust: kit::signed_trust(&kit::trust(1, &[RELEASE], 1), &[ROOT]) };
    signatures(&maker);
    documents(&maker);
    devices(&maker);
    mixtures(&maker);
    containers(&maker);
    trees(&maker);
    deltas(&maker);
    more::all(&maker);
}

fn signatures(maker: &Maker<'_>) {
    let honest = parts("honest");
    let hope = "software of the attacker's own is installed";
    maker.add("arbitrary-software", "bundle", Reason::KeyUnknown, hope, honest.bundle(&[STRANGER]));
    maker.add("unsigned", "bundle", Reason::KeyUnknown, hope, honest.bundle(&[]));
    let mut forged = Envelope::parse(&honest.envelope(&[RELEASE])).unwrap();
    forged.payload = serde_json::to_vec(&parts("attacker").manifest).unwrap();
    let forged = forged.to_bytes().unwrap();
    maker.add("payload-swapped-under-signature", "manifest", Reason::SignatureInvalid, hope, forged);
    let hope = "one stolen key of two is enough";
    let two = maker.with_trust(&[RELEASE, RELEASE_2], 2, 1);
    two.add("threshold-not-met", "bundle", Reason::ThresholdNotMet, hope, honest.bundle(&[RELEASE]));
    let mut twice = Envelope::parse(&honest.envelope(&[RELEASE])).unwrap();
    twice.signatures.push(twice.signatures[0].clone());
    let hope = "the signature of one key, given twice, counts twice";
    two.add("duplicate-signatures", "manifest", Reason::ThresholdNotMet, hope, twice.to_bytes().unwrap());
    let hope = "a region's online key makes a release genuine";
    maker.add("key-of-the-wrong-role-release", "bundle", Reason::KeyUnknown, hope, honest.bundle(&[REGION]));
    let hope = "a release key approves for a region";
    maker.add(
        "key-of-the-wrong-role-region",
        "approval",
        Reason::KeyUnknown,
        hope,
        signed_approval(&approval(3, 412), RELEASE),
    );
    let hope = "a document of one kind is read as another";
    let confused = sign(APPROVAL_TYPE, serde_json::to_vec(&honest.manifest).unwrap(), &[RELEASE]);
    maker.add("type-confusion", "manifest", Reason::Malformed, hope, confused);

    let hope = "a stolen release key still works after it was revoked";
    let rotated = maker.with_trust(&[RELEASE_2], 1, 2);
    rotated.add("revoked-key-after-rotation", "bundle", Reason::KeyUnknown, hope, honest.bundle(&[RELEASE]));
    let hope = "an old trust root brings a revoked key back";
    let old = kit::signed_trust(&kit::trust(1, &[RELEASE], 1), &[ROOT]);
    rotated.add("root-rollback", "rotation", Reason::CounterRollback, hope, old);
    let hope = "a rotation in between, which revoked a key, is skipped";
    let third = kit::signed_trust(&kit::trust(3, &[RELEASE], 1), &[ROOT]);
    maker.add("skipped-root-version", "rotation", Reason::Malformed, hope, third);
    let mut coup = kit::trust(2, &[STRANGER], 1);
    coup.keys.insert(kit::id(STRANGER), kit::key(STRANGER).public().unwrap().to_pem().to_owned());
    coup.roles.root.keys = vec![kit::id(STRANGER)];
    let hope = "a new root that only its own keys signed is adopted";
    maker.add("root-takeover", "rotation", Reason::KeyUnknown, hope, kit::signed_trust(&coup, &[STRANGER]));
}

fn documents(maker: &Maker<'_>) {
    let hope = "an old reader ignores a restriction it does not know";
    maker.add("unknown-crit", "manifest", Reason::FormatTooNew, hope, signed_text("[\"from\"]", "[\"quorum\"]"));
    let hope = "an old reader misreads a newer format, or calls it damaged";
    maker.add("newer-format-type", "manifest", Reason::FormatTooNew, hope, {
        let mut envelope = Envelope::new(&MANIFEST_TYPE.replace("v1", "v2"), b"{}".to_vec());
        envelope.sign(&kit::key(RELEASE)).unwrap();
        envelope.to_bytes().unwrap()
    });
    maker.add(
        "newer-format-image-kind",
        "manifest",
        Reason::FormatTooNew,
        hope,
        signed_text("\"block\"", "\"verity\""),
    );
    maker.add("newer-format-index", "bundle", Reason::FormatTooNew, hope, {
        // Not `settle`d: the digest is wrong too, and must not be what is said.
        let mut members = parts("honest").members(&[RELEASE]);
        members[1].1[4] = 2;
        tar(&members)
    });
    let hope = "signer and reader disagree about which of two keys counts";
    maker.add(
        "duplicate-json-keys",
        "manifest",
        Reason::Malformed,
        hope,
        signed_text("\"counter\":57", "\"counter\":57,\"counter\":99"),
    );
    let hope = "memory or stack are used up while parsing";
    let deep = format!("{{\"payloadType\":{}1{}}}", "[".repeat(50_000), "]".repeat(50_000));
    maker.add("deep-nesting", "manifest", Reason::Malformed, hope, deep.into_bytes());
    let crowd = vec![serde_json::json!({"keyid": "", "sig": ""}); 5000];
    let crowd = serde_json::json!({"payloadType": MANIFEST_TYPE, "payload": "", "signatures": crowd});
    maker.add("crowd-of-signatures", "manifest", Reason::Malformed, hope, crowd.to_string().into_bytes());
    let hope = "sums of sizes wrap around and checks pass";
    let max = format!("\"size\":{}", u64::MAX);
    let size = format!("\"size\":{},\"sha256\"", parts("honest").manifest.images[0].size);
    maker.add(
        "integer-overflow-image",
        "manifest",
        Reason::Malformed,
        hope,
        signed_text(&size, &format!("{max},\"sha256\"")),
    );
    let payload = format!("\"payload\":{{\"size\":{}", parts("honest").payload.len());
    let all = format!("\"payload\":{{{max}");
    maker.add("integer-overflow-payload", "manifest", Reason::Malformed, hope, signed_text(&payload, &all));
    let hope = "the download never ends";
    let slow = format!("\"payload\":{{\"size\":{}", 1u64 << 40);
    maker.add("slow-retrieval-oversized-payload", "manifest", Reason::Malformed, hope, signed_text(&payload, &slow));
    let hope = "a device is sent back below the floor that its data needs";
    maker.add(
        "floor-above-counter",
        "manifest",
        Reason::Malformed,
        hope,
        signed_text("\"rollback_floor\":50", "\"rollback_floor\":58"),
    );
}

fn devices(maker: &Maker<'_>) {
    let hope = "a genuine but older, vulnerable release is installed";
    maker.device("rollback", Reason::CounterRollback, hope, ("demo-appliance", "rev-a", 58));
    maker.device("replay-of-the-same-release", Reason::CounterRollback, hope, ("demo-appliance", "rev-a", 57));
    let hope = "a release is installed past a stepping stone it needs";
    maker.device("skipped-stepping-stone", Reason::SteppingStoneRequired, hope, ("demo-appliance", "rev-a", 39));
    let hope = "a genuine release of another product is installed";
    maker.device("wrong-compatible", Reason::Incompatible, hope, ("other-appliance", "rev-a", 56));
    maker.device("wrong-hardware", Reason::HardwareMismatch, hope, ("demo-appliance", "proto-1", 56));
    let hope = "an approval that was withdrawn is shown for ever";
    maker.time(
        "indefinite-freeze",
        Reason::ApprovalExpired,
        hope,
        ("2026-11-27T19:55:00Z", (3, 412)),
        &approval(3, 413),
    );
    let hope = "an older approval is replayed";
    maker.time(
        "approval-rollback",
        Reason::ApprovalRollback,
        hope,
        ("2026-11-21T00:00:00Z", (3, 412)),
        &approval(3, 411),
    );
    let hope = "the highest version there is, signed with a stolen key, outranks every honest approval for ever";
    let after = ("2026-11-21T00:00:00Z", (4, 1));
    maker.time("fast-forward", Reason::ApprovalRollback, hope, after, &approval(3, u64::MAX));
    // The thief's own try at the raised epoch: his key is not the region's any more.
    let maker_4 = maker.with_region(STRANGER);
    let highest = signed_approval(&approval(u64::MAX, u64::MAX), REGION);
    maker_4.add("fast-forward-after-rotation", "approval", Reason::KeyUnknown, hope, highest);
    let hope = "the approval of another region is used here";
    let elsewhere = Approval { region: "us-east".to_owned(), ..approval(3, 412) };
    maker.add(
        "approval-of-another-region",
        "approval",
        Reason::RegionMismatch,
        hope,
        signed_approval(&elsewhere, REGION),
    );
    let hope = "the beta channel's index is served as stable";
    let beta = Channel {
        channel: "beta".to_owned(),
        version: 1,
        issued: "2026-11-20T19:55:00Z".parse().unwrap(),
        releases: Vec::new(),
        crit: Vec::new(),
    };
    maker.add(
        "channel-of-another-name",
        "channel",
        Reason::RegionMismatch,
        hope,
        sign(CHANNEL_TYPE, beta.to_bytes().unwrap(), &[RELEASE]),
    );
}

fn mixtures(maker: &Maker<'_>) {
    let hope = "parts of two genuine bundles make one that nobody released";
    let (honest, other) = (parts("honest"), parts("older!"));
    let mut members = honest.members(&[RELEASE]);
    members[1].1 = other.index();
    maker.add("mix-and-match-index", "bundle", Reason::FrameMismatch, hope, tar(&members));
    let mut members = honest.members(&[RELEASE]);
    let first = honest.records[0].stored_len as usize;
    assert_eq!(first, other.records[0].stored_len as usize, "the frames must be of one length");
    members[2].1[..first].copy_from_slice(&other.payload[..first]);
    maker.add("mix-and-match-frame", "bundle", Reason::FrameMismatch, hope, tar(&members));
}

fn containers(maker: &Maker<'_>) {
    let honest = parts("honest");
    let hope = "one reader takes the first, another the last of two members";
    let mut members = honest.members(&[RELEASE]);
    members.insert(2, members[1].clone());
    maker.add("duplicated-members", "bundle", Reason::Malformed, hope, tar(&members));
    let mut members = honest.members(&[RELEASE]);
    members.swap(1, 2);
    maker.add("reordered-members", "bundle", Reason::Malformed, hope, tar(&members));
    let hope = "the device reads until its memory or disk is full";
    let header = bundle::ustar::header("manifest.dsse.json", 1 << 40, 0).unwrap();
    maker.add("endless-data", "bundle", Reason::Malformed, hope, [&header[..], &[b' '; 4096]].concat());

    let hope = "one small frame becomes gigabytes in memory";
    let zeros = vec![0x55u8; 64 << 20];
    let mut bomb = vec![0; 64 << 10];
    let len = zstd_safe::compress(bomb.as_mut_slice(), &zeros, 19).unwrap();
    bomb.truncate(len.min(bundle::index::max_stored(FRAME) as usize));
    assert_eq!(bomb.len(), len, "the bomb must fit where a frame fits");
    let signed = signed_lie(|parts| {
        let rest = parts.payload.split_off(parts.records[0].stored_len as usize);
        parts.payload = [bomb.clone(), rest].concat();
        let grown = bomb.len() as u64 - u64::from(parts.records[0].stored_len);
        parts.records[0].stored_len = bomb.len() as u32;
        parts.records[0].stored_sha256 = Digest::of(&bomb);
        parts.records[1].offset += grown;
        parts.records[2].offset += grown;
        parts.header.payload_size += grown;
        parts.settle();
    });
    maker.add("decompression-bomb-signed", "bundle", Reason::FrameMismatch, hope, signed);
    let mut members = honest.members(&[RELEASE]);
    let end = members[2].1.len().min(40);
    members[2].1[..end].copy_from_slice(&bomb[..end]);
    maker.add("decompression-bomb-swapped", "bundle", Reason::FrameMismatch, hope, tar(&members));
    let hope = "the image is longer than the partition it is written to";
    let longer = signed_lie(|parts| {
        let image = &mut parts.manifest.images[0];
        image.sha256 = Digest::of(b"longer");
        image.index = Blob { ..image.index };
    });
    maker.add("image-digest-of-something-else", "bundle", Reason::ImageMismatch, hope, longer);
}

fn trees(maker: &Maker<'_>) {
    let entry = |name: &str, kind: u8, link: &str| {
        let (name, link) = (name.to_owned(), link.to_owned());
        let header = RawHeader { name, kind, link, mode: 0o755, uid: 0, gid: 0, size: 0, mtime: 0 };
        header.to_bytes().unwrap().to_vec()
    };
    let add = |name: &str, hope: &str, entries: &[Vec<u8>]| {
        maker.add(name, "tree", Reason::Malformed, hope, [entries.concat(), vec![0; 1024]].concat());
    };
    let hope = "a file is written outside the folder";
    add("tree-dotdot", hope, &[entry("../etc/passwd", b'0', "")]);
    add("tree-absolute", hope, &[entry("/etc/passwd", b'0', "")]);
    add("tree-through-link", hope, &[entry("a", b'2', "/etc"), entry("a/passwd", b'0', "")]);
    add("tree-folder-becomes-link", hope, &[entry("a/", b'5', ""), entry("a", b'2', "/etc"), entry("a/x", b'0', "")]);
    let hope = "a name in the tree gives access to a file outside";
    add("tree-hard-link-outside", hope, &[entry("a", b'1', "/etc/shadow")]);
    let hope = "a device file gives access to the disk";
    add("tree-device", hope, &[entry("sda", b'4', "")]);
}

fn deltas(maker: &Maker<'_>) {
    let honest = parts("honest");
    let digest = |parts: &Parts| Digest::of(&serde_json::to_vec(&parts.manifest).unwrap());
    let header = |to: Digest, sections: u32| DeltaHeader { from: Digest::of(b"old"), to, sections }.to_bytes().to_vec();
    let section = |recipes: u32, patch_size: u64| {
        let old_sha256 = Digest::of(b"old image");
        Section { image: 0, recipes, old_size: 4096, old_sha256, patch_size, max_prefix: 0 }.to_bytes().to_vec()
    };
    let add = |name: &str, hope: &str, recipes: Vec<u8>| {
        maker.add(name, "delta", Reason::Malformed, hope, recipes);
        let manifest = maker.folder.join(name).join("manifest.dsse.json");
        if !manifest.exists() {
            std::fs::write(manifest, honest.envelope(&[RELEASE])).unwrap();
        }
    };
    let hope = "the delta of one release is followed for another";
    add("mix-and-match-delta", hope, header(digest(&parts("older!")), 0));
    let hope = "the place a copy is read from wraps around, and the updater stops";
    let huge = |old_size: u64| {
        let old_sha256 = Digest::of(b"old image");
        Section { image: 0, recipes: 1, old_size, old_sha256, patch_size: 0, max_prefix: 0 }.to_bytes().to_vec()
    };
    let copy = |old: u64| Recipe { frame: 0, count: 2, source: FrameSource::Copy { old } }.to_bytes().to_vec();
    let one = || header(digest(&honest), 1);
    add("integer-overflow-copy", hope, [one(), huge(u64::MAX), copy(u64::MAX - 4095)].concat());
    let hope = "what stands behind the old image is read";
    add("copy-behind-the-old-image", hope, [one(), huge(4096), copy(0)].concat());
    let hope = "the device allocates what a recipe says";
    let source = FrameSource::Plain { offset: 0, len: u32::MAX };
    let recipe = Recipe { frame: 0, count: 1, source }.to_bytes().to_vec();
    add(
        "integer-overflow-recipe",
        hope,
        [header(digest(&honest), 1), section(1, u64::from(u32::MAX)), recipe].concat(),
    );
}
