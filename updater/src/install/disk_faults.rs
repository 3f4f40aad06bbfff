//! The pipeline over disks that misbehave: each fault ends in its reason code, and the next run mends everything.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bundle::digest::Digest;
use bundle::index::{FrameRecord, IndexHeader};
use bundle::manifest::{Blob, Image, ImageKind};
use bundle::reason::Reason;
use nix::errno::Errno;
use tokio::sync::watch;
use updater_core::status::ProgressPhase;

use super::error::Error;
use super::faulty::{Fault, Memory};
use super::fetch::Member;
use super::finish::finish;
use super::halt::Halt;
use super::meter::Meter;
use super::pipeline::{self, Allowance, Crew, Plan, Work};
use super::place::Found;
use super::readback;
use super::scan::Expect;
use super::target::SlotIo;
use crate::http::FetchError;
use crate::http::retry::Patience;
use crate::http::source::{BoxFuture, ByteStream, RangeSource};
use crate::seams::Cancel;

const FRAME: usize = 256 << 10;

/// A payload in memory that counts what is read of it.
struct Payload {
    bytes: bytes::Bytes,
    read: AtomicU64,
}

struct Once(Option<bytes::Bytes>);

impl ByteStream for Once {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<bytes::Bytes>, FetchError>> {
        let bytes = self.0.take();
        Box::pin(async move { Ok(bytes) })
    }
}

impl RangeSource for Payload {
    fn open(&self, start: u64, end: u64) -> BoxFuture<'_, Result<Box<dyn ByteStream>, FetchError>> {
        self.read.fetch_add(end - start, Ordering::SeqCst);
        let range = usize::try_from(start).unwrap()..usize::try_from(end).unwrap();
        let stream: Box<dyn ByteStream> = Box::new(Once(Some(self.bytes.slice(range))));
        Box::pin(async move { Ok(stream) })
    }

    fn failed(&self, _error: &FetchError) {}
}

/// An image with its index in a file and its payload in memory.
struct Made {
    raw: Vec<u8>,
    image: Image,
    payload: Arc<Payload>,
    dir: tempfile::TempDir,
}

fn made() -> Made {
    let raw: Vec<u8> =
        (0..20 * FRAME + 5000).map(|n| if n / FRAME % 5 == 2 { 0 } else { (n * n / 777 % 251) as u8 }).collect();
    let (mut records, mut payload) = (Vec::new(), Vec::new());
    for piece in raw.chunks(FRAME) {
        let mut stored = vec![0; zstd_safe::compress_bound(piece.len())];
        let len = zstd_safe::compress(stored.as_mut_slice(), piece, 1).unwrap();
        stored.truncate(len);
        let record = FrameRecord {
            offset: payload.len() as u64,
            stored_len: u32::try_from(len).unwrap(),
            raw_len: u32::try_from(piece.len()).unwrap(),
            zero: piece.iter().all(|byte| *byte == 0),
            stored_sha256: Digest::of(&stored),
            raw_sha256: Digest::of(piece),
        };
        records.extend_from_slice(&record.to_bytes());
        payload.extend_from_slice(&stored);
    }
    let header = IndexHeader {
        frame_size: u32::try_from(FRAME).unwrap(),
        frame_count: u32::try_from(raw.chunks(FRAME).count()).unwrap(),
        image_size: raw.len() as u64,
        payload_size: payload.len() as u64,
    };
    let index = [header.to_bytes().as_slice(), &records].concat();
    let blob = |bytes: &[u8]| Blob { size: bytes.len() as u64, sha256: Digest::of(bytes) };
    let image = Image {
        name: "rootfs".into(),
        kind: ImageKind::Block,
        size: raw.len() as u64,
        sha256: Digest::of(&raw),
        index: blob(&index),
        chunks: None,
        payload: blob(&payload),
        frame_size: None,
        level: None,
    };
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("index"), index).unwrap();
    Made { raw, image, payload: Arc::new(Payload { bytes: payload.into(), read: AtomicU64::new(0) }), dir }
}

/// Writes and reads back.
async fn install(made: &Made, io: Arc<Memory>, cancel: &Cancel) -> Result<(), Error> {
    let (sink, _seen) = watch::channel(None);
    let work = Work {
        io: Arc::clone(&io) as Arc<dyn SlotIo>,
        path: "/dev/x".into(),
        image: made.image.clone(),
        index: made.dir.path().join("index"),
        frame_size: FRAME,
        bundle: Some(Member { source: Arc::clone(&made.payload) as Arc<dyn RangeSource>, base: 0 }),
        delta: None,
        old: None,
        plan: Plan::Bundle,
        only: None,
        expect: Expect::Begun,
        left: Arc::default(),
        allowance: Arc::new(Allowance::new(None)),
        patience: Patience::default(),
        halt: Halt::new(cancel),
        meter: Meter::new(&sink, ProgressPhase::Writing, made.image.size),
        crew: Crew { fetchers: 3, writers: 2, scanners: 2 },
    };
    let meter = work.meter.clone();
    pipeline::bring(work).await?;
    finish(&Found::Device("/dev/x".into()), &made.image, io.as_ref(), &Halt::new(cancel))?;
    readback::verify(io.as_ref(), Path::new("/dev/x"), &made.image, &Halt::new(cancel), &meter)
}

#[tokio::test]
async fn each_fault_has_its_reason_and_the_next_run_mends() {
    let made = made();
    for (fault, reason) in [
        (Fault::None, None),
        (Fault::Short(5000), None),
        (Fault::Write(0, Errno::EIO as i32), Some(Reason::WriteError)),
        (Fault::Write(1 << 20, Errno::ENOSPC as i32), Some(Reason::NoSpace)),
        (Fault::Write(1 << 20, Errno::ENODEV as i32), Some(Reason::WriteError)),
        (Fault::Write(1 << 20, Errno::EROFS as i32), Some(Reason::WriteError)),
        (Fault::Read(Errno::EIO as i32), Some(Reason::WriteError)),
        (Fault::Lies, Some(Reason::ImageMismatch)),
        (Fault::Sync(Errno::EIO as i32), Some(Reason::WriteError)),
        (Fault::Sync(Errno::ENOSPC as i32), Some(Reason::NoSpace)),
    ] {
        let io = Arc::new(Memory::with_fault(made.raw.len() + 70_000, fault));
        let result = install(&made, Arc::clone(&io), &Cancel::new()).await;
        assert_eq!(result.as_ref().err().map(Error::reason), reason, "{fault:?}: {result:?}");
        // The disk as it was left, without the fault.
        let mended = Arc::new(Memory::new(0));
        mended.with(|bytes| *bytes = io.with(|left| left.clone()));
        install(&made, Arc::clone(&mended), &Cancel::new()).await.unwrap();
        mended.with(|bytes| assert!(bytes[..made.raw.len()] == made.raw, "{fault:?}"));
    }
}

#[tokio::test]
async fn what_is_right_is_neither_read_from_the_bundle_nor_written() {
    let made = made();
    let io = Arc::new(Memory::new(made.raw.len()));
    install(&made, Arc::clone(&io), &Cancel::new()).await.unwrap();
    let (read, written) = (made.payload.read.load(Ordering::SeqCst), io.written());
    install(&made, Arc::clone(&io), &Cancel::new()).await.unwrap();
    assert_eq!((made.payload.read.load(Ordering::SeqCst), io.written()), (read, written));
    // Rubbish where zeros belong needs no bundle either.
    io.with(|bytes| bytes[2 * FRAME + 7] = 1);
    install(&made, Arc::clone(&io), &Cancel::new()).await.unwrap();
    assert_eq!((made.payload.read.load(Ordering::SeqCst), io.written()), (read, written));
}

#[tokio::test]
async fn asked_to_stop_before_it_starts_it_writes_nothing() {
    let made = made();
    let cancel = Cancel::new();
    cancel.cancel();
    let io = Arc::new(Memory::new(made.raw.len()));
    assert_eq!(install(&made, Arc::clone(&io), &cancel).await.unwrap_err().reason(), Reason::Cancelled);
    assert_eq!(io.written(), 0);
}
