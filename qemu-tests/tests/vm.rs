//! Runs the scenario files in `scenarios/`, each as a test named `<variant>::<file>`.
//!
//! `cargo test -p qemu-tests --test vm -- power-cut` runs those whose name contains the word. Three machines at a time
//! unless told otherwise: an emulated guest keeps a processor busy, and one of them waits for a watchdog or a deadline.
//!
//! What `by_default` of a scenario leaves out is "ignored" in the words of Rust's test runners: shown, not run, unless
//! `--include-ignored` (all) or `--ignored` (just these) is given.

use std::process::ExitCode;
use std::time::Instant;

use libtest_mimic::{Arguments, Failed, Trial};
use qemu_tests::scenario::load_all;
use qemu_tests::site::Site;
use qemu_tests::{firmware, run};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(3);
    let scenarios = match load_all(&run::scenario_folder()) {
        Ok(all) => all,
        Err(e) => {
            eprintln!("{e:#}");
            return ExitCode::FAILURE;
        }
    };
    // Those that others start from go first; meanwhile the others would only wait.
    let (makers, users): (Vec<_>, Vec<_>) = scenarios.into_iter().partition(|(_, s)| s.leaves.is_some());
    let (mut trials, mut left_out) = (Vec::new(), Vec::new());
    for (name, scenario) in makers.into_iter().chain(users) {
        for variant in scenario.variants.clone() {
            let (name, scenario) = (name.clone(), scenario.clone());
            let trial_name = format!("{variant}::{name}");
            let by_default = scenario.runs_by_default(&variant);
            if !by_default {
                left_out.push(trial_name.clone());
            }
            let trial = Trial::test(trial_name, move || {
                let outcome = Site::find(&variant).and_then(|site| run::run(&site, &name, &scenario));
                outcome.map_err(|e| Failed::from(format!("{}: {e:#}", scenario.title)))
            });
            trials.push(trial.with_ignored_flag(!by_default));
        }
    }
    let start = Instant::now();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list {
        let (scenarios, boots) = run::totals();
        let hung = match firmware::bites() {
            0 => String::new(),
            n => format!(", {n} times an emulated firmware hung and was started again (NOTE above)"),
        };
        eprintln!("{scenarios} scenarios passed, {boots} boots, {} s{hung}\n", start.elapsed().as_secs());
    }
    if !arguments.include_ignored && !arguments.ignored && !arguments.list && conclusion.num_ignored > 0 {
        tell_left_out(&left_out);
    }
    // As `make vm-test SCENARIO=word` asks; a filter alone may be meant for other tests of the workspace.
    let ran = conclusion.num_passed + conclusion.num_failed;
    if let Some(word) = arguments.filter.as_deref().filter(|_| arguments.include_ignored && !arguments.list && ran == 0)
    {
        eprintln!("no scenario has {word:?} in its name; `cargo test -p qemu-tests --test vm -- --list` tells all");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

/// Says what did not run and how it does: a green line must not hide it.
fn tell_left_out(names: &[String]) {
    eprintln!("NOT RUN: {} of the scenarios (`by_default` in their files leaves them out):", names.len());
    for name in names {
        eprintln!("  {name}");
    }
    eprintln!("`make vm-test ALL=1` runs all; `make vm-test SCENARIO={}` runs one.\n", names.first().map_or("", |n| n));
}
