//! The log: journald with fields when the service manager listens there, plain lines otherwise.
//!
//! A small subscriber of our own. tracing-subscriber would bring a registry for spans that nothing here uses, and half
//! a megabyte of it for filters. Touches journald's socket or standard error.

use std::fmt::{self, Write as _};
use std::io::{IsTerminal, Write as _};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::field::{Field, Visit};
use tracing::span;
use tracing::{Event, Level, Metadata, Subscriber};

const JOURNAL: &str = "/run/systemd/journal/socket";
/// One datagram must hold an entry; a longer text is cut.
const MAX_TEXT: usize = 32 * 1024;

/// Installs the log for the whole process. Later calls change nothing.
pub fn install(level: Level) {
    let socket = journal_listens().then(connect).flatten();
    let sink = socket.map_or_else(|| Sink::Stderr { colour: std::io::stderr().is_terminal() }, Sink::Journal);
    // Fails only when a log is installed already: then there is one.
    let _ = tracing::subscriber::set_global_default(Log { level, sink, spans: AtomicU64::new(1) });
}

/// `JOURNAL_STREAM` names our standard error when the service manager connected it to the journal.
fn journal_listens() -> bool {
    std::env::var_os("JOURNAL_STREAM").is_some() && !std::io::stderr().is_terminal()
}

fn connect() -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    socket.connect(JOURNAL).ok().map(|()| socket)
}

enum Sink {
    Journal(UnixDatagram),
    Stderr { colour: bool },
}

struct Log {
    level: Level,
    sink: Sink,
    spans: AtomicU64,
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Ours as configured; of the crates underneath only what somebody must act on.
        let limit = if metadata.target().starts_with("updater") || metadata.target().starts_with("flipside") {
            self.level
        } else {
            Level::WARN.min(self.level)
        };
        metadata.is_event() && *metadata.level() <= limit
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(self.spans.fetch_add(1, Ordering::Relaxed).max(1))
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut entry = Entry::default();
        event.record(&mut entry);
        match &self.sink {
            Sink::Journal(socket) => {
                let datagram = entry.for_journal(event.metadata());
                if socket.send(&datagram).is_err() {
                    // journald restarts, or the entry is too large for a datagram: standard error goes there too.
                    let _ = writeln!(std::io::stderr(), "{}", entry.for_people(event.metadata(), false));
                }
            }
            Sink::Stderr { colour } => {
                let _ = writeln!(std::io::stderr(), "{}", entry.for_people(event.metadata(), *colour));
            }
        }
    }
}

/// An event's message and fields.
#[derive(Default)]
struct Entry {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.fields.push((field.name(), value.to_owned()));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

impl Entry {
    /// The journal's native protocol: `NAME=value` lines, values with line breaks length-prefixed.
    fn for_journal(&self, metadata: &Metadata<'_>) -> Vec<u8> {
        let mut datagram = Vec::with_capacity(256);
        put(&mut datagram, "MESSAGE", &self.for_people(metadata, false));
        put(&mut datagram, "PRIORITY", priority(*metadata.level()));
        put(&mut datagram, "SYSLOG_IDENTIFIER", "flipside");
        put(&mut datagram, "FLIPSIDE_TARGET", metadata.target());
        for (name, value) in &self.fields {
            // A stable message id is what `journalctl MESSAGE_ID=` and catalogs go by.
            if *name == "message_id" {
                put(&mut datagram, "MESSAGE_ID", value);
            } else {
                put(&mut datagram, &format!("FLIPSIDE_{}", field_name(name)), value);
            }
        }
        datagram
    }

    fn for_people(&self, metadata: &Metadata<'_>, colour: bool) -> String {
        let mut line = String::new();
        if colour {
            let (code, word) = match *metadata.level() {
                Level::ERROR => ("31", "error"),
                Level::WARN => ("33", "warning"),
                Level::INFO => ("32", "info"),
                _ => ("2", "debug"),
            };
            let _ = write!(line, "\x1b[{code}m{word}\x1b[0m ");
        }
        line.push_str(&self.message);
        for (name, value) in self.fields.iter().filter(|(name, _)| *name != "message_id") {
            let _ = write!(line, " {name}={value}");
        }
        line
    }
}

fn put(datagram: &mut Vec<u8>, name: &str, value: &str) {
    let end = value.char_indices().map(|(at, _)| at).take_while(|at| *at <= MAX_TEXT).last().unwrap_or(0);
    let value = if value.len() > MAX_TEXT { value.get(..end).unwrap_or("") } else { value };
    datagram.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        datagram.push(b'\n');
        datagram.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        datagram.push(b'=');
    }
    datagram.extend_from_slice(value.as_bytes());
    datagram.push(b'\n');
}

/// Journal field names are upper-case letters, digits and underscores.
fn field_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        _ => "7",
    }
}

/// Renders one event the way `Log` would, without a journal.
#[cfg(test)]
#[derive(Clone, Default)]
pub(crate) struct Catch(std::sync::Arc<std::sync::Mutex<Vec<Caught>>>);
#[cfg(test)]
type Caught = (String, Vec<u8>);

#[cfg(test)]
impl Catch {
    /// What people would have read.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().iter().map(|(line, _)| line.clone()).collect()
    }
}

#[cfg(test)]
impl Subscriber for Catch {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut entry = Entry::default();
        event.record(&mut entry);
        let line = entry.for_people(event.metadata(), false);
        self.0.lock().unwrap().push((line, entry.for_journal(event.metadata())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_reach_the_journal_and_people() {
        let caught = Catch::default();
        tracing::subscriber::with_default(caught.clone(), || {
            tracing::warn!(slot = "b", reason = "no_space", message_id = "abc", "refused\nreally");
        });
        let (line, datagram) = caught.0.lock().unwrap().remove(0);
        assert_eq!(line, "refused\nreally slot=b reason=no_space");
        let text = String::from_utf8_lossy(&datagram);
        for part in ["PRIORITY=4\n", "FLIPSIDE_SLOT=b\n", "FLIPSIDE_REASON=no_space\n", "MESSAGE_ID=abc\n"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let length = u64::try_from(line.len()).unwrap().to_le_bytes();
        assert!(datagram.starts_with(&[b"MESSAGE\n".as_slice(), &length, line.as_bytes(), b"\n"].concat()));
    }

    #[test]
    fn a_text_without_end_is_cut_between_characters() {
        let mut datagram = Vec::new();
        put(&mut datagram, "X", &"ä".repeat(MAX_TEXT));
        assert!(datagram.len() <= MAX_TEXT + 4);
        assert!(std::str::from_utf8(&datagram).is_ok());
    }
}
