//! Patterns that are as fast on any script as on English.

use regex::Regex;

/// Compiles a pattern whose every `\b` is a boundary of ASCII words. For a boundary of any script's words `regex` leaves its fast engine on the
/// first letter that is not ASCII: ten times slower, for all of the text. A word that begins or ends with such a letter needs `(?:^|\P{L})` or
/// `(?:\P{L}|$)` there.
///
/// # Panics
/// If it is no pattern: it is one of this crate's own.
pub(crate) fn pattern(text: &str) -> Regex {
    Regex::new(&text.replace(r"\b", r"(?-u:\b)")).expect("a valid pattern")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundaries_are_those_of_ascii_words() {
        let word = pattern(r"\bname\b");
        assert!(word.is_match("été name été") && word.is_match("имя: name.") && !word.is_match("rename"));
    }
}
