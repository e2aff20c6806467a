//! Errors of TOML files as a person wants them: with the line, what is known, and the name that was probably meant.

use std::ops::Range;
use std::path::Path;

use crate::error::Error;

/// Characters of a message about a file.
const LONGEST: usize = 1000;

/// A TOML error with the line it is at and, for an unknown key, the nearest known one.
pub(crate) fn toml_error(path: &Path, text: &str, error: &toml::de::Error) -> Error {
    let mut message = in_words(&error.message().trim().replace('\n', "; "));
    if let Some(name) = meant(&message) {
        message.push_str(&format!("; did you mean `{name}`?"));
    }
    if let Some((at, _)) = message.char_indices().nth(LONGEST) {
        // A key or a value may be as long as the file.
        message.truncate(at);
        message.push('…');
    }
    Error::input(path, error.span().map(|span| line_at(text, &span)), message)
}

/// What serde says of a value of another type, in a person's words: the names of this program's types are none of them.
pub(crate) fn in_words(message: &str) -> String {
    let Some((kind, rest)) =
        message.split_once(": ").filter(|(kind, _)| ["invalid type", "invalid value", "invalid length"].contains(kind))
    else {
        return message.to_owned();
    };
    // A text may hold anything; what is expected is at the end.
    let Some((found, expected)) = rest.rsplit_once(", expected ") else { return message.to_owned() };
    let kind = if kind == "invalid length" { "has the length " } else { "is " };
    format!("{kind}{}, expected {}", found_in_words(found), expected_in_words(expected))
}

fn found_in_words(found: &str) -> String {
    let value = |name: &str| found.strip_prefix(name).map(in_quotes);
    let number = value("integer ").or_else(|| value("floating point ")).or_else(|| value("boolean "));
    if let Some(value) = number {
        return value;
    }
    if let Some(text) = found.strip_prefix("string ") {
        return format!("the text {text}");
    }
    match found {
        "sequence" => "a list".into(),
        "map" => "a table".into(),
        "null" | "unit" | "unit value" | "Option value" => "null".into(),
        other => other.to_owned(),
    }
}

/// What stands between serde's quotes: a large number has its type behind them.
fn in_quotes(value: &str) -> String {
    value.split('`').nth(1).unwrap_or(value).to_owned()
}

fn expected_in_words(expected: &str) -> String {
    let plain = match expected {
        "usize" | "u64" | "u32" | "u16" | "u8" => "a whole number of at least 0",
        "isize" | "i64" | "i32" => "a whole number",
        "f64" | "f32" => "a number",
        "a string" | "a borrowed string" | "path string" | "a character" => "text in quotes",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" | "map" => "a table",
        other if ["struct ", "internally tagged", "adjacently tagged"].iter().any(|s| other.starts_with(s)) => {
            "a table"
        }
        other if other.starts_with("enum ") => "one of its names",
        other => other,
    };
    plain.to_owned()
}

/// The line, counted from 1, that `span` begins at.
#[must_use]
pub(crate) fn line_at(text: &str, span: &Range<usize>) -> usize {
    let before = &text.as_bytes()[..span.start.min(text.len())];
    before.iter().filter(|&&b| b == b'\n').count() + 1
}

/// Where the lines of a text begin: [`line_at`] for many places without reading the text again for each.
pub(crate) struct Lines {
    ends: Vec<usize>,
}

impl Lines {
    pub(crate) fn of(text: &str) -> Self {
        Self { ends: text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at).collect() }
    }

    /// The line, counted from 1, that `span` begins at.
    #[must_use]
    pub(crate) fn at(&self, span: &Range<usize>) -> usize {
        self.ends.partition_point(|end| *end < span.start) + 1
    }
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
        for text in ["", "\n", "a\nb\nc", "ä\n\nb\n"] {
            let lines = Lines::of(text);
            (0..text.len() + 3)
                .for_each(|at| assert_eq!(lines.at(&(at..at)), line_at(text, &(at..at)), "{text:?} {at}"));
        }
    }

    #[test]
    fn types_are_named_as_a_person_names_them() {
        for (serde, words) in [
            ("invalid type: string \"x\", expected usize", "is the text \"x\", expected a whole number of at least 0"),
            ("invalid value: integer `-1`, expected usize", "is -1, expected a whole number of at least 0"),
            ("invalid type: floating point `1.5`, expected u64", "is 1.5, expected a whole number of at least 0"),
            ("invalid type: null, expected f64", "is null, expected a number"),
            ("invalid type: sequence, expected struct Policy", "is a list, expected a table"),
            ("invalid type: boolean `true`, expected path string", "is true, expected text in quotes"),
            (
                "invalid type: string \", expected f64\", expected a boolean",
                "is the text \", expected f64\", expected true or false",
            ),
            ("invalid value: integer `9999` as i128, expected usize", "is 9999, expected a whole number of at least 0"),
            ("missing field `a`", "missing field `a`"),
        ] {
            assert_eq!(in_words(serde), words);
        }
    }
}
