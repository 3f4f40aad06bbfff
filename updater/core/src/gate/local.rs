//! Questions about this device and its surroundings: mode, slot, hours, inhibitors, link, battery.

use bundle::approval::Entry;
use bundle::reason::Reason;

use super::window::{Hours, hours};
use super::{Candidate, Inputs, Lines, Point};
use crate::policy::Mode;

pub(super) fn mode(lines: &mut Lines, inputs: &Inputs<'_>, point: Point, candidate: &Candidate<'_>) {
    let (mode, intent) = (inputs.policy.mode, candidate.intent);
    let allowed = match point {
        Point::Download => matches!(mode, Mode::Stage | Mode::Apply) || intent.stage,
        Point::Activate => mode == Mode::Apply || intent.activate,
        Point::Reboot => mode == Mode::Apply || intent.reboot,
    };
    if mode == Mode::Off {
        lines.refuse("mode", Reason::Disabled, "updates are switched off in the configuration (mode = \"off\")");
    } else if allowed {
        lines.pass("mode", "the configuration or an operator allows this step");
    } else {
        let text = match point {
            Point::Download => "the configuration only announces releases; an operator has to install",
            Point::Activate => "the configuration only stages releases; an operator has to activate",
            Point::Reboot => "the configuration only stages releases; an operator has to reboot",
        };
        lines.wait("mode", Reason::NotifyOnly, text, None);
    }
}

pub(super) fn slot(lines: &mut Lines, inputs: &Inputs<'_>) {
    match (inputs.facts.booted, inputs.facts.confirmed_booted()) {
        (_, Some(slot)) => lines.pass("slot", format!("slot {slot} runs and is confirmed")),
        (Some(slot), None) => {
            // The other slot is the fallback until this one is confirmed.
            let text = format!("slot {slot} runs and is not confirmed yet; its fallback must not be overwritten");
            lines.wait("slot", Reason::BootedSlotUnconfirmed, text, None);
        }
        (None, None) => lines.refuse("slot", Reason::SlotUnknown, "it is not certain which slot is running"),
    }
}

pub(super) fn windows(
    lines: &mut Lines,
    inputs: &Inputs<'_>,
    point: Point,
    candidate: &Candidate<'_>,
    entry: Option<&Entry>,
) {
    let own = match point {
        Point::Download => &inputs.policy.download_window,
        Point::Activate | Point::Reboot => &inputs.policy.reboot_window,
    };
    let at = inputs.trusted().at;
    let zone = &inputs.surroundings.zone;
    let mut judge = |subject: &str, whose: &str, windows: &[bundle::approval::Window]| match hours(windows, zone, at) {
        Hours::Open(until) => lines.pass(subject, format!("{whose} are open until {until}")),
        Hours::Closed(until) => {
            let opens = until.map_or_else(|| "never".to_owned(), |until| until.to_string());
            lines.wait(subject, Reason::WindowClosed, format!("{whose} are closed; they open {opens}"), until);
        }
    };
    if !own.is_empty() && !candidate.intent.force {
        judge("window", "this device's hours", own);
    }
    // The region's hours are about switching; an operator on the device can not override them.
    if let Some(window) = entry.and_then(|entry| entry.window.as_ref()).filter(|_| point != Point::Download) {
        judge("rollout window", "the rollout's hours", std::slice::from_ref(window));
    }
}

pub(super) fn surroundings(lines: &mut Lines, inputs: &Inputs<'_>, point: Point, candidate: &Candidate<'_>) {
    let (around, policy, force) = (inputs.surroundings, inputs.policy, candidate.intent.force);
    if point == Point::Download {
        if around.metered && candidate.over_network && !policy.allow_metered && !force {
            lines.wait("link", Reason::Metered, "the network connection is metered", None);
        } else {
            lines.pass("link", if around.metered { "metered, and allowed" } else { "not metered" });
        }
    } else if around.inhibitors.is_empty() || force {
        lines.pass("inhibitors", "nobody asked not to be interrupted, or an operator said to go on");
    } else {
        let text = format!("asked not to be interrupted: {}", around.inhibitors.join(", "));
        lines.wait("inhibitors", Reason::Inhibited, text, None);
    }
    // Not for an operator to override: a battery that dies in the middle of a switch costs a boot try.
    match (around.battery, policy.min_battery) {
        (Some(charge), Some(least)) if charge < least => {
            lines.wait(
                "battery",
                Reason::LowBattery,
                format!("the battery is at {charge} %, {least} % are needed"),
                None,
            );
        }
        (Some(charge), _) => lines.pass("battery", format!("the battery is at {charge} %")),
        (None, _) => lines.pass("battery", "on mains power"),
    }
}
