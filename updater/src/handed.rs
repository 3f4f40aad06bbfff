//! Files that callers hand over with a request, already opened: what only they can see, such as a file in their `/tmp`
//! or home, or the end of a pipe. Touches nothing by itself.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// The file that came with the newest request, under the name it was given there. Clones share.
#[derive(Debug, Clone, Default)]
pub struct Handed {
    file: Arc<Mutex<Option<(String, File)>>>,
}

impl Handed {
    /// Keeps a file in place of the one before.
    pub fn put(&self, name: &str, file: File) {
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = Some((name.to_owned(), file));
    }

    /// Opens by that name what was handed over; none: nothing was, or something else. A pipe can be had once.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn open(&self, name: &str) -> io::Result<Option<File>> {
        let mut kept = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, file)) = kept.as_ref().filter(|(of, _)| of == name) else { return Ok(None) };
        if file.metadata()?.is_file() { file.try_clone().map(Some) } else { Ok(kept.take().map(|(_, file)| file)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    #[test]
    fn a_file_stays_a_pipe_goes_and_other_names_find_nothing() {
        let handed = Handed::default();
        assert!(handed.open("/tmp/x").unwrap().is_none());
        handed.put("/tmp/x", tempfile::tempfile().unwrap());
        assert!(handed.open("/tmp/y").unwrap().is_none());
        assert!(handed.open("/tmp/x").unwrap().is_some() && handed.open("/tmp/x").unwrap().is_some());
        let (reader, mut writer) = std::io::pipe().unwrap();
        handed.put("-", File::from(std::os::fd::OwnedFd::from(reader)));
        writer.write_all(b"bytes").unwrap();
        drop(writer);
        let mut text = String::new();
        handed.open("-").unwrap().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "bytes");
        assert!(handed.open("-").unwrap().is_none() && handed.open("/tmp/x").unwrap().is_none());
    }
}
