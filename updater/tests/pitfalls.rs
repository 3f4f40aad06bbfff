//! The table of pitfalls in the guide names only tests that exist, and leaves no pitfall without one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may fail loudly"
)]

use std::path::Path;

/// Pitfalls that are numbered.
const NUMBERED: usize = 38;
/// Those that came later and have no number.
const OTHERS: usize = 5;

/// The words in backticks, in order.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Whether that file declares a test of that name; a scenario is a test of its own.
fn declares(root: &Path, file: &str, name: &str) -> bool {
    let Ok(text) = std::fs::read_to_string(root.join(file)) else { return false };
    let mut lines = text.lines().map(str::trim);
    let mut attributed = false;
    lines.any(|line| {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") || line.starts_with("proptest!") {
            attributed = true;
        }
        // Attributes are of the next function only: a helper between two tests is none.
        let Some(declared) = ["fn ", "async fn ", "pub fn "].iter().find_map(|start| line.strip_prefix(start)) else {
            return false;
        };
        std::mem::replace(&mut attributed, false) && declared.split(['(', '<']).next() == Some(name)
    })
}

#[test]
fn a_helper_behind_a_test_is_no_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert!(declares(root, "tests/pitfalls.rs", "a_helper_behind_a_test_is_no_test"));
    assert!(!declares(root, "tests/pitfalls.rs", "behind_a_test"));
    assert!(!declares(root, "tests/pitfalls.rs", "declares"));
    behind_a_test();
}

fn behind_a_test() {}

#[test]
fn every_pitfall_has_tests_and_every_named_test_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = std::fs::read_to_string(root.join("docs/src/pitfalls.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| |"));
    let (mut numbers, mut others, mut missing) = (Vec::new(), 0, Vec::new());
    for row in rows.map(|row| row.split(" | ").map(|cell| cell.trim_matches(['|', ' '])).collect::<Vec<_>>()) {
        let [number, what, here, tests] = row.as_slice() else { panic!("not four cells: {row:?}") };
        assert!(!what.is_empty() && !here.is_empty(), "{number}: says nothing");
        match number.parse::<usize>() {
            Ok(number) => numbers.push(number),
            Err(_) => others += usize::from(number.is_empty()),
        }
        let entries: Vec<Vec<&str>> = tests.split("<br>").map(quoted).collect();
        assert!(!entries.is_empty(), "{what}: no test");
        for entry in entries {
            let found = match entry.as_slice() {
                [file] => file.ends_with(".toml") && root.join(file).is_file(),
                [file, name] => declares(&root, file, name),
                _ => false,
            };
            if !found {
                missing.push(format!("{number} {entry:?}"));
            }
        }
    }
    assert!(missing.is_empty(), "tests that do not exist: {missing:#?}");
    assert_eq!(numbers, (1..=NUMBERED).collect::<Vec<_>>(), "a pitfall is missing");
    assert_eq!(others, OTHERS, "a pitfall without a number is missing");
}
