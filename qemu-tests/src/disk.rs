//! Looks into the disk of a machine from outside: partitions, ESP, data, and what boots next.
//!
//! Works on a raw copy of the overlay made for the look, so it needs no root rights and can not change the disk a test
//! goes on with. mtools read the ESP, debugfs (which replays no journal) the data partition.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::bootstate;
use crate::entries::Entry;
use crate::qemu::disk_format;

/// Bytes compared at once; most pieces match as a whole.
const PIECE: usize = 1 << 20;
/// Smallest unit that is called genuine or foreign.
const BLOCK: usize = 4096;

/// Bytes per sector, as QEMU's disks have.
const SECTOR: u64 = 512;

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its GPT name.
    pub label: String,
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub length: u64,
}

/// A disk, copied for reading.
#[derive(Debug)]
pub struct Disk {
    raw: PathBuf,
    partitions: Vec<Partition>,
    // Removes the copy with the value; `None`: not a copy.
    _scratch: Option<tempfile::TempDir>,
}

impl Disk {
    /// Copies the disk image (raw or qcow2) and reads its partition table. The machine should be off; with a running
    /// one the copy is what a power cut could have left.
    ///
    /// # Errors
    /// `qemu-img` fails, or there is no GPT.
    pub fn copy_of(image: &Path) -> Result<Self> {
        let parent = image.parent().context("a disk image has a folder")?;
        let scratch = tempfile::Builder::new().prefix("look-").tempdir_in(parent)?;
        let raw = scratch.path().join("disk.raw");
        let mut command = Command::new("qemu-img");
        command.args(["convert", "-U", "-f", disk_format(image)?, "-O", "raw"]).arg(image).arg(&raw);
        run(&mut command)?;
        let partitions = partitions(&raw).with_context(|| format!("partitions of {}", image.display()))?;
        Ok(Self { raw, partitions, _scratch: Some(scratch) })
    }

    /// Reads a raw disk in place. Nothing is remembered but its partitions, so it may change between two questions.
    ///
    /// # Errors
    /// There is no GPT.
    pub fn on(raw: &Path) -> Result<Self> {
        Ok(Self { raw: raw.to_owned(), partitions: partitions(raw)?, _scratch: None })
    }

    /// All partitions.
    #[must_use]
    pub fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    /// The partition of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn partition(&self, label: &str) -> Result<&Partition> {
        self.partitions.iter().find(|p| p.label == label).with_context(|| format!("no partition {label}"))
    }

    /// SHA-256 of the first `length` bytes of a partition, lower-case hex.
    ///
    /// # Errors
    /// No such partition, shorter than that, or not readable.
    pub fn sha256(&self, label: &str, length: u64) -> Result<String> {
        let partition = self.partition(label)?;
        if partition.length < length {
            bail!("{label} has {} bytes, fewer than {length}", partition.length);
        }
        let mut file = File::open(&self.raw)?;
        file.seek(SeekFrom::Start(partition.start))?;
        sha256(&mut file.take(length))
    }

    /// Where a partition holds neither zeros nor what one of the images has at that place, in blocks of 4 KiB.
    ///
    /// # Errors
    /// No such partition, or something is not readable.
    pub fn foreign(&self, label: &str, images: &[PathBuf]) -> Result<Vec<u64>> {
        let partition = self.partition(label)?;
        let disk = File::open(&self.raw)?;
        let images = images.iter().map(File::open).collect::<std::io::Result<Vec<_>>>()?;
        let mut foreign = Vec::new();
        'pieces: for at in (0..partition.length).step_by(PIECE) {
            let here = piece(&disk, partition.start + at)?;
            if here.iter().all(|b| *b == 0) {
                continue;
            }
            let mut genuine = Vec::new();
            for image in &images {
                genuine.push(piece(image, at)?);
                if genuine.last() == Some(&here) {
                    continue 'pieces;
                }
            }
            for (index, block) in here.chunks(BLOCK).enumerate() {
                let known = |image: &Vec<u8>| image.chunks(BLOCK).nth(index) == Some(block);
                if block.iter().any(|b| *b != 0) && !genuine.iter().any(known) {
                    foreign.push(at + (index * BLOCK) as u64);
                }
            }
        }
        Ok(foreign)
    }

    /// Files of a folder on the ESP, names only.
    ///
    /// # Errors
    /// mtools fail (no such folder, damaged file system).
    pub fn esp_list(&self, folder: &str) -> Result<Vec<String>> {
        let out = run(Command::new("mdir").args(["-b", "-i", &self.esp()?, &format!("::{folder}/")]))?;
        let names = String::from_utf8_lossy(&out);
        Ok(names.lines().filter_map(|l| Some(l.trim_end_matches('/').rsplit('/').next()?.to_owned())).collect())
    }

    /// A file of the ESP.
    ///
    /// # Errors
    /// mtools fail (no such file, damaged file system).
    pub fn esp_read(&self, path: &str) -> Result<Vec<u8>> {
        run(Command::new("mtype").args(["-i", &self.esp()?, &format!("::{path}")]))
    }

    /// A file of the data partition, by its path there.
    ///
    /// # Errors
    /// debugfs fails, or there is no such file.
    pub fn data_read(&self, path: &str) -> Result<Vec<u8>> {
        let data = self.partition("data")?;
        let image = format!("{}?offset={}", self.raw.display(), data.start);
        let out = Command::new("debugfs").args(["-R", &format!("cat {path}"), &image]).output().context("debugfs")?;
        let said = String::from_utf8_lossy(&out.stderr);
        if said.lines().any(|l| l.starts_with("cat:") || l.contains("File not found") || l.contains("Bad magic")) {
            bail!("debugfs: {}", said.trim());
        }
        Ok(out.stdout)
    }

    /// A listing of a folder of the data partition, for people.
    ///
    /// # Errors
    /// debugfs can not be run.
    pub fn data_list(&self, path: &str) -> Result<String> {
        let data = self.partition("data")?;
        let image = format!("{}?offset={}", self.raw.display(), data.start);
        let out = run(Command::new("debugfs").args(["-R", &format!("ls -l {path}"), &image]))?;
        Ok(String::from_utf8_lossy(&out).into_owned())
    }

    /// Copies a folder of the data partition into `to`, under its own name.
    ///
    /// # Errors
    /// debugfs fails, or there is no such folder.
    pub fn data_dump(&self, path: &str, to: &Path) -> Result<()> {
        let data = self.partition("data")?;
        let image = format!("{}?offset={}", self.raw.display(), data.start);
        run(Command::new("debugfs").args(["-R", &format!("rdump {path} {}", to.display()), &image]))?;
        let name = path.rsplit('/').next().unwrap_or_default();
        if !to.join(name).exists() {
            bail!("no {path} on the data partition");
        }
        Ok(())
    }

    /// What the boot loader knows of the slots. Which boot loader it is, its files tell.
    ///
    /// # Errors
    /// The ESP can not be read, or the boot loader's state is damaged.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let top = self.esp_list("")?;
        let has = |name: &str| top.iter().any(|n| n.eq_ignore_ascii_case(name));
        if has("grub") {
            return bootstate::grub(&self.esp_read(&format!("/{}", bootstate::GRUBENV))?);
        }
        if has("boot.scr") {
            let copies = bootstate::UBOOT_ENV.map(|path| self.esp_read(&format!("/{path}")).unwrap_or_default());
            return bootstate::uboot(copies.iter().map(Vec::as_slice));
        }
        let folder = "/loader/entries";
        let mut entries = Vec::new();
        for name in self.esp_list(folder)? {
            let content = self.esp_read(&format!("{folder}/{name}"))?;
            entries.extend(Entry::parse(&name, &String::from_utf8_lossy(&content)));
        }
        Ok(entries)
    }

    fn esp(&self) -> Result<String> {
        Ok(format!("{}@@{}", self.raw.display(), self.partition("esp")?.start))
    }
}

/// A piece of a file; what is behind its end is zero, as on a partition.
fn piece(file: &File, at: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; PIECE];
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at + done as u64)? {
            0 => break,
            n => done += n,
        }
    }
    Ok(bytes)
}

/// Overwrites a piece of a qcow2 disk with zeros.
///
/// # Errors
/// `qemu-io` fails.
pub fn zero(image: &Path, start: u64, length: u64) -> Result<()> {
    let mut command = Command::new("qemu-io");
    command.args(["-f", "qcow2", "-c", &format!("write -z {start} {length}")]).arg(image);
    run(&mut command).map(|_| ())
}

/// SHA-256 of everything a reader gives, lower-case hex.
///
/// # Errors
/// Reading fails.
pub fn sha256(reader: &mut impl Read) -> Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match reader.read(&mut buffer)? {
            0 => break,
            n => hash.update(buffer.get(..n).unwrap_or_default()),
        }
    }
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

pub(crate) fn run(command: &mut Command) -> Result<Vec<u8>> {
    // mtools refuse images whose geometry they do not like, and mdir asks questions on a terminal.
    command.env("MTOOLS_SKIP_CHECK", "1").stdin(std::process::Stdio::null());
    let output = command.output().with_context(|| format!("run {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!("{:?}: {}", command.get_program(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

/// Reads a GUID partition table (UEFI 2.10, section 5.3). Lengths are checked, checksums are not: firmware does that.
pub(crate) fn partitions(raw: &Path) -> Result<Vec<Partition>> {
    let mut file = File::open(raw)?;
    let mut header = [0; 92];
    file.seek(SeekFrom::Start(SECTOR))?;
    file.read_exact(&mut header).context("no GPT header")?;
    if header.get(..8) != Some(b"EFI PART") {
        bail!("no GPT");
    }
    let (table, count, size) = (le64(&header, 72)?, le32(&header, 80)?, le32(&header, 84)?);
    if count > 1024 || !(128..=4096).contains(&size) {
        bail!("odd GPT: {count} entries of {size} bytes");
    }
    let mut found = Vec::new();
    for index in 0..count {
        let mut entry = vec![0; usize::try_from(size)?];
        file.seek(SeekFrom::Start(table * SECTOR + u64::from(index) * u64::from(size)))?;
        file.read_exact(&mut entry)?;
        if entry.get(..16).is_some_and(|kind| kind.iter().any(|b| *b != 0)) {
            found.push(partition(&entry)?);
        }
    }
    Ok(found)
}

fn partition(entry: &[u8]) -> Result<Partition> {
    let (first, last) = (le64(entry, 32)?, le64(entry, 40)?);
    let name = entry.get(56..128).context("short GPT entry")?;
    let units = name.chunks_exact(2).map(|pair| pair.iter().rev().fold(0, |unit, b| (unit << 8) | u16::from(*b)));
    let label = char::decode_utf16(units.take_while(|u| *u != 0)).map(|c| c.unwrap_or('?')).collect();
    let length = last.checked_sub(first).context("a partition that ends before it starts")? + 1;
    Ok(Partition { label, start: first * SECTOR, length: length * SECTOR })
}

fn le64(bytes: &[u8], at: usize) -> Result<u64> {
    Ok(u64::from_le_bytes(bytes.get(at..at + 8).context("short GPT")?.try_into()?))
}

fn le32(bytes: &[u8], at: usize) -> Result<u32> {
    Ok(u32::from_le_bytes(bytes.get(at..at + 4).context("short GPT")?.try_into()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with an ESP (one entry) and a data partition (one file), made by the ordinary tools.
    fn sample(dir: &Path) -> PathBuf {
        let disk = dir.join("disk.img");
        File::create(&disk).unwrap().set_len(96 << 20).unwrap();
        let path = disk.to_str().unwrap();
        run(Command::new("sgdisk").args(["-n", "1:2048:+40M", "-c", "1:esp", "-n", "2:0:+32M", "-c", "2:data", path]))
            .unwrap();
        let esp = format!("{path}@@1048576");
        run(Command::new("mformat").args(["-i", &esp, "-F", "-T", "81920"])).unwrap();
        run(Command::new("mmd").args(["-i", &esp, "::/loader", "::/loader/entries"])).unwrap();
        let entry = dir.join("flipside-b+2-1.conf");
        std::fs::write(&entry, "title b\nversion 0000000002\n").unwrap();
        run(Command::new("mcopy").args(["-i", &esp, entry.to_str().unwrap(), "::/loader/entries/"])).unwrap();
        let tree = dir.join("tree/var");
        std::fs::create_dir_all(&tree).unwrap();
        std::fs::write(tree.join("note"), "hello").unwrap();
        let from = dir.join("tree");
        let options = format!("offset={}", 41 << 20);
        run(Command::new("mke2fs").args([
            "-q",
            "-t",
            "ext4",
            "-E",
            &options,
            "-d",
            from.to_str().unwrap(),
            path,
            "32M",
        ]))
        .unwrap();
        disk
    }

    #[test]
    fn reads_what_ordinary_tools_made() {
        if !crate::tools::present(&["sgdisk", "mformat", "mke2fs", "debugfs", "qemu-img"]) {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let overlay = dir.path().join("overlay.qcow2");
        crate::qemu::make_overlay(&sample(dir.path()), &overlay).unwrap();
        let disk = Disk::copy_of(&overlay).unwrap();
        let labels: Vec<_> = disk.partitions().iter().map(|p| p.label.as_str()).collect();
        assert_eq!(labels, ["esp", "data"]);
        let entries = disk.entries().unwrap();
        assert_eq!((entries[0].slot.as_str(), entries[0].tries_left), ("b", Some(2)));
        assert_eq!(disk.data_read("/var/note").unwrap(), b"hello");
        assert!(disk.data_read("/var/none").is_err());
        assert!(disk.data_list("/var").unwrap().contains("note"));
        assert!(disk.partition("root-a").is_err());
        assert!(disk.sha256("data", 1 << 40).is_err());
        assert_eq!(disk.sha256("data", 0).unwrap(), sha256(&mut &b""[..]).unwrap());
        let whole = dir.path().join("data.img");
        let data = disk.partition("data").unwrap();
        std::fs::write(&whole, &std::fs::read(&disk.raw).unwrap()[usize::try_from(data.start).unwrap()..]).unwrap();
        assert!(disk.foreign("data", std::slice::from_ref(&whole)).unwrap().is_empty());
        let mut changed = std::fs::read(&whole).unwrap();
        changed[5000] ^= 1;
        std::fs::write(&whole, changed).unwrap();
        assert_eq!(disk.foreign("data", &[whole]).unwrap().len(), 1);
    }

    #[test]
    fn a_disk_without_a_table_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        File::create(&path).unwrap().set_len(4096).unwrap();
        assert!(partitions(&path).unwrap_err().to_string().contains("no GPT"));
    }
}
