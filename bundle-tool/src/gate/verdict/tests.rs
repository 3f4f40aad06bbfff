//! Gates that pass, and above all gates that must not.

use std::time::Duration;

use super::*;
use crate::gate::{Benchmarks, Stage};

/// A gate's folder after its command has run.
struct Bench {
    dir: tempfile::TempDir,
    gate: Gate,
    ended: Ended,
    stdout: &'static str,
}

impl Bench {
    fn new(tests: Option<TestFormat>, stdout: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let report = (tests == Some(TestFormat::Junit)).then(|| PathBuf::from("report"));
        let tests = tests.map(|format| Tests { format, report, min_pass_bp: 9500 });
        let timeout = Duration::from_secs(1);
        let gate = Gate { name: "g".into(), stage: Stage::Test, run: "x".into(), timeout, tests, benchmarks: None };
        Self { dir, gate, ended: Ended::Exit(0), stdout }
    }

    fn measuring(report: &str) -> Self {
        let mut bench = Self::new(None, "");
        bench.gate.benchmarks = Some(Benchmarks { report: "bench.json".into(), tolerance: 10.0 });
        bench.write("bench.json", report);
        bench
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn judge_after(&self, reports: &Reports, before: Option<&Before>) -> Result<Shown, String> {
        let logs = Logs::new(self.dir.path(), "g");
        fs::write(&logs.stdout, self.stdout).unwrap();
        fs::write(&logs.stderr, "").unwrap();
        judge(&self.gate, self.ended, &logs, self.dir.path(), reports, before).map_err(|error| format!("{error:#}"))
    }

    fn judge(&self) -> Result<Shown, String> {
        self.judge_after(&Reports(BTreeMap::new()), None)
    }
}

#[track_caller]
fn fails(result: Result<Shown, String>, why: &str) {
    let error = result.unwrap_err();
    assert!(error.contains(why), "{error}");
}

#[test]
fn a_plain_gate_is_its_exit_status() {
    let mut bench = Bench::new(None, "all fine\n");
    assert_eq!(bench.judge(), Ok(Shown::default()));
    for (ended, why) in [
        (Ended::Exit(1), "exit code 1"),
        (Ended::Exit(127), "could not be run"),
        (Ended::Signal(11), "signal 11"),
        (Ended::TimedOut, "still running after 1 s"),
    ] {
        bench.ended = ended;
        fails(bench.judge(), why);
    }
}

#[test]
fn a_pass_rate_forgives_what_it_says_and_no_more() {
    const NINETY_SIX: &str = "1..25\nnot ok 1\nok\nok\nok\nok\nok\nok\nok\nok\nok\nok\nok\nok\nok\nok\nok\nok\nok\nok\nok\nok\nok\nok\nok\nok\n";
    let mut bench = Bench::new(Some(TestFormat::Tap), NINETY_SIX);
    bench.ended = Ended::Exit(1);
    let shown = bench.judge().unwrap();
    assert_eq!(shown.tests, Some(Counts { passed: 24, failed: 1, skipped: 0 }));
    assert_eq!(shown.min_pass_rate, Some(95.0));
    bench.gate.tests.as_mut().unwrap().min_pass_bp = 9601;
    fails(bench.judge(), "24 of 25 tests passed, at least 96.01 % must");
}

#[test]
fn an_error_that_no_test_explains_is_a_failure() {
    let mut bench = Bench::new(Some(TestFormat::Tap), "1..1\nok 1\n");
    assert!(bench.judge().is_ok());
    bench.ended = Ended::Exit(2);
    fails(bench.judge(), "but the command failed");
}

#[test]
fn no_test_is_no_evidence() {
    fails(Bench::new(Some(TestFormat::Cargo), "").judge(), "no test ran");
    fails(Bench::new(Some(TestFormat::Tap), "1..1\nok # SKIP\n").judge(), "no test ran");
    fails(Bench::new(Some(TestFormat::Tap), "").judge(), "no plan");
    fails(Bench::new(Some(TestFormat::Junit), "").judge(), "no report");
}

#[test]
fn reports_are_summed_over_a_folder_and_must_be_of_this_run() {
    let bench = Bench::new(Some(TestFormat::Junit), "");
    bench.write("report/a.xml", "<testsuite><testcase/></testsuite>");
    bench.write("report/b.xml", "<testsuite><testcase/><testcase/></testsuite>");
    bench.write("report/notes.txt", "x");
    assert_eq!(bench.judge().unwrap().tests.unwrap().passed, 3);
    let old = Reports::before(&bench.gate, bench.dir.path());
    fails(bench.judge_after(&old, None), "was not written by this run");
    // Written again, a moment later than before.
    for name in ["report/a.xml", "report/b.xml"] {
        let file = fs::File::options().write(true).open(bench.dir.path().join(name)).unwrap();
        file.set_modified(SystemTime::now() + Duration::from_secs(1)).unwrap();
    }
    assert!(bench.judge_after(&old, None).is_ok());
}

#[test]
fn benchmarks_are_held_against_the_release_before() {
    let bench = Bench::measuring(r#"{"boot_s": 11}"#);
    let before = |value: f64| Before {
        release: "1.0.0 (counter 1)".to_owned(),
        measures: benchmarks::read(&format!(r#"{{"boot_s": {value}}}"#)).unwrap(),
    };
    let none = Reports(BTreeMap::new());
    let shown = bench.judge_after(&none, Some(&before(10.0))).unwrap();
    assert_eq!(shown.compared_with.as_deref(), Some("1.0.0 (counter 1)"));
    assert_eq!((shown.benchmarks["boot_s"].value, shown.tolerance), (11.0, Some(10.0)));
    fails(bench.judge_after(&none, Some(&before(9.9))), "worse than 1.0.0 (counter 1) by more than 10 %: boot_s is 11");
    assert_eq!(bench.judge().unwrap().compared_with, None);
    fails(Bench::measuring("{}").judge(), "measures nothing");
    fails(Bench::measuring("{").judge(), "bench.json");
}
