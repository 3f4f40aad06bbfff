//! May this caller change something? Asked about the *sender* of the message, never about our own process.
//!
//! uid 0 may; others when polkit says so; without polkit nobody else.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bundle::reason::Reason;
use zbus::message::{Flags, Header};
use zbus::{Connection, Variant};

use super::error::Refused;
use super::{Bus, Peer, arguments};

const BUS: Peer<'_> =
    Peer { name: "org.freedesktop.DBus", path: "/org/freedesktop/DBus", interface: "org.freedesktop.DBus" };
const POLKIT: Peer<'_> = Peer {
    name: "org.freedesktop.PolicyKit1",
    path: "/org/freedesktop/PolicyKit1/Authority",
    interface: "org.freedesktop.PolicyKit1.Authority",
};
/// polkit's `AllowUserInteraction`.
const INTERACTIVE: u32 = 1;

/// What a caller wants; also the last part of the polkit action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Action {
    Check,
    Install,
    Activate,
    Reboot,
    Confirm,
    Rollback,
    Cancel,
}

impl Action {
    /// The polkit action.
    #[must_use]
    pub const fn id(self) -> &'static str {
        match self {
            Self::Check => "org.flipside.updater1.check",
            Self::Install => "org.flipside.updater1.install",
            Self::Activate => "org.flipside.updater1.activate",
            Self::Reboot => "org.flipside.updater1.reboot",
            Self::Confirm => "org.flipside.updater1.confirm",
            Self::Rollback => "org.flipside.updater1.rollback",
            Self::Cancel => "org.flipside.updater1.cancel",
        }
    }
}

/// Who may do what. Clones share what they are asking.
#[derive(Debug, Clone)]
pub struct Authorizer {
    owner: u32,
    /// Questions that have no answer yet.
    asking: Arc<AtomicUsize>,
}

/// One question; no more when dropped.
struct Question<'a>(&'a AtomicUsize);

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Authorizer {
    /// `owner`: the user who may do everything; 0 on a device, the one who started it in a simulation.
    #[must_use]
    pub fn new(owner: u32) -> Self {
        Self { owner, asking: Arc::default() }
    }

    /// Whether a caller waits for permission: a person may be typing a password, and no message comes meanwhile.
    #[must_use]
    pub fn is_asking(&self) -> bool {
        self.asking.load(Ordering::Relaxed) > 0
    }

    /// Ok when the sender of `call` may do `action`.
    ///
    /// # Errors
    /// `not_authorized`, with the way to get it.
    pub async fn allow(&self, connection: &Connection, call: &Header<'_>, action: Action) -> Result<(), Refused> {
        self.asking.fetch_add(1, Ordering::Relaxed);
        let _question = Question(&self.asking);
        let Some(sender) = call.sender() else {
            return Err(Refused::new(Reason::NotAuthorized, "the call has no sender"));
        };
        let bus = Bus::of(connection);
        // The bus knows the user of a connection for certain; what a message says about itself is worth nothing.
        let uid: u32 = bus
            .call(BUS, "GetConnectionUnixUser", arguments((sender.as_str(),)))
            .await
            .map_err(|_| Refused::new(Reason::NotAuthorized, "the caller is gone"))?;
        if uid == self.owner {
            return Ok(());
        }
        let interactive = call.primary().flags().contains(Flags::ALLOW_INTERACTIVE_AUTH);
        match polkit(&bus, sender.as_str(), action, interactive).await {
            Some(true) => Ok(()),
            Some(false) => Err(refused(uid, action, "polkit does not grant")),
            None => Err(refused(uid, action, "only root may without polkit:")),
        }
    }
}

fn refused(uid: u32, action: Action, why: &str) -> Refused {
    tracing::info!(uid, action = action.id(), "refused a change");
    Refused::new(Reason::NotAuthorized, format!("user {uid}: {why} {}", action.id()))
}

/// polkit's answer about a connection; none when there is no polkit.
async fn polkit(bus: &Bus, sender: &str, action: Action, interactive: bool) -> Option<bool> {
    // The subject is the caller's connection, not a process id: those are reused, and ours would always be granted.
    let subject = ("system-bus-name", HashMap::from([("name", Variant::from(sender))]));
    let details = HashMap::<&str, &str>::new();
    let flags = if interactive { INTERACTIVE } else { 0 };
    let answer: Result<(bool, bool, HashMap<String, String>), _> =
        bus.call(POLKIT, "CheckAuthorization", arguments((subject, action.id(), details, flags, ""))).await;
    answer.ok().map(|(granted, _challenge, _details)| granted)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every action we ask for is declared, and nothing else is: polkit refuses what it does not know.
    #[test]
    fn the_shipped_policy_declares_every_action() {
        let policy = include_str!("../../../systemd/usr/share/polkit-1/actions/org.flipside.updater1.policy");
        let all = [
            Action::Check,
            Action::Install,
            Action::Activate,
            Action::Reboot,
            Action::Confirm,
            Action::Rollback,
            Action::Cancel,
        ];
        for action in all {
            assert!(policy.contains(&format!("<action id=\"{}\">", action.id())), "{action:?}");
        }
        assert_eq!(policy.matches("<action id=").count(), all.len());
    }
}
