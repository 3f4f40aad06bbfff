//! Message ids of the log: for `journalctl MESSAGE_ID=`, for catalogs and for whoever watches a device from outside.
//!
//! Stable: an id is never used for anything else, and the documentation lists them.

use updater_core::status::StateName;

/// The id of the line that says that this state was reached.
#[must_use]
pub const fn reached(state: StateName) -> &'static str {
    match state {
        StateName::Idle => "3acb0cc359455467b3523100ff2b3eec",
        StateName::Checking => "17e38a41d8845052bd28ab208e357f57",
        StateName::Offered => "9e4015c87b6057878e2724a17e51248d",
        StateName::Approved => "57cb08b400355dd1ad4033a29ed4d88a",
        StateName::Writing => "48737f2c550a5c7791630b91533e6b71",
        StateName::Verifying => "2f58c64e2036552892b814fc4af88468",
        StateName::Staged => "5df3d109411c54cc88d4ff3d2b4933a9",
        StateName::Armed => "e298491e68315f54bdd2f160e5fdd468",
        StateName::Trying => "cc30d7dbdb555f57bab7aca275d71d22",
        StateName::Good => "ab711e53ae6a5c328880551b886f93a8",
        StateName::Reverting => "768261a42e5156cb8176779a1aceb11e",
        StateName::RolledBack => "399f0d4176fe57ff9617993b1b61fb4d",
        StateName::Degraded => "756d22fcdd8754bea7d9c18967b3f448",
    }
}

/// An update does not go on right now; the line says why and until when.
pub const WAITS: &str = "5f2d9c1e8a7b4c36b0e4d1f7a3958c62";

/// Something went wrong and no state changed with it.
pub const FAILED: &str = "c84e0b7a61f34d9295d8e2a4b7316f0d";

/// A delta was offered and the bundle has to serve instead: bytes that somebody may pay for.
pub const DELTA_NOT_USED: &str = "a8eb0184b4ba5d47844d3368f7ca605e";

/// Frames could not be made from the running slot and come from the bundle.
pub const FRAMES_NOT_MADE: &str = "da59b74820fb5aba8fef9c9f00848895";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_are_different_and_documented() {
        let guide = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/src/integrate.md");
        let guide = std::fs::read_to_string(guide).unwrap();
        let mut ids: Vec<&str> = StateName::ALL.into_iter().map(reached).collect();
        ids.extend([WAITS, FAILED, DELTA_NOT_USED, FRAMES_NOT_MADE]);
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
        for state in StateName::ALL {
            let line = format!("| `{}` | `{}` |", reached(state), state.as_str());
            assert!(guide.contains(&line), "{line}");
        }
        for id in ids {
            assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
            assert!(guide.contains(id), "{id}");
        }
    }
}
