//! Takes one gate of a release: from the state, by skipping it, or by running it.

use anyhow::{Context as _, Result, bail};
use bundle::digest::Digest;
use bundle::reason::Reason;
use jiff::Timestamp;
use std::time::Instant;

use super::plan::Plan;
use super::state::{Outcome, Step};
use super::{Args, attest, inputs, say};
use crate::cmd::publish;
use crate::gate::run::{self, Interrupt, Logs};
use crate::gate::verdict::{self, Before, Reports, Shown};
use crate::gate::{Gate, Stage};
use crate::refusal::Refused;
use crate::webroot::WebRoot;

/// Passes the gate, or fails with `gate_failed`.
pub fn pass(args: &Args, plan: &mut Plan, gate: &Gate, interrupt: &Interrupt) -> Result<()> {
    // What was built may be another thing now; a test of the old one says nothing.
    let input = if gate.stage == Stage::Build { None } else { Some(inputs::images(&plan.sources)?) };
    if let Some((_, why)) = args.skip_gate.iter().find(|(name, _)| *name == gate.name) {
        eprintln!("WARNING: gate {} is skipped ({why}). The signed manifest will say so.", gate.name);
        let step = step(gate, Outcome::Skipped, input, why.clone());
        say(args, &step, false);
        return plan.state.record(step);
    }
    if let Some(step) = plan.state.passed(gate.stage.name(), &gate.name, input) {
        say(args, step, true);
        return Ok(());
    }
    let mut step = step(gate, Outcome::Passed, input, String::new());
    let logs_folder = args.state().with_extension("logs");
    std::fs::create_dir_all(&logs_folder).with_context(|| format!("making {}", logs_folder.display()))?;
    let logs = Logs::new(&std::path::absolute(logs_folder)?, &gate.name);
    let started = Instant::now();
    let result = attempt(args, plan, gate, &logs, interrupt);
    // Somebody pressed Ctrl-C: no outcome, so nothing to write down.
    interrupt.check()?;
    step.seconds = (started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
    match result {
        Ok(shown) => {
            step.shown = shown;
            say(args, &step, false);
            plan.state.record(step)
        }
        Err(error) => {
            (step.outcome, step.why) = (Outcome::Failed, format!("{error:#}"));
            say(args, &step, false);
            eprint!("{}", logs.tail());
            eprintln!("  its output: {} and .err", logs.stdout.display());
            let why = format!("gate {}: {}", gate.name, step.why);
            plan.state.record(step)?;
            Err(Refused(Reason::GateFailed, why).into())
        }
    }
}

fn step(gate: &Gate, outcome: Outcome, input: Option<Digest>, why: String) -> Step {
    Step {
        stage: gate.stage.name().to_owned(),
        name: gate.name.clone(),
        outcome,
        started: Timestamp::now(),
        seconds: 0.0,
        input,
        output: None,
        shown: Shown::default(),
        why,
    }
}

fn attempt(args: &Args, plan: &Plan, gate: &Gate, logs: &Logs, interrupt: &Interrupt) -> Result<Shown> {
    // Before the command runs: an hour of benchmarks for nothing helps nobody.
    let before = if gate.benchmarks.is_some() { before(args, plan, &gate.name)? } else { None };
    let folder = args.folder();
    let reports = Reports::before(gate, folder);
    let facts = [
        ("FLIPSIDE_COMPATIBLE", plan.manifest.compatible.clone()),
        ("FLIPSIDE_VERSION", plan.version.to_string()),
        ("FLIPSIDE_COUNTER", plan.counter.to_string()),
    ];
    let ended = run::run(gate, folder, &facts, logs, interrupt)?;
    verdict::judge(gate, ended, logs, folder, &reports, before.as_ref())
}

/// What to compare with: the bundle that was named, else the newest earlier release of the channel that measured this.
///
/// Not simply the newest: a release that skipped the gate would else end the comparison for ever.
fn before(args: &Args, plan: &Plan, gate: &str) -> Result<Option<Before>> {
    let Some((keys, threshold)) = &plan.believed else {
        bail!("nothing to compare benchmarks with: the releases before are believed by --key or --trust, give one");
    };
    let open = |path: &std::path::Path| {
        publish::open(path, keys, *threshold).with_context(|| format!("the release before: {}", path.display()))
    };
    if let Some(path) = &args.previous {
        let (manifest, ..) = open(path)?;
        let found = attest::before(&manifest, gate);
        return found.map(Some).with_context(|| format!("{} has no benchmarks of this gate", path.display()));
    }
    let Some(root) = &args.root else {
        bail!(
            "nothing to compare benchmarks with: give --previous, or --root and --channel (an empty one is a beginning)"
        );
    };
    let web = WebRoot::new(root);
    let releases = plan.channel.iter().flat_map(|channel| &channel.releases);
    for release in releases.filter(|each| each.release.counter < plan.counter) {
        let path = web.file(&WebRoot::bundle_url(&release.release.manifest_sha256));
        let (manifest, digest, _) = open(&path)?;
        anyhow::ensure!(digest == release.release.manifest_sha256, "{} is another bundle", path.display());
        if let Some(before) = attest::before(&manifest, gate) {
            return Ok(Some(before));
        }
    }
    Ok(None)
}
