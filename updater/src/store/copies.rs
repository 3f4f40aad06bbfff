//! Two copies of a document with generation numbers and checksums: the journal's place on the data partition.
//!
//! A save replaces the *older* copy, so whatever happens to it, the newer one of before is still there. Each copy is a
//! text line `flipside-copy 1 GENERATION LENGTH SHA256` and then the bytes, so that a person with `cat` sees what is
//! there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bundle::digest::Digest;

use super::durable;
use crate::seams::{JournalStore, StoreError};

/// First word and format of the head line.
const MAGIC: &str = "flipside-copy 1";
/// Longest head line.
const MAX_HEAD: usize = 160;

/// Two copies of one document.
#[derive(Debug)]
pub struct Copies {
    paths: [PathBuf; 2],
    /// Saves are one after the other: each looks at both copies first.
    saving: Mutex<()>,
}

/// One copy as found.
enum Copy {
    Missing,
    Damaged(String),
    Whole(u64, Vec<u8>),
}

/// Both copies as found.
struct Look<'a> {
    /// Generation and bytes of the newest whole copy.
    newest: Option<(u64, Vec<u8>)>,
    /// The path to replace next.
    older: &'a Path,
    /// What is damaged.
    damage: Vec<String>,
}

impl Copies {
    /// Copies `<name>.0` and `<name>.1` in `folder`, which need not be there yet.
    #[must_use]
    pub fn new(folder: &Path, name: &str) -> Self {
        Self { paths: [0, 1].map(|n| folder.join(format!("{name}.{n}"))), saving: Mutex::new(()) }
    }

    fn read(path: &Path) -> Result<Copy, StoreError> {
        match fs::read(path) {
            Ok(bytes) => Ok(parse(&bytes)
                .map_or_else(|what| Copy::Damaged(format!("{}: {what}", path.display())), |(g, b)| Copy::Whole(g, b))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Copy::Missing),
            // A bad sector under one copy is damage of that copy, not of the store.
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EIO as i32) => {
                Ok(Copy::Damaged(format!("{}: {error}", path.display())))
            }
            Err(error) => Err(StoreError::Io(format!("{}: {error}", path.display()))),
        }
    }

    fn look(&self) -> Result<Look<'_>, StoreError> {
        let [first, second] = &self.paths;
        let mut damage = Vec::new();
        let mut whole = |copy| match copy {
            Copy::Missing => None,
            Copy::Damaged(what) => {
                damage.push(what);
                None
            }
            Copy::Whole(generation, bytes) => Some((generation, bytes)),
        };
        let (a, b) = (whole(Self::read(first)?), whole(Self::read(second)?));
        let generation = |copy: &Option<(u64, Vec<u8>)>| copy.as_ref().map(|(generation, _)| *generation);
        // `None` sorts before any generation: a missing or damaged copy is the one to replace.
        let (newest, older) = if generation(&a) > generation(&b) { (a, second) } else { (b, first) };
        Ok(Look { newest, older, damage })
    }
}

impl JournalStore for Copies {
    fn load(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let Look { newest, damage, .. } = self.look()?;
        match newest {
            Some((_, bytes)) => {
                for what in damage {
                    tracing::warn!(what, "one copy of the journal is damaged; the other is used");
                }
                Ok(Some(bytes))
            }
            None if damage.is_empty() => Ok(None),
            None => Err(StoreError::Damaged(damage.join("; "))),
        }
    }

    fn save(&self, bytes: &[u8]) -> Result<(), StoreError> {
        let _one_at_a_time = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let Look { newest, older, .. } = self.look()?;
        let generation = newest.map_or(1, |(generation, _)| generation.saturating_add(1));
        durable::replace(older, &render(generation, bytes))
            .map_err(|error| StoreError::Io(format!("{}: {error}", older.display())))
    }
}

fn render(generation: u64, bytes: &[u8]) -> Vec<u8> {
    // The checksum covers the generation, too: a flipped bit there would bring back an old journal.
    let digest = Digest::of(&[&generation.to_be_bytes(), bytes].concat());
    let mut copy = format!("{MAGIC} {generation} {} {digest}\n", bytes.len()).into_bytes();
    copy.extend_from_slice(bytes);
    copy
}

fn parse(copy: &[u8]) -> Result<(u64, Vec<u8>), &'static str> {
    let end = copy.iter().take(MAX_HEAD).position(|byte| *byte == b'\n').ok_or("no head line")?;
    let (head, rest) = copy.split_at(end);
    let body = rest.get(1..).unwrap_or_default();
    let head = std::str::from_utf8(head).map_err(|_| "no head line")?;
    let mut words = head.strip_prefix(MAGIC).ok_or("another format")?.split_ascii_whitespace();
    let generation: u64 = words.next().and_then(|word| word.parse().ok()).ok_or("no generation")?;
    let length: usize = words.next().and_then(|word| word.parse().ok()).ok_or("no length")?;
    let digest: Digest = words.next().and_then(|word| word.parse().ok()).ok_or("no checksum")?;
    if body.len() != length {
        return Err("another length");
    }
    if Digest::of(&[&generation.to_be_bytes(), body].concat()) != digest {
        return Err("the checksum does not match");
    }
    Ok((generation, body.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn paths(dir: &Path) -> [PathBuf; 2] {
        ["journal.0", "journal.1"].map(|name| dir.join(name))
    }

    #[test]
    fn nothing_then_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let store = Copies::new(&dir.path().join("not/there/yet"), "journal");
        assert_eq!(store.load().unwrap(), None);
        for round in 0..5_u8 {
            store.save(&[round]).unwrap();
            assert_eq!(store.load().unwrap(), Some(vec![round]));
        }
    }

    #[test]
    fn both_damaged_is_said_and_the_next_save_mends() {
        let dir = tempfile::tempdir().unwrap();
        let store = Copies::new(dir.path(), "journal");
        for path in paths(dir.path()) {
            fs::write(path, b"").unwrap();
        }
        assert!(matches!(store.load(), Err(StoreError::Damaged(_))));
        store.save(b"new").unwrap();
        assert_eq!(store.load().unwrap(), Some(b"new".to_vec()));
    }

    #[test]
    fn a_flipped_generation_is_damage() {
        let copy = String::from_utf8(render(7, b"x")).unwrap().replace("1 7 1", "1 9 1");
        assert!(parse(copy.as_bytes()).is_err());
    }

    proptest! {
        /// Whatever happens to the copy that was just being replaced, the one before is found.
        #[test]
        fn a_torn_newest_copy_gives_the_one_before(saves in 2_u8..6, keep in 0.0..1.0, garbage: bool) {
            let dir = tempfile::tempdir().unwrap();
            let store = Copies::new(dir.path(), "journal");
            for round in 0..saves {
                store.save(&[round; 300]).unwrap();
            }
            let newest = paths(dir.path()).into_iter().max_by_key(|path| parse(&fs::read(path).unwrap()).unwrap().0).unwrap();
            let mut bytes = fs::read(&newest).unwrap();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            let cut = (bytes.len() as f64 * keep) as usize;
            if garbage { bytes[cut..].fill(0); } else { bytes.truncate(cut); }
            fs::write(&newest, bytes).unwrap();
            prop_assert_eq!(store.load().unwrap(), Some(vec![saves - 2; 300]));
            store.save(b"next").unwrap();
            prop_assert_eq!(store.load().unwrap(), Some(b"next".to_vec()));
        }

        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes);
        }
    }
}
