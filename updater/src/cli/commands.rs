//! What each command does.

use std::fs::File;
use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::Duration;

use bundle::reason::Reason;
use updater_core::slot::SlotId;
use updater_core::status::{Explanation, StateName, Status};

use super::args::{Args, Command};
use super::bar::Bar;
use super::evidence::{self, Told};
use super::exit::{Exit, Failed};
use super::follow::{self, Goal};
use super::output::{Output, note};
use super::text::Reader;
use super::{config, history, read, selftest, sim, status};
use crate::config::RunningImage;
use crate::daemon::{self, device::Device};
use crate::dbus::client::{Client, ClientError};
use crate::install::access::STDIN;
use crate::seams::BootControl;
use crate::system::surroundings::zone;

/// How often the boot loader's state is looked at when there is no bus to be told over.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// What the engine may need beyond the health deadline to write down its decision.
const GRACE: Duration = Duration::from_secs(60);

/// Where the command works.
struct Place {
    root: PathBuf,
    simulated: bool,
}

impl Place {
    fn device(&self) -> Device {
        Device::open(&self.root, self.simulated)
    }

    async fn client(&self) -> Result<Client, ClientError> {
        Client::open(self.simulated).await
    }

    fn bar(&self, output: &Output) -> Bar {
        Bar::new(output.json, zone(&self.root))
    }

    fn reader(&self) -> Reader {
        Reader { now: jiff::Timestamp::now(), zone: zone(&self.root) }
    }
}

/// Runs one command.
///
/// # Errors
/// With the exit code.
pub async fn run(args: Args, output: &Output) -> Result<Exit, Failed> {
    let simulated = args.sim.is_some();
    let root = args.sim.or(args.root).unwrap_or_else(|| PathBuf::from("/"));
    let place = Place { root, simulated };
    match args.command {
        Command::Status { follow } => show_status(&place, follow, output).await,
        Command::Explain => explain(&place, output).await,
        Command::History => show_history(&place, output).await,
        Command::Check { wait, unattended } => check(&place, wait, unattended, output).await,
        Command::Install { source, activate, reboot, force, no_wait } => {
            let options = [("activate", activate), ("reboot", reboot), ("force", force)];
            install(&place, source, &options, !no_wait, output).await
        }
        Command::Activate { slot, no_wait } => activate(&place, slot, !no_wait, output).await,
        Command::Reboot { no_wait } => reboot(&place, !no_wait, output).await,
        Command::Confirm { boot: true } => confirm_boot(&place, output).await,
        Command::Confirm { boot: false } => confirm(&place, output).await,
        Command::Rollback { reason } => {
            change(&place, "Rollback", &[&reason], "Going back to the other slot.", output).await
        }
        Command::Reject { slot, reason } => {
            let told = format!("Slot {slot} is being taken from the boot loader; its release is remembered as bad.");
            change(&place, "Reject", &[&slot, &reason], &told, output).await
        }
        Command::Cancel => {
            change(&place, "Cancel", &[], "Cancelled; `flipside retry` allows the release again.", output).await
        }
        Command::Retry { manifest } => {
            let manifest = manifest.unwrap_or_default();
            change(&place, "Retry", &[&manifest], "Allowed again; `flipside check` looks for it.", output).await
        }
        Command::Config { what } => Ok(config::run(what, &place.root, place.simulated, output)),
        Command::SelfTest { slot: Some(slot), .. } => selftest::of_slot(&place.device(), &slot, output),
        Command::SelfTest { slot: None, state, etc } => {
            let looked_at = Device::open_with(&place.root, place.simulated, state, etc.as_deref());
            Ok(selftest::run(&looked_at, output))
        }
        Command::Daemon { idle_exit, debug } => {
            daemon::run(place.device(), daemon::Options::new(idle_exit, debug)).await?;
            Ok(Exit::Ok)
        }
        Command::Sim { what } => sim::run(what, &place.root, place.simulated, output),
    }
}

async fn change(place: &Place, method: &str, texts: &[&str], sentence: &str, output: &Output) -> Result<Exit, Failed> {
    place.client().await?.change(method, texts).await?;
    output.done(sentence);
    Ok(Exit::Ok)
}

/// From the daemon when it can be reached, else from disk: an operator at a half-booted device must see something.
async fn picture(place: &Place) -> Result<(Status, Explanation), Failed> {
    let asked = match place.client().await {
        Ok(client) => client.explain().await,
        Err(e) => Err(e),
    };
    match asked {
        Ok(answer) => Ok(answer),
        Err(ClientError::NoBus(_) | ClientError::NoDaemon(_)) => {
            note("(the daemon can not be reached; read from disk)");
            Ok(read::picture(&place.device()))
        }
        Err(e) => Err(e.into()),
    }
}

async fn show_status(place: &Place, follow: bool, output: &Output) -> Result<Exit, Failed> {
    let show = |picture: &Status| {
        output.page(|| status::render(picture, &place.reader(), &RunningImage::of(&place.root)), picture)
    };
    if follow {
        follow::forever(&place.client().await?, show).await?;
    } else {
        show(&picture(place).await?.0);
    }
    Ok(Exit::Ok)
}

async fn explain(place: &Place, output: &Output) -> Result<Exit, Failed> {
    let explanation = picture(place).await?.1;
    output.page(|| history::render_explanation(&explanation, &place.reader()), &explanation);
    Ok(Exit::Ok)
}

async fn show_history(place: &Place, output: &Output) -> Result<Exit, Failed> {
    let asked = match place.client().await {
        Ok(client) => client.history().await,
        Err(e) => Err(e),
    };
    let device = place.device();
    let outcomes = match asked {
        Ok(outcomes) => outcomes,
        Err(ClientError::NoBus(_) | ClientError::NoDaemon(_)) => read::history(&device),
        Err(e) => return Err(e.into()),
    };
    let outcomes = evidence::beside(outcomes, &device.state);
    let document: Vec<_> = outcomes.iter().map(Told::document).collect();
    let document = serde_json::json!({"outcomes": document});
    output.page(|| history::render(&outcomes, &place.reader()), &document);
    Ok(Exit::Ok)
}

async fn check(place: &Place, wait: bool, unattended: bool, output: &Output) -> Result<Exit, Failed> {
    let client = place.client().await?.unattended(unattended);
    client.change("Check", &[]).await?;
    if !wait {
        output.done("Looking for updates; `flipside status` tells how far it is.");
        return Ok(Exit::Ok);
    }
    let picture = follow::check(&client, &mut place.bar(output)).await?;
    output.page(|| status::after_check(&picture), &picture);
    Ok(Exit::Ok)
}

async fn install(
    place: &Place,
    source: Option<String>,
    options: &[(&str, bool)],
    wait: bool,
    output: &Output,
) -> Result<Exit, Failed> {
    let client = place.client().await?;
    let (source, file) = source.map(opened).transpose()?.unwrap_or_default();
    let asked = |option| options.contains(&(option, true));
    let goal = match (asked("reboot"), asked("activate")) {
        (true, _) => Some(Goal::Restarting),
        (_, true) => Some(Goal::Armed),
        _ => None,
    };
    let job = client.install(&source, file, options).await?;
    if !wait {
        output.done(&format!("Installing as {}; `flipside status` tells how far it is.", job.as_str()));
        return Ok(Exit::Ok);
    }
    match follow::job(&client, &job, goal, &mut place.bar(output)).await {
        // Who named a bundle wanted that one; who did not has what there is.
        Err(nothing) if nothing.reason == Some(Reason::NoUpdate) && source.is_empty() => {}
        Err(failed) if failed.exit == Exit::Ok => return Err(Failed { exit: Exit::Refused, ..failed }),
        ended => ended?,
    }
    match client.explain().await {
        Ok((picture, _)) => output.page(|| status::after_install(&picture), &picture),
        // It went well, and a device that restarts tells no more.
        Err(ClientError::NoDaemon(_)) => output.done("Installed."),
        Err(e) => return Err(e.into()),
    }
    Ok(Exit::Ok)
}

/// What to install, and a file opened here: the daemon has another working directory, another standard input, and by
/// its sandbox a `/tmp` of its own and no homes.
fn opened(source: String) -> Result<(String, Option<File>), Failed> {
    if source.contains("://") {
        return Ok((source, None));
    }
    if source == STDIN {
        if std::io::stdin().is_terminal() {
            return Err(Failed::plain(Exit::Usage, "standard input is a terminal; pipe a bundle into it".to_owned()));
        }
        let stdin = std::io::stdin().as_fd().try_clone_to_owned();
        let stdin = stdin.map_err(|e| Failed::plain(Exit::Usage, format!("standard input: {e}")))?;
        return Ok((source, Some(File::from(stdin))));
    }
    let failed = |e: std::io::Error| Failed::plain(Exit::Usage, format!("{source}: {e}"));
    let path = std::path::absolute(&source).map_err(failed)?;
    let file = File::open(&path).map_err(failed)?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err(Failed::plain(Exit::Usage, format!("{source} is a folder; a bundle is a file")));
    }
    Ok((path.to_string_lossy().into_owned(), Some(file)))
}

async fn activate(place: &Place, slot: Option<String>, wait: bool, output: &Output) -> Result<Exit, Failed> {
    let client = place.client().await?;
    let picture = client.explain().await?.0;
    let slot = match slot {
        Some(slot) => slot,
        None => picture.target.or(picture.booted_slot.map(SlotId::other)).map(|s| s.to_string()).unwrap_or_default(),
    };
    client.change("Activate", &[&slot]).await?;
    if wait {
        follow::switch(&client, Goal::Armed, picture.last_error.as_ref(), false).await?;
        output.done(&format!("The next boot is of slot {slot}; `flipside status` tells when it restarts."));
    } else {
        output.done(&format!("Switching to slot {slot}; `flipside status` tells how far it is."));
    }
    Ok(Exit::Ok)
}

async fn reboot(place: &Place, wait: bool, output: &Output) -> Result<Exit, Failed> {
    let client = place.client().await?;
    let before = client.explain().await?.0;
    client.change("Reboot", &[]).await?;
    if wait {
        let armed = before.state == StateName::Armed;
        follow::switch(&client, Goal::Restarting, before.last_error.as_ref(), armed).await?;
        output.done("Restarting.");
    } else {
        output.done("The restart is ordered; `flipside status` tells what it waits for.");
    }
    Ok(Exit::Ok)
}

async fn confirm(place: &Place, output: &Output) -> Result<Exit, Failed> {
    let client = place.client().await?;
    client.change("Confirm", &[]).await?;
    let picture = follow::confirmation(&client, &mut place.bar(output)).await?;
    output.page(|| status::after_confirm(&picture), &picture);
    Ok(Exit::Ok)
}

/// In the boot sequence. Starts the engine over the bus; without a bus the service manager started it, and the boot
/// loader's state tells what became of it.
async fn confirm_boot(place: &Place, output: &Output) -> Result<Exit, Failed> {
    let device = place.device();
    if device.is_unconfigured() {
        output.done("Flipside is not set up on this system: there is nothing to confirm.");
        return Ok(Exit::Ok);
    }
    let client = match place.client().await {
        Ok(client) => client,
        Err(_) => return confirm_without_bus(&device, output).await,
    };
    match follow::confirmation(&client, &mut Bar::Silent).await {
        Ok(picture) => {
            output.page(|| status::after_confirm(&picture), &picture);
            Ok(Exit::Ok)
        }
        // Reading is open to all: who is refused has a bus without our policy, and the engine works without one.
        Err(failed) if matches!(failed.exit, Exit::NoDaemon | Exit::NotAuthorized) => {
            confirm_without_bus(&device, output).await
        }
        Err(failed) => Err(failed),
    }
}

async fn confirm_without_bus(device: &Device, output: &Output) -> Result<Exit, Failed> {
    let control = device.boot_control();
    let patience = device.loaded.config.health.deadline + GRACE;
    let confirmed = tokio::time::timeout(patience, async {
        loop {
            if control.facts().is_ok_and(|facts| facts.confirmed_booted().is_some()) {
                return;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    });
    match confirmed.await {
        Ok(()) => {
            output.done("The running system is confirmed.");
            Ok(Exit::Ok)
        }
        Err(_) => Err(Failed::because(Reason::HealthTimeout, "")),
    }
}
