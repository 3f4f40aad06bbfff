//! Everything that speaks D-Bus: the service of `docs/src/dbus.md`, its client, and what Flipside asks of
//! systemd, logind and NetworkManager. No other module knows zbus.
//!
//! Touches the bus named by `DBUS_SYSTEM_BUS_ADDRESS`, else the system bus.

pub mod announce;
pub mod authorize;
pub mod client;
pub mod error;
pub(crate) mod job;
pub mod login1;
pub mod network;
pub mod service;
pub mod systemd1;
pub mod values;

#[cfg(test)]
mod system_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::de::DeserializeOwned;
use zbus::{Connection, Message, OwnedVariant, Structure, Type, connection};

/// Bus name and interface of the service.
pub const NAME: &str = "org.flipside.Updater1";
/// Object path of the service.
pub const PATH: &str = "/org/flipside/Updater1";

/// systemd's own socket; what systemctl uses before and without a bus.
const SYSTEMD_SOCKET: &str = "unix:path=/run/systemd/private";

/// A peer that does not answer within this is not there: nothing that decides about a slot may hang on a bus call.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// The bus of a device: the system bus. A simulated device lives on its user's bus, unless `DBUS_SYSTEM_BUS_ADDRESS`
/// names another.
pub fn builder(simulated: bool) -> connection::Builder<'static> {
    if simulated && std::env::var_os("DBUS_SYSTEM_BUS_ADDRESS").is_none() {
        connection::Builder::session()
    } else {
        connection::Builder::system()
    }
}

/// Arguments of a call; none for a method without. One type for all of them: each further type would bring its own copy
/// of the machinery of a call into the binary.
pub type Arguments<'a> = Option<Structure<'a>>;

/// Arguments from a tuple.
fn arguments<'a>(tuple: impl Into<Structure<'a>>) -> Arguments<'a> {
    Some(tuple.into())
}

/// Why something could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// There is no bus.
    #[error("connecting to the system bus")]
    Connect(#[source] zbus::Error),
    /// A peer said no, or is not there.
    #[error("asking {peer} for {what}")]
    Call {
        /// Who was asked.
        peer: &'static str,
        /// What for.
        what: &'static str,
        /// Why not.
        source: zbus::Error,
    },
}

impl BusError {
    /// True when the peer said no by this name.
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        matches!(self, Self::Call { source: zbus::Error::MethodError(said, ..), .. } if said.as_str() == name)
    }
}

/// A connection to the system bus, for asking others.
#[derive(Debug, Clone)]
pub struct Bus {
    connection: Connection,
}

impl Bus {
    /// Connects.
    ///
    /// # Errors
    /// [`BusError::Connect`] when there is no bus.
    pub async fn connect(builder: connection::Builder<'_>) -> Result<Self, BusError> {
        let connection = builder.method_timeout(CALL_TIMEOUT).build().await.map_err(BusError::Connect)?;
        Ok(Self { connection })
    }

    /// Connects to systemd itself, past the bus: root may, and no bus daemon is needed. Only systemd can be asked
    /// over it.
    ///
    /// # Errors
    /// [`BusError::Connect`] when systemd is not there, or does not let us.
    pub async fn systemd() -> Result<Self, BusError> {
        Self::connect(connection::Builder::address(SYSTEMD_SOCKET).p2p()).await
    }

    /// Uses a connection that is already there.
    #[must_use]
    pub fn of(connection: &Connection) -> Self {
        Self { connection: connection.clone() }
    }

    /// The connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    async fn call<R>(&self, to: Peer<'_>, method: &'static str, arguments: Arguments<'_>) -> Result<R, BusError>
    where
        R: DeserializeOwned + Type,
    {
        let reply = self.reply(to, method, arguments).await?;
        reply.body().deserialize().map_err(|source| BusError::Call { peer: to.name, what: method, source })
    }

    async fn reply(&self, to: Peer<'_>, method: &'static str, arguments: Arguments<'_>) -> Result<Message, BusError> {
        let (name, interface) = (Some(to.name), Some(to.interface));
        let reply = match &arguments {
            None => self.connection.call_method(name, to.path, interface, method, &()).await,
            Some(arguments) => self.connection.call_method(name, to.path, interface, method, arguments).await,
        };
        reply.map_err(|source| BusError::Call { peer: to.name, what: method, source })
    }

    async fn property<T>(&self, of: Peer<'_>, property: &'static str) -> Result<T, BusError>
    where
        T: TryFrom<OwnedVariant>,
        T::Error: Into<zbus::Error>,
    {
        let at = Peer { interface: "org.freedesktop.DBus.Properties", ..of };
        let value: OwnedVariant = self.call(at, "Get", arguments((of.interface, property))).await?;
        let failed = |source| BusError::Call { peer: of.name, what: property, source };
        T::try_from(value).map_err(|e| failed(e.into()))
    }
}

/// Name, object and interface of what is asked.
#[derive(Clone, Copy)]
struct Peer<'a> {
    name: &'static str,
    path: &'a str,
    interface: &'static str,
}
