//! Keys of `adapter_config.json`, and the names of modules in them.

use std::path::Path;

use regex::Regex;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Bytes of one compiled expression.
const EXPRESSION_BYTES: usize = 1 << 20;
/// Characters of a value that a message shows.
const SHOWN: usize = 60;

/// A configuration's keys, with their lines for messages.
pub(super) struct Keys<'a> {
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
    pub(super) map: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    pub(super) fn line(&self, key: &str) -> Option<usize> {
        line_of(self.text, key)
    }

    pub(super) fn error(&self, key: &str, message: String) -> Error {
        Error::input(self.path, self.line(key), message)
    }

    /// What a key holds, and what it should.
    pub(super) fn wrong(&self, key: &str, expected: &str) -> Error {
        let got = self.map.get(key).map_or_else(|| "missing".to_owned(), shown);
        self.error(key, format!("{key} is {got}, expected {expected}"))
    }

    /// A key's value; `None` when it is missing or null.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn flag(&self, key: &str) -> Result<bool> {
        self.get(key).map_or(Ok(false), |value| value.as_bool().ok_or_else(|| self.wrong(key, "true or false")))
    }

    pub(super) fn value<T>(&self, key: &str, expected: &str, read: impl Fn(&Value) -> Option<T>) -> Result<T> {
        self.map.get(key).and_then(read).ok_or_else(|| self.wrong(key, expected))
    }

    pub(super) fn required_text(&self, key: &str, expected: &str) -> Result<&'a str> {
        self.map.get(key).and_then(Value::as_str).ok_or_else(|| self.wrong(key, expected))
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.get(key).map(|_| self.required_text(key, "a text in quotes")).transpose()
    }

    pub(super) fn texts(&self, key: &str) -> Result<Vec<String>> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let all = value.as_array().and_then(|all| all.iter().map(|name| name.as_str().map(str::to_owned)).collect());
        all.ok_or_else(|| self.wrong(key, "a list of names"))
    }
}

/// Compiles a regular expression of bounded size.
pub(super) fn expression(pattern: &str) -> Option<Regex> {
    regex::RegexBuilder::new(pattern).size_limit(EXPRESSION_BYTES).build().ok()
}

/// A module's path, and what follows each of its dots.
pub(super) fn ends(module: &str) -> impl Iterator<Item = &str> {
    std::iter::once(module).chain(module.match_indices('.').map(|(at, _)| &module[at + 1..]))
}

/// A value as a message shows it: as JSON, cut when it is long.
pub(super) fn shown(value: &Value) -> String {
    match value {
        // A list of a million names is not written out to be cut.
        Value::Array(items) if items.len() > 8 => format!("a list of {} items", items.len()),
        Value::Object(map) if map.len() > 4 => format!("an object of {} keys", map.len()),
        _ => clipped(&value.to_string()),
    }
}

pub(super) fn clipped(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// The line of a key of the outermost object, of a text that is JSON; of several, the last, whose value counts.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let quoted = serde_json::to_string(key).ok()?;
    let bytes = text.as_bytes();
    let (mut at, mut depth, mut found) = (0, 0usize, None);
    while at < bytes.len() {
        match bytes[at] {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                let start = at;
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                let is_key = text.get(at + 1..).is_some_and(|rest| rest.trim_start().starts_with(':'));
                if depth == 1 && is_key && text.get(start..=at) == Some(quoted.as_str()) {
                    found = Some(1 + bytes[..start].iter().filter(|byte| **byte == b'\n').count());
                }
            }
            _ => {}
        }
        at += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_in_the_outermost_object_alone() {
        let text = "{\"a\": {\"r\": 1},\n\"b\": \"r\",\n\"c\\\"\": 1,\n\"r\": 2}";
        assert_eq!((line_of(text, "r"), line_of(text, "b"), line_of(text, "d")), (Some(4), Some(2), None));
        assert_eq!(line_of(text, "c\""), Some(3));
    }
}
