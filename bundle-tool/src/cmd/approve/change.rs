//! The flags that change one rollout, and their small notations.

use anyhow::{Context as _, Result, bail};
use bundle::approval::{Entry, Hold, Match, RolloutState, Rule, Weekday, Window};

use crate::text;

/// What to change in a rollout; what is not named stays.
#[derive(clap::Args)]
pub struct Change {
    /// Share of devices let in: 0% to 100%, or basis points as 150bp
    #[arg(long, value_name = "SHARE", value_parser = text::share)]
    threshold: Option<u16>,
    /// Share for some devices, first match counts: ring=canary:100%, hardware=rev-*:5%, id=ID:100%, label.KEY=VALUE:10%
    #[arg(long, value_name = "MATCH:SHARE", value_parser = rule)]
    rule: Vec<Rule>,
    /// Devices that must not take it: hardware=rev-a:reason
    #[arg(long, value_name = "MATCH:REASON", value_parser = hold)]
    hold: Vec<Hold>,
    /// Drop the rules there are before adding those given
    #[arg(long)]
    clear_rules: bool,
    /// Drop the holds there are before adding those given
    #[arg(long)]
    clear_holds: bool,
    /// Let it roll
    #[arg(long, group = "state")]
    resume: bool,
    /// Nobody starts for now
    #[arg(long, group = "state")]
    pause: bool,
    /// Nobody starts, for good
    #[arg(long, group = "state")]
    halt: bool,
    /// Take the rollout out of the document
    #[arg(long, conflicts_with_all = ["threshold", "rule", "hold", "state"])]
    remove: bool,
    /// When it may be activated: mon,tue@01:00+180 (days, local start, minutes), or always
    #[arg(long, value_name = "DAYS@HH:MM+MINUTES", value_parser = window)]
    window: Option<WindowArg>,
    /// Among rollouts that let a device in, the highest wins
    #[arg(long, allow_negative_numbers = true)]
    priority: Option<i64>,
    /// Name of the rollout in reports (default: the version)
    #[arg(long, value_name = "NAME")]
    rollout: Option<String>,
    /// Where the bundle is, instead of what the channel index says; several times, first choice first
    #[arg(long, value_name = "URL")]
    url: Vec<String>,
}

/// A window, or none.
#[derive(Debug, Clone)]
pub struct WindowArg(Option<Window>);

impl Change {
    /// Whether no flag was given.
    pub fn is_empty(&self) -> bool {
        let flags = [self.clear_rules, self.clear_holds, self.resume, self.pause, self.halt, self.remove];
        self.threshold.is_none()
            && self.rule.is_empty()
            && self.hold.is_empty()
            && !flags.contains(&true)
            && self.window.is_none()
            && self.priority.is_none()
            && self.rollout.is_none()
            && self.url.is_empty()
    }

    /// Whether the rollout goes.
    pub fn removes(&self) -> bool {
        self.remove
    }

    /// Changes what was named.
    pub fn apply(&self, entry: &mut Entry) -> Result<()> {
        if entry.state == RolloutState::Halted && (self.resume || self.pause) {
            bail!("{} was halted for good; make a new release, or --remove the rollout first", entry.rollout);
        }
        let state = [
            (self.resume, RolloutState::Rolling),
            (self.pause, RolloutState::Paused),
            (self.halt, RolloutState::Halted),
        ];
        entry.state = state.into_iter().find(|(set, _)| *set).map_or(entry.state, |(_, state)| state);
        entry.threshold_bp = self.threshold.unwrap_or(entry.threshold_bp);
        entry.priority = self.priority.unwrap_or(entry.priority);
        if self.clear_rules {
            entry.rules.clear();
        }
        if self.clear_holds {
            entry.holds.clear();
        }
        for rule in &self.rule {
            // The same devices again: the new share replaces the old, at its place.
            match entry.rules.iter_mut().find(|each| each.matches == rule.matches) {
                Some(each) => each.threshold_bp = rule.threshold_bp,
                None => entry.rules.push(rule.clone()),
            }
        }
        for hold in &self.hold {
            entry.holds.retain(|each| each.matches != hold.matches);
            entry.holds.push(hold.clone());
        }
        if let Some(WindowArg(window)) = &self.window {
            entry.window.clone_from(window);
        }
        if let Some(name) = &self.rollout {
            entry.rollout.clone_from(name);
        }
        if !self.url.is_empty() {
            entry.urls.clone_from(&self.url);
        }
        Ok(())
    }
}

/// `ring=canary,hardware=rev-*,label.site=a,id=x`: all must hold (ids: any of them).
fn matching(text: &str) -> Result<Match> {
    let mut matches = Match::default();
    for part in text.split(',') {
        let (name, value) = text::pair(part)?;
        match name.as_str() {
            "ring" => matches.ring = Some(value),
            "hardware" => matches.hardware = Some(value),
            "id" => matches.ids.push(value),
            _ => match name.strip_prefix("label.") {
                Some(label) => drop(matches.labels.insert(label.to_owned(), value)),
                None => bail!("{name:?} is not one of ring, hardware, id, label.KEY"),
            },
        }
    }
    Ok(matches)
}

fn rule(text: &str) -> Result<Rule> {
    let (devices, share) = text.rsplit_once(':').with_context(|| format!("{text:?} is not MATCH:SHARE"))?;
    Ok(Rule { matches: matching(devices)?, threshold_bp: text::share(share)? })
}

fn hold(text: &str) -> Result<Hold> {
    let (devices, reason) = text.split_once(':').with_context(|| format!("{text:?} is not MATCH:REASON"))?;
    anyhow::ensure!(!reason.is_empty(), "a hold needs a reason, for those who ask later");
    Ok(Hold { matches: matching(devices)?, reason: reason.to_owned() })
}

fn window(text: &str) -> Result<WindowArg> {
    if text == "always" {
        return Ok(WindowArg(None));
    }
    let what = || format!("{text:?} is not like mon,tue@01:00+180");
    let (days, rest) = text.split_once('@').with_context(what)?;
    let (start, minutes) = rest.split_once('+').with_context(what)?;
    let days = days.split(',').map(|day| match day {
        "mon" => Ok(Weekday::Mon),
        "tue" => Ok(Weekday::Tue),
        "wed" => Ok(Weekday::Wed),
        "thu" => Ok(Weekday::Thu),
        "fri" => Ok(Weekday::Fri),
        "sat" => Ok(Weekday::Sat),
        "sun" => Ok(Weekday::Sun),
        _ => bail!("{day:?} is not a day (mon to sun)"),
    });
    let days = days.collect::<Result<_>>()?;
    let window = Window { days, start: start.to_owned(), minutes: minutes.parse().with_context(what)? };
    anyhow::ensure!(window.start_minute().is_some(), what());
    Ok(WindowArg(Some(window)))
}

/// A match in words.
pub fn describe(matches: &Match) -> String {
    let mut parts = Vec::new();
    parts.extend(matches.ring.as_ref().map(|ring| format!("ring {ring}")));
    parts.extend(matches.hardware.as_ref().map(|hardware| format!("hardware {hardware}")));
    parts.extend(matches.labels.iter().map(|(name, value)| format!("{name}={value}")));
    if !matches.ids.is_empty() {
        parts.push(format!("{} devices by id", matches.ids.len()));
    }
    if parts.is_empty() { "every device".to_owned() } else { parts.join(" and ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notations() {
        let parsed = rule("ring=canary,label.site=a:1.5%").unwrap();
        assert_eq!((describe(&parsed.matches).as_str(), parsed.threshold_bp), ("ring canary and site=a", 150));
        assert_eq!(hold("hardware=rev-a:bad nic: see #4").unwrap().reason, "bad nic: see #4");
        assert_eq!(window("mon,sun@01:00+180").unwrap().0.unwrap().minutes, 180);
        assert!(window("always").unwrap().0.is_none());
        for bad in ["ring=canary", "colour=red:1%", "ring=:1%", ":1%"] {
            assert!(rule(bad).is_err(), "{bad}");
        }
        assert!(hold("ring=a:").is_err() && window("mon@1:00+5").is_err() && window("moon@01:00+5").is_err());
    }
}
