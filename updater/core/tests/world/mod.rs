//! A simulated world for the machine: boot loader, disk, journal, region, operator, power.
//!
//! Deterministic: the same actions give the same history, so a failing run can be saved and replayed. The shell's part
//! is played effect by effect, and power can be cut between any two of them.

#![allow(dead_code, reason = "the tests and the replay example use different parts")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs,
    reason = "test code outside of test functions; it may fail loudly"
)]

pub mod action;
pub mod device;
pub mod invariants;
pub mod power;
pub mod region;
pub mod shell;
pub mod thief;

pub use action::Action;
pub use device::World;

/// What went wrong: the name of the invariant and what was seen.
pub type Violation = String;

/// Plays `actions`, checking every invariant after each, then leaves the device alone and checks that it gets where it
/// should. `trace` gets one line per action.
pub fn play(actions: &[Action], mut trace: Option<&mut dyn FnMut(&str)>) -> Result<(), Violation> {
    let mut world = World::new();
    let mut tell = |world: &mut World, what: &dyn Fn(&World) -> String| {
        let story = std::mem::take(&mut world.story);
        if let Some(trace) = &mut trace {
            trace(&format!("{}\n     -> {}", what(world), world.line()));
            story.iter().for_each(|line| trace(&format!("        {line}")));
        }
    };
    for (number, action) in actions.iter().enumerate() {
        let result = world.act(action).and_then(|()| invariants::all(&world));
        tell(&mut world, &|_| format!("{number:4} {action:?}"));
        result.map_err(|violation| format!("action {number} {action:?}: {violation}\n  {}", world.line()))?;
    }
    if actions.len().is_multiple_of(3) {
        let end = invariants::worn_out(&mut world, actions.len().is_multiple_of(2));
        tell(&mut world, &|_| "     left alone with a disk that takes no writes".into());
        end.map_err(|violation| format!("with a disk that takes no writes: {violation}\n  {}", world.line()))?;
    }
    // A bad release and then a good one; which kind of bad is as random as the history.
    let bad = match actions.len() % 4 {
        0 => action::Quality::Sick,
        1 => action::Quality::NoBoot,
        2 => action::Quality::Slow,
        _ => action::Quality::Unfit,
    };
    for quality in [bad, action::Quality::Good] {
        let end = invariants::liveness(&mut world, quality);
        tell(&mut world, &|_| format!("     left alone with a {quality:?} release"));
        end.map_err(|violation| format!("liveness with a {quality:?} release: {violation}\n  {}", world.line()))?;
    }
    Ok(())
}
