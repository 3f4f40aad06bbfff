//! One way to print an error with its causes.

use std::error::Error;
use std::fmt::Write as _;

/// The error and its causes, `: `-separated, for the edge where it is printed once.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        // Some libraries print their cause themselves, and name it as the source too.
        if !text.ends_with(&said) {
            let _ = write!(text, ": {said}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Loud(&'static str, #[source] Option<Box<Loud>>);

    #[test]
    fn every_cause_is_said_once() {
        let deep = Loud("disk full", None);
        assert_eq!(
            chain(&Loud("saving", Some(Box::new(Loud("writing: disk full", Some(Box::new(deep))))))),
            "saving: writing: disk full"
        );
    }
}
