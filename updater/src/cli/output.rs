//! Text for people, JSON for programs. Every JSON document says its `format`.

use std::io::Write as _;

use bundle::json;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use serde_json::{Value, json};

use super::exit::Failed;

/// Version of the JSON documents; raised when a field changes its meaning, not when one is added.
const FORMAT: u32 = 1;

/// How the caller wants it.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// JSON instead of text.
    pub json: bool,
}

impl Output {
    /// A page of text, or a document whose fields are those of `document` (an object).
    pub fn page(self, text: impl FnOnce() -> String, document: &impl Serialize) {
        if self.json {
            print(&with_format(document).to_string());
        } else {
            print(text().trim_end());
        }
    }

    /// Something was done.
    pub fn done(self, sentence: &str) {
        if self.json {
            print(&json!({"format": FORMAT, "result": "ok"}).to_string());
        } else {
            print(sentence);
        }
    }

    /// Something was not done.
    pub fn failed(self, failed: &Failed) {
        if self.json {
            let reason = failed.reason.map(|r| r.code());
            print(
                &json!({"format": FORMAT, "result": "failed", "reason": reason, "detail": failed.detail}).to_string(),
            );
        }
        note(&format!("flipside: {}", failed.sentence()));
    }
}

fn with_format(document: &impl Serialize) -> Value {
    let mut value = json::to_value(document).unwrap_or_default();
    if let Value::Object(fields) = &mut value {
        fields.entry("format").or_insert(FORMAT.into());
    }
    value
}

/// Standard output. A closed pipe (`| head`) is no error.
pub fn print(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Whether standard output is still read: false behind a `| head` that has ended.
pub fn is_read() -> bool {
    let stdout = std::io::stdout();
    // The kernel tells of errors unasked.
    let mut asked = [PollFd::new(&stdout, PollFlags::empty())];
    !poll(&mut asked, Some(&Timespec::default())).is_ok_and(|told| told > 0)
}

/// Standard error.
pub fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
