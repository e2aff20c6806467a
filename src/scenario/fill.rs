//! Texts in which `{{column}}` stands for what a row has there.

use super::rows::Row;
use crate::shown::plain;

/// The text with every `{{column}}` replaced by the row's text. White space around the name does not count.
///
/// # Errors
/// A `{{` that is not closed; a column that the row does not have, or that is `null`.
pub(crate) fn fill(text: &str, row: &Row) -> Result<String, String> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, column, after)) = next(rest)? {
        filled.push_str(before);
        filled.push_str(row.text(column)?);
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

/// The columns that a text names, in its order.
///
/// # Errors
/// A `{{` that is not closed.
pub(crate) fn columns(text: &str) -> Result<Vec<&str>, String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, column, after)) = next(rest)? {
        found.push(column);
        rest = after;
    }
    Ok(found)
}

/// The column that is all of a text: of `{{line}}`, but not of `line {{line}}`.
pub(crate) fn only_column(text: &str) -> Option<&str> {
    match next(text) {
        Ok(Some(("", column, ""))) => Some(column),
        _ => None,
    }
}

/// What is before the first `{{column}}`, its name, and what is behind it.
fn next(text: &str) -> Result<Option<(&str, &str, &str)>, String> {
    let Some((before, after)) = text.split_once("{{") else { return Ok(None) };
    let Some((column, after)) = after.split_once("}}") else {
        let shown = plain(after, 20);
        return Err(format!("`{{{{{shown}` is not closed; a column is written {{{{name}}}}"));
    };
    Ok(Some((before, column.trim(), after)))
}
