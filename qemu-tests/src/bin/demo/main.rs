//! Shows what Flipside does to somebody who has never seen it: a virtual appliance takes a good release, then a bad one.
//!
//! Everything is real: the images of `make images`, releases made with bundle-tool, a web server on this machine's
//! loopback interface, and an appliance in QEMU that nobody touches. Only the waiting is shortened: the appliance's
//! timer, which looks once an hour, is made impatient.
//!
//! usage: demo [--keep | --off] [--variant systemd-boot|grub|uboot]
//!   --keep leaves the appliance running at the end, to look around (default on a terminal); --off switches it off

mod progress;
mod story;

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

const USAGE: &str = "usage: demo [--keep | --off] [--variant systemd-boot|grub|uboot]";

fn main() -> ExitCode {
    let on_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    let (mut keep, mut variant) = (on_terminal, "systemd-boot".to_owned());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match (argument.as_str(), arguments.len()) {
            ("--keep", _) => keep = true,
            ("--off", _) => keep = false,
            ("--variant", 1..) => variant = arguments.next().unwrap_or_default(),
            (other, _) => {
                eprintln!("demo: {other}: unknown\n{USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    match story::tell(&variant, keep) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("\ndemo: {e:#}");
            ExitCode::FAILURE
        }
    }
}
