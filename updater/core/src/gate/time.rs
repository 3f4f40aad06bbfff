//! What time it is, as far as anybody can be believed.

use bundle::reason::Reason;
use jiff::Timestamp;

use super::{Inputs, Lines};

/// Time that can not be turned back by a dead battery or a lying time server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trusted {
    /// No earlier than this.
    pub at: Timestamp,
    /// Whether the system clock is believed: only then does "not expired yet" mean anything.
    pub certain: bool,
}

impl Inputs<'_> {
    /// The largest of image build time, the newest signed time seen, and the system clock when it is trusted.
    #[must_use]
    pub fn trusted(&self) -> Trusted {
        // Through `floor`, so that a date signed by a key that was replaced since does not count.
        let approval = super::approval::floor(self).map(|floor| floor.issued);
        let clock = self.now.wall_trusted.then_some(self.now.wall);
        let known = [Some(self.device.build_time), self.journal.floor.signed_time, approval, clock];
        Trusted { at: known.into_iter().flatten().max().unwrap_or(self.now.wall), certain: self.now.wall_trusted }
    }
}

pub(super) fn clock(lines: &mut Lines, inputs: &Inputs<'_>) {
    let trusted = inputs.trusted();
    if trusted.certain {
        lines.pass("clock", format!("the clock is trusted; it is {}", trusted.at));
    } else {
        lines.wait(
            "clock",
            Reason::ClockUntrusted,
            format!("the clock is not synchronised; it is at least {}", trusted.at),
            None,
        );
    }
}

pub(super) fn trust_root(lines: &mut Lines, inputs: &Inputs<'_>) {
    match inputs.documents.trust_expires {
        Some(expires) if expires <= inputs.trusted().at => {
            // There is no code of its own: keys of an expired root are keys that this device no longer trusts.
            lines.refuse("trust", Reason::KeyUnknown, format!("the trust root expired at {expires}"));
        }
        Some(expires) => lines.pass("trust", format!("the trust root is valid until {expires}")),
        None => lines.pass("trust", "the trust root does not say when it expires"),
    }
}
