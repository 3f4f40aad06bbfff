//! A small client for QEMU's machine protocol (QMP): commands, and the events that tell of resets and power-off.
//!
//! A thread of its own reads the socket, so that events are seen when they happen and not when somebody asks.
//! Why not the `qapi` crate: it brings generated types for all of QEMU, and we send five commands.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::jsonlines::JsonLines;
use crate::wait::Deadline;

/// How long QEMU may take to answer; a TCG machine under load is slow, a dead one never answers.
const ANSWER: Duration = Duration::from_secs(30);

/// A connection to one QEMU.
#[derive(Debug)]
pub struct Qmp {
    sender: Mutex<JsonLines>,
    inbox: Arc<Inbox>,
    next_id: Mutex<u64>,
}

#[derive(Debug, Default)]
struct Inbox {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    answers: Vec<Value>,
    events: Vec<Value>,
    closed: bool,
}

impl Inbox {
    /// A reader thread that panicked must not hide what it had already stored.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Qmp {
    /// Connects to the control socket and leaves the negotiation mode.
    ///
    /// # Errors
    /// No QEMU there, or it does not speak QMP.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = std::os::unix::net::UnixStream::connect(socket)
            .with_context(|| format!("connect to {}", socket.display()))?;
        let reader = JsonLines::new(stream.try_clone()?);
        let inbox = Arc::new(Inbox::default());
        let thread_inbox = Arc::clone(&inbox);
        thread::Builder::new().name("qmp".into()).spawn(move || read_all(reader, &thread_inbox))?;
        let qmp = Self { sender: Mutex::new(JsonLines::new(stream)), inbox, next_id: Mutex::new(0) };
        qmp.command("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Sends a command and returns its answer.
    ///
    /// # Errors
    /// QEMU refuses the command, is gone, or does not answer.
    pub fn command(&self, name: &str, arguments: Value) -> Result<Value> {
        let deadline = Deadline::after(ANSWER);
        let id = {
            let mut next = self.next_id.lock().unwrap_or_else(PoisonError::into_inner);
            *next += 1;
            *next
        };
        let request = json!({"execute": name, "arguments": arguments, "id": id});
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).send(&[], &request, deadline)?;
        let answer = self.answer(id, deadline).with_context(|| format!("QMP {name}"))?;
        match answer.get("error") {
            Some(error) => bail!("QMP {name}: {error}"),
            None => Ok(answer.get("return").cloned().unwrap_or(Value::Null)),
        }
    }

    fn answer(&self, id: u64, deadline: Deadline) -> Result<Value> {
        let mut state = self.inbox.lock();
        loop {
            if let Some(at) = state.answers.iter().position(|a| a.get("id").and_then(Value::as_u64) == Some(id)) {
                return Ok(state.answers.swap_remove(at));
            }
            if state.closed {
                bail!("QEMU closed the connection");
            }
            let left = deadline.remaining()?;
            state = self.inbox.changed.wait_timeout(state, left).map_err(|_| anyhow!("the reader died"))?.0;
        }
    }

    /// The registers of all processors, as QEMU's monitor shows them.
    ///
    /// # Errors
    /// As [`Qmp::command`].
    pub fn registers(&self) -> Result<String> {
        let shown = self.command("human-monitor-command", json!({"command-line": "info registers -a"}))?;
        Ok(shown.as_str().unwrap_or_default().to_owned())
    }

    /// How often an event of this name arrived since the start.
    #[must_use]
    pub fn count(&self, event: &str) -> usize {
        self.inbox.lock().events.iter().filter(|e| e.get("event").and_then(Value::as_str) == Some(event)).count()
    }

    /// All events so far, oldest first.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        self.inbox.lock().events.clone()
    }

    /// Has QEMU gone?
    #[must_use]
    pub fn closed(&self) -> bool {
        self.inbox.lock().closed
    }
}

fn read_all(mut reader: JsonLines, inbox: &Inbox) {
    // A year: the thread ends when QEMU does, which closes the socket.
    let forever = Deadline::after(Duration::from_secs(365 * 86400));
    loop {
        let message = reader.receive(forever);
        let mut state = inbox.lock();
        match message {
            Ok(message) if message.get("event").is_some() => state.events.push(message),
            // The greeting carries neither; nobody needs it.
            Ok(message) if message.get("id").is_some() => state.answers.push(message),
            Ok(_) => {}
            Err(_) => state.closed = true,
        }
        inbox.changed.notify_all();
        if state.closed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;

    /// A QEMU that greets, sends an event before each answer, refuses "bad" and goes after "quit".
    fn fake(listener: UnixListener) {
        let (stream, _) = listener.accept().unwrap();
        let mut out = stream.try_clone().unwrap();
        writeln!(out, "{{\"QMP\": {{}}}}").unwrap();
        for line in BufReader::new(stream).lines() {
            let request: Value = serde_json::from_str(&line.unwrap()).unwrap();
            writeln!(out, "{{\"event\": \"RESET\", \"data\": {{\"guest\": true}}}}").unwrap();
            let answer = match request["execute"].as_str().unwrap() {
                "bad" => json!({"error": {"desc": "no such thing"}, "id": request["id"]}),
                "quit" => return,
                name => json!({"return": name, "id": request["id"]}),
            };
            writeln!(out, "{answer}").unwrap();
        }
    }

    #[test]
    fn commands_events_refusals_and_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let far = thread::spawn(move || fake(listener));
        let qmp = Qmp::connect(&path).unwrap();
        assert_eq!(qmp.command("query-status", json!({})).unwrap(), "query-status");
        assert_eq!(qmp.count("RESET"), 2);
        assert!(qmp.command("bad", json!({})).unwrap_err().to_string().contains("no such thing"));
        assert!(qmp.command("quit", json!({})).is_err());
        far.join().unwrap();
        assert!(qmp.closed());
    }
}
