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
            if let Some(answer) = by_logind(bus).await {
                return answer;
            }
            match bus.reboot_by_systemd().await {
                Ok(()) => Ok(()),
                Err(e) if bus.has_owner("org.freedesktop.systemd1").await => Err(RebootError(chain(&e))),
                Err(_) => by_kernel().await,
            }
        })
    }
}

/// Asks logind, which tells users and waits for delay locks; none: another way has to be found.
///
/// Since systemd 257 logind refuses root too while somebody holds a block lock. By the time of this call the locks of
/// others were asked about and waited for, where there was time to wait; what still comes here is a restart that is due: an
/// operator's who forces it, or that of a system being left, whose own application may be what holds the lock.
async fn by_logind(bus: &Bus) -> Option<Result<(), RebootError>> {
    let refused = match bus.reboot_by_logind().await {
        Ok(()) => return Some(Ok(())),
        Err(e) if !bus.has_owner("org.freedesktop.login1").await => {
            tracing::debug!(error = chain(&e), "there is no logind");
            return None;
        }
        Err(e) => e,
    };
    // The machine is going down already, maybe for good: that is somebody's word, and turning it around is not ours.
    if refused.is_named("org.freedesktop.login1.OperationInProgress") {
        return Some(Err(RebootError(chain(&refused))));
    }
    tracing::warn!(error = chain(&refused), "logind refuses the restart: restarting in spite of inhibitor locks");
    match bus.reboot_past_inhibitors().await {
        Ok(()) => Some(Ok(())),
        // Older ones do not know the flag, and one that hangs knows nothing; systemd itself has no such locks.
        Err(e) => {
            tracing::warn!(error = chain(&e), "logind refuses that, too");
            None
        }
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
