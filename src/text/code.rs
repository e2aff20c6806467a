//! Code within a text.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

/// A text without what stands between backticks.
pub(crate) fn without_code(text: &str) -> Cow<'_, str> {
    if !text.contains('`') {
        return text.into();
    }
    static CODE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?s)```.*?(?:```|$)|`[^`\n]*`").expect("a valid pattern"));
    CODE.replace_all(text, " ")
}
