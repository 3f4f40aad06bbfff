//! Tests that can not do their work here.

use std::io::Write as _;

/// Says so loudly: silence would look like success. With `FLIPSIDE_NO_SKIP` set, as `make unit` does, that is a failure.
pub fn skipped(what: &str) {
    assert!(std::env::var_os("FLIPSIDE_NO_SKIP").is_none_or(|set| set.is_empty()), "skipped: {what}");
    say(what);
}

/// The same for what only root can test: that nobody is root is no failure.
pub fn skipped_without_root(what: &str) {
    if nix::unistd::geteuid().is_root() {
        skipped(what);
    } else {
        say(&format!("{what}; run as root"));
    }
}

/// Is the root folder no mount point, as below chroot(8)? A process can have no mounts to itself there, and no other root
/// (pivot_root(2)). That it is so is no failure, and told.
pub fn skipped_below_chroot() -> bool {
    let Ok(mounts) = std::fs::read_to_string("/proc/self/mountinfo") else { return false };
    // The fifth field is the mount point (proc_pid_mountinfo(5)).
    let below = !mounts.lines().any(|line| line.split(' ').nth(4) == Some("/"));
    if below {
        say(
            "the root folder is no mount point here (a chroot); `mount --bind FOLDER FOLDER` before chroot(8) makes it one",
        );
    }
    below
}

/// Not by `eprintln!`, which the test harness keeps to itself when a test passes.
fn say(what: &str) {
    let _ = writeln!(std::io::stderr().lock(), "\n*** SKIPPED: {what} ***\n");
}
