//! Release gates: a command and what it must show before a release may be built.
//!
//! `[[gate]]` entries of `bundle.toml` as they are written, and checked. Parsing only; `run` starts commands, `verdict`
//! judges what came of them.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bundle::document::is_name;
use serde::{Deserialize, Serialize};

use crate::text;

pub mod benchmarks;
pub mod counts;
mod junit;
pub mod run;
pub mod verdict;

/// Gates a recipe may have: their results travel in the manifest, which has at most 1 MiB.
const MAX_GATES: usize = 64;

/// A command that hangs has failed. Long enough for a test suite on real hardware.
const DEFAULT_TIMEOUT: &str = "1h";

/// What part of a release a gate belongs to; gates run in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Makes the images.
    Build,
    /// Tests.
    Test,
    /// Licences, known vulnerabilities, whatever a person would check on paper.
    Audit,
    /// Measures.
    Benchmark,
}

impl Stage {
    /// As in the recipe.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Test => "test",
            Self::Audit => "audit",
            Self::Benchmark => "benchmark",
        }
    }
}

/// In what form a test suite says what passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TestFormat {
    /// XML files, as nearly every test runner can write.
    Junit,
    /// What `cargo test` prints.
    Cargo,
    /// Test Anything Protocol, versions 12 to 14.
    Tap,
}

/// A gate as it stands in the recipe.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateRecipe {
    name: String,
    run: String,
    stage: Option<Stage>,
    timeout: Option<String>,
    tests: Option<TestFormat>,
    report: Option<PathBuf>,
    min_pass_rate: Option<f64>,
    benchmarks: Option<PathBuf>,
    tolerance: Option<f64>,
}

/// A gate whose settings fit together.
#[derive(Debug, Clone)]
pub struct Gate {
    /// Its name.
    pub name: String,
    /// When it runs.
    pub stage: Stage,
    /// What `sh` runs, in the folder of the recipe.
    pub run: String,
    /// After that long it has failed.
    pub timeout: Duration,
    /// How many tests must pass, if it runs tests.
    pub tests: Option<Tests>,
    /// What must not be worse than before, if it measures.
    pub benchmarks: Option<Benchmarks>,
}

/// Tests that a gate runs.
#[derive(Debug, Clone)]
pub struct Tests {
    /// How the result is written.
    pub format: TestFormat,
    /// Where; none: on standard output.
    pub report: Option<PathBuf>,
    /// Hundredths of a percent that must pass, of the tests that were not skipped.
    pub min_pass_bp: u64,
}

/// Measures that a gate takes.
#[derive(Debug, Clone)]
pub struct Benchmarks {
    /// The JSON file it writes.
    pub report: PathBuf,
    /// By how many percent a value may be worse than in the release before.
    pub tolerance: f64,
}

/// The gates of a recipe in the order in which they run: by stage, then as written.
pub fn gates(recipes: &[GateRecipe]) -> Result<Vec<Gate>> {
    ensure!(recipes.len() <= MAX_GATES, "{} gates, at most {MAX_GATES} are possible", recipes.len());
    let check = |recipe: &GateRecipe| gate(recipe).with_context(|| format!("gate {:?}", recipe.name));
    let mut gates = recipes.iter().map(check).collect::<Result<Vec<_>>>()?;
    gates.sort_by_key(|gate| gate.stage);
    for (n, gate) in gates.iter().enumerate() {
        ensure!(gates.iter().skip(n + 1).all(|other| other.name != gate.name), "two gates {:?}", gate.name);
    }
    Ok(gates)
}

fn gate(recipe: &GateRecipe) -> Result<Gate> {
    ensure!(is_name(&recipe.name), "a gate's name is like unit or cve-audit");
    ensure!(!recipe.run.trim().is_empty(), "`run` is empty: a gate that runs nothing shows nothing");
    let timeout = text::seconds(recipe.timeout.as_deref().unwrap_or(DEFAULT_TIMEOUT))?;
    Ok(Gate {
        name: recipe.name.clone(),
        stage: recipe.stage.unwrap_or(if recipe.benchmarks.is_some() { Stage::Benchmark } else { Stage::Test }),
        run: recipe.run.clone(),
        timeout: Duration::from_secs(timeout),
        tests: tests(recipe)?,
        benchmarks: benchmarks(recipe)?,
    })
}

fn tests(recipe: &GateRecipe) -> Result<Option<Tests>> {
    let Some(format) = recipe.tests else {
        ensure!(recipe.report.is_none(), "`report` says where test results are; say what they are with `tests`");
        ensure!(recipe.min_pass_rate.is_none(), "`min_pass_rate` needs `tests`: \"junit\", \"cargo\" or \"tap\"");
        return Ok(None);
    };
    ensure!(
        format != TestFormat::Junit || recipe.report.is_some(),
        "`tests = \"junit\"` needs `report`: the XML file or the folder of XML files that the command writes"
    );
    let rate = recipe.min_pass_rate.unwrap_or(95.0);
    ensure!((0.0..=100.0).contains(&rate), "min_pass_rate is a percentage from 0 to 100");
    Ok(Some(Tests { format, report: recipe.report.clone(), min_pass_bp: (rate * 100.0).ceil() as u64 }))
}

fn benchmarks(recipe: &GateRecipe) -> Result<Option<Benchmarks>> {
    let Some(report) = recipe.benchmarks.clone() else {
        ensure!(recipe.tolerance.is_none(), "`tolerance` needs `benchmarks`: the JSON file that the command writes");
        return Ok(None);
    };
    let tolerance = recipe.tolerance.unwrap_or(0.0);
    ensure!((0.0..=1000.0).contains(&tolerance), "tolerance is a percentage from 0 to 1000");
    Ok(Some(Benchmarks { report, tolerance }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Recipes {
        gate: Vec<GateRecipe>,
    }

    fn read(text: &str) -> Result<Vec<Gate>> {
        gates(&toml::from_str::<Recipes>(text)?.gate)
    }

    #[test]
    fn gates_run_by_stage_and_have_the_documented_defaults() {
        let gates = read(
            r#"
            gate = [
                { name = "speed", run = "make bench", benchmarks = "bench.json" },
                { name = "unit", run = "cargo test", tests = "cargo" },
                { name = "cve", run = "audit", stage = "audit", timeout = "5m" },
                { name = "image", run = "make", stage = "build" },
                { name = "more", run = "true" },
            ]"#,
        );
        let gates = gates.unwrap();
        let names = gates.iter().map(|gate| gate.name.as_str()).collect::<Vec<_>>();
        assert_eq!(names, ["image", "unit", "more", "cve", "speed"]);
        assert_eq!(gates[1].tests.as_ref().unwrap().min_pass_bp, 9500);
        assert_eq!(gates[4].benchmarks.as_ref().unwrap().tolerance, 0.0);
        assert_eq!((gates[0].timeout.as_secs(), gates[3].timeout.as_secs()), (3600, 300));
    }

    #[test]
    fn settings_that_say_nothing_are_errors() {
        for (bad, why) in [
            (r#"name = "a b", run = "x""#, "name"),
            (r#"name = "a", run = " ""#, "empty"),
            (r#"name = "a", run = "x", tests = "junit""#, "report"),
            (r#"name = "a", run = "x", min_pass_rate = 90"#, "needs `tests`"),
            (r#"name = "a", run = "x", report = "r""#, "`tests`"),
            (r#"name = "a", run = "x", tests = "tap", min_pass_rate = 101"#, "percentage"),
            (r#"name = "a", run = "x", tolerance = 1"#, "needs `benchmarks`"),
            (r#"name = "a", run = "x", benchmarks = "b", tolerance = -1"#, "percentage"),
            (r#"name = "a", run = "x", benchmarks = "b", tolerance = nan"#, "percentage"),
            (r#"name = "a", run = "x", timeout = "soon""#, "duration"),
            (r#"name = "a", run = "x", min_pass = 3"#, "unknown field"),
            (r#"name = "a", run = "x" }, { name = "a", run = "y""#, "two gates"),
        ] {
            let error = read(&format!("gate = [{{ {bad} }}]")).unwrap_err();
            assert!(format!("{error:#}").contains(why), "{bad}: {error:#}");
        }
    }
}
