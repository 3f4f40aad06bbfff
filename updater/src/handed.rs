//! Files that callers hand over with a request, already opened: what only they can see, such as a file in their `/tmp`
//! or home, or the end of a pipe. Touches nothing by itself.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A name, and the file handed over under it; no file once a pipe was taken.
type Entry = (String, Option<File>);

/// The file that came with the newest request, under the name it was given there. Clones share.
#[derive(Debug, Clone, Default)]
pub struct Handed {
    entry: Arc<Mutex<Option<Entry>>>,
}

/// What was held before a request, to be put back when that is refused.
#[derive(Debug)]
pub struct Before(Option<Entry>);

impl Handed {
    fn entry(&self) -> MutexGuard<'_, Option<Entry>> {
        self.entry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds what came with a request, which may be nothing, in place of what was held before.
    pub fn replace(&self, name: &str, file: Option<File>) -> Before {
        let entry = file.map(|file| (name.to_owned(), Some(file)));
        Before(std::mem::replace(&mut *self.entry(), entry))
    }

    /// The request was refused: the one before still counts.
    pub fn restore(&self, before: Before) {
        *self.entry() = before.0;
    }

    /// Lets go: whoever needed it is done.
    pub fn clear(&self) {
        *self.entry() = None;
    }

    /// Whether there is one, a pipe that was taken included: what needs it can not go on in another process.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.entry().is_some()
    }

    /// Whether one of that name has not been taken yet.
    #[must_use]
    pub fn is_waiting(&self, name: &str) -> bool {
        self.entry().as_ref().is_some_and(|(of, file)| of == name && file.is_some())
    }

    /// Opens by that name what was handed over; none: nothing was, or something else. A pipe can be had once.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn open(&self, name: &str) -> io::Result<Option<File>> {
        let mut entry = self.entry();
        let Some((_, kept)) = entry.as_mut().filter(|(of, _)| of == name) else { return Ok(None) };
        match kept {
            Some(file) if file.metadata()?.is_file() => file.try_clone().map(Some),
            pipe => Ok(pipe.take()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    #[test]
    fn a_file_stays_a_pipe_goes_and_other_names_find_nothing() {
        let handed = Handed::default();
        assert!(handed.open("/tmp/x").unwrap().is_none() && !handed.is_held());
        let _ = handed.replace("/tmp/x", Some(tempfile::tempfile().unwrap()));
        assert!(handed.open("/tmp/y").unwrap().is_none());
        assert!(handed.open("/tmp/x").unwrap().is_some() && handed.open("/tmp/x").unwrap().is_some());

        let (reader, mut writer) = std::io::pipe().unwrap();
        let before = handed.replace("-", Some(File::from(std::os::fd::OwnedFd::from(reader))));
        writer.write_all(b"bytes").unwrap();
        drop(writer);
        assert!(handed.is_waiting("-") && !handed.is_waiting("/tmp/x"));
        let mut text = String::new();
        handed.open("-").unwrap().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "bytes");
        assert!(handed.open("-").unwrap().is_none() && handed.open("/tmp/x").unwrap().is_none());
        assert!(handed.is_held() && !handed.is_waiting("-"), "what read it still depends on it");

        handed.restore(before);
        assert!(handed.is_waiting("/tmp/x"));
        let _ = handed.replace("/tmp/x", None);
        assert!(!handed.is_held());
    }
}
