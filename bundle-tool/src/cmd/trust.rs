//! `bundle-tool trust`: who may say what.

use anyhow::Result;
use clap::Subcommand;

mod init;
mod publish;
mod rotate;
mod show;

/// Make and look at trust roots
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Init(init::Args),
    Rotate(rotate::Args),
    Publish(publish::Args),
    Show(show::Args),
}

pub fn run(args: &Args) -> Result<()> {
    match &args.command {
        Command::Init(args) => init::run(args),
        Command::Rotate(args) => rotate::run(args),
        Command::Publish(args) => publish::run(args),
        Command::Show(args) => show::run(args),
    }
}
