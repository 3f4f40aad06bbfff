//! The command line: a client of the daemon, and a reader of the device where no bus is.
//!
//! Prints to standard output and standard error; everything else goes through the modules it calls.

pub mod args;
mod bar;
mod commands;
mod config;
mod evidence;
pub mod exit;
mod follow;
mod history;
mod output;
mod read;
mod selftest;
mod sim;
mod status;
mod text;

use std::process::ExitCode;

use clap::Parser;

pub use args::Args;
use exit::{Exit, Failed};
use output::Output;

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(e) => {
            let _ = e.print();
            // Help and version are asked for; everything else is a wrong command line.
            return if e.use_stderr() { ExitCode::from(Exit::Usage as u8) } else { ExitCode::SUCCESS };
        }
    };
    let output = Output { json: args.json };
    match run(args, &output) {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(failed) => {
            output.failed(&failed);
            ExitCode::from(failed.exit as u8)
        }
    }
}

fn run(args: Args, output: &Output) -> Result<Exit, Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failed::plain(Exit::Failed, format!("starting: {e}")))?;
    runtime.block_on(commands::run(args, output))
}
