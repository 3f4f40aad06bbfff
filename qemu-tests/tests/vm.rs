//! Runs the scenario files in `scenarios/`, each as a test named `<variant>::<file>`.
//!
//! `cargo test -p qemu-tests --test vm -- power_cut` runs those whose name contains the word. Two machines at a time
//! unless told otherwise: an emulated guest keeps a processor busy.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use qemu_tests::run;
use qemu_tests::scenario::load_all;
use qemu_tests::site::Site;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(2);
    let scenarios = match load_all(&run::scenario_folder()) {
        Ok(all) => all,
        Err(e) => {
            eprintln!("{e:#}");
            return ExitCode::FAILURE;
        }
    };
    // Those that others start from go first; meanwhile the others would only wait.
    let (makers, users): (Vec<_>, Vec<_>) = scenarios.into_iter().partition(|(_, s)| s.leaves.is_some());
    let mut trials = Vec::new();
    for (name, scenario) in makers.into_iter().chain(users) {
        for variant in scenario.variants.clone() {
            let (name, scenario) = (name.clone(), scenario.clone());
            let trial_name = format!("{variant}::{name}");
            trials.push(Trial::test(trial_name, move || {
                let outcome = Site::find(&variant).and_then(|site| run::run(&site, &name, &scenario));
                outcome.map_err(|e| Failed::from(format!("{}: {e:#}", scenario.title)))
            }));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}
