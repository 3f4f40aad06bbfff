//! `bundle-tool release`: gates that pass, gates that must not, and releases that were interrupted.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may fail loudly")]

mod common;

use common::Workshop;
use serde_json::{Value, json};

/// A workshop whose recipe has these gates. Each writes a line into `ran` when it runs.
struct Pipeline(Workshop);

impl Pipeline {
    fn new(gates: &str) -> Self {
        let shop = Workshop::new();
        shop.write("rootfs.img", &common::image(200_000, 1));
        shop.write("ran", b"");
        let pipeline = Self(shop);
        pipeline.gates(gates);
        pipeline
    }

    fn gates(&self, gates: &str) {
        let recipe = format!("{}{gates}", common::RECIPE);
        self.0.write("bundle.toml", recipe.as_bytes());
    }

    /// Arguments for release number `counter`, published.
    fn args(counter: u64, more: &[&str]) -> Vec<String> {
        let base = ["release", "--key", "keys/release.pem", "--root", "web", "--channel", "stable", "--level", "3"];
        let own = ["--quiet".to_owned(), format!("--out={counter}.bundle"), format!("--counter={counter}")];
        let version = format!("--release-version=1.{counter}.0");
        base.iter().chain(more).map(ToString::to_string).chain(own).chain([version]).collect()
    }

    fn release(&self, counter: u64, more: &[&str]) -> Value {
        let args = Self::args(counter, more);
        self.0.json(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn refused(&self, counter: u64, more: &[&str]) -> String {
        let args = Self::args(counter, more);
        self.0.refused(&args.iter().map(String::as_str).collect::<Vec<_>>(), "gate_failed")
    }

    /// Which gates have run, in order, since the last time.
    fn ran(&self) -> String {
        let ran = String::from_utf8(self.0.read("ran")).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        self.0.write("ran", b"");
        ran
    }

    /// The attestations of a bundle.
    fn attested(&self, counter: u64) -> Value {
        self.0.json(&["inspect", &format!("{counter}.bundle")])["manifest"]["attestations"].clone()
    }
}

const GATES: &str = r#"
[[gate]]
name = "speed"
run = "echo speed >> ran; cp speed.json bench.json"
benchmarks = "bench.json"

[[gate]]
name = "unit"
run = "echo unit >> ran; cat unit.tap; grep -q '^not ok' unit.tap && exit 1; true"
tests = "tap"

[[gate]]
name = "image"
stage = "build"
run = "echo image >> ran; test $FLIPSIDE_COUNTER -gt 0"

[[gate]]
name = "audit"
stage = "audit"
run = "echo audit >> ran; test ! -e vulnerable"
"#;

fn pipeline() -> Pipeline {
    let pipeline = Pipeline::new(GATES);
    pipeline.0.write("speed.json", br#"{"boot_s": 10}"#);
    pipeline.0.write("unit.tap", b"1..2\nok 1\nok 2\n");
    pipeline
}

#[test]
fn gates_run_by_stage_and_their_results_are_signed() {
    let pipeline = pipeline();
    let facts = pipeline.release(1, &[]);
    assert_eq!(pipeline.ran(), "image unit audit speed");
    assert_eq!(facts["published"]["counter"], 1);
    pipeline.0.ok(&["verify", "1.bundle", "--trust", "trust.dsse.json", "--quiet"]);
    let gates = &pipeline.attested(1)["gates"];
    assert_eq!(gates["unit"]["shown"]["tests"], json!({"passed": 2, "failed": 0, "skipped": 0}));
    assert_eq!(gates["unit"]["shown"]["min_pass_rate"], 95.0);
    assert_eq!(gates["speed"]["shown"]["benchmarks"]["boot_s"]["value"], 10.0);
    assert_eq!((&gates["audit"]["stage"], &gates["audit"]["outcome"]), (&json!("audit"), &json!("passed")));
    let steps = facts["steps"].as_array().unwrap();
    let stages = steps.iter().map(|step| step["stage"].as_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(stages, ["build", "test", "audit", "benchmark", "package", "sign", "publish"]);
}

#[test]
fn a_failed_gate_stops_the_release_and_the_next_try_goes_on_there() {
    let pipeline = pipeline();
    pipeline.0.write("vulnerable", b"");
    let error = pipeline.refused(1, &[]);
    assert!(error.contains("gate audit: the command failed (exit code 1)"), "{error}");
    assert_eq!(pipeline.ran(), "image unit audit");
    assert!(!pipeline.0.path("1.bundle").exists() && !pipeline.0.path("web").exists());
    let state: Value = serde_json::from_slice(&pipeline.0.read("bundle.release.json")).unwrap();
    assert_eq!(state["steps"][2]["outcome"], "failed");

    std::fs::remove_file(pipeline.0.path("vulnerable")).unwrap();
    let first = pipeline.release(1, &[]);
    assert_eq!(pipeline.ran(), "audit speed");
    // Once more: everything is done, and nothing is done again.
    let before = pipeline.0.read("web/channels/stable/channel.dsse.json");
    let again = pipeline.release(1, &[]);
    assert_eq!((pipeline.ran().as_str(), &again["published"]), ("", &Value::Null));
    assert_eq!(again["manifest_sha256"], first["manifest_sha256"]);
    assert!(pipeline.0.read("web/channels/stable/channel.dsse.json") == before);
    // Unless somebody says so, or the recipe changed.
    pipeline.0.fails(&["release", "--out", "x", "--trust", "trust.dsse.json", "--fresh", "--skip-gate", "no=such"]);
    pipeline.gates(&GATES.replace("stage = \"audit\"", "stage = \"test\""));
    pipeline.release(2, &[]);
    assert_eq!(pipeline.ran(), "image unit audit speed");
}

#[test]
fn another_image_makes_old_test_results_worthless() {
    let pipeline = pipeline();
    pipeline.0.write("vulnerable", b"");
    pipeline.refused(1, &[]);
    pipeline.ran();
    pipeline.0.write("rootfs.img", &common::image(200_001, 2));
    std::fs::remove_file(pipeline.0.path("vulnerable")).unwrap();
    pipeline.release(1, &[]);
    assert_eq!(pipeline.ran(), "unit audit speed");
    // A bundle that was exchanged is built again, not signed.
    pipeline.0.write("1.bundle", b"something else");
    pipeline.release(1, &[]);
    pipeline.0.ok(&["verify", "1.bundle", "--trust", "trust.dsse.json", "--quiet"]);
}

#[test]
fn benchmarks_must_not_be_worse_than_in_the_release_before() {
    let pipeline = pipeline();
    pipeline.release(1, &[]);
    pipeline.0.write("speed.json", br#"{"boot_s": 10.1}"#);
    let error = pipeline.refused(2, &[]);
    assert!(error.contains("boot_s is 10.1, was 10"), "{error}");

    // Left out once, with a reason that everybody can read for ever.
    pipeline.release(2, &["--skip-gate", "speed=the bench is on fire"]);
    let skipped = &pipeline.attested(2)["gates"]["speed"];
    assert_eq!((&skipped["outcome"], &skipped["why"]), (&json!("skipped"), &json!("the bench is on fire")));
    let shown = pipeline.0.ok(&["inspect", "2.bundle"]);
    assert!(shown.contains("speed: skipped, the bench is on fire (benchmark, "), "{shown}");
    assert!(shown.contains("unit: passed, 2 of 2 tests passed (test, "), "{shown}");
    // That does not end the comparison: release 1 is still held against release 3.
    let error = pipeline.refused(3, &[]);
    assert!(error.contains("worse than 1.1.0 (counter 1)"), "{error}");
    pipeline.gates(&GATES.replace("benchmarks = ", "tolerance = 1\nbenchmarks = "));
    pipeline.release(3, &[]);
    assert_eq!(pipeline.attested(3)["gates"]["speed"]["shown"]["compared_with"], "1.1.0 (counter 1)");
    // A named bundle must be genuine and have measured this.
    let error = pipeline.refused(4, &["--previous", "2.bundle"]);
    assert!(error.contains("no benchmarks of this gate"), "{error}");
    pipeline.0.ok(&["build", "--out", "unsigned.bundle", "--level", "1", "--quiet"]);
    let error = pipeline.refused(4, &["--previous", "unsigned.bundle"]);
    assert!(error.contains("unsigned.bundle"), "{error}");
    pipeline.0.write("speed.json", br#"{"other": 1}"#);
    let error = pipeline.refused(4, &["--previous", "1.bundle"]);
    assert!(error.contains("not measured any more"), "{error}");
}

#[test]
fn a_gate_that_can_not_run_has_failed() {
    for (gate, why) in [
        ("run = \"no-such-command\"", "could not be run"),
        ("run = \"sleep 600\"\ntimeout = \"1s\"", "still running after 1 s"),
        ("run = \"kill -9 $$\"", "signal 9"),
        ("run = \"true\"\ntests = \"cargo\"", "no test ran"),
        ("run = \"true\"\ntests = \"junit\"\nreport = \"junit.xml\"", "no report"),
        ("run = \"true\"\nbenchmarks = \"none.json\"", "no report"),
        (
            "run = \"echo 1..20; yes ok | head -n 18; echo not ok; echo not ok\"\ntests = \"tap\"",
            "18 of 20 tests passed",
        ),
    ] {
        let pipeline = Pipeline::new(&format!("[[gate]]\nname = \"g\"\n{gate}\n"));
        let error = pipeline.refused(1, &[]);
        assert!(error.contains(why), "{gate}\n{error}");
        assert!(!pipeline.0.path("1.bundle").exists());
    }
}

#[test]
fn a_release_can_be_signed_elsewhere() {
    let pipeline = pipeline();
    let args = ["release", "--trust", "trust.dsse.json", "--out", "x.bundle", "--level", "3", "--quiet"];
    // Without a web root there is nothing to compare with: that is said, not overlooked.
    let error = pipeline.0.refused(&args, "gate_failed");
    assert!(error.contains("nothing to compare benchmarks with"), "{error}");
    pipeline.gates(&GATES.replace("benchmarks = \"bench.json\"", ""));
    let error = pipeline.0.refused(&args, "key_unknown");
    assert!(error.contains("is built, but has not the 1 signatures it needs"), "{error}");
    pipeline.ran();
    pipeline.0.ok(&["sign", "x.bundle", "--key", "keys/release.pem"]);
    let facts = pipeline.0.json(&args);
    assert_eq!((pipeline.ran().as_str(), &facts["signed"]), ("", &json!(true)));
    let unsigned = ["release", "--out", "y.bundle", "--level", "3", "--quiet"];
    // Said on standard error, so that the facts stay JSON.
    assert_eq!(pipeline.0.json(&unsigned)["signed"], false);
    let said = pipeline.0.run(&unsigned).stderr;
    assert!(String::from_utf8(said).unwrap().contains("is not signed"));
}

#[test]
fn a_counter_that_is_taken_is_found_before_the_gates_run() {
    let pipeline = pipeline();
    pipeline.release(5, &[]);
    pipeline.ran();
    let args = Pipeline::args(5, &["--state", "other.release.json"]);
    pipeline.0.refused(&args.iter().map(String::as_str).collect::<Vec<_>>(), "counter_rollback");
    assert_eq!(pipeline.ran(), "");
}

#[test]
fn results_can_not_be_written_by_hand() {
    let pipeline = Pipeline::new("[attestations.gates]\nunit = \"passed\"\n");
    for command in ["build", "release"] {
        let error = pipeline.0.fails(&[command, "--out", "x.bundle"]);
        assert!(error.contains("attestations.gates"), "{error}");
    }
}

#[test]
fn ctrl_c_ends_the_running_gate_and_is_no_outcome() {
    use std::io::Read as _;
    let pipeline = Pipeline::new("[[gate]]\nname = \"long\"\nrun = \"echo $$ > pid; exec sleep 600\"\n");
    let mut release = std::process::Command::new(env!("CARGO_BIN_EXE_bundle-tool"))
        .args(["release", "--out", "x.bundle", "--quiet"])
        .current_dir(pipeline.0.folder())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let pid = loop {
        let text = std::fs::read_to_string(pipeline.0.path("pid")).unwrap_or_default();
        if text.ends_with('\n') {
            break text.trim().to_owned();
        }
        assert!(std::time::Instant::now() < deadline, "the gate did not start");
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    let us = nix::unistd::Pid::from_raw(i32::try_from(release.id()).unwrap());
    nix::sys::signal::kill(us, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(release.wait().unwrap().code(), Some(1));
    let mut error = String::new();
    release.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert!(error.contains("interrupted; the same command goes on"), "{error}");
    assert!(!std::path::Path::new("/proc").join(pid).exists(), "the gate was left running");
    assert!(!pipeline.0.path("bundle.release.json").exists());
}
