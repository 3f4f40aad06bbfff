//! Tells the service manager how we are (`sd_notify(3)`, the protocol and no library).
//!
//! Touches the socket in `NOTIFY_SOCKET` and nothing else.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The service manager's socket, if there is one.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<(UnixDatagram, SocketAddr)>,
}

impl Notifier {
    /// From the environment; silent when we were not started by a service manager.
    #[must_use]
    pub fn from_env() -> Self {
        let socket = std::env::var_os("NOTIFY_SOCKET").and_then(|name| Self::connect(&name).ok());
        Self { socket }
    }

    fn connect(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
        let address = match name.as_bytes().strip_prefix(b"@") {
            Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name)?,
            None => SocketAddr::from_pathname(name)?,
        };
        Ok((UnixDatagram::unbound()?, address))
    }

    /// The service is up.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// The service leaves.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// Still alive.
    pub fn watchdog(&self) {
        self.send("WATCHDOG=1");
    }

    /// One line for `systemctl status`.
    pub fn status(&self, line: &str) {
        self.send(&format!("STATUS={}", line.replace('\n', " ")));
    }

    fn send(&self, message: &str) {
        if let Some((socket, address)) = &self.socket {
            // Nobody can be told that telling failed.
            let _ = socket.send_to_addr(message.as_bytes(), address);
        }
    }
}

/// How often [`Notifier::watchdog`] must be called: half of what the service manager waits.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    // Set for another process (a parent of ours): not our business.
    if number("WATCHDOG_PID").is_some_and(|pid| pid != u64::from(std::process::id())) {
        return None;
    }
    number("WATCHDOG_USEC").filter(|us| *us > 0).map(|us| Duration::from_micros(us / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_on_path_and_abstract_sockets() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let abstract_name = format!("flipside-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        let listeners = [
            (UnixDatagram::bind(&path).unwrap(), path.clone().into_os_string()),
            (UnixDatagram::bind_addr(&abstract_address).unwrap(), format!("@{abstract_name}").into()),
        ];
        for (listener, name) in listeners {
            let notifier = Notifier { socket: Some(Notifier::connect(&name).unwrap()) };
            notifier.ready();
            notifier.status("two\nlines");
            let mut buffer = [0; 64];
            let n = listener.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..n], b"READY=1");
            let n = listener.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..n], b"STATUS=two lines");
        }
    }

    #[test]
    fn without_a_service_manager_nothing_happens() {
        Notifier { socket: None }.ready();
    }
}
