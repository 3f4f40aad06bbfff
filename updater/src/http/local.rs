//! Opens local files without ever blocking the one thread that everything runs on: opening a pipe waits until somebody
//! writes into it, and a medium may take its time.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::net::unix::pipe::Receiver;

/// Opens `path` for reading; of a named pipe the writing end may be opened later. Reads block as usual.
///
/// # Errors
/// As the kernel says.
pub async fn open(path: &Path) -> io::Result<File> {
    let file = without_waiting(path).await?;
    if !file.metadata()?.file_type().is_fifo() {
        fcntl(&file, FcntlArg::F_SETFL(OFlag::empty()))?;
        return Ok(file);
    }
    let pipe = Receiver::from_file(file)?;
    pipe.readable().await?;
    Ok(pipe.into_blocking_fd()?.into())
}

/// The same for what must be a plain file: a document ends.
///
/// # Errors
/// As the kernel says, or that it is something else.
pub async fn open_regular(path: &Path) -> io::Result<File> {
    let file = without_waiting(path).await?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "this is no file"))
}

async fn without_waiting(path: &Path) -> io::Result<File> {
    let path = path.to_owned();
    let opened = tokio::task::spawn_blocking(move || {
        OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)
    });
    opened.await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::time::Duration;

    use nix::sys::stat::Mode;

    use super::*;

    #[tokio::test]
    async fn a_pipe_without_a_writer_keeps_nobody_waiting_but_its_reader() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        let nobody = tokio::time::timeout(Duration::from_millis(100), open(&path)).await;
        assert!(nobody.is_err(), "{nobody:?}");
        assert_eq!(open_regular(&path).await.unwrap_err().kind(), io::ErrorKind::InvalidInput);

        let writer = path.clone();
        let writing = std::thread::spawn(move || {
            let mut pipe = OpenOptions::new().write(true).open(writer).unwrap();
            pipe.write_all(b"one ").unwrap();
            std::thread::sleep(Duration::from_millis(50));
            pipe.write_all(b"two").unwrap();
        });
        let mut file = tokio::time::timeout(Duration::from_secs(20), open(&path)).await.unwrap().unwrap();
        let read = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            file.read_to_string(&mut text).map(|_| text)
        });
        assert_eq!(read.await.unwrap().unwrap(), "one two");
        writing.join().unwrap();
    }

    #[tokio::test]
    async fn a_plain_file_is_a_plain_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "x").unwrap();
        let mut text = String::new();
        open_regular(&path).await.unwrap().read_to_string(&mut text).unwrap();
        open(&path).await.unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "xx");
        assert_eq!(open(&folder.path().join("none")).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
