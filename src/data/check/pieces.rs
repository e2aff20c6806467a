//! What detectors show of a text, and what they pass over.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

use crate::shown::plain;

/// Characters of a text that a finding shows.
pub(super) const SHOWN: usize = 60;

/// A text in quotes on one line, cut.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", plain(text.trim(), SHOWN))
}

/// A text without what stands between backticks.
pub(super) fn without_code(text: &str) -> Cow<'_, str> {
    if !text.contains('`') {
        return text.into();
    }
    static CODE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?s)```.*?(?:```|$)|`[^`\n]*`").expect("a valid pattern"));
    CODE.replace_all(text, " ")
}
