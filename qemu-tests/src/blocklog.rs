//! Reads what QEMU's `blklogwrites` recorded: every write of a guest to its disk, in order, and every flush.
//!
//! Killing a virtual machine is weaker than a power cut: what the guest wrote and never flushed still reaches the file
//! behind the disk. With the record the disk can be put together as a real one may look after a power cut at any
//! flush: everything before it, nothing after.
//!
//! The format is that of Linux's dm-log-writes (`Documentation/admin-guide/device-mapper/log-writes.rst`,
//! `drivers/md/dm-log-writes.c`): a superblock, then entries, all little-endian, each from a new sector on.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const FLUSH: u64 = 1;
const DISCARD: u64 = 4;
/// Largest write believed; QEMU splits far below.
const MAX_WRITE: u64 = 64 << 20;

/// One entry of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// These bytes were written there.
    Write {
        /// Byte on the disk.
        at: u64,
        /// What was written.
        bytes: Vec<u8>,
    },
    /// What was written before is durable.
    Flush,
    /// Something that changes no content (a discard).
    Other,
}

/// A record, read from its start.
#[derive(Debug)]
pub struct Log {
    file: BufReader<File>,
    sector: u64,
    left: u64,
}

impl Log {
    /// Opens a record.
    ///
    /// # Errors
    /// It is none.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = BufReader::new(File::open(path).with_context(|| format!("open {}", path.display()))?);
        let (magic, version, left) = (number(&mut file)?, number(&mut file)?, number(&mut file)?);
        ensure!(magic == MAGIC && version == VERSION, "{} is no record of writes", path.display());
        let sector = number(&mut file)? & u64::from(u32::MAX);
        ensure!((512..=4096).contains(&sector), "a record with sectors of {sector} bytes");
        file.seek(SeekFrom::Start(sector))?;
        Ok(Self { file, sector, left })
    }

    /// The next entry; `None` after the last.
    ///
    /// # Errors
    /// The record is shorter than it says, or damaged.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let file = &mut self.file;
        let (at, sectors, flags, _) = (number(file)?, number(file)?, number(file)?, number(file)?);
        file.seek_relative(i64::try_from(self.sector)? - 32)?;
        if flags & DISCARD != 0 {
            return Ok(Some(Entry::Other));
        }
        let length = sectors.checked_mul(self.sector).filter(|l| *l <= MAX_WRITE).context("a write beyond reason")?;
        let mut bytes = vec![0; usize::try_from(length)?];
        file.read_exact(&mut bytes).context("the record ends within a write")?;
        Ok(Some(match (bytes.is_empty(), flags & FLUSH != 0) {
            (false, _) => Entry::Write { at: at * self.sector, bytes },
            (true, true) => Entry::Flush,
            (true, false) => Entry::Other,
        }))
    }
}

fn number(file: &mut impl Read) -> Result<u64> {
    let mut bytes = [0; 8];
    file.read_exact(&mut bytes).context("the record ends too early")?;
    Ok(u64::from_le_bytes(bytes))
}

/// A raw disk that follows a record from flush to flush.
#[derive(Debug)]
pub struct Replayed {
    disk: File,
    log: Log,
    /// Flushes passed so far.
    pub flushes: usize,
}

impl Replayed {
    /// Follows `log` on the raw disk at `disk`, which holds what the recorded machine started from.
    ///
    /// # Errors
    /// One can not be opened.
    pub fn new(disk: &Path, log: &Path) -> Result<Self> {
        let disk = File::options().read(true).write(true).open(disk).context("open the disk to replay on")?;
        Ok(Self { disk, log: Log::open(log)?, flushes: 0 })
    }

    /// Goes on to the next flush; tells the first and last byte of what was written since the last one, `None` at the
    /// end of the record. Writes after the last flush are never made.
    ///
    /// # Errors
    /// The record is damaged, or the disk can not be written.
    pub fn next_flush(&mut self) -> Result<Option<Vec<(u64, u64)>>> {
        let mut pending = Vec::new();
        while let Some(entry) = self.log.next_entry()? {
            match entry {
                Entry::Write { at, bytes } => pending.push((at, bytes)),
                Entry::Other => {}
                Entry::Flush => {
                    for (at, bytes) in &pending {
                        self.disk.write_all_at(bytes, *at)?;
                    }
                    self.flushes += 1;
                    return Ok(Some(pending.iter().map(|(at, bytes)| (*at, at + bytes.len() as u64)).collect()));
                }
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn entry(sector: u64, data: &[u8], flags: u64) -> Vec<u8> {
        let head: Vec<u8> = [sector, data.len() as u64 / 512, flags, 0].iter().flat_map(|n| n.to_le_bytes()).collect();
        let mut all = head;
        all.resize(512, 0);
        all.extend(data);
        all
    }

    fn record(entries: &[Vec<u8>]) -> Vec<u8> {
        let head = [MAGIC, VERSION, entries.len() as u64, 512];
        let mut all: Vec<u8> = head.iter().flat_map(|n| n.to_le_bytes()).collect();
        all.resize(512, 0);
        all.extend(entries.concat());
        all
    }

    #[test]
    fn writes_reach_the_disk_with_the_flush_after_them() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, log) = (dir.path().join("disk"), dir.path().join("log"));
        fs::write(&disk, [0; 4096]).unwrap();
        let all = [
            entry(1, &[7; 512], 0),
            entry(0, &[], DISCARD),
            entry(0, &[], FLUSH),
            entry(2, &[8; 1024], 0),
            entry(0, &[], FLUSH),
            entry(5, &[9; 512], 0),
        ];
        fs::write(&log, record(&all)).unwrap();
        let mut replayed = Replayed::new(&disk, &log).unwrap();
        assert_eq!(replayed.next_flush().unwrap(), Some(vec![(512, 1024)]));
        assert_eq!((fs::read(&disk).unwrap()[512], fs::read(&disk).unwrap()[1024]), (7, 0));
        assert_eq!(replayed.next_flush().unwrap(), Some(vec![(1024, 2048)]));
        assert_eq!(replayed.next_flush().unwrap(), None);
        // Never flushed, so never there.
        assert_eq!(fs::read(&disk).unwrap()[2560], 0);
        assert_eq!(replayed.flushes, 2);
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, [1; 600]).unwrap();
        assert!(Log::open(&path).unwrap_err().to_string().contains("no record"));
        fs::write(&path, record(&[entry(0, &[1; 512], 0)]).get(..700).unwrap()).unwrap();
        assert!(Log::open(&path).unwrap().next_entry().is_err());
    }
}
