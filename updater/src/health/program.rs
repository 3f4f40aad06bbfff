//! Runs one program with a time-out, in a process group of its own, with bounded output.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use crate::system::contained;

/// Output kept per stream; the rest is read and dropped, so that a chatty check does not block on a full pipe.
const KEEP: usize = 4 * 1024;

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With this code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
    /// It was still running after this long; it and its children are gone now.
    TimedOut(Duration),
    /// It could not be run.
    NotRun(String),
}

/// A finished run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// How it ended.
    pub end: End,
    /// The beginning of what it said, both streams.
    pub output: String,
}

impl Run {
    /// How it ended and what it said last, for people.
    #[must_use]
    pub fn sentence(&self) -> String {
        let end = match &self.end {
            End::Exited(code) => format!("exit code {code}"),
            End::Killed(signal) => format!("killed by signal {signal}"),
            End::TimedOut(limit) => format!("still running after {} s", limit.as_secs_f32()),
            End::NotRun(why) => format!("can not be run: {why}"),
        };
        let said = self.output.trim();
        if said.is_empty() { end } else { format!("{end}: {said}") }
    }
}

/// What a program prints, both streams, up to 256 KiB; a sentence when it can not be run. For evidence.
pub async fn run_for_text(program: &str, arguments: &[&str], limit: Duration) -> String {
    let run = match start(Path::new(program), arguments) {
        Ok(child) => watch(child, limit, 256 * 1024).await,
        Err(e) => Run { end: End::NotRun(e.to_string()), output: String::new() },
    };
    if run.end == End::Exited(0) { run.output } else { format!("{}\n", run.sentence()) }
}

/// Runs `program` and waits at most `limit`. What it leaves behind in its process group is killed, whatever happens:
/// a check has no business after its answer, and a child that holds the pipe would hang us.
pub async fn run(program: &Path, arguments: &[&str], limit: Duration) -> Run {
    match start(program, arguments) {
        Ok(child) => watch(child, limit, KEEP).await,
        Err(e) => Run { end: End::NotRun(e.to_string()), output: String::new() },
    }
}

fn start(program: &Path, arguments: &[&str]) -> io::Result<Child> {
    Command::from(contained::command(program, arguments)).kill_on_drop(true).spawn()
}

async fn watch(mut child: Child, limit: Duration, keep: usize) -> Run {
    let group = child.id();
    let readers = [Reader::start(child.stdout.take(), keep), Reader::start(child.stderr.take(), keep)];
    let end = match tokio::time::timeout(limit, child.wait()).await {
        Ok(Ok(status)) => {
            use std::os::unix::process::ExitStatusExt;
            let by_signal = || End::Killed(status.signal().unwrap_or_default());
            status.code().map_or_else(by_signal, End::Exited)
        }
        Ok(Err(e)) => End::NotRun(e.to_string()),
        Err(_) => End::TimedOut(limit),
    };
    contained::kill_group(group);
    // Reaps it after a time-out; it was just killed, so this does not wait.
    let _ = child.wait().await;
    let mut output = String::new();
    for reader in readers {
        output.push_str(&reader.text().await);
    }
    Run { end, output }
}

/// Reads a stream as a task of its own: what was said before a time-out must not be lost with a dropped future.
struct Reader {
    kept: Arc<Mutex<Vec<u8>>>,
    task: JoinHandle<()>,
}

impl Reader {
    fn start(stream: Option<impl AsyncRead + Unpin + Send + 'static>, keep: usize) -> Self {
        let kept = Arc::new(Mutex::new(Vec::new()));
        Self { kept: Arc::clone(&kept), task: tokio::spawn(keep_beginning(stream, keep, kept)) }
    }

    /// What came until now, and what still comes at once.
    async fn text(mut self) -> String {
        if tokio::time::timeout(contained::LAST_WORDS, &mut self.task).await.is_err() {
            self.task.abort();
        }
        String::from_utf8_lossy(&self.kept.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

async fn keep_beginning(stream: Option<impl AsyncRead + Unpin>, keep: usize, kept: Arc<Mutex<Vec<u8>>>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = [0; 1024];
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let room = keep.saturating_sub(kept.len());
        kept.extend(buffer.iter().take(n.min(room)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    async fn shell(script: &str, limit: Duration) -> Run {
        run(Path::new("/bin/sh"), &["-c", script], limit).await
    }

    #[tokio::test]
    async fn ends_and_output_are_told() {
        let long = Duration::from_secs(30);
        assert_eq!(shell("echo hi", long).await, Run { end: End::Exited(0), output: "hi\n".into() });
        assert_eq!(shell("echo no >&2; exit 3", long).await.sentence(), "exit code 3: no");
        assert_eq!(shell("kill -9 $$", long).await.end, End::Killed(9));
        let missing = run(Path::new("/nonexistent"), &[], long).await;
        assert!(matches!(missing.end, End::NotRun(_)), "{missing:?}");
    }

    #[tokio::test]
    async fn a_hanging_check_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let pid_file = folder.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; echo started; wait", pid_file.display());
        let began = Instant::now();
        let run = shell(&script, Duration::from_millis(300)).await;
        assert!(matches!(run.end, End::TimedOut(_)), "{run:?}");
        assert!(began.elapsed() < Duration::from_secs(20));
        assert_eq!(run.output, "started\n");
        let child: i32 = std::fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
        assert!(gone(child).await, "the child {child} is still there");
    }

    /// Killed children of a dead parent are reaped by init; where nobody reaps, a zombie is gone enough.
    async fn gone(pid: i32) -> bool {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
                Err(_) => return true,
                Ok(stat) if stat.contains(") Z ") => return true,
                Ok(_) => tokio::task::yield_now().await,
            }
        }
        false
    }

    #[tokio::test]
    async fn a_child_that_holds_the_pipe_does_not_hang_us() {
        let began = Instant::now();
        let run = shell("sleep 1000 & echo done", Duration::from_secs(60)).await;
        assert_eq!(run, Run { end: End::Exited(0), output: "done\n".into() });
        assert!(began.elapsed() < Duration::from_secs(30));
    }

    #[tokio::test]
    async fn a_child_that_left_the_group_does_not_hang_us_either() {
        let began = Instant::now();
        let run = shell("setsid sleep 20 & echo done", Duration::from_secs(60)).await;
        assert_eq!(run, Run { end: End::Exited(0), output: "done\n".into() });
        assert!(began.elapsed() < Duration::from_secs(30));
    }

    #[tokio::test]
    async fn endless_output_is_bounded() {
        let run = shell("yes | head -c 1000000; exit 1", Duration::from_secs(60)).await;
        assert_eq!(run.end, End::Exited(1));
        assert_eq!(run.output.len(), KEEP);
    }
}
