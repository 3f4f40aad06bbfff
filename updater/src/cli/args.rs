//! What can be said on the command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Updates this system, and comes back when the update is bad.
#[derive(Debug, Parser)]
#[command(
    name = "flipside",
    version,
    max_term_width = 100,
    after_help = "\
Exit codes: 0 done or nothing to do, 1 failed, 2 wrong command line, 3 a policy said no or not now (the reason is
printed), 4 the daemon can not be reached, 5 not authorised."
)]
pub struct Args {
    /// Print JSON (versioned, documented) instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// Look at the system below this folder instead of /
    #[arg(long, global = true, value_name = "FOLDER", hide = true)]
    pub root: Option<PathBuf>,
    /// Use a simulated device in this folder (see `flipside sim`)
    #[arg(long, global = true, value_name = "FOLDER", conflicts_with = "root")]
    pub sim: Option<PathBuf>,
    /// What to do; without it: status
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show slots, versions, what is next and why not now
    Status {
        /// Show again at every change
        #[arg(long)]
        follow: bool,
    },
    /// Look for an update now, and go on as far as the configured mode allows
    Check {
        /// Wait until it is clear what comes of it, showing progress
        #[arg(long)]
        wait: bool,
        /// Nobody waits for it (a timer): a pause after failures is kept
        #[arg(long)]
        unattended: bool,
    },
    /// Install an update: the offered one, or a bundle (file, pipe, URL)
    Install {
        /// Bundle file, `-` for standard input, or URL; without it: what the region approves
        source: Option<String>,
        /// Also switch to it
        #[arg(long)]
        activate: bool,
        /// Also switch to it and restart
        #[arg(long)]
        reboot: bool,
        /// Do not wait for windows, inhibitors or an unmetered link; never overrides the region
        #[arg(long)]
        force: bool,
        /// Do not wait for the end
        #[arg(long)]
        no_wait: bool,
    },
    /// Switch to the slot that was written and proven
    Activate {
        /// `a` or `b`; without it: the one that is not running
        slot: Option<String>,
        /// Do not wait for the end
        #[arg(long)]
        no_wait: bool,
    },
    /// Restart into the slot that was switched to
    Reboot {
        /// Do not wait for the end
        #[arg(long)]
        no_wait: bool,
    },
    /// Check the health of the running, unconfirmed system now, and keep it when it is well
    Confirm {
        /// In the boot sequence: wait until the running system is confirmed, or is not
        #[arg(long)]
        boot: bool,
    },
    /// Go back to the other slot
    Rollback {
        /// Why, for the history
        #[arg(default_value = "by an operator")]
        reason: String,
    },
    /// Make a slot unbootable and remember its release as bad
    Reject {
        /// `a` or `b`
        slot: String,
        /// Why, for the history
        #[arg(default_value = "by an operator")]
        reason: String,
    },
    /// Allow a release again that failed here
    Retry {
        /// Manifest digest; without it: all
        manifest: Option<String>,
    },
    /// Say why this device does or does not update now
    Explain,
    /// Show what became of the last updates
    History,
    /// Show or check the configuration
    Config {
        /// Show or check
        #[command(subcommand)]
        what: ConfigCommand,
    },
    /// Check that this device can be updated safely: slots, boot loader, space, clock, keys
    SelfTest {
        /// Instead, let the updater of this slot (`a` or `b`) prove, from that slot and without changing anything, that
        /// it could work here
        #[arg(long)]
        slot: Option<String>,
        /// State folder, when it is not below the root that is looked at
        #[arg(long, value_name = "FOLDER", hide = true)]
        state: Option<PathBuf>,
        /// Folder that stands for /etc/flipside
        #[arg(long, value_name = "FOLDER", hide = true)]
        etc: Option<PathBuf>,
    },
    /// Run the updater (started by the service manager)
    Daemon {
        /// Leave after this many seconds without anything to do; 0 = stay
        #[arg(long, value_name = "SECONDS", default_value_t = 30)]
        idle_exit: u64,
        /// Say more in the log
        #[arg(long)]
        debug: bool,
    },
    /// Make and restart a simulated device (needs --sim)
    Sim {
        /// What to do
        #[command(subcommand)]
        what: SimCommand,
    },
}

/// `flipside config …`
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum ConfigCommand {
    /// Print what is set
    Show {
        /// And which file each value is from
        #[arg(long)]
        origin: bool,
    },
    /// Say what is wrong; exit code 1 when something does not work
    Check,
}

/// `flipside sim …`
#[derive(Debug, Clone, Subcommand)]
pub enum SimCommand {
    /// Make a factory-fresh device running slot a
    Init {
        /// Trust root of the releases
        #[arg(long, value_name = "FILE")]
        trust: Option<PathBuf>,
        /// Update server
        #[arg(long, value_name = "URL")]
        url: Option<String>,
    },
    /// Play the boot loader: choose a slot, count, boot it
    Reboot,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn no_command_is_status() {
        let args = Args::try_parse_from(["flipside", "--json"]).unwrap();
        assert!(args.json && args.command.is_none());
    }
}
