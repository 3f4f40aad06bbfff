//! Bodies of recipes that are sound for the image of the fuzz target `body`: damage begins behind the first check.

use bundle::delta::{BLOCK, Body, Method, Range, Run, Stream};
use zstd_safe::{CCtx, CParameter};

use super::bodies::{BODY_RAW, old_image};

const RAW: usize = BODY_RAW as usize;

/// One body of each method, and the frame that it makes.
pub fn bodies() -> Vec<(Vec<u8>, Vec<u8>)> {
    let old = old_image();
    let block = BLOCK as usize;
    let ranges = vec![Range { old: 4, count: 3 }, Range { old: 10, count: 2 }];
    let prefix = [&old[4 * block..7 * block], &old[10 * block..12 * block]].concat();
    let literal = |len: usize| (0..len).map(|n| (n / 7) as u8).collect::<Vec<_>>();

    let runs = vec![Run { block: 0, count: 2, old: 3 }, Run { block: 5, count: 1, old: 0 }];
    let own = literal(RAW - 3 * block);
    let whole = [&old[3 * block..5 * block], &own[..3 * block], &old[..block], &own[3 * block..]].concat();
    let packed = pack(&own, Some(&prefix));
    let first = Body { runs, prefix: ranges.clone(), method: Method::Prefix(&packed) };

    // 8192 bytes that differ by 1 from the prefix, the rest its own.
    let (diff, extra) = (vec![1; 8192], literal(RAW - 8192));
    let mut control = Vec::new();
    [diff.len(), extra.len(), 0].into_iter().for_each(|number| varint(&mut control, number));
    let made = [prefix[..8192].iter().map(|byte| byte.wrapping_add(1)).collect::<Vec<_>>(), extra.clone()].concat();
    let (controls, diffs, extras) = (pack(&control, None), pack(&diff, None), pack(&extra, Some(&prefix)));
    let stream = |raw: &[u8], stored| Stream { raw: raw.len() as u32, stored };
    let method = Method::Split {
        control: stream(&control, controls.as_slice()),
        diff: stream(&diff, diffs.as_slice()),
        extra: stream(&extra, extras.as_slice()),
    };
    let second = Body { runs: Vec::new(), prefix: ranges, method };
    vec![(first.to_bytes(), whole), (second.to_bytes(), made)]
}

fn pack(raw: &[u8], prefix: Option<&[u8]>) -> Vec<u8> {
    let mut context = CCtx::create();
    context.set_parameter(CParameter::ContentSizeFlag(true)).unwrap();
    context.set_parameter(CParameter::ChecksumFlag(false)).unwrap();
    context.set_parameter(CParameter::WindowLog(20)).unwrap();
    if let Some(prefix) = prefix {
        context.ref_prefix(prefix).unwrap();
    }
    let mut out = vec![0; zstd_safe::compress_bound(raw.len())];
    let len = context.compress2(out.as_mut_slice(), raw).unwrap();
    out.truncate(len);
    out
}

fn varint(out: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}
