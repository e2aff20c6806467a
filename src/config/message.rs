//! Errors of TOML files as a person wants them: with the line, what is known, and the name that was probably meant.

use std::ops::Range;
use std::path::Path;

use crate::error::Error;

/// A TOML error with the line it is at and, for an unknown key, the nearest known one.
pub(crate) fn toml_error(path: &Path, text: &str, error: &toml::de::Error) -> Error {
    let mut message = error.message().trim().replace('\n', "; ");
    if let Some(name) = meant(&message) {
        message.push_str(&format!("; did you mean `{name}`?"));
    }
    Error::input(path, error.span().map(|span| line_at(text, &span)), message)
}

/// The line, counted from 1, that `span` begins at.
#[must_use]
pub(crate) fn line_at(text: &str, span: &Range<usize>) -> usize {
    let before = &text.as_bytes()[..span.start.min(text.len())];
    before.iter().filter(|&&b| b == b'\n').count() + 1
}

/// The one of `known` that `name` is a slip of, if one is near enough: at most a third of its letters are wrong.
pub(crate) fn nearest<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let flat = |s: &str| s.to_lowercase().replace('_', "-");
    let name = flat(name);
    let near = known.into_iter().map(|k| (distance(&name, &flat(k)), k)).min_by_key(|(d, _)| *d);
    near.filter(|(d, k)| *d * 3 <= k.chars().count().max(3)).map(|(_, k)| k)
}

/// For serde's "unknown field `a`, expected one of `b`, `c`": the nearest of those expected.
fn meant(message: &str) -> Option<&str> {
    if !message.starts_with("unknown ") {
        return None;
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    let found = quoted.next()?;
    let expected: Vec<&str> = quoted.collect();
    // A single expected name already says it.
    if expected.len() < 2 { None } else { nearest(found, expected) }
}

/// Letters to insert, delete or replace to make `b` of `a` (Levenshtein); names are cut at 64 letters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
    }

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        assert_eq!(nearest("max_lenght", ["max-length", "min-length"]), Some("max-length"));
        assert_eq!(nearest("Contains", ["contains", "exact"]), Some("contains"));
        assert_eq!(nearest("temperature", ["prompt", "text"]), None);
    }

    #[test]
    fn lines_are_counted_from_one_and_a_span_past_the_end_is_the_last_line() {
        assert_eq!(line_at("a\nb\nc", &(0..1)), 1);
        assert_eq!(line_at("a\nb\nc", &(4..5)), 3);
        assert_eq!(line_at("ä\nb", &(99..100)), 2);
    }
}
