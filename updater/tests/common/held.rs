//! An install as a process that is killed, what it left on the device, and what was fetched although it was there.

use std::fs::File;
use std::hash::{BuildHasher as _, Hasher as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bundle::digest::Digest;
use tokio::sync::watch;
use updater::seams::{Cancel, Installer as _};
use updater::slots::Place;
use updater_core::release::Source;

use super::server::Server;
use super::site::{self, HASTY, Release, hasty_http};

/// How the process that is killed is told what to do.
const JOB: &str = "FLIPSIDE_TEST_CHILD";

/// The process that is killed: installs and reads back. To be called by a test named `child`, which is none of its own.
pub async fn child(place: impl FnOnce(&str) -> Place) {
    let Ok(job) = std::env::var(JOB) else { return };
    let [state, target, url, release]: [&str; 4] = job.split('\n').collect::<Vec<_>>().try_into().unwrap();
    let pipeline = site::pipeline(Path::new(state), &[("rootfs", place(target))], &hasty_http(), HASTY);
    let (sink, _seen) = watch::channel(None);
    let request = site::request(&serde_json::from_str(release).unwrap(), Source::Urls(vec![url.to_owned()]));
    pipeline.install(&request, &sink, &Cancel::new()).await.unwrap();
    pipeline.verify(&request, &sink, &Cancel::new()).await.unwrap();
}

/// What `child` does.
pub struct Job(String);

impl Job {
    pub fn new(state: &Path, target: &Path, url: String, release: &Release) -> Self {
        let release = serde_json::to_string(&release.release).unwrap();
        Self([state.display().to_string(), target.display().to_string(), url, release].join("\n"))
    }

    /// Starts it in a process of its own.
    pub fn start(&self) -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "child"]).env(JOB, &self.0).stdout(Stdio::null()).process_group(0);
        command.spawn().unwrap()
    }
}

/// Some number below that, another one each time.
pub fn random(below: u64) -> u64 {
    std::hash::RandomState::new().build_hasher().finish() % below.max(1)
}

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

/// Stored bytes of the frames that the device does not hold.
pub fn missing(frames: &[Frame], held: &[bool]) -> u64 {
    frames.iter().zip(held).filter(|(_, held)| !**held).map(|(frame, _)| frame.stored.1 - frame.stored.0).sum()
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
pub fn kill_after(child: Child, server: &Server, bytes: u64) -> bool {
    let (enough, deadline) = (server.sent() + bytes, Instant::now() + Duration::from_secs(60));
    kill_when(child, || server.sent() >= enough || Instant::now() >= deadline)
}

/// Kills processes at any time of their lives: while they scan, fetch, write, unpack or read back.
pub struct Lives {
    /// How long a run takes depends on the machine and on what it finds; a run that ended says it.
    longest: Duration,
}

impl Lives {
    pub fn new() -> Self {
        Self { longest: Duration::from_millis(100) }
    }

    /// Kills the process after some time of its life, or it is done; says whether it was alive.
    pub fn kill(&mut self, child: Child) -> bool {
        let begun = Instant::now();
        let until = begun + Duration::from_micros(random(self.longest.as_micros() as u64));
        let alive = kill_when(child, || Instant::now() >= until);
        self.longest = if alive { self.longest + Duration::from_millis(50) } else { begun.elapsed() };
        alive
    }
}

fn kill_when(mut child: Child, due: impl Fn() -> bool) -> bool {
    while !due() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_micros(200));
    }
    let alive = child.try_wait().unwrap().is_none();
    let _ = child.kill();
    child.wait().unwrap();
    alive
}
