//! Does one piece of work through the seams.
//!
//! Runs beside the engine's task. Whatever happens in here ends as a result with a reason code, a panic included.

use bundle::reason::Reason;
use updater_core::effect::Work;
use updater_core::event::{Failure, Finished};
use updater_core::policy::Policy;
use updater_core::release::Update;

use super::{Seams, documents, internal};
use crate::seams::{BootControl, BootError, Cancel, InstallError, InstallRequest, ProgressSink};

/// What a piece of work may use.
pub(super) struct Context {
    pub seams: Seams,
    pub policy: Policy,
    pub progress: ProgressSink,
    pub cancel: Cancel,
}

/// Runs a blocking closure where blocking is allowed.
pub(super) async fn blocking<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(run).await.map_err(|error| internal(format!("a task ended badly: {error}")))
}

/// Does it, or ends early when asked to stop: a health check that hangs must not keep the fallback waiting. What changes
/// the disk or the boot loader's state is never dropped half-way; installs look at the wish to stop themselves.
pub(super) async fn perform(work: Work, context: &Context) -> Result<Finished, Failure> {
    let only_looks =
        matches!(work, Work::Ask { .. } | Work::ReadManifest { .. } | Work::CheckHealth { .. } | Work::CheckNetwork);
    if !only_looks {
        return carry_out(work, context).await;
    }
    tokio::select! {
        result = carry_out(work, context) => result,
        () = context.cancel.cancelled() => Err(cancelled()),
    }
}

/// Holds a lock against shutdown where an interruption would cost time (it would cost nothing else).
async fn carry_out(work: Work, context: &Context) -> Result<Finished, Failure> {
    let seams = &context.seams;
    let _hold = match why_not_now(&work) {
        Some(why) => seams.inhibitors.hold(why).await,
        None => None,
    };
    match work {
        Work::ReadFacts => boot(seams, |boot| boot.facts()).await,
        Work::Ask { fetch, .. } => {
            let answers = documents::gather(seams, &context.policy, fetch).await;
            Ok(Finished::Answers(Box::new(answers)))
        }
        Work::ReadManifest { source, expected } => {
            let read = seams.installer.manifest(&source, expected.as_ref()).await.map_err(install_failure)?;
            Ok(Finished::Manifest(Box::new(read)))
        }
        Work::Clear { slot, to_write: None } => boot(seams, move |boot| boot.clear(slot)).await,
        // The doctor first: nothing of the target is lost when counting would not work afterwards, or nothing would fit.
        Work::Clear { slot, to_write: Some(update) } => {
            tokio::select! {
                fits = seams.installer.fits(&update) => fits.map_err(install_failure)?,
                () = context.cancel.cancelled() => return Err(cancelled()),
            }
            boot(seams, move |boot| boot.self_test().and_then(|()| boot.clear(slot))).await
        }
        Work::Install { update } => install(*update, context).await,
        Work::Verify { update } => verify(*update, context).await,
        // Again: the boot since may have been started by a loader that does not count, and nobody would fall back.
        Work::Arm { slot, tries } => {
            boot(seams, move |boot| boot.self_test().and_then(|()| boot.arm(slot, tries))).await
        }
        Work::Confirm { slot } => boot(seams, move |boot| boot.confirm(slot)).await,
        Work::Reject { slot } => boot(seams, move |boot| boot.reject(slot)).await,
        Work::CheckHealth { .. } => Ok(Finished::Health(seams.health.check().await)),
        Work::CheckNetwork => Ok(Finished::Health(seams.health.network().await)),
        Work::Reboot => match seams.rebooter.reboot().await {
            Ok(()) => Ok(Finished::Rebooting),
            Err(error) => Err(internal(format!("the reboot was not accepted: {error}"))),
        },
    }
}

const fn why_not_now(work: &Work) -> Option<&'static str> {
    match work {
        Work::Install { .. } | Work::Verify { .. } => Some("a system update is being written"),
        Work::Clear { .. } | Work::Arm { .. } | Work::Confirm { .. } | Work::Reject { .. } => {
            Some("the boot loader is being switched")
        }
        _ => None,
    }
}

async fn install(update: Update, context: &Context) -> Result<Finished, Failure> {
    let request = request(update, context).await?;
    let seams = &context.seams;
    let moved = seams.installer.install(&request, &context.progress, &context.cancel).await;
    moved.map(Finished::Installed).map_err(install_failure)
}

async fn verify(update: Update, context: &Context) -> Result<Finished, Failure> {
    let request = request(update, context).await?;
    let seams = &context.seams;
    seams.installer.verify(&request, &context.progress, &context.cancel).await.map_err(install_failure)?;
    // After the read-back: what runs here is what the release keys signed.
    let tried = seams.rehearsal.rehearse(request.update.target).await;
    tried.map(|()| Finished::Verified).map_err(|error| Failure::new(Reason::HealthFailed, error.to_string()))
}

/// The running slot is asked anew: a target that turns out to be running is refused here, whatever was decided before.
async fn request(update: Update, context: &Context) -> Result<InstallRequest, Failure> {
    let Finished::Facts(facts) = boot(&context.seams, |boot| boot.facts()).await? else {
        return Err(internal("facts were asked for"));
    };
    let unknown = || Failure::new(Reason::SlotUnknown, Reason::SlotUnknown.sentence());
    let booted = facts.booted.ok_or_else(unknown)?;
    if booted == update.target {
        return Err(Failure::new(Reason::SlotUnknown, format!("slot {booted} is running and is never written")));
    }
    if facts.slot(update.target).is_choosable() {
        let detail = format!("slot {} still has a boot record, it is not written", update.target);
        return Err(Failure::new(Reason::BootControlError, detail));
    }
    Ok(InstallRequest { update, booted })
}

async fn boot<F>(seams: &Seams, run: F) -> Result<Finished, Failure>
where
    F: FnOnce(&dyn BootControl) -> Result<updater_core::facts::BootFacts, BootError> + Send + 'static,
{
    let control = std::sync::Arc::clone(&seams.boot);
    let facts = blocking(move || run(control.as_ref())).await?;
    facts.map(Finished::Facts).map_err(|error| boot_failure(&error))
}

pub(super) fn boot_failure(error: &BootError) -> Failure {
    Failure::new(Reason::BootControlError, error.to_string())
}

fn install_failure(error: InstallError) -> Failure {
    Failure { reason: error.reason, detail: error.detail, retry_after: error.retry_after }
}

fn cancelled() -> Failure {
    Failure::new(Reason::Cancelled, Reason::Cancelled.sentence())
}
