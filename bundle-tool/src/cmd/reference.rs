//! Shell completions and man pages, made from the command line itself so that they are never stale.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

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
    let mut command = command.disable_help_subcommand(true);
    // Gives every command below its name on a page of its own: bundle-tool-trust-rotate.
    command.build();
    pages(&args.out, &command)
}

fn pages(folder: &Path, command: &Command) -> Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let path = folder.join(format!("{name}.1"));
    let what = || format!("writing {}", path.display());
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page).with_context(what)?;
    // On every page: people look where they are.
    page.extend_from_slice(b".SH \"EXIT STATUS\"\n");
    for (code, meaning) in crate::EXIT_CODES {
        page.extend_from_slice(format!(".TP\n\\fB{code}\\fR\n{meaning}\n").as_bytes());
    }
    std::fs::write(&path, page).with_context(what)?;
    command.get_subcommands().try_for_each(|inner| pages(folder, inner))
}
