//! Recalls, and lies in binary members: those that are signed (a coerced build host) and those that are not.

use bundle::chunks::{ChunksHeader, Group};
use bundle::delta::DeltaHeader;
use bundle::digest::Digest;
use bundle::manifest::Chunks;
use bundle::reason::Reason;
use bundle::recall::{RECALL_TYPE, Recall};
use bundle::ustar::RawHeader;

use super::{Maker, signed_lie};
use crate::kit::{self, FRAME, Parts, REGION, RELEASE, parts, sign, tar};

pub fn all(maker: &Maker<'_>) {
    recalls(maker);
    indexes(maker);
    containers(maker);
    chunks(maker);
    deltas(maker);
    trees(maker);
}

fn recalls(maker: &Maker<'_>) {
    let recall = |channel: &str, by: u8| {
        let issued = "2026-11-20T19:55:00Z".parse().unwrap();
        let channel = channel.to_owned();
        let recall = Recall { channel, version: 1, issued, recalls: Vec::new(), crit: Vec::new() };
        sign(RECALL_TYPE, recall.to_bytes().unwrap(), &[by])
    };
    let hope = "a region's online key sends devices back to an older release";
    maker.add("recall-by-a-region", "recall", Reason::KeyUnknown, hope, recall("stable", REGION));
    let hope = "the recall of a beta release is used against the stable channel";
    maker.add("recall-of-another-channel", "recall", Reason::RegionMismatch, hope, recall("beta", RELEASE));
}

fn indexes(maker: &Maker<'_>) {
    let hope = "an offset or a length of the index leads out of the payload";
    let lie = |name: &str, change: fn(&mut Parts)| {
        let bundle = signed_lie(|parts| {
            change(parts);
            parts.settle();
        });
        maker.add(name, "bundle", Reason::Malformed, hope, bundle);
    };
    lie("integer-overflow-index-offset", |parts| parts.records[1].offset = u64::MAX - 3);
    lie("integer-overflow-index-length", |parts| parts.records[1].stored_len = u32::MAX);
    lie("integer-overflow-index-frames", |parts| parts.header.frame_count = u32::MAX);
    let hope = "a frame that is said to be zeros is something else and is never fetched";
    let lie = signed_lie(|parts| {
        parts.records[0].zero = true;
        parts.settle();
    });
    maker.add("zeros-that-are-none", "bundle", Reason::Malformed, hope, lie);
}

fn containers(maker: &Maker<'_>) {
    let hope = "the size of a member wraps around and the reader stands somewhere else";
    let mut bundle = parts("honest").bundle(&[RELEASE]);
    let header = tar(&[]).len() / 2;
    let place = bundle.windows(12).position(|window| window == b"rootfs.index").unwrap();
    assert_eq!(place % header, 0);
    // Base 256, as GNU tar writes large sizes: 2^64 - 512.
    let size = [&[0x80u8, 0, 0, 0][..], &(u64::MAX - 511).to_be_bytes()].concat();
    bundle[place + 124..place + 136].copy_from_slice(&size);
    let sum: u32 = (0..512).map(|n| if (148..156).contains(&n) { 32 } else { u32::from(bundle[place + n]) }).sum();
    bundle[place + 148..place + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    maker.add("integer-overflow-member", "bundle", Reason::Malformed, hope, bundle);

    let hope = "the frames of one image are written as another";
    let mut members = parts("honest").members(&[RELEASE]);
    members[2].0 = "kernel.zst".to_owned();
    maker.add("mix-and-match-image", "bundle", Reason::Malformed, hope, tar(&members));
}

/// A genuine manifest that names these chunk addresses, and the addresses.
fn chunk_attack(maker: &Maker<'_>, name: &str, expect: Reason, hope: &str, member: Vec<u8>) {
    let mut parts = parts("honest");
    let size = member.len() as u64;
    let sha256 = Digest::of(&member);
    parts.manifest.images[0].chunks = Some(Chunks { size, sha256, method: "blocks".to_owned(), target: FRAME });
    maker.add(name, "chunks", expect, hope, member);
    let manifest = maker.folder.join(name).join("manifest.dsse.json");
    if !manifest.exists() {
        std::fs::write(manifest, parts.envelope(&[RELEASE])).unwrap();
    }
}

fn chunks(maker: &Maker<'_>) {
    let size = parts("honest").manifest.images[0].size;
    let group = Group { raw_len: size as u32, chunks: 1, id: [0; 16] };
    let member = |header: ChunksHeader, group: Group| {
        [header.to_bytes().to_vec(), group.to_bytes().to_vec(), vec![0; 12]].concat()
    };
    let header = ChunksHeader { groups: 1, chunks: 1, image_size: size };
    let mut newer = member(header, group);
    newer[8] = 1;
    let hope = "an old reader misreads a newer format, or calls it damaged";
    chunk_attack(maker, "newer-format-chunks", Reason::FormatTooNew, hope, newer);
    let hope = "the device allocates what a table says";
    let many = member(ChunksHeader { chunks: u32::MAX, ..header }, Group { chunks: u32::MAX, ..group });
    chunk_attack(maker, "integer-overflow-chunks", Reason::Malformed, hope, many);
}

fn deltas(maker: &Maker<'_>) {
    let honest = parts("honest");
    let to = Digest::of(&serde_json::to_vec(&honest.manifest).unwrap());
    let mut newer = DeltaHeader { from: Digest::of(b"old"), to, sections: 0 }.to_bytes().to_vec();
    newer[8] = 1;
    let hope = "an old reader misreads a newer format, or calls it damaged";
    maker.add("newer-format-delta", "delta", Reason::FormatTooNew, hope, newer);
    let manifest = maker.folder.join("newer-format-delta/manifest.dsse.json");
    if !manifest.exists() {
        std::fs::write(manifest, honest.envelope(&[kit::RELEASE])).unwrap();
    }
}

fn trees(maker: &Maker<'_>) {
    let header = RawHeader {
        name: "pax".to_owned(),
        kind: b'x',
        link: String::new(),
        mode: 0o644,
        uid: 0,
        gid: 0,
        size: 1 << 32,
        mtime: 0,
    };
    let hope = "a reader of extended headers takes gigabytes into memory (as tar 0.4.46 does)";
    let bomb = [header.to_bytes().unwrap().to_vec(), vec![b'0'; 4096]].concat();
    maker.add("tree-pax-bomb", "tree", Reason::Malformed, hope, bomb);
}
