//! `flipside`: the daemon and its command line.

fn main() -> std::process::ExitCode {
    updater::cli::main()
}
