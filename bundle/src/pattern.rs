//! Patterns with `*` (any run of characters, also none); everything else stands for itself.

/// Whether `pattern` covers the whole of `text`. Takes at most `pattern.len() * text.len()` steps, no recursion.
#[must_use]
pub fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(first) = parts.next() else { return false };
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    // Leftmost match of each middle part leaves the most for those after it, so no backtracking is needed.
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::matches;
    use proptest::prelude::*;

    #[test]
    fn examples() {
        for (pattern, text) in [
            ("rev-a", "rev-a"),
            ("rev-*", "rev-"),
            ("*", ""),
            ("a*b*c", "aXbbYc"),
            ("*b*", "abc"),
            ("**", "x"),
            ("", ""),
            ("a*a", "aa"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("rev-a", "rev-ab"),
            ("rev-*", "Rev-a"),
            ("", "x"),
            ("a*a", "a"),
            ("a*b*c", "acb"),
            ("*b", "bc"),
            ("?", "x"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    /// The textbook definition, exponential but obviously right.
    fn slow(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => slow(rest, text) || text.split_first().is_some_and(|(_, t)| slow(pattern, t)),
            (Some((p, rest)), Some((t, text))) if p == t => slow(rest, text),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(pattern in "[ab*]{0,7}", text in "[ab]{0,9}") {
            prop_assert_eq!(matches(&pattern, &text), slow(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
