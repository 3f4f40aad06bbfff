//! NetworkManager: is the link metered? Without NetworkManager nobody knows, and the answer is no.

use super::{Bus, Peer, arguments};

const MANAGER: Peer<'_> = Peer {
    name: "org.freedesktop.NetworkManager",
    path: "/org/freedesktop/NetworkManager",
    interface: "org.freedesktop.NetworkManager",
};

impl Bus {
    /// True when NetworkManager runs and says (or guesses) that the link is metered.
    pub async fn metered(&self) -> bool {
        // Asked first, because a property call would start a NetworkManager that is installed and switched off.
        if !self.has_owner(MANAGER.name).await {
            return false;
        }
        // NMMetered: 1 yes, 3 guessed yes.
        matches!(self.property::<u32>(MANAGER, "Metered").await, Ok(1 | 3))
    }

    /// True when somebody on the bus owns `name` now.
    pub async fn has_owner(&self, name: &str) -> bool {
        let bus =
            Peer { name: "org.freedesktop.DBus", path: "/org/freedesktop/DBus", interface: "org.freedesktop.DBus" };
        self.call(bus, "NameHasOwner", arguments((name,))).await.unwrap_or(false)
    }
}
