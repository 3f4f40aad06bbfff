//! Waits for what was begun, showing how far it is.

use std::time::Duration;

use bundle::reason::Reason;
use tokio::signal::unix::{SignalKind, signal};
use updater_core::facts::SlotBoot;
use updater_core::status::{Problem, StateName, Status};

use super::bar::Bar;
use super::exit::{Exit, Failed, exit_of};
use super::output;
use crate::dbus::client::{Changes, Client, ClientError, JobPath};
use crate::dbus::job::{OK, end_of};
use crate::dbus::values::timeless;

/// A signal can get lost between two daemons; then the status is asked for after this long.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A daemon that restarts (or was killed) is back within this; it is started by the call itself.
const PATIENCE: u32 = 30;
/// Between a change of the state and the end of the job that waited for it.
const MOMENT: Duration = Duration::from_millis(20);
/// Where the system restarts it does not come back.
const LEAVING: u32 = 2;

/// How a state looks to somebody who waits.
#[derive(Debug, Clone, PartialEq)]
enum Rest {
    /// Something is still being done.
    Busy,
    /// It went as far as it goes by itself, and well.
    Well,
    /// It is held up.
    Held(Problem),
}

fn rest(status: &Status) -> Rest {
    match status.state {
        StateName::Checking | StateName::Trying | StateName::Reverting => return Rest::Busy,
        // Between two steps there is nothing to wait for; a pause after a failure may be hours.
        StateName::Approved | StateName::Writing | StateName::Verifying if status.waiting.is_none() => {
            return Rest::Busy;
        }
        // The restart is on its way: nobody will be here to see more.
        StateName::Armed => return Rest::Well,
        _ => {}
    }
    match &status.waiting {
        _ if status.operation.is_some() => Rest::Busy,
        // "Nothing new" and "the mode goes no further" are what was asked for.
        Some(problem) if !matches!(problem.reason, Reason::NoUpdate | Reason::NotifyOnly) => {
            Rest::Held(problem.clone())
        }
        _ => Rest::Well,
    }
}

/// Whether nothing is known of a check: it is lost with a daemon that is started again, and one that ended says what
/// came of it.
fn is_unchecked(status: &Status) -> bool {
    matches!(status.state, StateName::Idle | StateName::RolledBack | StateName::Good)
        && status.waiting.is_none()
        && status.operation.is_none()
}

/// How far a switch is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// The boot loader will try the other slot.
    Armed,
    /// The restart is on its way.
    Restarting,
}

/// Whether a switch that an operator ordered got there, or what keeps it; none while it is under way. `before`: the last
/// error there was when it was ordered.
fn switched(status: &Status, goal: Goal, before: Option<&Problem>) -> Option<Result<(), Problem>> {
    let boot = status.target.map(|slot| status.slots.get(slot).boot);
    let armed = status.state == StateName::Armed && matches!(boot, Some(SlotBoot::Trying { left: 1.., .. }));
    if armed && goal == Goal::Armed {
        return Some(Ok(()));
    }
    if status.operation.is_some() {
        return None;
    }
    // Whatever was tried last did not work: writing the boot loader, or restarting.
    if let Some(error) = status.last_error.as_ref().filter(|error| before != Some(error)) {
        return Some(Err(error.clone()));
    }
    // That the running release was recalled is told in every state, and keeps nothing.
    match status.waiting.as_ref().filter(|problem| problem.reason != Reason::Recalled) {
        Some(problem) => Some(Err(problem.clone())),
        // The restart was accepted a moment ago.
        None if armed => Some(Ok(())),
        None => Some(Err(Problem {
            reason: Reason::Cancelled,
            detail: "the switch was taken back".to_owned(),
            at: None,
            until: None,
        })),
    }
}

/// Looks at the status, at first and then at every change, and shows it. The line of progress ends with it.
struct Watch<'a> {
    client: &'a Client,
    bar: &'a mut Bar,
    patience: u32,
    misses: u32,
    changes: Option<Changes>,
}

impl<'a> Watch<'a> {
    const fn new(client: &'a Client, bar: &'a mut Bar, patience: u32) -> Self {
        Self { client, bar, patience, misses: 0, changes: None }
    }

    /// The next picture.
    async fn look(&mut self) -> Result<Status, Failed> {
        loop {
            match &mut self.changes {
                None => self.changes = Some(self.client.changes().await?),
                Some(changes) => {
                    changes.next(LOOK_AGAIN).await;
                    changes.pause(self.bar.pause()).await;
                }
            }
            match self.client.explain().await {
                Ok((status, _)) => {
                    self.misses = 0;
                    self.bar.show(&status);
                    return Ok(status);
                }
                Err(e) => self.missed(e)?,
            }
        }
    }

    /// A restart of the daemon is no news to somebody who waits for an update.
    fn missed(&mut self, error: ClientError) -> Result<(), Failed> {
        match error {
            ClientError::NoDaemon(_) if self.misses < self.patience => {
                self.misses += 1;
                Ok(())
            }
            error => Err(error.into()),
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.bar.end();
    }
}

/// Waits until it is clear what a check comes to. One that was lost is asked for again, once.
///
/// # Errors
/// The reason that holds it up, or no daemon.
pub async fn check(client: &Client, bar: &mut Bar) -> Result<Status, Failed> {
    let mut watch = Watch::new(client, bar, PATIENCE);
    let mut again = true;
    loop {
        let status = watch.look().await?;
        if is_unchecked(&status) {
            if !again {
                return Err(Failed::plain(Exit::Failed, "the daemon was started again and lost the check".to_owned()));
            }
            match client.change("Check", &[]).await {
                Ok(()) => again = false,
                Err(e) => watch.missed(e)?,
            }
            continue;
        }
        match rest(&status) {
            Rest::Busy => {}
            Rest::Held(problem) if exit_of(problem.reason) != Exit::Ok => {
                return Err(Failed::because(problem.reason, problem.detail));
            }
            _ => return Ok(status),
        }
    }
}

/// Waits until a switch got as far as `goal`. `before`: the last error there was when it was ordered; `armed`: the boot
/// loader had been switched then.
///
/// # Errors
/// What keeps it, or no daemon.
pub async fn switch(client: &Client, goal: Goal, before: Option<&Problem>, mut armed: bool) -> Result<(), Failed> {
    let mut bar = Bar::Silent;
    let mut watch = Watch::new(client, &mut bar, PATIENCE);
    loop {
        // Bus and daemon go down with the system.
        let leaving = armed && goal == Goal::Restarting;
        watch.patience = if leaving { LEAVING } else { PATIENCE };
        let status = match watch.look().await {
            Err(failed) if failed.exit == Exit::NoDaemon && leaving => return Ok(()),
            looked => looked?,
        };
        if let Some(end) = switched(&status, goal, before) {
            return end.map_err(|problem| Failed::because(problem.reason, problem.detail));
        }
        // A moment after it was read back it may be armed and on its way.
        armed = match status.state {
            StateName::Armed => true,
            StateName::Staged => status.operation.as_deref() != Some("reading back"),
            _ => false,
        };
    }
}

/// Waits for the end of a job and, where it was to switch, of that. Ctrl-C cancels and goes on waiting for the end; a
/// second one leaves at once.
///
/// # Errors
/// The reason it ended with, or no daemon.
pub async fn job(client: &Client, job: &JobPath, goal: Option<Goal>, bar: &mut Bar) -> Result<(), Failed> {
    let mut end = std::pin::pin!(async {
        let before = ended(&mut Watch::new(client, bar, PATIENCE), job).await?;
        match goal {
            // What was written a moment ago may be on its way already.
            Some(goal) => switch(client, goal, before.as_ref(), true).await,
            None => Ok(()),
        }
    });
    // Kept from the first to the second: what comes in between counts.
    let mut interrupts = signal(SignalKind::interrupt()).map_err(anyhow::Error::from)?;
    tokio::select! {
        end = &mut end => end,
        _ = interrupts.recv() => tokio::select! {
            end = async {
                let cancelled = cancel(client).await?;
                end.await?;
                // It had come to a good end, and was taken back from there.
                if cancelled { Err(Failed::because(Reason::Cancelled, "")) } else { Ok(()) }
            } => end,
            _ = interrupts.recv() => {
                let left = "left before its end; `flipside status` tells what becomes of it";
                Err(Failed::plain(Exit::Failed, left.to_owned()))
            }
        },
    }
}

/// Waits until a job ended well; the last error there was before.
async fn ended(watch: &mut Watch<'_>, job: &JobPath) -> Result<Option<Problem>, Failed> {
    // What went wrong before this job says nothing of its switch.
    let mut before = None;
    let (result, detail) = loop {
        let status = watch.look().await?;
        let seen = end_of(&status).map(|end| (end.result, end.detail));
        before.get_or_insert(status.last_error);
        if seen.is_some() {
            // The job hears of it at the same moment as we do.
            tokio::time::sleep(MOMENT).await;
        }
        match (watch.client.job_end(job).await, seen) {
            // The daemon was started again and goes on with what it began, or left, as before a restart; jobs are
            // objects of the one that began them.
            (Ok(Some(end)), _) | (Err(ClientError::NoJob | ClientError::NoDaemon(_)), Some(end)) => break end,
            (Ok(None) | Err(ClientError::NoJob), _) => {}
            (Err(e), _) => watch.missed(e)?,
        }
    };
    if result == OK {
        return Ok(before.flatten());
    }
    let reason = Reason::ALL.iter().copied().find(|r| r.code() == result).unwrap_or(Reason::Unknown);
    Err(Failed::because(reason, detail))
}

/// Gives up what is under way, with this daemon or the one after it; whether there was anything.
async fn cancel(client: &Client) -> Result<bool, ClientError> {
    let mut misses = 0;
    loop {
        match client.change("Cancel", &[]).await {
            Err(ClientError::NoDaemon(_)) if misses < PATIENCE => misses += 1,
            // It ended by itself just now.
            Err(ClientError::Refused { reason: Reason::NoUpdate, .. }) => return Ok(false),
            cancelled => return cancelled.map(|()| true),
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Waits until the running system is confirmed, or certainly is not.
///
/// # Errors
/// It is being left, or is stuck.
pub async fn confirmation(client: &Client, bar: &mut Bar) -> Result<Status, Failed> {
    let mut watch = Watch::new(client, bar, PATIENCE);
    let status = loop {
        let status = watch.look().await?;
        if status.confirmed || matches!(status.state, StateName::Reverting | StateName::Degraded) {
            break status;
        }
    };
    if status.confirmed && status.state != StateName::Reverting {
        return Ok(status);
    }
    let problem = status.last_error.clone().or(status.waiting.clone());
    Err(problem.map_or_else(
        || Failed::because(Reason::HealthFailed, ""),
        |problem| Failed { exit: Exit::Failed, reason: Some(problem.reason), detail: problem.detail },
    ))
}

/// Shows every change until interrupted, or until nobody reads it any more.
///
/// # Errors
/// No daemon.
pub async fn forever(client: &Client, mut show: impl FnMut(&Status)) -> Result<(), Failed> {
    let mut bar = Bar::Silent;
    let mut watch = Watch::new(client, &mut bar, PATIENCE);
    let mut last = None;
    while output::is_read() {
        let status = watch.look().await?;
        let picture = timeless(&status);
        if last.as_ref() != Some(&picture) {
            show(&status);
            last = Some(picture);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
