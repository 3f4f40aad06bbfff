//! Conditions: what is asked of a machine for them, and the wait until they hold.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::Value;

use super::Run;
use crate::agent::Agent;
use crate::device::{self, Facts};
use crate::entries::default_entry;
use crate::scenario::Condition;
use crate::wait::{Look, until_slowly};

/// What the guest was asked; only what the condition needs.
#[derive(Debug, Default)]
struct Seen {
    facts: Option<Facts>,
    status: Option<Value>,
    fetched_percent: Option<u64>,
}

impl Run<'_> {
    /// Waits until the condition holds.
    pub(super) fn wait_for(&mut self, condition: &Condition, within: Duration) -> Result<()> {
        // A guest that is going down already does not answer: then the boot last seen is the old one.
        let asked = condition.new_boot.and_then(|_| Facts::ask(self.machine().ok()?.agent()).ok());
        let old_boot = asked.map(|facts| facts.boot_id).or_else(|| self.here.boot_id.clone());
        until_slowly("the condition", within, || {
            if let Err(e) = self.machine().and_then(|m| m.alive()) {
                return Look::Hopeless(e);
            }
            let agent = self.machine().map(|m| m.agent().clone());
            match agent.and_then(|agent| self.look(&agent, condition, old_boot.as_deref())) {
                Ok(Ok(())) => Look::Done(()),
                Ok(Err(seen)) => Look::NotYet(seen),
                Err(e) => Look::NotYet(format!("{e:#}")),
            }
        })
    }

    /// The condition must hold now.
    pub(super) fn expect(&mut self, condition: &Condition) -> Result<()> {
        let agent = self.agent()?;
        match self.look(&agent, condition, None)? {
            Ok(()) => Ok(()),
            Err(seen) => bail!("seen instead: {seen}"),
        }
    }

    /// One look: `Ok(Ok)` when the condition holds, else what was seen instead.
    ///
    /// The cheap questions first, and the updater last: a guest that is asked about everything twice a second spends its
    /// emulated processor on answering.
    fn look(&mut self, agent: &Agent, condition: &Condition, old_boot: Option<&str>) -> Result<Result<(), String>> {
        let mut seen = Seen::default();
        if condition.fetched_percent.is_some() {
            seen.fetched_percent = Some(self.fetched_percent());
        }
        let c = condition;
        if c.slot.is_some() || c.confirmed.is_some() || c.version.is_some() || c.new_boot.is_some() || c.armed.is_some()
        {
            seen.facts = Some(Facts::ask(agent)?);
        }
        if let Some(facts) = &seen.facts {
            self.here.boot_id = Some(facts.boot_id.clone());
            self.here.oom_kills = self.here.oom_kills.max(facts.oom_kills);
        }
        let so_far = compare(condition, &seen, old_boot);
        let asks_updater =
            c.state.is_some() || c.settled.is_some() || c.reason.is_some() || c.progress_percent.is_some();
        if so_far.is_err() || !asks_updater {
            return Ok(so_far);
        }
        seen.status = Some(device::status(agent)?);
        Ok(compare(condition, &seen, old_boot))
    }

    /// Share of the newest published bundle that was sent since the server last changed its ways, percent.
    fn fetched_percent(&self) -> u64 {
        let Some(bundle) = self.published.last() else { return 0 };
        let before = self.sent_before.get(&bundle.path).map_or(0, |count| count.bytes);
        self.server.count(&bundle.path).bytes.saturating_sub(before) * 100 / bundle.size.max(1)
    }
}

/// Compares what was seen with what is wanted; the error tells what was seen instead.
fn compare(want: &Condition, seen: &Seen, old_boot: Option<&str>) -> Result<(), String> {
    let mut wrong = Vec::new();
    let mut check = |name: &str, holds: bool, is: String| {
        if !holds {
            wrong.push(format!("{name} is {is}"));
        }
    };
    if let Some(facts) = &seen.facts {
        if let Some(slot) = &want.slot {
            check("slot", *slot == facts.slot, facts.slot.clone());
        }
        if let Some(confirmed) = want.confirmed {
            let files: Vec<_> = facts.entries.iter().map(|e| e.file.as_str()).collect();
            check("confirmed", confirmed == facts.confirmed(), format!("{} ({files:?})", facts.confirmed()));
        }
        if let Some(version) = &want.version {
            check("version", *version == facts.version, facts.version.clone());
        }
        if let Some(slot) = &want.armed {
            let next = default_entry(&facts.entries);
            let is = next.is_some_and(|e| e.slot == *slot && e.tries_left > Some(0));
            check("armed", is, format!("not so, next is {:?}", next.map(|e| &e.file)));
        }
        if let Some(new) = want.new_boot {
            check("new_boot", new == (old_boot != Some(&facts.boot_id)), (!new).to_string());
        }
    }
    if let Some(status) = &seen.status {
        let text = |pointer: &str| status.pointer(pointer).and_then(Value::as_str);
        if let Some(state) = &want.state {
            check("state", Some(state.as_str()) == text("/state"), format!("{:?}", text("/state")));
        }
        if let Some(settled) = want.settled {
            let is = text("/state").is_some_and(device::settled);
            check("settled", is == settled, format!("{is}: state {:?}", text("/state")));
        }
        if let Some(reason) = &want.reason {
            let told: Vec<_> = REASONS.iter().filter_map(|p| text(p)).collect();
            check("reason", told.contains(&reason.as_str()), format!("{told:?}"));
        }
        if let Some(percent) = want.progress_percent {
            let number = |pointer: &str| status.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
            let (done, total) = (number("/progress/bytes_done"), number("/progress/bytes_total"));
            check("progress", total > 0 && done * 100 >= total * percent, format!("{done} of {total} bytes"));
        }
    }
    if let (Some(want), Some(is)) = (want.fetched_percent, seen.fetched_percent) {
        check("fetched_percent", is >= want, is.to_string());
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join(", ")) }
}

/// Where `flipside status --json` tells reasons.
const REASONS: &[&str] = &["/waiting/reason", "/last_error/reason", "/last_outcome/reason"];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn facts() -> Facts {
        Facts { boot_id: "1".into(), slot: "a".into(), entries: vec![], version: "1.0.0".into(), oom_kills: 0 }
    }

    #[test]
    fn everything_said_must_hold() {
        let seen = Seen {
            facts: Some(facts()),
            status: Some(json!({
                "state": "idle", "waiting": {"reason": "held"}, "last_error": null,
                "progress": {"bytes_done": 30, "bytes_total": 100},
            })),
            fetched_percent: Some(40),
        };
        let parse = |text: &str| toml::from_str::<Condition>(text).unwrap();
        for good in [
            "slot = 'a'\nconfirmed = false",
            "reason = 'held'\nstate = 'idle'\nsettled = true",
            "fetched_percent = 40",
            "progress_percent = 30",
        ] {
            assert_eq!(compare(&parse(good), &seen, None), Ok(()), "{good}");
        }
        for (bad, tells) in [
            ("slot = 'b'\nversion = '1.0.0'", "slot is a"),
            ("confirmed = true", "confirmed is false"),
            ("reason = 'network'", "[\"held\"]"),
            ("state = 'writing'", "idle"),
            ("settled = false", "idle"),
            ("fetched_percent = 41", "40"),
            ("progress_percent = 31", "30 of 100"),
        ] {
            let told = compare(&parse(bad), &seen, None).unwrap_err();
            assert!(told.contains(tells), "{bad}: {told}");
        }
        assert!(compare(&parse("new_boot = true"), &seen, Some("1")).is_err());
        assert!(compare(&parse("new_boot = true"), &seen, Some("0")).is_ok());
    }
}
