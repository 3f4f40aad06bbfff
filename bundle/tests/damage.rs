//! Bits flipped all over the golden fixtures (in documents every single one), and every length they can be cut to:
//! refused, or harmless.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may fail loudly")]

mod kit;

use std::fmt::Debug;
use std::path::Path;

use bundle::open::{open_approval, open_channel, open_manifest, open_recall};
use bundle::reason::Reason;
use bundle::trust::TrustRoot;

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1").join(name)).unwrap()
}

fn root() -> TrustRoot {
    TrustRoot::open(&golden("trust.dsse.json")).unwrap()
}

/// Reads damaged forms of `bytes`, one for each of these bits; what is read at all must be what the whole one gives.
fn try_bits<T: PartialEq + Debug>(
    bytes: &[u8],
    bits: impl Iterator<Item = usize>,
    read: impl Fn(&[u8]) -> Result<T, Reason>,
) {
    let genuine = read(bytes).unwrap();
    let mut harmless = 0;
    let mut damaged = bytes.to_vec();
    for bit in bits {
        damaged[bit / 8] ^= 1 << (bit % 8);
        match read(&damaged) {
            Ok(read) => {
                assert_eq!(read, genuine, "bit {} of byte {}", bit % 8, bit / 8);
                harmless += 1;
            }
            // A verdict on the bytes, never on ourselves.
            Err(reason) => assert_ne!(reason, Reason::Internal, "bit {} of byte {}", bit % 8, bit / 8),
        }
        damaged[bit / 8] ^= 1 << (bit % 8);
    }
    println!("{harmless} harmless");
    let line_end = usize::from(bytes.last() == Some(&b'\n'));
    for len in 0..bytes.len() - line_end {
        assert!(read(&bytes[..len]).is_err(), "cut to {len} bytes");
    }
}

/// Every single bit.
fn try_all<T: PartialEq + Debug>(bytes: &[u8], read: impl Fn(&[u8]) -> Result<T, Reason>) {
    try_bits(bytes, 0..bytes.len() * 8, read);
}

#[test]
fn bundle() {
    // Two bits of each byte: all of them take a minute.
    let (bytes, root) = (golden("small.bundle"), root());
    let bits = (0..bytes.len()).flat_map(|byte| [byte % 8, (byte + 3) % 8].map(|bit| byte * 8 + bit));
    try_bits(&bytes, bits, |bytes| kit::read_bundle(bytes, &root));
}

#[test]
fn manifest() {
    let root = root();
    try_all(&golden("manifest.dsse.json"), |bytes| open_manifest(bytes, &root).map_err(|error| error.reason()));
}

#[test]
fn approval() {
    let root = root();
    let open = |bytes: &[u8]| open_approval(bytes, &root, "eu-west", "stable").map_err(|error| error.reason());
    try_all(&golden("approval.dsse.json"), open);
}

#[test]
fn channel() {
    let root = root();
    try_all(&golden("channel.dsse.json"), |bytes| open_channel(bytes, &root, "stable").map_err(|error| error.reason()));
}

#[test]
fn recall() {
    let root = root();
    try_all(&golden("recall.dsse.json"), |bytes| open_recall(bytes, &root, "stable").map_err(|error| error.reason()));
}

#[test]
fn trust_root() {
    try_all(&golden("trust.dsse.json"), |bytes| TrustRoot::open(bytes).map_err(|error| error.reason()));
}
