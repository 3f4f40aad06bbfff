//! What can happen.

use proptest::prelude::*;
use serde::{Deserialize, Serialize};

/// One thing that happens to the device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Action {
    /// The next effects, results and timers, in order.
    Go(u8),
    /// The work under way ends badly.
    Fail(Fault),
    /// Power is lost, with work and effects wherever they are, and comes back.
    PowerCut {
        /// Whether what was being written just made it.
        landed: bool,
        /// What it did to the journal.
        journal: Fate,
    },
    /// Power is lost and somebody chooses a slot in the boot menu.
    BootMenu(bool),
    /// The daemon is killed and started again.
    Restart,
    /// The same in the middle of work on the boot loader, which makes it all the same.
    RestartLanded,
    /// An operator asks for something.
    Operator(Op),
    /// The wall clock is set, right or wrong.
    Clock { hours: i32, trusted: bool },
    /// The region approves a new release.
    Offer(Quality),
    /// The region, or the way to it, changes.
    Region(Weather),
    /// The vendor takes the newest release back; devices that can go back to the one before.
    Recall { back: bool },
    /// Somebody wants not to be interrupted.
    Inhibit(bool),
    /// The link is metered.
    Metered(bool),
    /// The mode in the configuration changes (0 off, 1 notify, 2 stage, 3 apply).
    Mode(u8),
    /// The data partition stops taking writes, or takes them again.
    DiskBroken(bool),
    /// What the data partition is given is kept, and said not to be: the last sync fails.
    DiskLies(bool),
    /// The boot loader's state can not be written, or can be again.
    BootBroken(bool),
    /// The boot loader's state can not be read either.
    Blind(bool),
    /// Nothing happens for a while.
    Sleep { minutes: u16 },
}

/// How work ends badly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    Network,
    Local,
    Content,
    /// It took effect, and says that it did not: the last sync failed.
    After,
    /// It never ends by itself; meant for a health check, everything else has time-outs of its own.
    Hang,
}

/// What a power cut did to the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    Kept,
    /// Both copies are damaged, or the data partition is new.
    Lost,
    /// The newest copy is damaged: the one before it is read.
    Older,
    /// A newer updater wrote it.
    Future,
}

/// Operator commands.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Op {
    Check,
    Install { force: bool },
    Activate(bool),
    Reboot,
    Confirm,
    Rollback,
    Reject(bool),
    Retry,
    Cancel,
}

/// What a release is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Quality {
    Good,
    /// Boots; a required check fails.
    Sick,
    /// Boots; the application never gets ready.
    Slow,
    /// The kernel or initramfs hangs.
    NoBoot,
    /// What is on the server does not match its index.
    Corrupt,
    /// Its own updater can not work on this device, and says so when it is tried before the restart.
    Unfit,
}

/// What the region says, and whether it can be heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Weather {
    Rolling,
    Paused,
    Halted,
    /// The server does not answer.
    Silent,
    /// An old document is served again.
    Replay,
    /// The document has expired.
    Expired,
    /// The document lies about the counter of an older release.
    Liar,
    /// The region's key is stolen: documents made at will from this seed, until the key is replaced.
    Thief(u64),
}

/// Any action; progress is the most likely, or nothing would ever get far.
pub fn arbitrary() -> impl Strategy<Value = Action> {
    prop_oneof![
        30 => (1u8..12).prop_map(Action::Go),
        5 => fault().prop_map(Action::Fail),
        5 => (any::<bool>(), prop_oneof![12 => Just(Fate::Kept), 1 => Just(Fate::Lost), 1 => Just(Fate::Older), 1 => Just(Fate::Future)])
            .prop_map(|(landed, journal)| Action::PowerCut { landed, journal }),
        1 => any::<bool>().prop_map(Action::BootMenu),
        2 => Just(Action::Restart),
        1 => Just(Action::RestartLanded),
        4 => op().prop_map(Action::Operator),
        1 => (-20_000..20_000i32, any::<bool>()).prop_map(|(hours, trusted)| Action::Clock { hours, trusted }),
        4 => quality().prop_map(Action::Offer),
        3 => weather().prop_map(Action::Region),
        1 => any::<bool>().prop_map(|back| Action::Recall { back }),
        1 => any::<bool>().prop_map(Action::Inhibit),
        1 => any::<bool>().prop_map(Action::Metered),
        1 => (0u8..4).prop_map(Action::Mode),
        1 => prop_oneof![Just(true), Just(false), Just(false)].prop_map(Action::DiskBroken),
        1 => prop_oneof![Just(true), Just(false), Just(false)].prop_map(Action::BootBroken),
        1 => prop_oneof![Just(true), Just(false), Just(false)].prop_map(Action::DiskLies),
        1 => prop_oneof![Just(true), Just(false), Just(false)].prop_map(Action::Blind),
        2 => (1u16..2000).prop_map(|minutes| Action::Sleep { minutes }),
    ]
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![Just(Fault::Network), Just(Fault::Local), Just(Fault::Content), Just(Fault::After), Just(Fault::Hang)]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => Just(Op::Check),
        3 => any::<bool>().prop_map(|force| Op::Install { force }),
        1 => any::<bool>().prop_map(Op::Activate),
        1 => Just(Op::Reboot),
        1 => Just(Op::Confirm),
        2 => Just(Op::Rollback),
        1 => any::<bool>().prop_map(Op::Reject),
        2 => Just(Op::Retry),
        2 => Just(Op::Cancel),
    ]
}

fn quality() -> impl Strategy<Value = Quality> {
    prop_oneof![
        5 => Just(Quality::Good),
        2 => Just(Quality::Sick),
        1 => Just(Quality::Slow),
        2 => Just(Quality::NoBoot),
        1 => Just(Quality::Corrupt),
        1 => Just(Quality::Unfit),
    ]
}

fn weather() -> impl Strategy<Value = Weather> {
    prop_oneof![
        6 => Just(Weather::Rolling),
        1 => Just(Weather::Paused),
        1 => Just(Weather::Halted),
        2 => Just(Weather::Silent),
        1 => Just(Weather::Replay),
        1 => Just(Weather::Expired),
        1 => Just(Weather::Liar),
        2 => any::<u64>().prop_map(Weather::Thief),
    ]
}
