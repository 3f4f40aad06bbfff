//! A small client for the QEMU guest agent: run a command in the guest, read and write files there.
//!
//! Each call makes a connection of its own and starts with `guest-sync-delimited`: a guest that rebooted in the middle
//! of an answer must not hand the rest of it to the next question. A call during a reboot returns an error; waiting
//! functions retry it until their deadline. Who asks only once takes [`Agent::patient`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::jsonlines::JsonLines;
use crate::wait::{Deadline, Look, until};

/// How long the agent may take to say that it is there. Short, because a rebooting guest is asked again anyway.
const SYNC: Duration = Duration::from_secs(4);
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(60);
/// The most that is read of a file, bytes.
const SMALL: u32 = 64 << 10;
/// How long a patient caller waits for an agent that is silent: a guest that writes an image on a busy host does not
/// come to answer for seconds, and that is no failure of what is tested.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a command in the guest left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i64>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output of a command that must have succeeded.
    ///
    /// # Errors
    /// The exit code is not 0; the text holds code and standard error.
    pub fn ok(self) -> Result<String> {
        match self.code {
            Some(0) => Ok(self.stdout),
            code => bail!("exit code {code:?}: {}{}", self.stderr.trim(), self.stdout.trim()),
        }
    }
}

/// The agent of one machine.
#[derive(Debug, Clone)]
pub struct Agent {
    socket: PathBuf,
    /// Shared, so that no two callers take each other's answers.
    sync_id: Arc<AtomicU64>,
    /// How long to wait for the agent to say that it is there; zero: one try.
    patience: Duration,
}

/// A command that was started in the guest.
#[derive(Debug)]
pub struct Started {
    session: JsonLines,
    what: String,
    pid: i64,
}

#[derive(Deserialize)]
struct ExecStatus {
    exited: bool,
    exitcode: Option<i64>,
    #[serde(rename = "out-data")]
    out: Option<String>,
    #[serde(rename = "err-data")]
    err: Option<String>,
}

impl Agent {
    /// The agent behind the host's end of the virtio port. Connects only when asked something.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), sync_id: Arc::new(AtomicU64::new(1)), patience: Duration::ZERO }
    }

    /// The same, for who asks only once: a silent agent is tried again for a minute *before* a command is started.
    /// After that never, because nobody knows how far it came.
    #[must_use]
    pub fn patient(&self) -> Self {
        Self { patience: PATIENCE, ..self.clone() }
    }

    /// Asks the agent one thing.
    ///
    /// # Errors
    /// The agent is not running (yet), refuses, or does not answer.
    pub fn call(&self, name: &str, arguments: Value) -> Result<Value> {
        let mut session = self.session()?;
        ask(&mut session, name, arguments)
    }

    fn session(&self) -> Result<JsonLines> {
        if self.patience.is_zero() {
            return self.try_session();
        }
        until("the guest agent", self.patience, || match self.try_session() {
            Ok(session) => Look::Done(session),
            Err(e) => Look::NotYet(format!("{e:#}")),
        })
    }

    fn try_session(&self) -> Result<JsonLines> {
        let mut lines = JsonLines::connect(&self.socket)?;
        let id = self.sync_id.fetch_add(1, Ordering::Relaxed);
        let deadline = Deadline::after(SYNC);
        let request = json!({"execute": "guest-sync-delimited", "arguments": {"id": id}});
        lines.send(&[0xff], &request, deadline)?;
        loop {
            // An answer to an older sync, or the tail of one, is not ours: skip it.
            match lines.receive(deadline) {
                Ok(answer) if answer.get("return").and_then(Value::as_u64) == Some(id) => return Ok(lines),
                Ok(_) => {}
                Err(e) if e.downcast_ref::<serde_json::Error>().is_some() => {}
                Err(e) => return Err(e.context("the guest agent is silent")),
            }
        }
    }

    /// Runs `argv` in the guest as root and waits for its end.
    ///
    /// # Errors
    /// No agent, no such program, or not finished within `within`. A bad exit code is not an error, see
    /// [`Output::ok`].
    pub fn exec(&self, argv: &[&str], within: Duration) -> Result<Output> {
        self.start(argv, None)?.finish(within)
    }

    /// As [`Agent::exec`], through `/bin/sh -c`.
    ///
    /// # Errors
    /// As [`Agent::exec`].
    pub fn shell(&self, script: &str, within: Duration) -> Result<Output> {
        self.exec(&["/bin/sh", "-c", script], within)
    }

    /// Starts `argv` in the guest as root.
    ///
    /// # Errors
    /// No agent, or no such program: nothing was started.
    pub fn start(&self, argv: &[&str], input: Option<&[u8]>) -> Result<Started> {
        let Some((path, args)) = argv.split_first() else { bail!("nothing to run") };
        let mut arguments = json!({"path": path, "arg": args, "capture-output": true});
        if let (Some(input), Some(map)) = (input, arguments.as_object_mut()) {
            map.insert("input-data".into(), STANDARD.encode(input).into());
        }
        let mut session = self.session()?;
        let started = ask(&mut session, "guest-exec", arguments).with_context(|| format!("run {argv:?}"))?;
        let pid = started.get("pid").and_then(Value::as_i64).context("guest-exec gave no pid")?;
        Ok(Started { session, what: format!("{argv:?}"), pid })
    }

    /// Reads a small file of the guest, without a program: an emulated guest starts one in the time of a dozen such
    /// reads.
    ///
    /// # Errors
    /// No agent, or the file can not be read, or has more than 64 KiB.
    pub fn read_file(&self, path: &str) -> Result<Vec<u8>> {
        let mut session = self.session()?;
        read_open(&mut session, path).with_context(|| format!("read {path} in the guest"))
    }

    /// Writes a file of the guest, replacing it, and syncs it.
    ///
    /// # Errors
    /// No agent, or the file can not be written.
    pub fn write_file(&self, path: &str, content: &[u8]) -> Result<()> {
        let argv = ["/bin/sh", "-c", "mkdir -p \"$(dirname \"$1\")\" && cat > \"$1\" && sync -f \"$1\"", "sh", path];
        let output = self.start(&argv, Some(content))?.finish(ANSWER)?;
        output.ok().with_context(|| format!("write {path} in the guest"))?;
        Ok(())
    }

    /// The kernel's id of this very boot.
    ///
    /// # Errors
    /// No agent.
    pub fn boot_id(&self) -> Result<String> {
        let id = self.read_file("/proc/sys/kernel/random/boot_id")?;
        Ok(String::from_utf8(id).context("the boot id is not text")?.trim().to_owned())
    }

    /// Waits until the agent answers.
    ///
    /// # Errors
    /// It does not, within the time.
    pub fn wait(&self, within: Duration) -> Result<()> {
        until("the guest agent", within, || match self.call("guest-ping", json!({})) {
            Ok(_) => Look::Done(()),
            Err(e) => Look::NotYet(format!("{e:#}")),
        })
    }
}

impl Started {
    /// Waits for its end.
    ///
    /// # Errors
    /// The agent is gone, or the command is not finished within `within`.
    pub fn finish(mut self, within: Duration) -> Result<Output> {
        let deadline = Deadline::after(within);
        // Each question costs an emulated guest dearly (the agent, and the journal it writes to): soon at first, rarely
        // for what takes long.
        let mut pause = Duration::from_millis(50);
        loop {
            let status = ask(&mut self.session, "guest-exec-status", json!({"pid": self.pid}))?;
            let status: ExecStatus = serde_json::from_value(status)?;
            if status.exited {
                return Ok(Output { code: status.exitcode, stdout: text(status.out)?, stderr: text(status.err)? });
            }
            let left = deadline.remaining().with_context(|| format!("{} is still running", self.what))?;
            thread::sleep(left.min(pause));
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }
}

fn ask(session: &mut JsonLines, name: &str, arguments: Value) -> Result<Value> {
    let deadline = Deadline::after(ANSWER);
    session.send(&[], &json!({"execute": name, "arguments": arguments}), deadline)?;
    let answer = session.receive(deadline)?;
    match answer.get("error") {
        Some(error) => bail!("{name}: {error}"),
        None => answer.get("return").cloned().with_context(|| format!("{name}: odd answer {answer}")),
    }
}

/// Opens, reads and closes a file in the guest.
fn read_open(session: &mut JsonLines, path: &str) -> Result<Vec<u8>> {
    #[derive(Deserialize)]
    struct Read {
        eof: bool,
        #[serde(rename = "buf-b64")]
        data: String,
    }
    let handle = ask(session, "guest-file-open", json!({"path": path, "mode": "r"}))?;
    let answer = ask(session, "guest-file-read", json!({"handle": &handle, "count": SMALL}));
    ask(session, "guest-file-close", json!({"handle": handle}))?;
    let read: Read = serde_json::from_value(answer?)?;
    ensure!(read.eof, "it has more than {SMALL} bytes");
    Ok(STANDARD.decode(read.data)?)
}

fn text(data: Option<String>) -> Result<String> {
    let bytes = STANDARD.decode(data.unwrap_or_default()).context("captured output is not base64")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;

    /// An agent that first spits out the tail of an older answer, then serves one connection; whether a file is read
    /// whole at once.
    fn fake(listener: &UnixListener, whole: bool) {
        let (stream, _) = listener.accept().unwrap();
        let mut out = stream.try_clone().unwrap();
        out.write_all(b"\"tail of an old answer\"}\n").ok();
        let mut polls = 0;
        for line in BufReader::new(stream).split(b'\n') {
            let mut line = line.unwrap();
            line.retain(|b| *b != 0xff);
            let request: Value = serde_json::from_slice(&line).unwrap();
            let answer = match request["execute"].as_str().unwrap() {
                "guest-sync-delimited" => request["arguments"]["id"].clone(),
                "guest-exec" => json!({"pid": 7}),
                "guest-exec-status" if polls == 0 => {
                    polls += 1;
                    json!({"exited": false})
                }
                "guest-exec-status" => json!({"exited": true, "exitcode": 3, "out-data": "aGk="}),
                "guest-file-open" => json!(1000),
                "guest-file-read" => json!({"count": 2, "eof": whole, "buf-b64": "aGk="}),
                "guest-file-close" => json!({}),
                other => panic!("unexpected {other}"),
            };
            out.write_all(b"\xff").unwrap();
            writeln!(out, "{}", json!({"return": answer})).unwrap();
        }
    }

    #[test]
    fn runs_a_command_and_returns_output_and_code() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qga");
        let listener = UnixListener::bind(&path).unwrap();
        let far = thread::spawn(move || fake(&listener, true));
        let output = Agent::new(&path).exec(&["/bin/x"], Duration::from_secs(10)).unwrap();
        assert_eq!(output, Output { code: Some(3), stdout: "hi".into(), stderr: String::new() });
        assert!(output.ok().unwrap_err().to_string().contains("exit code Some(3)"));
        far.join().unwrap();
    }

    #[test]
    fn a_file_is_read_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qga");
        let listener = UnixListener::bind(&path).unwrap();
        let far = thread::spawn(move || [true, false].map(|whole| fake(&listener, whole)));
        assert_eq!(Agent::new(&path).read_file("/x").unwrap(), b"hi");
        let told = format!("{:#}", Agent::new(&path).read_file("/x").unwrap_err());
        assert!(told.contains("/x") && told.contains("65536"), "{told}");
        far.join().unwrap();
    }

    #[test]
    fn who_asks_once_waits_for_a_silent_agent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qga");
        let listener = UnixListener::bind(&path).unwrap();
        let far = thread::spawn(move || {
            // A guest that does not come to answer, then one that does; what the impatient one meets is the first.
            drop(listener.accept().unwrap());
            drop(listener.accept().unwrap());
            fake(&listener, true);
        });
        let agent = Agent::new(&path);
        assert!(agent.exec(&["/bin/x"], Duration::from_secs(10)).is_err());
        assert_eq!(agent.patient().exec(&["/bin/x"], Duration::from_secs(10)).unwrap().stdout, "hi");
        far.join().unwrap();
    }

    #[test]
    fn a_command_whose_answer_is_lost_is_not_started_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qga");
        let listener = UnixListener::bind(&path).unwrap();
        let far = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let (mut out, mut lines) = (stream.try_clone().unwrap(), BufReader::new(stream).split(b'\n'));
            for _ in ["guest-sync-delimited", "guest-exec"] {
                let mut line = lines.next().unwrap().unwrap();
                line.retain(|b| *b != 0xff);
                let request: Value = serde_json::from_slice(&line).unwrap();
                let answer = match request["execute"].as_str().unwrap() {
                    "guest-exec" => json!({"pid": 7}),
                    _ => request["arguments"]["id"].clone(),
                };
                writeln!(out, "{}", json!({"return": answer})).unwrap();
            }
            // The guest restarts; whoever comes again is one too many.
            drop((out, lines));
            listener.set_nonblocking(true).unwrap();
            listener
        });
        let started = Agent::new(&path).patient().start(&["/bin/x"], None).unwrap();
        assert!(started.finish(Duration::from_secs(10)).is_err());
        assert!(far.join().unwrap().accept().is_err());
    }

    #[test]
    fn no_agent_is_an_error_not_a_hang() {
        let agent = Agent::new(Path::new("/nonexistent/qga"));
        assert!(agent.boot_id().is_err());
        let e = agent.wait(Duration::from_millis(1)).unwrap_err().to_string();
        assert!(e.contains("guest agent") && e.contains("/nonexistent/qga"), "{e}");
    }
}
