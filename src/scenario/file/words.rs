//! Errors of a scenario file's TOML, as a person wants them.

use std::path::Path;

use crate::config::toml_error;
use crate::error::Error;

/// The key whose value begins at `offset`, where it stands on the same line.
fn key_before(text: &str, offset: usize) -> Option<&str> {
    let before = text.get(..offset)?.trim_end_matches(' ').strip_suffix('=')?.trim_end_matches(' ');
    let start = before.rfind(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-')).map_or(0, |at| at + 1);
    Some(&before[start..]).filter(|key| !key.is_empty())
}

/// A TOML error, with what serde says about enums in a person's words.
pub(super) fn explained(path: &Path, text: &str, error: &toml::de::Error) -> Error {
    let key = error.span().and_then(|span| key_before(text, span.start));
    let mut error = toml_error(path, text, error);
    if let (Some(key), Error::Input { message, .. }) = (key, &mut error)
        && message.starts_with("is ")
    {
        *message = format!("{key} {message}");
    }
    if let Error::Input { message, .. } = &mut error
        && [
            "wanted exactly 1 element",
            "wanted string or table",
            "variant, expected",
            "expected table",
            "expected a check",
        ]
        .iter()
        .any(|said| message.contains(said))
    {
        message.push_str(
            "; a check is a word (\"json\") or one name and value ({ contains = \"…\" }), two checks are two of them",
        );
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_before_a_value_is_found() {
        let text = "max_tokens = 4\nchecks = [{ max-length=-1 }, 3]\nprompt = \"a = b\"\n";
        let before = |value: &str| key_before(text, text.find(value).expect("it is there"));
        assert_eq!(before("4"), Some("max_tokens"));
        assert_eq!(before("-1"), Some("max-length"));
        assert_eq!(before("3]"), None);
        assert_eq!(key_before(text, 0), None);
        assert_eq!(key_before(text, 10_000), None);
    }
}
