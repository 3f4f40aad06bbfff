//! What is done to power and disk.

use serde::{Deserialize, Serialize};

use super::{Condition, patience};

/// A power cut, or several.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PowerCut {
    /// What must become true before it; each time, when there are several.
    #[serde(default)]
    pub until: Condition,
    /// Instead: as soon as the firmware has handed over, while boot loader or kernel is at work.
    #[serde(default)]
    pub in_boot: bool,
    /// Seconds.
    #[serde(default = "patience")]
    pub within: u64,
    /// How often.
    #[serde(default = "once")]
    pub times: u32,
    /// The slot that must be half written then: neither what it held when the scenario began nor any release.
    pub half_written: Option<String>,
    /// What the hardware clock says afterwards (as QEMU's `-rtc base=`); default: the time.
    pub clock: Option<String>,
}

fn once() -> u32 {
    1
}

/// What is overwritten.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Destroy {
    /// Name of the partition.
    pub partition: String,
    /// From its MiB number so many on.
    #[serde(default)]
    pub from_mib: u64,
    /// How many MiB.
    pub mib: u64,
}

/// What is booted of a recording.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Replay {
    /// Seconds each machine has to reach a confirmed slot.
    #[serde(default = "patience")]
    pub within: u64,
}
