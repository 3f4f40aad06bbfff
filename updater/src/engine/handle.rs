//! What D-Bus, the command line and the daemon hold to talk to the engine.

use tokio::sync::{mpsc, oneshot, watch};
use updater_core::effect::Refusal;
use updater_core::history::Outcome;
use updater_core::status::Status;

/// A request to the engine.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// A change: check, install, activate, ... Answered with `Done` or `Refused` as soon as it is durably begun; how
    /// it goes on is seen in the status.
    Change(updater_core::event::Command),
    /// Why does this device update now, or not? Answered with `Explained`.
    Explain,
    /// The last outcomes, oldest first. Answered with `History`.
    History,
}

/// The engine's answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// Taken.
    Done,
    /// Not taken, and why.
    Refused(Refusal),
    /// Every question the gate asks, with its answer.
    Explained(updater_core::status::Explanation),
    /// The last outcomes, oldest first.
    History(Vec<Outcome>),
}

/// The engine has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the update engine has ended")]
pub struct EngineGone;

/// A cheap, cloneable way to the engine.
#[derive(Debug, Clone)]
pub struct Handle {
    /// Requests; answered one by one, also during an install.
    pub commands: mpsc::Sender<(Command, oneshot::Sender<Reply>)>,
    /// The newest status, with progress at most a few times a second.
    pub status: watch::Receiver<Status>,
    /// True while nothing is under way and nothing is due soon: the daemon may leave.
    pub idle: watch::Receiver<bool>,
}

impl Handle {
    /// Sends a request and waits for its answer.
    pub async fn ask(&self, command: Command) -> Result<Reply, EngineGone> {
        let (reply, answer) = oneshot::channel();
        self.commands.send((command, reply)).await.map_err(|_| EngineGone)?;
        answer.await.map_err(|_| EngineGone)
    }

    /// The newest status.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }
}
