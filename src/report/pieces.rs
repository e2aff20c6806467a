//! Pieces of a Markdown page.

use crate::report::escape::html_safe;

/// Adds a line.
pub(super) fn add(page: &mut String, line: &str) {
    page.push_str(line);
    page.push('\n');
}

/// A short text as code: in backticks where nothing of it has a meaning in Markdown, which is also readable as it is.
pub(super) fn code(text: &str) -> String {
    let plain = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-:./ ".contains(c));
    if plain && !text.contains("://") && text.trim() == text {
        format!("`{text}`")
    } else {
        format!("<code>{}</code>", html_safe(text))
    }
}

/// A text as code in HTML, where backticks mean nothing.
pub(super) fn tag(text: &str) -> String {
    format!("<code>{}</code>", html_safe(text))
}
