//! Reboots: logind, else systemd, else the kernel.
//!
//! Touches the bus; as the last way out syncs and calls reboot(2). Never kexec: it would skip the boot loader's
//! counting.

use crate::dbus::Bus;
use crate::seams::{BoxFuture, RebootError, Rebooter};
use crate::system::chain;

/// Reboots this machine.
#[derive(Debug, Clone)]
pub struct SystemRebooter {
    /// Where logind and systemd are asked.
    pub bus: Option<Bus>,
}

impl Rebooter for SystemRebooter {
    fn reboot(&self) -> BoxFuture<'_, Result<(), RebootError>> {
        Box::pin(async move {
            let Some(bus) = &self.bus else { return by_kernel().await };
            // logind first: it tells delay inhibitors and users. It refuses while somebody holds a block lock, which
            // is an answer and no reason to go behind its back.
            let refused = match bus.reboot_by_logind().await {
                Ok(()) => return Ok(()),
                Err(e) => e,
            };
            if bus.has_owner("org.freedesktop.login1").await {
                return Err(RebootError(chain(&refused)));
            }
            match bus.reboot_by_systemd().await {
                Ok(()) => Ok(()),
                Err(e) if bus.has_owner("org.freedesktop.systemd1").await => Err(RebootError(chain(&e))),
                Err(_) => by_kernel().await,
            }
        })
    }
}

/// Nobody else is there to do it: a system that came up half must still be left when it fails its trial.
async fn by_kernel() -> Result<(), RebootError> {
    tracing::warn!("neither logind nor systemd can be asked to reboot: syncing and rebooting at once");
    let done = tokio::task::spawn_blocking(|| {
        nix::unistd::sync();
        nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_AUTOBOOT)
    });
    match done.await {
        Ok(Ok(never)) => match never {},
        Ok(Err(e)) => Err(RebootError(format!("reboot(2): {e}"))),
        Err(e) => Err(RebootError(e.to_string())),
    }
}
