//! `bundle-tool release`: gates, then build, sign, publish; goes on where it was interrupted.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde_json::json;

use crate::cmd::publish::Published;
use crate::gate::run::Interrupt;
use crate::output;
use crate::webroot::WebRoot;

mod attest;
mod gates;
mod inputs;
mod plan;
mod ship;
mod state;

use plan::Plan;
use state::{Outcome, Step};

const EXAMPLE: &str = r#"Gates in bundle.toml, beside what `build` reads:
  [[gate]]
  name = "unit"
  run = "cargo test --no-fail-fast"   # with sh, in the folder of bundle.toml
  tests = "cargo"                     # or "tap", or "junit" with report = "junit.xml"
  min_pass_rate = 95                  # percent; this is the default

  [[gate]]
  name = "cve"
  stage = "audit"                     # build, test, audit, benchmark: the order in which they run
  run = "cargo deny check"            # must end with exit status 0
  timeout = "10m"                     # default 1h

  [[gate]]
  name = "speed"
  run = "make bench"
  benchmarks = "target/bench.json"    # compared with the release before
  tolerance = 2                       # percent worse that is still fine; default 0

Example:
  bundle-tool release bundle.toml --out demo-2.4.1.bundle --key keys/release.pem \
      --root /srv/updates --channel stable --deltas 3

Interrupted or failed, the same command goes on where it stopped. A gate that can not run has failed."#;

/// Run the gates of a recipe, then build, sign and publish
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The recipe
    #[arg(default_value = "bundle.toml")]
    recipe: PathBuf,
    /// The bundle to write; it appears when it is complete
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Private release key that signs; several times for several. Without one, sign the bundle elsewhere (see `sign`)
    /// and run this again with --trust
    #[arg(long, value_name = "KEY.pem")]
    key: Vec<PathBuf>,
    /// Trust root whose release threshold the bundle must reach (default: all keys given)
    #[arg(long, value_name = "FILE")]
    trust: Option<PathBuf>,
    /// Folder a web server serves, to publish there
    #[arg(long, value_name = "DIR", requires_all = ["channel", "key"])]
    root: Option<PathBuf>,
    /// The channel to publish in
    #[arg(long, requires = "root")]
    channel: Option<String>,
    /// Make deltas from that many of the releases before
    #[arg(long, value_name = "N", default_value_t = 0, requires = "root")]
    deltas: usize,
    /// Name only the newest N releases in the channel index (see `publish`)
    #[arg(long, value_name = "N", requires = "root")]
    keep: Option<usize>,
    /// Bundle of the release before, to compare benchmarks with (default: the newest in the channel that has them)
    #[arg(long, value_name = "FILE")]
    previous: Option<PathBuf>,
    /// UNSAFE: release without this gate having passed. Name and reason are signed into the manifest for all to see
    #[arg(long, value_name = "NAME=WHY", value_parser = crate::text::pair)]
    skip_gate: Vec<(String, String)>,
    /// File that remembers what is done (default: beside the recipe, ending in .release.json)
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Forget what is done and begin again
    #[arg(long)]
    fresh: bool,
    /// zstd level, 1 to 22 (default 19)
    #[arg(long)]
    level: Option<i32>,
    /// Threads (default: all cores, as far as memory allows; see `build` and `delta`)
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Version instead of the recipe's
    #[arg(long, value_name = "SEMVER")]
    release_version: Option<semver::Version>,
    /// Counter instead of the recipe's
    #[arg(long, value_name = "N")]
    counter: Option<u64>,
    /// No progress
    #[arg(long, short)]
    quiet: bool,
    /// Print facts as JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    /// The state file.
    fn state(&self) -> PathBuf {
        self.state.clone().unwrap_or_else(|| self.recipe.with_extension("release.json"))
    }

    /// The folder of the recipe, in which gates run.
    fn folder(&self) -> &Path {
        self.recipe.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }
}

pub fn run(args: &Args) -> Result<()> {
    let interrupt = Interrupt::watch()?;
    let mut plan = Plan::make(args)?;
    for gate in plan.gates.clone() {
        gates::pass(args, &mut plan, &gate, &interrupt)?;
    }
    // From here on nothing is left behind by simply ending: files appear complete or not at all.
    interrupt.at_once();
    let digest = ship::package(args, &mut plan)?;
    let signed = ship::sign(args, &mut plan, digest)?;
    let published = if signed { ship::publish(args, &mut plan, digest)? } else { None };
    if args.json {
        return output::json(&json!({
            "bundle": args.out, "manifest_sha256": digest, "version": plan.version, "counter": plan.counter,
            "signed": signed, "published": published.as_ref().map(Published::facts), "steps": plan.state.steps(),
        }));
    }
    match published {
        Some(published) => published.print(&WebRoot::new(args.root.as_deref().unwrap_or(Path::new("")))),
        None => println!("release {} (counter {}), manifest {digest}", plan.version, plan.counter),
    }
    Ok(())
}

/// A line on standard error for a step that has ended.
fn say(args: &Args, step: &Step, again: bool) {
    if args.quiet {
        return;
    }
    let outcome = match step.outcome {
        Outcome::Passed if again => "passed before",
        Outcome::Passed => "passed",
        Outcome::Failed => "FAILED",
        Outcome::Skipped => "SKIPPED",
    };
    let shown = match (&step.shown.tests, step.shown.benchmarks.len()) {
        (Some(counts), _) => counts.to_string(),
        (None, 0) => step.why.clone(),
        (None, n) => match &step.shown.compared_with {
            Some(release) => format!("{n} benchmarks, none worse than {release}"),
            None => format!("{n} benchmarks, the first of their kind"),
        },
    };
    eprintln!("{:10} {:20} {outcome:13} {:7.1} s  {shown}", step.stage, step.name, step.seconds);
}

/// Names in `--skip-gate` that are no gate are mistakes.
fn check_skips(args: &Args, gates: &[crate::gate::Gate]) -> Result<()> {
    for (name, _) in &args.skip_gate {
        ensure!(gates.iter().any(|gate| gate.name == *name), "--skip-gate {name}: the recipe has no such gate");
    }
    Ok(())
}
