//! Every state change there is: the diagram in the guide is drawn from this table, and tests prove that the machine
//! makes all of them and no others.

use crate::status::StateName::{self, *};

/// One arrow of the diagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// Before.
    pub from: StateName,
    /// After.
    pub to: StateName,
    /// When.
    pub when: &'static str,
}

const fn t(from: StateName, to: StateName, when: &'static str) -> Transition {
    Transition { from, to, when }
}

/// All of them, save those from and to Degraded for lack of sight: from any state, when the boot loader's state or the
/// journal's disk fails, and back to the same state when it can be used again.
pub const TRANSITIONS: &[Transition] = &[
    // The way of an update.
    t(Idle, Checking, "a timer or an operator asks"),
    t(Checking, Offered, "a release is found and suits"),
    t(Offered, Approved, "the gate lets it in"),
    t(Approved, Writing, "the running slot is confirmed"),
    t(Writing, Verifying, "everything is written and flushed"),
    t(Verifying, Staged, "read back and right"),
    t(Staged, Armed, "the gate lets it be activated"),
    t(Armed, Trying, "rebooted into it"),
    t(Trying, Good, "healthy through the soak, confirmed"),
    t(Good, Checking, "a timer or an operator asks"),
    // Falling back.
    t(Trying, Reverting, "a check failed, or the deadline"),
    t(Reverting, RolledBack, "rebooted into the old system"),
    t(Armed, RolledBack, "it did not boot"),
    t(Trying, RolledBack, "it was lost before it was confirmed"),
    t(RolledBack, Checking, "a timer or an operator asks"),
    t(Trying, Degraded, "it failed, and there is nothing to fall back to"),
    t(Reverting, Degraded, "the boot loader does not listen"),
    // Nothing comes of it.
    t(Checking, Idle, "nothing for this device, or no documents"),
    t(Offered, Idle, "refused or cancelled"),
    t(Approved, Idle, "refused, cancelled, or not safe to write"),
    t(Writing, Idle, "failed, refused or cancelled"),
    t(Verifying, Idle, "not what was signed, or cancelled"),
    t(Staged, Idle, "cancelled, or not right any more"),
    t(Armed, Staged, "the gate closed, or it could not be armed"),
    // A better release pushes one aside that is not switched to.
    t(Offered, Checking, "another release is better"),
    t(Approved, Checking, "another release is better"),
    t(Writing, Checking, "another release is better"),
    t(Staged, Checking, "another release is better"),
    // After a restart, facts decide.
    t(Verifying, Writing, "restarted: cleared and written again"),
    t(Armed, Good, "it was confirmed without us"),
    t(Idle, Trying, "the running system is not confirmed"),
    t(Offered, Trying, "the running system is not confirmed"),
    t(Approved, Trying, "the running system is not confirmed"),
    t(Writing, Trying, "booted by hand"),
    t(Verifying, Trying, "booted by hand"),
    t(Staged, Trying, "booted by hand"),
    t(RolledBack, Trying, "the running system is not confirmed"),
    t(Idle, RolledBack, "the boot loader left a newer updater, whose state can not be read"),
    t(Staged, Reverting, "booted although it had been cancelled or taken back"),
    t(Armed, Idle, "journal and boot loader contradict each other"),
    t(Trying, Idle, "journal and boot loader contradict each other"),
    t(Reverting, Idle, "a confirmed system that can not be left goes on"),
    t(Reverting, Trying, "journal and boot loader contradict each other"),
    // An operator goes back.
    t(Idle, Reverting, "an operator goes back"),
    t(Good, Reverting, "an operator goes back"),
    t(Checking, Reverting, "an operator goes back, or a recall says so"),
    t(Offered, Reverting, "an operator goes back"),
    t(Approved, Reverting, "an operator goes back"),
    t(RolledBack, Reverting, "an operator goes back"),
    t(Degraded, Reverting, "an operator goes back"),
    t(Degraded, Trying, "an operator asks to confirm"),
    t(Degraded, Good, "it became healthy after all"),
];

/// Whether the machine may go from one state to the other.
#[must_use]
pub fn is_known(from: StateName, to: StateName) -> bool {
    from == Degraded || to == Degraded || TRANSITIONS.iter().any(|arrow| arrow.from == from && arrow.to == to)
}

/// The diagram in the guide, `docs/src/state-machine.md`: Mermaid, drawn from the table.
#[must_use]
pub fn guide_page() -> String {
    let main = |arrow: &&Transition| arrow.from != arrow.to;
    let arrows: String = TRANSITIONS
        .iter()
        .filter(main)
        .map(|arrow| format!("    {} --> {}: {}\n", arrow.from, arrow.to, arrow.when))
        .collect();
    let rows: String = StateName::ALL.iter().map(|state| format!("| `{state}` | {} |\n", state.sentence())).collect();
    format!(
        "# State machine\n\n\
         This page is drawn from the code (`updater/core/src/machine/transitions.rs`) by\n\
         `cargo run -p updater-core --example state_machine`; a test compares it.\n\n\
         | state | meaning |\n|---|---|\n{rows}\n\
         `offered`, `approved`, `writing`, `verifying`, `staged`, `armed`, `trying`, `reverting` and `rolled_back` are\n\
         written to the journal before anything else of the step that enters them is done. The others are gone after a\n\
         restart, which decides anew from the journal and the boot loader.\n\n\
         Any state goes to `degraded` when the boot loader's state or the journal's disk can not be used, and back\n\
         when it can.\n\n\
         ```mermaid\nstateDiagram-v2\n    [*] --> idle\n{arrows}```\n"
    )
}
