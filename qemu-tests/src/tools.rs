//! What unit tests need of other people's tools. Tests only.

use std::io::Write as _;
use std::process::Command;

/// Are they all here? Says loudly what is missing; with `FLIPSIDE_NO_SKIP` set, as `make unit` does, that is a failure.
pub fn present(tools: &[&str]) -> bool {
    let missing: Vec<_> = tools.iter().filter(|tool| Command::new(tool).arg("--version").output().is_err()).collect();
    let required = std::env::var_os("FLIPSIDE_NO_SKIP").is_some_and(|set| !set.is_empty());
    assert!(missing.is_empty() || !required, "skipped: no {missing:?} here (scripts/install-deps.sh vm)");
    if !missing.is_empty() {
        // Not by `eprintln!`, which the test harness keeps to itself when a test passes.
        let _ = writeln!(std::io::stderr().lock(), "SKIPPED: no {missing:?} here (scripts/install-deps.sh vm)");
    }
    missing.is_empty()
}
