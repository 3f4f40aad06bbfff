//! JSON objects, one per line, over a unix socket, with deadlines: what QMP and the guest agent both speak.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::wait::Deadline;

/// Longest line taken. The agent answers a captured output of 16 MiB as base64 on one line.
const MAX_LINE: usize = 32 << 20;

/// One connection.
#[derive(Debug)]
pub struct JsonLines {
    stream: UnixStream,
    /// Bytes read and not yet given out as lines.
    buffer: Vec<u8>,
}

impl JsonLines {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).with_context(|| format!("connect to {}", path.display()))?;
        Ok(Self::new(stream))
    }

    /// Speaks on a stream that is already connected.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// Sends `prefix` (the agent's resynchronisation byte, or nothing), then `value` and a line end.
    ///
    /// # Errors
    /// The peer is gone or does not take the bytes before the deadline.
    pub fn send(&mut self, prefix: &[u8], value: &Value, deadline: Deadline) -> Result<()> {
        let mut bytes = prefix.to_vec();
        serde_json::to_writer(&mut bytes, value)?;
        bytes.push(b'\n');
        self.stream.set_write_timeout(Some(deadline.remaining()?))?;
        self.stream.write_all(&bytes).context("send")
    }

    /// The next line as JSON. Empty lines are skipped; bytes up to the last 0xff are dropped, because the agent puts
    /// one in front of the answer that ends a resynchronisation.
    ///
    /// # Errors
    /// Deadline passed, peer closed, line too long, or not JSON.
    pub fn receive(&mut self, deadline: Deadline) -> Result<Value> {
        loop {
            let line = self.line(deadline)?;
            let start = line.iter().rposition(|b| *b == 0xff).map_or(0, |i| i + 1);
            let text = line.get(start..).unwrap_or_default().trim_ascii();
            if !text.is_empty() {
                return serde_json::from_slice(text)
                    .with_context(|| format!("not JSON: {}", String::from_utf8_lossy(text)));
            }
        }
    }

    fn line(&mut self, deadline: Deadline) -> Result<Vec<u8>> {
        let mut searched = 0;
        loop {
            let fresh = self.buffer.get(searched..).unwrap_or_default();
            if let Some(at) = fresh.iter().position(|b| *b == b'\n') {
                let rest = self.buffer.split_off(searched + at + 1);
                return Ok(std::mem::replace(&mut self.buffer, rest));
            }
            searched = self.buffer.len();
            if searched > MAX_LINE {
                bail!("a line of more than {MAX_LINE} bytes");
            }
            self.fill(deadline)?;
        }
    }

    fn fill(&mut self, deadline: Deadline) -> Result<()> {
        let mut chunk = [0; 16384];
        self.stream.set_read_timeout(Some(deadline.remaining()?))?;
        match self.stream.read(&mut chunk) {
            Ok(0) => bail!("the other side closed the connection"),
            Ok(n) => self.buffer.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            // The next turn asks the deadline for the time left and fails with its words.
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(e) => return Err(e).context("receive"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(10))
    }

    #[test]
    fn lines_split_anywhere_arrive_whole() {
        let (mut far, near) = UnixStream::pair().unwrap();
        let writer = std::thread::spawn(move || {
            for part in [&b"{\"a\""[..], b": 1}\n\n{\"b\":", b" 2}\r\n"] {
                far.write_all(part).unwrap();
            }
        });
        let mut lines = JsonLines::new(near);
        assert_eq!(lines.receive(soon()).unwrap(), json!({"a": 1}));
        assert_eq!(lines.receive(soon()).unwrap(), json!({"b": 2}));
        assert!(lines.receive(soon()).unwrap_err().to_string().contains("closed"));
        writer.join().unwrap();
    }

    #[test]
    fn leftovers_before_the_marker_are_dropped() {
        let (mut far, near) = UnixStream::pair().unwrap();
        far.write_all(b"{\"half\xff{\"return\": 3}\n").unwrap();
        assert_eq!(JsonLines::new(near).receive(soon()).unwrap(), json!({"return": 3}));
    }

    #[test]
    fn silence_ends_at_the_deadline() {
        let (_far, near) = UnixStream::pair().unwrap();
        let e = JsonLines::new(near).receive(Deadline::after(Duration::from_millis(30)));
        assert!(e.unwrap_err().to_string().contains("no answer within"));
    }
}
