//! One look at a system without systemd: the programs alone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use super::*;

fn program(root: &Path, path: &str, body: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn health(root: &Path, systemd: Systemd) -> SystemHealth {
    let mut config = config::Config::from_merged(Default::default()).0.health;
    config.check_timeout = Duration::from_millis(500);
    SystemHealth { root: root.to_owned(), config, findings: Vec::new(), systemd }
}

#[tokio::test]
async fn every_program_gets_its_verdict() {
    let root = tempfile::tempdir().unwrap();
    program(root.path(), "usr/lib/flipside/health.d/10-good", "exit 0");
    program(root.path(), "usr/lib/flipside/health.d/20-bad", "echo disk full; exit 1");
    program(root.path(), "etc/flipside/health.d/30-later", "exit 75");
    program(root.path(), "etc/flipside/health.d/40-hangs", "sleep 1000");
    program(root.path(), "etc/flipside/health.d/wanted.d/50-net", "exit 1");
    let report = health(root.path(), Systemd::Absent).check().await;
    let seen: Vec<_> = report.checks.iter().map(|c| (c.name.as_str(), c.required, c.verdict)).collect();
    assert_eq!(
        seen,
        [
            ("configuration", true, Verdict::Passed),
            ("program:10-good", true, Verdict::Passed),
            ("program:20-bad", true, Verdict::Failed),
            ("program:30-later", true, Verdict::Pending),
            ("program:40-hangs", true, Verdict::Failed),
            ("program:wanted/50-net", false, Verdict::Failed),
        ]
    );
    assert_eq!(report.checks[2].detail, "exit code 1: disk full");
}

#[tokio::test]
async fn network_checks_alone_are_asked_before_a_reboot() {
    let root = tempfile::tempdir().unwrap();
    program(root.path(), "usr/lib/flipside/health.d/10-good", "exit 0");
    program(root.path(), "usr/lib/flipside/health.d/network.d/50-gateway", "exit 0");
    program(root.path(), "etc/flipside/health.d/network.d/60-cloud", "exit 1");
    let health = health(root.path(), Systemd::Unreachable);
    let seen = |report: HealthReport| -> Vec<_> {
        report
            .checks
            .into_iter()
            .filter(|c| c.name.contains("network"))
            .map(|c| (c.name, c.required, c.verdict))
            .collect()
    };
    let before = health.network().await;
    assert_eq!(before.checks.len(), 2);
    let before = seen(before);
    let expected = [("50-gateway", Verdict::Passed), ("60-cloud", Verdict::Failed)];
    assert_eq!(before, expected.map(|(name, verdict)| (format!("program:network/{name}"), false, verdict)));
    // By the same names as on trial.
    assert_eq!(seen(health.check().await), before);
}

#[tokio::test]
async fn a_systemd_that_can_not_be_asked_is_never_silently_good() {
    let root = tempfile::tempdir().unwrap();
    let report = health(root.path(), Systemd::Unreachable).check().await;
    assert_eq!((report.checks[1].required, report.checks[1].verdict), (true, Verdict::Failed));
}

#[test]
fn a_failing_program_is_no_news_while_units_are_being_started() {
    let check = folders::Check { name: "x".into(), path: "/x".into(), required: true };
    let run = program::Run { end: program::End::Exited(1), output: String::new() };
    assert_eq!(judge_program(check.clone(), run.clone(), true).verdict, Verdict::Pending);
    assert_eq!(judge_program(check, run, false).verdict, Verdict::Failed);
}
