//! What golden fixtures and attacks are made of: fixed keys, a trust root, a small bundle. Deterministic.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::BTreeMap;

use bundle::digest::Digest;
use bundle::dsse::Envelope;
use bundle::frame::FrameDecoder;
use bundle::index::{FrameRecord, IndexHeader, IndexReader, check_index};
use bundle::keys::PrivateKey;
use bundle::layout::MemberKind;
use bundle::manifest::{Blob, Image, ImageKind, MANIFEST_TYPE, Manifest};
use bundle::open::open_manifest;
use bundle::reason::Reason;
use bundle::sequential::SequentialReader;
use bundle::trust::{Region, Role, Roles, TRUST_TYPE, TrustRoot};
use bundle::ustar;

pub const ROOT: u8 = 1;
pub const RELEASE: u8 = 2;
pub const RELEASE_2: u8 = 3;
pub const REGION: u8 = 4;
pub const STRANGER: u8 = 9;

/// Raw bytes of a frame in these bundles.
pub const FRAME: u32 = 4096;

pub fn key(seed: u8) -> PrivateKey {
    PrivateKey::from_seed(&[seed; 32])
}

pub fn id(seed: u8) -> String {
    key(seed).public().unwrap().id().to_string()
}

fn role(keys: &[u8], threshold: u32) -> Role {
    Role { keys: keys.iter().map(|seed| id(*seed)).collect(), threshold }
}

/// A trust root with those release keys.
pub fn trust(version: u64, release: &[u8], threshold: u32) -> TrustRoot {
    let seeds = [ROOT, RELEASE, RELEASE_2, REGION];
    let keys = seeds.iter().map(|seed| (id(*seed), key(*seed).public().unwrap().to_pem().to_owned()));
    TrustRoot {
        version,
        expires: "2036-01-01T00:00:00Z".parse().unwrap(),
        keys: keys.collect(),
        roles: Roles { root: role(&[ROOT], 1), release: role(release, threshold) },
        regions: [("eu-west".to_owned(), Region { approve: role(&[REGION], 1) })].into(),
        crit: Vec::new(),
    }
}

pub fn sign(payload_type: &str, payload: Vec<u8>, by: &[u8]) -> Vec<u8> {
    let mut envelope = Envelope::new(payload_type, payload);
    for seed in by {
        envelope.sign(&key(*seed)).unwrap();
    }
    envelope.to_bytes().unwrap()
}

pub fn signed_trust(trust: &TrustRoot, by: &[u8]) -> Vec<u8> {
    sign(TRUST_TYPE, trust.to_bytes().unwrap(), by)
}

/// A bundle in its parts, so that each can be tampered with before it is put together.
#[derive(Clone)]
pub struct Parts {
    pub manifest: Manifest,
    pub header: IndexHeader,
    pub records: Vec<FrameRecord>,
    pub payload: Vec<u8>,
}

/// One image of three frames: text that names `what`, zeros, and a short rest.
pub fn parts(what: &str) -> Parts {
    let mut raw = what.bytes().cycle().take(FRAME as usize).collect::<Vec<_>>();
    raw.resize(2 * FRAME as usize, 0);
    raw.extend_from_slice(b"the end");
    let (mut records, mut payload) = (Vec::new(), Vec::new());
    for piece in raw.chunks(FRAME as usize) {
        let mut stored = vec![0; zstd_safe::compress_bound(piece.len())];
        let len = zstd_safe::compress(stored.as_mut_slice(), piece, 3).unwrap();
        stored.truncate(len);
        records.push(FrameRecord {
            offset: payload.len() as u64,
            stored_len: stored.len() as u32,
            raw_len: piece.len() as u32,
            zero: piece.iter().all(|byte| *byte == 0),
            stored_sha256: Digest::of(&stored),
            raw_sha256: Digest::of(piece),
        });
        payload.extend_from_slice(&stored);
    }
    let blob = Blob { size: 0, sha256: Digest::of(b"") };
    let image = Image {
        name: "rootfs".to_owned(),
        kind: ImageKind::Block,
        size: raw.len() as u64,
        sha256: Digest::of(&raw),
        index: blob,
        chunks: None,
        payload: blob,
        frame_size: None,
        level: None,
    };
    let header = IndexHeader {
        frame_size: FRAME,
        frame_count: records.len() as u32,
        image_size: raw.len() as u64,
        payload_size: payload.len() as u64,
    };
    let mut parts = Parts { manifest: manifest(image), header, records, payload };
    parts.settle();
    parts
}

fn manifest(image: Image) -> Manifest {
    Manifest {
        compatible: "demo-appliance".to_owned(),
        hardware: vec!["rev-*".to_owned()],
        version: semver::Version::new(2, 4, 1),
        counter: 57,
        rollback_floor: 50,
        from: Some(bundle::manifest::FromRange { min_counter: 40, max_counter: None }),
        state_schema: Some(bundle::manifest::SchemaRange { min: 1, max: 3 }),
        created: "2026-11-20T19:55:00Z".parse().unwrap(),
        images: vec![image],
        hooks: vec!["migrate".to_owned()],
        attestations: BTreeMap::from([("source_revision".to_owned(), "0123abcd".into())]),
        crit: vec!["from".to_owned()],
    }
}

impl Parts {
    /// Makes the manifest name index and payload as they are: what a careless signer would sign.
    pub fn settle(&mut self) {
        let index = self.index();
        if let Some(image) = self.manifest.images.first_mut() {
            image.index = Blob { size: index.len() as u64, sha256: Digest::of(&index) };
            image.payload = Blob { size: self.payload.len() as u64, sha256: Digest::of(&self.payload) };
        }
    }

    pub fn index(&self) -> Vec<u8> {
        let mut index = self.header.to_bytes().to_vec();
        self.records.iter().for_each(|record| index.extend_from_slice(&record.to_bytes()));
        index
    }

    pub fn envelope(&self, by: &[u8]) -> Vec<u8> {
        sign(MANIFEST_TYPE, serde_json::to_vec(&self.manifest).unwrap(), by)
    }

    pub fn members(&self, by: &[u8]) -> Vec<(String, Vec<u8>)> {
        vec![
            ("manifest.dsse.json".to_owned(), self.envelope(by)),
            ("rootfs.index".to_owned(), self.index()),
            ("rootfs.zst".to_owned(), self.payload.clone()),
        ]
    }

    pub fn bundle(&self, by: &[u8]) -> Vec<u8> {
        tar(&self.members(by))
    }
}

pub fn tar(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, content) in members {
        out.extend_from_slice(&ustar::header(name, content.len() as u64, 1_795_204_500).unwrap());
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// Reads a bundle as a device would, from front to back; gives the raw images or the reason of the refusal.
pub fn read_bundle(bytes: &[u8], trust: &TrustRoot) -> Result<Vec<Vec<u8>>, Reason> {
    let mut reader = SequentialReader::new(bytes).map_err(|error| error.reason())?;
    let (manifest, _) = open_manifest(reader.envelope(), trust).map_err(|error| error.reason())?;
    reader.accept(&manifest).map_err(|error| error.reason())?;
    let (mut indexes, mut images, mut decoder) = (Vec::new(), Vec::new(), FrameDecoder::new());
    while let Some(member) = reader.next_member().map_err(|error| error.reason())? {
        let image = &manifest.images[member.image.unwrap()];
        if member.kind == MemberKind::Index {
            let mut index = Vec::new();
            std::io::Read::read_to_end(&mut reader, &mut index).map_err(|_| Reason::Truncated)?;
            check_index(index.as_slice(), image).map_err(|error| error.reason())?;
            indexes.push(index);
            continue;
        }
        if member.kind == MemberKind::Chunks {
            continue;
        }
        let (mut whole, mut raw, mut stored) = (Vec::new(), Vec::new(), Vec::new());
        let index = indexes[member.image.unwrap()].as_slice();
        for record in IndexReader::new(index, image).map_err(|error| error.reason())? {
            let record = record.map_err(|error| error.reason())?;
            stored.resize(record.stored_len as usize, 0);
            std::io::Read::read_exact(&mut reader, &mut stored).map_err(|_| Reason::Truncated)?;
            decoder.decode(&record, &stored, &mut raw).map_err(|error| error.reason())?;
            whole.extend_from_slice(&raw);
        }
        if Digest::of(&whole) != image.sha256 {
            return Err(Reason::ImageMismatch);
        }
        images.push(whole);
    }
    Ok(images)
}

/// Whether fixtures are to be written: set `FLIPSIDE_MAKE_FIXTURES=1` once, when a new one was added.
pub fn making() -> bool {
    std::env::var_os("FLIPSIDE_MAKE_FIXTURES").is_some()
}
