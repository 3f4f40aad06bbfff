//! What an interrupted install left on the device, and what was fetched although it was there.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use bundle::digest::Digest;

use super::server::Server;
use super::site::Release;

/// One frame: where it is in the bundle and in the image.
pub struct Frame {
    pub stored: (u64, u64),
    pub raw: (u64, usize),
    pub sha256: Digest,
}

pub fn frames(release: &Release) -> Vec<Frame> {
    let mut file = std::io::BufReader::new(File::open(&release.path).unwrap());
    let envelope = bundle::random::read_envelope(&mut file).unwrap().len() as u64;
    let base = bundle::layout::Layout::new(envelope, &release.manifest).unwrap().payload(0).unwrap().offset;
    let mut reader = bundle::random::RandomReader::new(file, envelope, release.manifest.clone()).unwrap();
    let mut at = 0;
    let index = reader.index(0).unwrap();
    index
        .map(|record| {
            let record = record.unwrap();
            let stored = (base + record.offset, base + record.offset + u64::from(record.stored_len));
            at += u64::from(record.raw_len);
            Frame { stored, raw: (at - u64::from(record.raw_len), record.raw_len as usize), sha256: record.raw_sha256 }
        })
        .collect()
}

/// Which frames the device holds.
pub fn held(frames: &[Frame], device: &Path) -> Vec<bool> {
    let device = File::open(device).unwrap();
    let mut buffer = Vec::new();
    frames
        .iter()
        .map(|frame| {
            buffer.resize(frame.raw.1, 0);
            device.read_exact_at(&mut buffer, frame.raw.0).is_ok() && Digest::of(&buffer) == frame.sha256
        })
        .collect()
}

/// Bytes that went out although the device had them, head included.
pub fn needless(parts: &[(u64, u64)], frames: &[Frame], held: &[bool]) -> u64 {
    let needed = frames.iter().zip(held).filter(|(_, held)| !**held).map(|(frame, _)| frame.stored);
    let needed: Vec<(u64, u64)> = needed.collect();
    let of = |(start, end): (u64, u64)| -> u64 {
        let first = needed.partition_point(|(_, last)| *last <= start);
        let overlap = needed[first..].iter().take_while(|(from, _)| *from < end);
        (end - start) - overlap.map(|(from, last)| end.min(*last) - start.max(*from)).sum::<u64>()
    };
    parts.iter().map(|part| of(*part)).sum()
}

/// Kills the process when the server has sent that much more, or it is done; says whether it was alive.
pub fn kill_after(mut child: Child, server: &Server, bytes: u64) -> bool {
    let (enough, deadline) = (server.sent() + bytes, Instant::now() + Duration::from_secs(60));
    while server.sent() < enough && child.try_wait().unwrap().is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_micros(200));
    }
    let alive = child.try_wait().unwrap().is_none();
    let _ = child.kill();
    child.wait().unwrap();
    alive
}
