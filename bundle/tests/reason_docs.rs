//! Every reason code has its section in the guide, and the guide knows no code that does not exist.

use std::collections::BTreeSet;

use bundle::reason::Reason;

#[test]
fn every_reason_has_a_runbook() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/src/reasons.md");
    let text = std::fs::read_to_string(page).unwrap();
    let described: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')).collect();
    let known: BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.code()).collect();
    assert_eq!(described, known);
}
