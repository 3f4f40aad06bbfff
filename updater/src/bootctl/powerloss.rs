//! A file layer that records every operation and shows the disk as it was when the power went.
//!
//! What is certain after a loss: content that was synced, names whose folder was synced. Everything since may be
//! there, not there, or half there; and a rename may leave both names (FAT writes the new one before it takes the old
//! one away). [`Recorder::disks`] gives every such disk for every instant of a run.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use super::files::Files;

pub type Disk = BTreeMap<String, Vec<u8>>;

/// One operation as it reached the disk.
#[derive(Debug, Clone)]
enum Step {
    Create(String, Vec<u8>),
    Overwrite(String, Vec<u8>),
    Rename(String, String),
    Remove(String),
    /// Content of a file, or names of a folder: a barrier for all steps before (more than promised only in that it
    /// also orders other files, which the journals of the file systems in question do).
    Barrier,
}

#[derive(Debug, Default)]
struct Inner {
    disk: Disk,
    start: Disk,
    steps: Vec<Step>,
    /// Operations until everything fails with this error: a full or read-only file system.
    fail_after: Option<(usize, io::ErrorKind)>,
}

/// The layer; clones share one disk.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Arc<Mutex<Inner>>);

impl Recorder {
    pub fn new(disk: Disk) -> Self {
        Self(Arc::new(Mutex::new(Inner { disk: disk.clone(), start: disk, ..Inner::default() })))
    }

    pub fn disk(&self) -> Disk {
        self.0.lock().unwrap().disk.clone()
    }

    /// From the `after`th changing operation on, everything fails.
    pub fn fail_after(&self, after: usize, kind: io::ErrorKind) {
        self.0.lock().unwrap().fail_after = Some((after, kind));
    }

    fn step(&self, step: Step) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap();
        if let Some((left, kind)) = &mut inner.fail_after {
            // Removing frees space: it works on a full disk.
            if *left == 0 && !(matches!(step, Step::Remove(_)) && *kind == io::ErrorKind::StorageFull) {
                return Err((*kind).into());
            }
            *left = left.saturating_sub(1);
        }
        apply(&mut inner.disk, &step, usize::MAX)?;
        inner.steps.push(step);
        Ok(())
    }

    /// Every disk that a power loss during the recorded run may leave.
    pub fn disks(&self) -> Vec<Disk> {
        let inner = self.0.lock().unwrap();
        let mut certain = inner.start.clone();
        let mut pending: Vec<&Step> = Vec::new();
        let mut disks = vec![certain.clone()];
        for step in &inner.steps {
            match step {
                Step::Barrier => {
                    for step in pending.drain(..) {
                        apply(&mut certain, step, usize::MAX).unwrap();
                    }
                    disks.push(certain.clone());
                }
                step => {
                    pending.push(step);
                    disks.extend(subsets(&certain, &pending));
                }
            }
        }
        disks
    }
}

/// The disks when any part of `pending`, in order, has arrived and the last of it maybe only half.
fn subsets(certain: &Disk, pending: &[&Step]) -> Vec<Disk> {
    let mut disks = Vec::new();
    for mask in 0_u32..1 << pending.len() {
        for torn in [usize::MAX, 0, 1, 100, 600] {
            let mut disk = certain.clone();
            for (bit, step) in pending.iter().enumerate() {
                if mask >> bit & 1 == 1 {
                    // A step may depend on one that did not arrive; then it can not have arrived either.
                    let _ = apply(&mut disk, step, torn);
                }
            }
            disks.push(disk);
        }
    }
    disks
}

/// Does a step; content only up to `torn` bytes, a torn rename leaves both names. A sector is never torn.
fn apply(disk: &mut Disk, step: &Step, torn: usize) -> io::Result<()> {
    const SECTOR: usize = 512;
    let gone = || io::Error::from(io::ErrorKind::NotFound);
    match step {
        Step::Create(path, bytes) => {
            disk.insert(path.clone(), bytes[..bytes.len().min(torn)].to_vec());
        }
        Step::Overwrite(path, bytes) => {
            let file = disk.get_mut(path).ok_or_else(gone)?;
            if file.len() < bytes.len() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let arrived = if torn >= bytes.len() { bytes.len() } else { torn / SECTOR * SECTOR };
            file[..arrived].copy_from_slice(&bytes[..arrived]);
        }
        Step::Rename(from, to) => {
            let bytes = disk.get(from).cloned().ok_or_else(gone)?;
            if torn == usize::MAX {
                disk.remove(from);
            }
            disk.insert(to.clone(), bytes);
        }
        Step::Remove(path) => {
            disk.remove(path);
        }
        Step::Barrier => {}
    }
    Ok(())
}

impl Files for Recorder {
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.lock().unwrap().disk.get(path).cloned())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let inner = self.0.lock().unwrap();
        let names = inner.disk.keys().filter_map(|path| path.strip_prefix(dir)?.strip_prefix('/'));
        let first = |name: &str| name.split('/').next().unwrap_or_default().to_owned();
        Ok(names.map(first).collect::<std::collections::BTreeSet<_>>().into_iter().collect())
    }

    fn make_dir(&mut self, _dir: &str) -> io::Result<()> {
        Ok(())
    }

    fn create(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.step(Step::Create(path.to_owned(), bytes.to_vec()))
    }

    fn overwrite(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.step(Step::Overwrite(path.to_owned(), bytes.to_vec()))
    }

    fn sync(&mut self, _path: &str) -> io::Result<()> {
        self.step(Step::Barrier)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.step(Step::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&mut self, path: &str) -> io::Result<()> {
        self.step(Step::Remove(path.to_owned()))
    }

    fn sync_dir(&mut self, _dir: &str) -> io::Result<()> {
        self.step(Step::Barrier)
    }
}
