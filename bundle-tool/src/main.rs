//! `bundle-tool`: a release engineer's day with Flipside.
//!
//! Keys, trust roots, bundles, signatures, the web root and approvals. Each subcommand is a module with `Args` and
//! `run`; facts go to standard output (`--json` for machines), progress and errors to standard error.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

mod bychunks;
mod cmd;
mod content;
mod crew;
mod document;
mod files;
mod gate;
mod output;
mod place;
mod progress;
mod recipe;
mod refusal;
mod release;
mod text;
mod webroot;

/// What the exit codes mean; also in every man page and in the guide (a test compares).
const EXIT_CODES: [(u8, &str); 4] = [
    (0, "done"),
    (1, "failed: a file, a disk, a contradiction in what was asked for"),
    (2, "wrong command line"),
    (3, "refused: a signature, a format, a rule, a gate; the reason code is on standard error"),
];

fn exit_codes() -> String {
    let lines = EXIT_CODES.iter().map(|(code, meaning)| format!("\n  {code}  {meaning}"));
    format!("Exit codes:{}", lines.collect::<String>())
}

/// Packages, signs, publishes and approves Flipside releases.
#[derive(Parser)]
#[command(name = "bundle-tool", version, after_help = exit_codes(), max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Keygen(cmd::keygen::Args),
    Trust(cmd::trust::Args),
    Build(cmd::build::Args),
    Sign(cmd::sign::Args),
    Verify(cmd::verify::Args),
    Inspect(cmd::inspect::Args),
    Extract(cmd::extract::Args),
    Delta(cmd::delta::Args),
    Diff(cmd::diff::Args),
    Apply(cmd::apply::Args),
    Publish(cmd::publish::Args),
    Approve(cmd::approve::Args),
    Recall(cmd::recall::Args),
    Release(cmd::release::Args),
    Serve(cmd::serve::Args),
    Completions(cmd::reference::CompletionArgs),
    Man(cmd::reference::ManArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Keygen(args) => cmd::keygen::run(&args),
        Command::Trust(args) => cmd::trust::run(&args),
        Command::Build(args) => cmd::build::run(&args),
        Command::Sign(args) => cmd::sign::run(&args),
        Command::Verify(args) => cmd::verify::run(&args),
        Command::Inspect(args) => cmd::inspect::run(&args),
        Command::Extract(args) => cmd::extract::run(&args),
        Command::Delta(args) => cmd::delta::run(&args),
        Command::Diff(args) => cmd::diff::run(&args),
        Command::Apply(args) => cmd::apply::run(&args),
        Command::Publish(args) => cmd::publish::run(&args),
        Command::Approve(args) => cmd::approve::run(&args),
        Command::Recall(args) => cmd::recall::run(&args),
        Command::Release(args) => cmd::release::run(&args),
        Command::Completions(args) => cmd::reference::completions(&args, Cli::command()),
        Command::Man(args) => cmd::reference::man(&args, Cli::command()),
        Command::Serve(args) => cmd::serve::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The whole chain, once, here: no module prints errors of its own.
            // It may quote what a stranger wrote; line ends are ours, of messages that show a place in a file.
            let lines = format!("{error:#}").lines().map(output::harmless).collect::<Vec<_>>();
            eprintln!("bundle-tool: {}", lines.join("\n"));
            if let Some(reason) = refusal::reason_of(&error) {
                eprintln!("  refused: {reason} ({})", reason.sentence());
                return ExitCode::from(3);
            }
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guide_has_the_same_exit_codes() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/src/releases.md");
        let page = std::fs::read_to_string(page).unwrap().replace(['[', ']'], "").replace("(reasons.md)", "");
        for (code, meaning) in EXIT_CODES {
            assert!(page.contains(&format!("| {code} | {meaning} |")), "{code}");
        }
    }

    #[test]
    fn every_command_that_prints_facts_prints_them_as_json() {
        fn check(command: &clap::Command) {
            let leaf = command.get_subcommands().next().is_none();
            let json = command.get_arguments().any(|arg| arg.get_id() == "json");
            // These write scripts and pages, or serve until they are stopped.
            let without = ["completions", "man", "serve"].contains(&command.get_name());
            assert!(!leaf || json != without, "{}", command.get_name());
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn every_command_shows_an_example() {
        fn check(command: &clap::Command) {
            let leaf = command.get_subcommands().next().is_none();
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(!leaf || help.contains("Example"), "{} has no example", command.get_name());
            command.get_subcommands().for_each(check);
        }
        let command = Cli::command();
        command.clone().debug_assert();
        check(&command);
    }
}
