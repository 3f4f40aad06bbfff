//! `flipside status`: what an operator reads first. Slots, versions, state, what is next and why not now. Pure.

use bundle::approval::ReleaseRef;
use bundle::reason::Reason;
use updater_core::facts::SlotBoot;
use updater_core::history::{Outcome, OutcomeKind};
use updater_core::slot::SlotId;
use updater_core::status::{Problem, SlotStatus, StateName, Status};

use super::text::{self, Reader};
use crate::config::RunningImage;

/// The page.
#[must_use]
pub fn render(status: &Status, reader: &Reader, image: &RunningImage) -> String {
    let mut page = format!("{}\n\n", headline(status));
    for line in slots(status, image).lines() {
        page.push_str(&format!("  {line}\n"));
    }
    page.push('\n');
    for (label, lines) in facts(status, reader) {
        for (n, line) in lines.iter().enumerate() {
            let label = if n == 0 { label } else { "" };
            page.push_str(&format!("  {label:9} {line}\n"));
        }
    }
    page
}

fn headline(status: &Status) -> String {
    let target = status.target.map(|s| format!("slot {s}")).unwrap_or_else(|| "the other slot".to_owned());
    // On its way, or running already.
    let running = status.booted_slot.and_then(|slot| status.slots.get(slot).release.as_ref());
    let release = status.release.as_ref().or(running);
    let version = release.map(|r| r.version.to_string()).unwrap_or_else(|| "The new system".to_owned());
    match status.state {
        StateName::Idle if !status.confirmed => "The running system is not confirmed yet.".to_owned(),
        StateName::Idle => "This system is confirmed; no update is on its way.".to_owned(),
        StateName::Checking => "Looking for updates.".to_owned(),
        StateName::Offered => format!("{version} is offered and not taken yet."),
        StateName::Approved => format!("{version} is approved; the download starts."),
        StateName::Writing => format!("Writing {version} to {target}. The running system is not touched."),
        StateName::Verifying => format!("Reading {version} back from {target} to prove it."),
        StateName::Staged if status.letting_go.is_some() => {
            format!("The switch to {version} in {target} is being taken back.")
        }
        StateName::Staged => format!("{version} is written to {target} and proven; not switched to yet."),
        StateName::Armed => format!("{version} boots next, from {target}."),
        StateName::Trying => format!("{version} is running for the first time and proves itself."),
        StateName::Good => format!("{version} proved itself and was confirmed."),
        StateName::Reverting => match status.last_error.as_ref().map(|problem| problem.reason) {
            Some(Reason::Cancelled) => format!("An operator leaves {version}; going back to the system before."),
            Some(Reason::Recalled) => {
                format!("{version} was taken back by its vendor; going back to the system before.")
            }
            _ => format!("{version} failed; going back to the system before."),
        },
        StateName::RolledBack => format!("{}; this is the system before it, and it is confirmed.", why_back(status)),
        StateName::Degraded => "Something is wrong that does not mend itself.".to_owned(),
    }
}

/// Why the system before runs again.
fn why_back(status: &Status) -> &'static str {
    match status.last_outcome.as_ref().and_then(|outcome| outcome.reason) {
        Some(Reason::Cancelled) => "An operator went back from the last update",
        Some(Reason::Recalled) => "The last update was taken back by its vendor",
        _ => "The last update failed",
    }
}

/// Of a slot that no update wrote, the factory's, only the running system can tell.
fn slots(status: &Status, image: &RunningImage) -> String {
    let mut rows = vec![["", "slot", "version", "counter", "boot loader"].map(str::to_owned).to_vec()];
    for id in SlotId::ALL {
        let slot = status.slots.get(id);
        let running = status.booted_slot == Some(id);
        let (version, counter) = match &slot.release {
            Some(release) => (release.version.to_string(), release.counter.to_string()),
            None => {
                let image = if running { image.clone() } else { RunningImage::default() };
                let counter = image.counter.map_or_else(|| "-".to_owned(), |counter| counter.to_string());
                (image.version.unwrap_or_else(|| "unknown".to_owned()), counter)
            }
        };
        let mark = if running { "*" } else { " " };
        rows.push(vec![mark.to_owned(), id.to_string(), version, counter, boot_words(slot, running)]);
    }
    text::table(&rows)
}

fn boot_words(slot: &SlotStatus, running: bool) -> String {
    let words = match slot.boot {
        SlotBoot::Empty => "not bootable".to_owned(),
        SlotBoot::Confirmed => "confirmed".to_owned(),
        SlotBoot::Trying { left, .. } if running => {
            format!("on trial, {left} more {} if it fails to come up", boots(left))
        }
        SlotBoot::Trying { left, .. } => format!("to be tried, {left} {} left", boots(left)),
        // The last of its boots is under way.
        SlotBoot::Exhausted { .. } if running => "on trial, last boot".to_owned(),
        SlotBoot::Exhausted { .. } => "rejected".to_owned(),
    };
    if running { format!("{words}, running") } else { words }
}

fn boots(count: u8) -> &'static str {
    if count == 1 { "boot" } else { "boots" }
}

/// What a check came to, in a line or two.
#[must_use]
pub fn after_check(status: &Status) -> String {
    match status.state {
        StateName::Idle | StateName::Good => "Up to date.".to_owned(),
        StateName::RolledBack => format!("Up to date. {} (see `flipside history`).", why_back(status)),
        _ => headline(status),
    }
}

/// What an install came to.
#[must_use]
pub fn after_install(status: &Status) -> String {
    let mut text = after_check(status);
    if status.state == StateName::Staged && status.letting_go.is_none() {
        text.push_str("\nSwitch to it with `flipside activate`; it restarts by itself when it may.");
    }
    text
}

/// What a confirmation came to.
#[must_use]
pub fn after_confirm(status: &Status) -> String {
    let slot = status.booted_slot.map(|s| format!(" in slot {s}")).unwrap_or_default();
    format!("The running system{slot} is confirmed.")
}

type Facts = Vec<(&'static str, Vec<String>)>;

fn facts(status: &Status, reader: &Reader) -> Facts {
    let mut facts = Facts::new();
    facts.push(("State", vec![state_line(status)]));
    if let Some(release) = &status.release {
        facts.push(("Update", vec![release_line(release)]));
    }
    facts.push(("Next", vec![next(status, reader)]));
    if let Some(problem) = &status.waiting {
        facts.push(("Why not", problem_lines(problem, reader)));
    }
    let said = |error: &&Problem| {
        let waiting = status.waiting.as_ref().filter(|waiting| waiting.reason == error.reason);
        waiting.is_some_and(|waiting| waiting.detail.ends_with(&error.detail))
    };
    if let Some(problem) = status.last_error.as_ref().filter(|error| !said(error)) {
        facts.push(("Problem", problem_lines(problem, reader)));
    }
    if let Some(outcome) = &status.last_outcome {
        facts.push(("Last", vec![outcome_line(outcome, reader)]));
    }
    if let Some((_, version)) = status.approval {
        let age = status.approval_age.map(|s| format!(", seen {} ago", text::duration(s))).unwrap_or_default();
        facts.push(("Approval", vec![format!("version {version}{age}")]));
    }
    facts
}

fn state_line(status: &Status) -> String {
    match &status.operation {
        Some(operation) => format!("{} ({operation})", status.state),
        None => status.state.to_string(),
    }
}

/// `2.4.1 (counter 57)`
#[must_use]
pub fn release_line(release: &ReleaseRef) -> String {
    let digest = release.manifest_sha256.to_string();
    format!("{} (counter {}, manifest {}…)", release.version, release.counter, digest.get(..12).unwrap_or(&digest))
}

fn next(status: &Status, reader: &Reader) -> String {
    let target = status.target.map_or_else(|| "the other slot".to_owned(), |s| format!("slot {s}"));
    if let Some(slot) = status.letting_go {
        return format!("take slot {slot} from the boot loader; nothing else before that");
    }
    match status.state {
        StateName::Idle | StateName::Good | StateName::RolledBack => match status.next_check {
            Some(at) => format!("look for updates, {}", reader.moment(at)),
            None => "look for updates when flipside-check.timer asks".to_owned(),
        },
        StateName::Checking => "see what the region approves".to_owned(),
        StateName::Offered | StateName::Approved => format!("download it into {target}"),
        StateName::Writing | StateName::Verifying => progress_line(status).unwrap_or_else(|| format!("fill {target}")),
        StateName::Staged => format!("switch to {target} and restart"),
        StateName::Armed => format!("restart into {target}"),
        StateName::Trying => match status.trial_seconds_left {
            Some(left) => format!("keep it when all health checks hold; otherwise go back in {left} s"),
            None => "keep it when all health checks hold; otherwise go back".to_owned(),
        },
        StateName::Reverting => "restart into the system before".to_owned(),
        StateName::Degraded => "a person is needed; see below and `flipside explain`".to_owned(),
    }
}

/// `62 %, 250.0 MB of 403.2 MB (12.1 MB not fetched), 10.4 MB/s, 15 s left`
#[must_use]
pub fn progress_line(status: &Status) -> Option<String> {
    let p = status.progress.filter(|p| p.bytes_total > 0)?;
    let percent = u128::from(p.bytes_done) * 100 / u128::from(p.bytes_total);
    let mut line = format!("{percent} %, {} of {}", text::bytes(p.bytes_done), text::bytes(p.bytes_total));
    if p.bytes_reused > 0 {
        line.push_str(&format!(" ({} reused)", text::bytes(p.bytes_reused)));
    }
    if let Some(left) = p.bytes_total.saturating_sub(p.bytes_done).checked_div(p.bytes_per_second) {
        line.push_str(&format!(", {}/s, {} left", text::bytes(p.bytes_per_second), text::duration(left)));
    }
    Some(line)
}

fn problem_lines(problem: &Problem, reader: &Reader) -> Vec<String> {
    let mut lines = vec![format!("{} ({})", problem.reason.sentence(), problem.reason)];
    lines.extend(problem.detail.trim().lines().take(4).map(str::to_owned));
    if let Some(until) = problem.until {
        lines.push(format!("changes by itself {}", reader.moment(until)));
    }
    lines
}

/// `rolled back from slot b, 2.4.1, 3 days ago: health_failed, demo-app.service`
#[must_use]
pub fn outcome_line(outcome: &Outcome, reader: &Reader) -> String {
    let version = outcome.release.as_ref().map_or_else(String::new, |r| format!("{} ", r.version));
    let slot = outcome.slot.map_or_else(String::new, |s| format!(" in slot {s}"));
    let words = match outcome.kind {
        OutcomeKind::Started => "download began",
        OutcomeKind::Installed => "was written and proven",
        OutcomeKind::Trial => "came up and is on trial",
        OutcomeKind::Healthy => "was confirmed",
        OutcomeKind::RolledBack => "fell back",
        OutcomeKind::Failed => "failed; the running system was not touched",
        OutcomeKind::Deferred => "waits",
        _ => "(an outcome of a newer Flipside)",
    };
    let mut line = format!("{version}{words}{slot}, {}", reader.distance(outcome.at));
    if let Some(reason) = outcome.reason {
        line.push_str(&format!(": {reason}"));
    }
    if !outcome.detail.is_empty() {
        line.push_str(&format!(", {}", text::one_line(&outcome.detail)));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use updater_core::status::{Progress, ProgressPhase};

    fn reader() -> Reader {
        Reader { now: "2026-11-21T12:00:00Z".parse().unwrap(), zone: jiff::tz::TimeZone::UTC }
    }

    fn release(version: &str, counter: u64) -> ReleaseRef {
        ReleaseRef { version: version.parse().unwrap(), counter, manifest_sha256: "ab".repeat(32).parse().unwrap() }
    }

    fn status() -> Status {
        let mut status = crate::dbus::testing::status();
        status.slots.a.release = Some(release("2.4.0", 56));
        status.slots.b.boot = SlotBoot::Empty;
        status
    }

    #[test]
    fn a_staged_update_that_waits_says_everything() {
        let mut s = status();
        s.state = StateName::Staged;
        s.release = Some(release("2.4.1", 57));
        s.target = Some(SlotId::B);
        s.slots.b.release = s.release.clone();
        s.waiting = Some(Problem {
            reason: Reason::WindowClosed,
            detail: "reboot window: sat 02:00, 120 minutes".into(),
            at: None,
            until: Some("2026-11-22T02:00:00Z".parse().unwrap()),
        });
        assert_eq!(
            render(&s, &reader(), &RunningImage::default()),
            "\
2.4.1 is written to slot b and proven; not switched to yet.

     slot  version  counter  boot loader
  *  a     2.4.0    56       confirmed, running
     b     2.4.1    57       not bootable

  State     staged
  Update    2.4.1 (counter 57, manifest abababababab…)
  Next      switch to slot b and restart
  Why not   Outside the hours in which updates may happen. (window_closed)
            reboot window: sat 02:00, 120 minutes
            changes by itself 2026-11-22 02:00 (in 14 h 00 min)
"
        );
    }

    #[test]
    fn a_switch_that_is_taken_back_is_not_called_staged() {
        let mut s = status();
        s.state = StateName::Staged;
        (s.target, s.letting_go) = (Some(SlotId::B), Some(SlotId::B));
        s.release = Some(release("2.4.1", 57));
        let text = render(&s, &reader(), &RunningImage::default());
        assert!(text.starts_with("The switch to 2.4.1 in slot b is being taken back."), "{text}");
        assert!(text.contains("Next      take slot b from the boot loader"), "{text}");
    }

    #[test]
    fn progress_has_rate_and_time_left() {
        let mut s = status();
        s.state = StateName::Writing;
        s.progress = Some(Progress {
            phase: ProgressPhase::Writing,
            bytes_done: 250_000_000,
            bytes_total: 400_000_000,
            bytes_reused: 12_000_000,
            bytes_per_second: 10_000_000,
        });
        let page = render(&s, &reader(), &RunningImage::default());
        assert!(page.contains("62 %, 250.0 MB of 400.0 MB (12.0 MB reused), 10.0 MB/s, 15 s left"), "{page}");
    }

    #[test]
    fn a_fallback_is_told_with_its_reason() {
        let mut s = status();
        s.state = StateName::RolledBack;
        s.slots.b.boot = SlotBoot::Exhausted { done: 1 };
        let mut outcome = crate::dbus::testing::outcome();
        outcome.at = "2026-11-21T11:00:00Z".parse().unwrap();
        outcome.release = Some(release("2.4.1", 57));
        s.last_outcome = Some(outcome);
        let page = render(&s, &reader(), &RunningImage::default());
        assert!(page.contains("2.4.1 fell back in slot b, 60 min ago: health_failed, unit:demo-app.service"), "{page}");
        assert!(page.contains("rejected"), "{page}");
        assert!(headline(&s).starts_with("The last update failed; this is the system before it"), "{}", headline(&s));
    }

    #[test]
    fn going_back_on_purpose_is_not_called_a_failure() {
        let outcome = |reason| Some(Outcome { reason: Some(reason), ..crate::dbus::testing::outcome() });
        let problem = |reason| Some(Problem { reason, detail: String::new(), at: None, until: None });
        for (reason, leaving, back) in [
            (Reason::Cancelled, "An operator leaves", "An operator went back"),
            (Reason::Recalled, "was taken back by its vendor; going back", "was taken back by its vendor; this is"),
        ] {
            let status =
                |state| Status { state, last_outcome: outcome(reason), last_error: problem(reason), ..status() };
            let page = headline(&status(StateName::Reverting));
            assert!(page.contains(leaving) && !page.contains("failed"), "{page}");
            let page =
                format!("{} {}", headline(&status(StateName::RolledBack)), after_check(&status(StateName::RolledBack)));
            assert!(page.contains(back) && !page.contains("failed"), "{page}");
        }
    }

    #[test]
    fn the_factorys_system_is_called_what_it_calls_itself() {
        let mut s = status();
        s.booted_slot = Some(SlotId::A);
        let image = RunningImage { version: Some("1.4.0".into()), counter: Some(12) };
        (s.slots.a.release, s.slots.b.release) = (None, None);
        let page = render(&s, &reader(), &image);
        let row =
            |slot: &str| page.lines().find(|line| line.contains(slot)).unwrap().split_whitespace().take(4).collect();
        let (a, b): (Vec<_>, Vec<_>) = (row("*  a"), row("   b  "));
        assert_eq!((a, &b[..3]), (vec!["*", "a", "1.4.0", "12"], &["b", "unknown", "-"][..]));
        s.slots.a.release = Some(release("2.0.0", 20));
        assert!(!render(&s, &reader(), &image).contains("1.4.0"), "what an update wrote is known better");
    }

    /// A running slot that is not confirmed is on trial, never "bad".
    #[test]
    fn a_trial_is_called_a_trial() {
        let mut s = status();
        s.state = StateName::Trying;
        s.booted_slot = Some(SlotId::B);
        s.slots.b.boot = SlotBoot::Trying { left: 2, done: 1 };
        s.trial_seconds_left = Some(170);
        let page = render(&s, &reader(), &RunningImage::default());
        assert!(
            page.contains("*  b     unknown  -        on trial, 2 more boots if it fails to come up, running"),
            "{page}"
        );
        assert!(page.contains("otherwise go back in 170 s"), "{page}");
    }

    #[test]
    fn every_state_has_words() {
        for state in StateName::ALL {
            let mut s = status();
            s.state = state;
            assert!(render(&s, &reader(), &RunningImage::default()).lines().count() >= 7);
        }
    }
}
