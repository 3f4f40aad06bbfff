//! How many tests passed, from what test runners write. No files here: text in, counts out.
//!
//! What is not complete is an error, never a good result: a suite that stopped early has only shown that it stopped.

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

pub use super::junit::junit;

/// Counts of tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Ran and were well.
    pub passed: u64,
    /// Ran and were not, or should have run and did not.
    pub failed: u64,
    /// Were left out on purpose.
    pub skipped: u64,
}

impl Counts {
    /// Tests that count for the pass rate.
    pub const fn ran(self) -> u64 {
        self.passed + self.failed
    }

    /// Whether at least `min_bp` hundredths of a percent passed.
    pub const fn pass(self, min_bp: u64) -> bool {
        self.passed as u128 * 10_000 >= self.ran() as u128 * min_bp as u128
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} tests passed", self.passed, self.ran())?;
        if self.skipped > 0 { write!(f, ", {} skipped", self.skipped) } else { Ok(()) }
    }
}

/// Reads what `cargo test` printed: results from standard output, what cargo itself says from standard error.
///
/// # Errors
/// When a test binary ended without its result, or cargo did not start the ones after a failure.
pub fn cargo(stdout: &str, stderr: &str) -> Result<Counts> {
    let mut total = Counts::default();
    let (mut announced, mut failed_binaries) = (None, 0);
    for line in stdout.lines() {
        if let Some(number) = line.strip_prefix("running ").and_then(|rest| rest.split_once(" test")) {
            ensure!(announced.is_none(), "a test binary ended without its result (it crashed?)");
            announced = number.0.parse::<u64>().ok();
        } else if let Some(result) = line.strip_prefix("test result: ") {
            let field = |name: &str| {
                let number = result.split([';', '.']).find_map(|part| part.trim().strip_suffix(name));
                number.and_then(|number| number.trim().parse::<u64>().ok()).unwrap_or(0)
            };
            let counts = Counts { passed: field("passed"), failed: field("failed"), skipped: field("ignored") };
            let measured = field("measured");
            ensure!(
                announced.take() == Some(counts.ran() + counts.skipped + measured),
                "a test binary announced another number of tests than it ended with"
            );
            failed_binaries += u64::from(result.starts_with("FAILED"));
            total += counts;
        }
    }
    ensure!(announced.is_none(), "a test binary ended without its result (it crashed?)");
    let stopped = stderr.contains("error: test failed, to rerun") && !stderr.contains(" failed:\n");
    ensure!(!stopped, "cargo stopped at the first failure, so the other tests did not run: add --no-fail-fast");
    // One that crashed before its first test says nothing; only cargo knows that it was to run.
    let failed = stderr.lines().filter_map(failed_targets).max().unwrap_or(0);
    ensure!(failed <= failed_binaries, "{failed} test binaries failed, {failed_binaries} of them with a result");
    Ok(total)
}

/// `error: 2 targets failed:`, as cargo says it at the end.
fn failed_targets(line: &str) -> Option<u64> {
    let (number, rest) = line.strip_prefix("error: ")?.split_once(' ')?;
    matches!(rest, "target failed:" | "targets failed:").then(|| number.parse().ok())?
}

/// Reads the Test Anything Protocol (versions 12 to 14). Subtests are indented and belong to the test they stand in.
///
/// # Errors
/// When there is no plan, or the run was given up (`Bail out!`).
pub fn tap(text: &str) -> Result<Counts> {
    let mut counts = Counts::default();
    let mut plan = None;
    for line in text.lines() {
        if let Some(why) = line.strip_prefix("Bail out!") {
            bail!("the test run was given up:{why}");
        }
        if let Some(last) = line.strip_prefix("1..") {
            let number = last.split([' ', '#']).next().unwrap_or_default();
            ensure!(plan.is_none(), "two plans (1..N)");
            plan = number.parse::<u64>().ok();
            ensure!(plan.is_some(), "the plan {line:?} is not a number");
        } else if let Some(well) = test_line(line) {
            let directive = line.split_once('#').map_or("", |(_, rest)| rest.trim()).to_ascii_uppercase();
            if directive.starts_with("SKIP") || directive.starts_with("TODO") {
                counts.skipped += 1;
            } else if well {
                counts.passed += 1;
            } else {
                counts.failed += 1;
            }
        }
    }
    let Some(plan) = plan else { bail!("no plan (1..N), so nobody knows whether all tests ran") };
    let seen = counts.ran() + counts.skipped;
    ensure!(seen <= plan, "{seen} tests where {plan} were planned");
    // What was planned and did not come counts against the rate.
    counts.failed += plan - seen;
    Ok(counts)
}

/// Whether a line is a test's, and whether it went well.
fn test_line(line: &str) -> Option<bool> {
    let end = |rest: &str| rest.is_empty() || rest.starts_with(' ');
    match line.strip_prefix("not ok") {
        Some(rest) => end(rest).then_some(false),
        None => line.strip_prefix("ok").filter(|rest| end(rest)).map(|_| true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(passed: u64, failed: u64, skipped: u64) -> Counts {
        Counts { passed, failed, skipped }
    }

    /// As cargo 1.95 prints it.
    const CARGO: &str = "
running 3 tests
test a ... ok
test c ... ignored, slow
test b ... FAILED

failures:

---- b stdout ----
running with scissors

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 2.27s

running 1 test
test d ... ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.07s
";

    #[test]
    fn cargo_output_is_summed_over_its_binaries() {
        let all = "error: test failed, to rerun pass `--lib`\nerror: 1 target failed:\n    `--lib`\n";
        assert_eq!(cargo(CARGO, all).unwrap(), counts(2, 1, 1));
        let stopped = "error: test failed, to rerun pass `--lib`\n";
        assert!(cargo(CARGO, stopped).unwrap_err().to_string().contains("--no-fail-fast"));
        assert_eq!(cargo("", "").unwrap(), counts(0, 0, 0));
    }

    #[test]
    fn a_crashed_test_binary_is_no_result() {
        let crash = &CARGO[..CARGO.rfind("test result").unwrap()];
        assert!(cargo(crash, "").unwrap_err().to_string().contains("crashed"));
        let between = CARGO.replacen("test result: FAILED. 1 passed; 1 failed; 1 ignored;", "oops", 1);
        assert!(cargo(&between, "").unwrap_err().to_string().contains("crashed"));
        let fewer = CARGO.replacen("running 1 test", "running 2 tests", 1);
        assert!(cargo(&fewer, "").unwrap_err().to_string().contains("another number"));
        // Before it said how many tests it has.
        let two = "error: test failed, to rerun pass `--lib`\nerror: 2 targets failed:\n    `--lib`\n    `--test x`\n";
        assert!(cargo(CARGO, two).unwrap_err().to_string().contains("2 test binaries failed, 1 of them"));
    }

    #[test]
    fn tap_knows_skips_todos_and_subtests() {
        let text = "TAP version 14\n1..6\nok 1 - one\nnot ok 2 - two # note\n    not ok 1 - inner\n    1..1\nok 3 # SKIP no net\n\
                    not ok 4 # todo later\nok\nokay then\n# ok comment\nnot ok\n";
        assert_eq!(tap(text).unwrap(), counts(2, 2, 2));
        assert_eq!(tap("ok 1\n1..1\n").unwrap(), counts(1, 0, 0));
        assert_eq!(tap("1..0 # SKIP nothing to do\n").unwrap(), counts(0, 0, 0));
    }

    #[test]
    fn an_incomplete_tap_run_does_not_pass() {
        assert_eq!(tap("1..4\nok 1\nok 2\n").unwrap(), counts(2, 2, 0));
        assert!(tap("ok 1\n").unwrap_err().to_string().contains("plan"));
        assert!(tap("1..2\nok 1\nBail out! no disk\n").unwrap_err().to_string().contains("no disk"));
        assert!(tap("1..1\nok 1\nok 2\n").is_err());
        assert!(tap("1..x\n").is_err());
    }

    #[test]
    fn the_rate_is_exact_at_its_edge() {
        assert!(counts(95, 5, 100).pass(9500) && !counts(94, 6, 0).pass(9500));
        assert!(counts(949, 50, 0).pass(9499) && !counts(949, 50, 0).pass(9500));
        assert!(counts(0, 0, 0).pass(10_000), "nothing ran: judged elsewhere");
    }
}
