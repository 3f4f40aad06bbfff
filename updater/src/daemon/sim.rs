//! The restart of a simulated device: the daemon ends, and `flipside sim reboot` plays the boot loader.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::seams::{BoxFuture, RebootError, Rebooter};

/// Tells the daemon that the device wants to restart.
#[derive(Debug, Clone, Default)]
pub struct Restart(Arc<Notify>);

impl Restart {
    /// Ends when a restart was asked for. Never on a real device.
    pub async fn wait(&self) {
        self.0.notified().await;
        tracing::info!("the simulated device wants to restart: flipside --sim FOLDER sim reboot");
    }
}

/// "Reboots" by ending the daemon.
#[derive(Debug)]
pub struct SimRebooter(pub Restart);

impl Rebooter for SimRebooter {
    fn reboot(&self) -> BoxFuture<'_, Result<(), RebootError>> {
        Box::pin(async move {
            self.0.0.notify_one();
            Ok(())
        })
    }
}
