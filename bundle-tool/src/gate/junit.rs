//! Reads JUnit XML, as nearly every test runner writes it.
//!
//! Only `<testcase>` elements count, with `<failure>`, `<error>` and `<skipped>` in them: the totals on `<testsuite>`
//! are optional and differ from tool to tool.

use anyhow::{Context as _, Result, ensure};
use quick_xml::Reader;
use quick_xml::events::Event;

use super::counts::Counts;

/// Counts the tests of one report.
///
/// # Errors
/// When it is not XML that ends, or has no test suite.
pub fn junit(text: &str) -> Result<Counts> {
    let mut reader = Reader::from_str(text);
    let mut counts = Counts::default();
    let mut case = None;
    let (mut suites, mut depth) = (0u32, 0u32);
    loop {
        match reader.read_event().context("not well-formed XML")? {
            Event::Eof => break,
            Event::Start(tag) => {
                depth += 1;
                match tag.local_name().as_ref() {
                    "testsuite" | "testsuites" => suites += 1,
                    "testcase" => case = Some(Outcome::Passed),
                    name => Outcome::note(&mut case, name),
                }
            }
            Event::Empty(tag) => match tag.local_name().as_ref() {
                "testsuite" | "testsuites" => suites += 1,
                "testcase" => Outcome::Passed.add(&mut counts),
                name => Outcome::note(&mut case, name),
            },
            Event::End(tag) => {
                depth = depth.saturating_sub(1);
                if tag.local_name().as_ref() == "testcase"
                    && let Some(outcome) = case.take()
                {
                    outcome.add(&mut counts);
                }
            }
            _ => {}
        }
    }
    ensure!(depth == 0, "the XML ends early");
    ensure!(suites > 0, "no <testsuite>: this is not a JUnit report");
    Ok(counts)
}

#[derive(Clone, Copy)]
enum Outcome {
    Passed,
    Failed,
    Skipped,
}

impl Outcome {
    /// An element inside a test case. One failure outweighs everything.
    fn note(case: &mut Option<Self>, name: &str) {
        *case = match (*case, name) {
            (Some(_), "failure" | "error") => Some(Self::Failed),
            (Some(Self::Passed), "skipped") => Some(Self::Skipped),
            (as_before, _) => as_before,
        };
    }

    const fn add(self, counts: &mut Counts) {
        match self {
            Self::Passed => counts.passed += 1,
            Self::Failed => counts.failed += 1,
            Self::Skipped => counts.skipped += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_counted_whatever_the_totals_say() {
        let text = r#"<?xml version="1.0"?>
<testsuites tests="99"><testsuite name="a" failures="0">
  <testcase name="1"/>
  <testcase name="2"><system-out>&lt;failure&gt; <![CDATA[<failure/>]]></system-out></testcase>
  <testcase name="3"><failure message="x">no</failure></testcase>
  <testcase name="4"><error/><skipped/></testcase>
  <testcase name="5"><skipped/></testcase>
  <failure/>
</testsuite></testsuites>"#;
        assert_eq!(junit(text).unwrap(), Counts { passed: 2, failed: 2, skipped: 1 });
    }

    #[test]
    fn what_is_not_a_whole_report_is_an_error() {
        for bad in ["", "<html></html>", "<testsuite><testcase name=\"1\"/>", "<testsuite></testsuites>", "text"] {
            assert!(junit(bad).is_err(), "{bad}");
        }
        assert_eq!(junit("<testsuite/>").unwrap(), Counts::default());
    }
}
