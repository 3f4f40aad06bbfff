//! Help, from the table of commands.

use std::fmt::Write as _;

use super::words::{Flag, GLOBAL, SHAPES, Shape};

/// Columns at most.
const WIDTH: usize = 100;
/// Where explanations begin.
const COLUMN: usize = 26;

const EXIT_CODES: &str = "Exit codes: 0 done or nothing to do, 1 failed, 2 wrong command line, 3 a policy said no or not \
    now (the reason is printed), 4 the daemon can not be reached, 5 not authorised.";

/// Of everything that begins with these words: one command, those of a group, or all.
#[must_use]
pub fn of(words: &str) -> String {
    let within =
        |shape: &&Shape| words.is_empty() || shape.name == words || shape.name.starts_with(&format!("{words} "));
    let mut shapes: Vec<_> = SHAPES.iter().filter(within).collect();
    if let [only] = shapes.as_slice()
        && only.name == words
    {
        return one(only);
    }
    if shapes.is_empty() {
        shapes = SHAPES.iter().collect();
    }
    let mut text = String::from("Updates this system, and comes back when the update is bad.\n\n");
    let _ = writeln!(text, "Usage: {}\n\nCommands:", usage_of_group(words));
    for shape in shapes {
        row(&mut text, shape.name, shape.about);
    }
    if words.is_empty() {
        text.push_str("\nWithout a command: status. `flipside help COMMAND` tells more.\n");
    }
    options(&mut text, &[]);
    let _ = writeln!(text, "\n{}", wrapped(EXIT_CODES, 0));
    text
}

fn one(shape: &Shape) -> String {
    let mut text = format!("{}.\n\nUsage: {}\n", shape.about, usage(shape));
    if !shape.operands.is_empty() {
        text.push_str("\nArguments:\n");
    }
    for operand in shape.operands {
        row(&mut text, operand.name, operand.about);
    }
    options(&mut text, shape.flags);
    text
}

fn options(text: &mut String, flags: &[Flag]) {
    text.push_str("\nOptions:\n");
    for flag in flags.iter().chain(GLOBAL).filter(|flag| !flag.about.is_empty()) {
        row(text, format!("--{} {}", flag.name, flag.value).trim_end(), flag.about);
    }
    row(text, "-h, --help", "Print help");
    row(text, "-V, --version", "Print the version");
}

/// How a command is said.
#[must_use]
pub fn usage(shape: &Shape) -> String {
    let mut text = format!("flipside {} [OPTIONS]", shape.name);
    for operand in shape.operands {
        let _ = if operand.required { write!(text, " {}", operand.name) } else { write!(text, " [{}]", operand.name) };
    }
    text
}

/// How a command of a group is said; of all, when there is none.
#[must_use]
pub fn usage_of_group(words: &str) -> String {
    format!("flipside {words} [OPTIONS] COMMAND").replace("  ", " ")
}

fn row(text: &mut String, name: &str, about: &str) {
    let gap = COLUMN.saturating_sub(2);
    let _ = writeln!(text, "  {name:<gap$}{}", wrapped(about, COLUMN));
}

/// Broken into lines; those after the first begin at `indent`.
fn wrapped(text: &str, indent: usize) -> String {
    let mut lines = String::new();
    let mut column = indent;
    for word in text.split_whitespace() {
        if column > indent && column + 1 + word.len() > WIDTH {
            let _ = write!(lines, "\n{:indent$}", "");
            column = indent;
        }
        if column > indent {
            lines.push(' ');
            column += 1;
        }
        lines.push_str(word);
        column += word.len();
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_shown_option_is_in_its_help_and_no_line_is_too_long() {
        let all = of("");
        for shape in SHAPES {
            assert!(all.contains(&format!("  {} ", shape.name)), "{}", shape.name);
            let text = of(shape.name);
            assert!(text.starts_with(shape.about) && text.contains(&usage(shape)), "{text}");
            for flag in shape.flags {
                assert_eq!(text.contains(&format!("--{}", flag.name)), !flag.about.is_empty(), "{text}");
            }
            assert!(text.lines().chain(all.lines()).all(|line| line.len() <= WIDTH), "{text}");
        }
        assert!(!all.contains("--root"), "{all}");
    }

    #[test]
    fn a_group_shows_what_is_in_it() {
        let text = of("config");
        assert!(text.contains("config show") && text.contains("config check") && !text.contains("history"), "{text}");
    }
}
