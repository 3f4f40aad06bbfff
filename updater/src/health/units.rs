//! What systemd's units say about the health of the system. `look` asks over the bus; the rest is pure.

use bundle::pattern;
use updater_core::event::{HealthCheck, Verdict};

use crate::config;
use crate::dbus::systemd1::{Job, UnitState};
use crate::dbus::{Bus, BusError};

/// Our own units: a check that failed for lack of network says nothing about the new system.
const OURS: &str = "flipside*";

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitFacts {
    /// Units in state `failed`.
    pub failed: Vec<UnitState>,
    /// The required units, as far as systemd could be asked about them.
    pub required: Vec<UnitState>,
    /// What is being started and stopped.
    pub jobs: Vec<Job>,
}

/// Asks systemd.
///
/// # Errors
/// systemd does not answer.
pub async fn look(bus: &Bus, config: &config::Health) -> Result<UnitFacts, BusError> {
    // Jobs first: a unit whose job ends in between is then seen in its final state, never as "inactive, no job".
    let jobs = bus.jobs().await?;
    let mut required = Vec::new();
    for name in &config.required_units {
        required.push(bus.unit(name).await?);
    }
    Ok(UnitFacts { failed: bus.failed_units().await?, required, jobs })
}

/// The report of a systemd that does not answer.
#[must_use]
pub fn unreachable(why: &str) -> HealthCheck {
    check("systemd", Verdict::Failed, format!("systemd can not be asked: {why}"))
}

/// True while a unit other than ours is being started. What only *waits* does not count: it may wait for us.
#[must_use]
pub fn is_starting(facts: &UnitFacts) -> bool {
    facts
        .jobs
        .iter()
        .any(|job| job.state == "running" && job.kind.ends_with("start") && !pattern::matches(OURS, &job.unit))
}

/// What the facts mean.
#[must_use]
pub fn judge(facts: &UnitFacts, config: &config::Health) -> Vec<HealthCheck> {
    let ignored = |name: &str| {
        pattern::matches(OURS, name) || config.ignore_failed.iter().any(|pattern| pattern::matches(pattern, name))
    };
    let failed: Vec<&str> = facts.failed.iter().map(|u| u.name.as_str()).filter(|name| !ignored(name)).collect();
    let mut checks = vec![if failed.is_empty() {
        check("failed-units", Verdict::Passed, String::new())
    } else {
        check("failed-units", Verdict::Failed, failed.join(", "))
    }];
    checks.extend(facts.required.iter().map(|unit| judge_required(unit, facts)));
    checks
}

fn judge_required(unit: &UnitState, facts: &UnitFacts) -> HealthCheck {
    let has_job = facts.jobs.iter().any(|job| job.unit == unit.name);
    let state = format!("{} ({})", unit.active, unit.sub);
    let (verdict, detail) = match (unit.load.as_str(), unit.active.as_str()) {
        ("not-found" | "masked" | "bad-setting" | "error", _) => (Verdict::Failed, unit.load.clone()),
        (_, "active" | "reloading" | "refreshing") => (Verdict::Passed, String::new()),
        (_, "failed") => (Verdict::Failed, state),
        (_, "activating") => (Verdict::Pending, state),
        // Inactive: its turn may still come while anything is being started. Afterwards nobody will start it.
        _ if has_job || is_starting(facts) => (Verdict::Pending, state),
        _ => (Verdict::Failed, state),
    };
    HealthCheck { restarts: unit.restarts, ..check(&format!("unit:{}", unit.name), verdict, detail) }
}

fn check(name: &str, verdict: Verdict, detail: String) -> HealthCheck {
    HealthCheck { name: name.to_owned(), required: true, verdict, detail, restarts: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(name: &str, active: &str) -> UnitState {
        UnitState { name: name.into(), load: "loaded".into(), active: active.into(), sub: "x".into(), restarts: 2 }
    }

    fn job(unit: &str, state: &str) -> Job {
        Job { unit: unit.into(), kind: "start".into(), state: state.into() }
    }

    fn config(ignore: &[&str]) -> config::Health {
        let mut health = config::Config::from_merged(Default::default()).0.health;
        health.ignore_failed = ignore.iter().map(|s| (*s).to_owned()).collect();
        health
    }

    #[test]
    fn only_foreign_failures_count() {
        let facts = UnitFacts {
            failed: vec![unit("flipside-check.service", "failed"), unit("modem@1.service", "failed")],
            ..UnitFacts::default()
        };
        let checks = judge(&facts, &config(&[]));
        assert_eq!((checks[0].verdict, checks[0].detail.as_str()), (Verdict::Failed, "modem@1.service"));
        assert_eq!(judge(&facts, &config(&["modem@*"]))[0].verdict, Verdict::Passed);
    }

    #[test]
    fn a_required_unit_in_every_state() {
        let idle: &[Job] = &[];
        let starting: &[Job] = &[job("other.service", "running")];
        let waiting_for_us: &[Job] = &[job("migrate.service", "waiting"), job("flipside-confirm.service", "running")];
        for (active, jobs, verdict) in [
            ("active", idle, Verdict::Passed),
            ("activating", idle, Verdict::Pending),
            ("failed", starting, Verdict::Failed),
            ("inactive", starting, Verdict::Pending),
            ("inactive", idle, Verdict::Failed),
            // A job that waits for the confirmation must not hide a dead application until the deadline.
            ("inactive", waiting_for_us, Verdict::Failed),
            ("deactivating", idle, Verdict::Failed),
        ] {
            let facts =
                UnitFacts { required: vec![unit("app.service", active)], jobs: jobs.to_vec(), ..UnitFacts::default() };
            let checks = judge(&facts, &config(&[]));
            assert_eq!(checks[1].verdict, verdict, "{active} {jobs:?}");
            assert_eq!(checks[1].restarts, 2);
        }
    }

    #[test]
    fn a_unit_that_does_not_exist_is_a_failure() {
        let mut missing = unit("app.service", "inactive");
        missing.load = "not-found".into();
        let facts =
            UnitFacts { required: vec![missing], jobs: vec![job("x.service", "running")], ..UnitFacts::default() };
        assert_eq!(judge(&facts, &config(&[]))[1].verdict, Verdict::Failed);
    }
}
