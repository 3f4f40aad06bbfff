//! Waits for what was begun, showing how far it is.

use std::time::Duration;

use bundle::reason::Reason;
use tokio::signal::unix::{SignalKind, signal};
use updater_core::facts::SlotBoot;
use updater_core::status::{Problem, StateName, Status};

use super::bar::Bar;
use super::exit::{Exit, Failed, exit_of};
use super::output;
use crate::dbus::client::{Client, ClientError, JobPath};
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

/// Shows the status at every change until `done` has an answer.
async fn watch<T>(
    client: &Client,
    bar: &mut Bar,
    patience: u32,
    mut done: impl AsyncFnMut(&Status) -> Result<Option<T>, ClientError>,
) -> Result<T, Failed> {
    let mut changes = client.changes().await?;
    let mut misses = 0;
    loop {
        let looked = match client.explain().await {
            Ok((status, _)) => {
                bar.show(&status);
                done(&status).await
            }
            Err(e) => Err(e),
        };
        match looked {
            Ok(Some(answer)) => {
                bar.end();
                return Ok(answer);
            }
            Ok(None) => misses = 0,
            // A restart of the daemon is no news to somebody who waits for an update.
            Err(ClientError::NoDaemon(_)) if misses < patience => misses += 1,
            Err(e) => {
                bar.end();
                return Err(e.into());
            }
        }
        changes.next(LOOK_AGAIN).await;
        changes.pause(bar.pause()).await;
    }
}

/// Waits until it is clear what a check comes to. One that was lost is asked for again, once.
///
/// # Errors
/// The reason that holds it up, or no daemon.
pub async fn check(client: &Client, bar: &mut Bar) -> Result<Status, Failed> {
    let mut again = true;
    let (status, rest) = watch(client, bar, PATIENCE, async |status| {
        if again && is_unchecked(status) {
            client.change("Check", &[]).await?;
            again = false;
            return Ok(None);
        }
        let rest = rest(status);
        Ok((rest != Rest::Busy).then(|| (status.clone(), rest)))
    })
    .await?;
    match rest {
        Rest::Held(problem) if exit_of(problem.reason) != Exit::Ok => {
            Err(Failed::because(problem.reason, problem.detail))
        }
        _ if is_unchecked(&status) => {
            Err(Failed::plain(Exit::Failed, "the daemon was started again and lost the check".to_owned()))
        }
        _ => Ok(status),
    }
}

/// Waits until a switch got as far as `goal`. `before`: the last error there was when it was ordered.
///
/// # Errors
/// What keeps it, or no daemon.
pub async fn switch(client: &Client, goal: Goal, before: Option<&Problem>) -> Result<(), Failed> {
    let patience = if goal == Goal::Restarting { LEAVING } else { PATIENCE };
    let end = watch(client, &mut Bar::Silent, patience, async |status| Ok(switched(status, goal, before))).await;
    match end {
        // Bus and daemon go down with the system.
        Err(failed) if failed.exit == Exit::NoDaemon && goal == Goal::Restarting => Ok(()),
        end => end?.map_err(|problem| Failed::because(problem.reason, problem.detail)),
    }
}

/// Waits for the end of a job and, where it was to switch, of that. Ctrl-C cancels and goes on waiting for the end; a second
/// one leaves at once.
///
/// # Errors
/// The reason it ended with, or no daemon.
pub async fn job(client: &Client, job: &JobPath, goal: Option<Goal>, bar: &mut Bar) -> Result<(), Failed> {
    let mut end = std::pin::pin!(async {
        let mut before = None;
        let (result, detail) = watch(client, bar, PATIENCE, async |status| {
            // What went wrong before this job says nothing of its switch.
            before.get_or_insert_with(|| status.last_error.clone());
            let seen = end_of(status).map(|end| (end.result, end.detail));
            if seen.is_some() {
                // The job hears of it at the same moment as we do.
                tokio::time::sleep(MOMENT).await;
            }
            match client.job_end(job).await {
                // The daemon was started again and goes on with what it began; jobs are objects of the one before.
                Err(ClientError::NoJob) => Ok(seen),
                // It left, as before a restart.
                Err(ClientError::NoDaemon(_)) if seen.is_some() => Ok(seen),
                end => end,
            }
        })
        .await?;
        if result != OK {
            let reason = Reason::ALL.iter().copied().find(|r| r.code() == result).unwrap_or(Reason::Unknown);
            return Err(Failed::because(reason, detail));
        }
        match goal {
            Some(goal) => switch(client, goal, before.flatten().as_ref()).await,
            None => Ok(()),
        }
    });
    // Kept from the first to the second: what comes in between counts.
    let mut interrupts = signal(SignalKind::interrupt()).map_err(anyhow::Error::from)?;
    tokio::select! {
        end = &mut end => end,
        _ = interrupts.recv() => tokio::select! {
            end = async {
                cancel(client).await?;
                end.await
            } => end,
            _ = interrupts.recv() => {
                let left = "left before its end; `flipside status` tells what becomes of it";
                Err(Failed::plain(Exit::Failed, left.to_owned()))
            }
        },
    }
}

/// Gives up what is under way, with this daemon or the one after it.
async fn cancel(client: &Client) -> Result<(), ClientError> {
    let mut misses = 0;
    loop {
        match client.change("Cancel", &[]).await {
            Err(ClientError::NoDaemon(_)) if misses < PATIENCE => misses += 1,
            // It ended by itself just now.
            Err(ClientError::Refused { reason: Reason::NoUpdate, .. }) => return Ok(()),
            cancelled => return cancelled,
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Waits until the running system is confirmed, or certainly is not.
///
/// # Errors
/// It is being left, or is stuck.
pub async fn confirmation(client: &Client, bar: &mut Bar) -> Result<Status, Failed> {
    let status = watch(client, bar, PATIENCE, async |status| {
        let over = status.confirmed || matches!(status.state, StateName::Reverting | StateName::Degraded);
        Ok(over.then(|| status.clone()))
    })
    .await?;
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
    let mut last = None;
    watch(client, &mut Bar::Silent, PATIENCE, async |status| {
        let picture = timeless(status);
        if last.as_ref() != Some(&picture) {
            show(status);
            last = Some(picture);
        }
        Ok((!output::is_read()).then_some(()))
    })
    .await
}

#[cfg(test)]
mod tests;
