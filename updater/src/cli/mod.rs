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
mod help;
mod history;
mod output;
mod read;
mod selftest;
mod sim;
mod status;
mod text;
mod words;

use std::process::ExitCode;

use args::{Args, Read};
use exit::{Exit, Failed};
use output::Output;

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let args = match args::read(std::env::args_os().skip(1)) {
        Ok(Read::Run(args)) => args,
        Ok(Read::Print(text)) => {
            output::print(text.trim_end());
            return ExitCode::SUCCESS;
        }
        Err(wrong) => {
            output::note(&wrong.to_string());
            return ExitCode::from(Exit::Usage as u8);
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
