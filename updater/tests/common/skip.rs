//! Tests that can not do their work here.

/// Says so loudly: silence would look like success. With `FLIPSIDE_NO_SKIP` set, as `make unit` does, that is a failure.
pub fn skipped(what: &str) {
    assert!(std::env::var_os("FLIPSIDE_NO_SKIP").is_none_or(|set| set.is_empty()), "skipped: {what}");
    eprintln!("SKIPPED: {what}");
}

/// The same for what only root can test: that nobody is root is no failure.
pub fn skipped_without_root(what: &str) {
    if nix::unistd::geteuid().is_root() {
        skipped(what);
    } else {
        eprintln!("SKIPPED: {what}; run as root");
    }
}
