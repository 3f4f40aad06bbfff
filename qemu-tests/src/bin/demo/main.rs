//! Shows what Flipside does to somebody who has never seen it: a virtual appliance takes a good release, then a bad one.
//!
//! Everything is real: the images of `make images`, releases made with bundle-tool, a web server on this machine's
//! loopback interface, and an appliance in QEMU that nobody touches. Only the waiting is shortened: the appliance's
//! timer, which looks once an hour, is made impatient.
//!
//! usage: demo [--keep]     --keep leaves the appliance running at the end, to look around

mod progress;
mod story;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut keep = false;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--keep" => keep = true,
            other => {
                eprintln!("demo: {other}: unknown\nusage: demo [--keep]");
                return ExitCode::from(2);
            }
        }
    }
    match story::tell(keep) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("\ndemo: {e:#}");
            ExitCode::FAILURE
        }
    }
}
