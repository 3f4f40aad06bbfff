//! NetworkManager: is the link metered? Without NetworkManager nobody knows, and the answer is no.

use super::{Bus, Peer, arguments};
use crate::system::chain;

const MANAGER: Peer<'_> = Peer {
    name: "org.freedesktop.NetworkManager",
    path: "/org/freedesktop/NetworkManager",
    interface: "org.freedesktop.NetworkManager",
};

impl Bus {
    /// True when NetworkManager runs and says (or guesses) that the link is metered, or does not answer.
    pub async fn metered(&self) -> bool {
        // Asked first, because a property call would start a NetworkManager that is installed and switched off.
        if !self.has_owner(MANAGER.name).await {
            return false;
        }
        match self.property::<u32>(MANAGER, "Metered").await {
            // NMMetered: 1 yes, 3 guessed yes.
            Ok(metered) => matches!(metered, 1 | 3),
            // A wrong yes makes an update late, a wrong no costs money.
            Err(e) => {
                tracing::warn!(error = chain(&e), "the link counts as metered");
                true
            }
        }
    }

    /// True when somebody on the bus owns `name` now.
    pub async fn has_owner(&self, name: &str) -> bool {
        let bus =
            Peer { name: "org.freedesktop.DBus", path: "/org/freedesktop/DBus", interface: "org.freedesktop.DBus" };
        self.call(bus, "NameHasOwner", arguments((name,))).await.unwrap_or(false)
    }
}
