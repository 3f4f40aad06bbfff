//! Shell completions and man pages, made from the command line itself so that they are never stale.

use std::io;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Command;
use clap_complete::Shell;

/// Print completions for a shell
#[derive(clap::Args)]
#[command(after_help = "Example:\n  bundle-tool completions bash > /usr/share/bash-completion/completions/bundle-tool")]
pub struct CompletionArgs {
    /// bash, zsh, fish, elvish or powershell
    shell: Shell,
}

/// Write man pages into a folder
#[derive(clap::Args)]
#[command(after_help = "Example:\n  bundle-tool man --out /usr/share/man/man1")]
pub struct ManArgs {
    /// The folder
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub fn completions(args: &CompletionArgs, mut command: Command) -> Result<()> {
    clap_complete::generate(args.shell, &mut command, "bundle-tool", &mut io::stdout());
    Ok(())
}

pub fn man(args: &ManArgs, command: Command) -> Result<()> {
    std::fs::create_dir_all(&args.out).with_context(|| format!("making {}", args.out.display()))?;
    clap_mangen::generate_to(command, &args.out).with_context(|| format!("writing into {}", args.out.display()))
}
