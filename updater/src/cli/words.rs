//! What can be said on the command line, as a table that parsing and help are both made from.
//!
//! A tenth of the size of the usual library for it, which would be a twentieth of the device's binary.

/// An option.
#[derive(Debug, PartialEq, Eq)]
pub struct Flag {
    /// Behind the two dashes.
    pub name: &'static str,
    /// What its value is; empty: it takes none.
    pub value: &'static str,
    /// For help; empty: not shown, for our own units and for tests.
    pub about: &'static str,
}

/// A word without dashes.
#[derive(Debug, PartialEq, Eq)]
pub struct Operand {
    /// What it is.
    pub name: &'static str,
    /// Whether it must be there.
    pub required: bool,
    /// For help.
    pub about: &'static str,
}

/// A command.
#[derive(Debug, PartialEq, Eq)]
pub struct Shape {
    /// One word, or two.
    pub name: &'static str,
    /// One sentence.
    pub about: &'static str,
    /// In their order.
    pub operands: &'static [Operand],
    /// Besides the global ones.
    pub flags: &'static [Flag],
}

const fn flag(name: &'static str, about: &'static str) -> Flag {
    Flag { name, value: "", about }
}

const fn with(name: &'static str, value: &'static str, about: &'static str) -> Flag {
    Flag { name, value, about }
}

const fn may(name: &'static str, about: &'static str) -> Operand {
    Operand { name, required: false, about }
}

const fn must(name: &'static str, about: &'static str) -> Operand {
    Operand { name, required: true, about }
}

const fn shape(name: &'static str, about: &'static str, operands: &'static [Operand], flags: &'static [Flag]) -> Shape {
    Shape { name, about, operands, flags }
}

/// Options of every command.
pub const GLOBAL: &[Flag] = &[
    flag("json", "Print JSON (versioned, documented) instead of text"),
    with("sim", "FOLDER", "Use a simulated device in this folder (see `flipside sim init`)"),
    with("root", "FOLDER", ""),
];

const NO_WAIT: Flag = flag("no-wait", "Do not wait for the end");
const WHY: Operand = may("REASON", "Why, for the history");

/// All commands.
pub const SHAPES: &[Shape] = &[
    shape(
        "status",
        "Show slots, versions, what is next and why not now",
        &[],
        &[flag("follow", "Show again at every change")],
    ),
    shape(
        "check",
        "Look for an update now, and go on as far as the configured mode allows",
        &[],
        &[
            flag("wait", "Wait until it is clear what comes of it, showing progress"),
            flag("unattended", "Nobody waits for it (a timer): a pause after failures is kept"),
        ],
    ),
    shape(
        "install",
        "Install an update: the offered one, or a bundle (file, pipe, URL)",
        &[may("SOURCE", "Bundle file, `-` for standard input, or URL; without it: what the region approves")],
        &[
            flag("activate", "Also switch to it"),
            flag("reboot", "Also switch to it and restart"),
            flag("force", "Do not wait for windows, inhibitors or an unmetered link; never overrides the region"),
            NO_WAIT,
        ],
    ),
    shape(
        "activate",
        "Switch to the slot that was written and proven",
        &[may("SLOT", "`a` or `b`; without it: the one that is not running")],
        &[NO_WAIT],
    ),
    shape("reboot", "Restart into the slot that was switched to", &[], &[NO_WAIT]),
    shape(
        "confirm",
        "Check the health of the running, unconfirmed system now, and keep it when it is well",
        &[],
        &[flag("boot", "In the boot sequence: wait until the running system is confirmed, or is not")],
    ),
    shape("rollback", "Go back to the other slot", &[WHY], &[]),
    shape("reject", "Make a slot unbootable and remember its release as bad", &[must("SLOT", "`a` or `b`"), WHY], &[]),
    shape("cancel", "Give up the update that is under way, or take back a switch before the restart", &[], &[]),
    shape(
        "retry",
        "Allow a release again that failed here",
        &[may("MANIFEST", "Manifest digest; without it: all")],
        &[],
    ),
    shape("explain", "Say why this device does or does not update now", &[], &[]),
    shape("history", "Show what became of the last updates", &[], &[]),
    shape("config show", "Print what is set", &[], &[flag("origin", "And which file each value is from")]),
    shape(
        "config check",
        "Say what is wrong with the configuration; exit code 1 when something does not work",
        &[],
        &[],
    ),
    shape(
        "self-test",
        "Check that this device can be updated safely: slots, boot loader, space, clock, keys",
        &[],
        &[
            with(
                "slot",
                "SLOT",
                "Instead, let the updater of this slot (`a` or `b`) prove, from that slot and without changing anything, \
             that it could work here",
            ),
            with("state", "FOLDER", ""),
            with("etc", "FOLDER", ""),
        ],
    ),
    shape(
        "daemon",
        "Run the updater (started by the service manager)",
        &[],
        &[
            with("idle-exit", "SECONDS", "Leave after this many seconds without anything to do; 0 = stay; else 30"),
            flag("debug", "Say more in the log"),
        ],
    ),
    shape(
        "sim init",
        "Make a factory-fresh simulated device running slot a (needs --sim)",
        &[],
        &[with("trust", "FILE", "Trust root of the releases"), with("url", "URL", "Update server")],
    ),
    shape("sim reboot", "Play the boot loader: choose a slot, count, boot it (needs --sim)", &[], &[]),
];
