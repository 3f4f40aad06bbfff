//! Typed errors: `org.flipside.Updater1.Error.<Reason>`, one name per reason code.

use bundle::reason::Reason;
use updater_core::effect::Refusal;
use zbus::message::{Header, Message};
use zbus::names::ErrorName;

/// In front of every name.
pub const PREFIX: &str = "org.flipside.Updater1.Error.";

/// A refusal on its way to a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    name: String,
    detail: String,
}

impl Refused {
    /// For a reason and a sentence.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { name: name_of(reason), detail: detail.into() }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.reason, refusal.detail)
    }
}

impl zbus::DBusError for Refused {
    fn create_reply(&self, call: &Header<'_>) -> zbus::Result<Message> {
        Message::error(call, self.name()).build(&(self.detail.as_str(),))
    }

    fn name(&self) -> ErrorName<'_> {
        ErrorName::from_str_unchecked(&self.name)
    }

    fn description(&self) -> Option<&str> {
        Some(&self.detail)
    }
}

/// `no_space` -> `org.flipside.Updater1.Error.NoSpace`
#[must_use]
pub fn name_of(reason: Reason) -> String {
    let mut name = PREFIX.to_owned();
    for word in reason.code().split('_') {
        let mut letters = word.chars();
        name.extend(letters.next().map(|c| c.to_ascii_uppercase()));
        name.push_str(letters.as_str());
    }
    name
}

/// The reason of an error name, if it is one of ours. A name of a newer daemon is `Unknown`.
#[must_use]
pub fn reason_of(name: &str) -> Option<Reason> {
    name.starts_with(PREFIX)
        .then(|| Reason::ALL.iter().copied().find(|r| name_of(*r) == name).unwrap_or(Reason::Unknown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_valid_name_and_comes_back() {
        for reason in Reason::ALL {
            let name = name_of(*reason);
            assert!(ErrorName::try_from(name.as_str()).is_ok(), "{name}");
            assert_eq!(reason_of(&name), Some(*reason));
        }
        assert_eq!(name_of(Reason::NoSpace), "org.flipside.Updater1.Error.NoSpace");
        assert_eq!(reason_of("org.flipside.Updater1.Error.Fancy"), Some(Reason::Unknown));
        assert_eq!(reason_of("org.freedesktop.DBus.Error.Failed"), None);
    }
}
