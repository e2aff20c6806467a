//! Regular expressions of checks and of schemas, and what a person is reported of one that cannot be used.

use std::collections::HashMap;

use regex::{Regex, RegexBuilder};

use crate::shown::plain;

/// Largest compiled regular expression, in bytes: the regex crate's own default.
pub(super) const REGEX_SIZE: usize = 10 << 20;
/// Characters of a pattern.
const MOST_CHARACTERS: usize = 65_536;

/// Compiled patterns of a file. One that many cases share is compiled and held once.
#[derive(Default)]
pub(super) struct Patterns(HashMap<String, Regex>);

impl Patterns {
    /// Compiles a pattern, or says why it cannot be.
    pub(super) fn compile(&mut self, pattern: &str) -> Result<Regex, String> {
        if let Some(known) = self.0.get(pattern) {
            return Ok(known.clone());
        }
        let regex = compile(pattern)?;
        self.0.insert(pattern.to_owned(), regex.clone());
        Ok(regex)
    }
}

fn compile(pattern: &str) -> Result<Regex, String> {
    let characters = pattern.chars().count();
    if characters > MOST_CHARACTERS {
        return Err(format!("has {characters} characters, expected at most {MOST_CHARACTERS}"));
    }
    RegexBuilder::new(pattern).size_limit(REGEX_SIZE).build().map_err(|error| reason(&error))
}

fn reason(error: &regex::Error) -> String {
    if matches!(error, regex::Error::CompiledTooBig(_)) {
        return format!(
            "compiles to more than {} MiB; lower its repetitions, or name the letters that you mean: [a-z0-9] is far smaller than \\w",
            REGEX_SIZE >> 20
        );
    }
    // The last line says what is wrong; those above it draw the pattern.
    let text = error.to_string();
    let reason = text.lines().last().unwrap_or_default().trim().trim_start_matches("error: ");
    let advice = if reason.contains("look-around") {
        "; write what must be there as one check and what must not as not-regex"
    } else if reason.contains("backreferences") {
        "; write out what is repeated"
    } else {
        ""
    };
    format!("is not a regular expression: {reason}{advice}")
}

/// Refuses a pattern of a schema that cannot be matched in linear time, which JSON Schema's own dialect allows. What else may be
/// wrong with it is seen when the schema is compiled.
pub(super) fn check_in_schema(pattern: &str) -> Result<(), String> {
    let Err(error) = RegexBuilder::new(pattern).size_limit(REGEX_SIZE).build() else { return Ok(()) };
    let shown = plain(pattern, 80);
    match &error {
        regex::Error::CompiledTooBig(_) => Err(format!("the pattern '{shown}' {}", reason(&error))),
        _ if error.to_string().contains("look-around") => Err(format!(
            "the pattern '{shown}' has look-around, which is not supported; say it with \"allOf\" and \"not\""
        )),
        _ if error.to_string().contains("backreferences") => {
            Err(format!("the pattern '{shown}' has a backreference, which is not supported"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_patterns_are_small_enough() {
        for pattern in
            [r"^\w{1,30}$", r"\w{21}", r"\p{L}{2,30}", r"[\w-]{1,63}", r"^[\w.+-]{1,64}@[\w-]{1,63}\.\w{2,}$"]
        {
            assert!(compile(pattern).is_ok(), "{pattern}");
            assert_eq!(check_in_schema(pattern), Ok(()), "{pattern}");
        }
    }

    #[test]
    fn a_pattern_that_cannot_be_used_says_why_and_what_to_do() {
        for (pattern, with) in [
            (r"\w{1000}{1000}", "compiles to more than 10 MiB; lower its repetitions"),
            ("(?=a)b", "look-around, including look-ahead and look-behind, is not supported; write what must be there"),
            (r"(a)\1", "backreferences are not supported; write out"),
            ("(", "is not a regular expression: unclosed group"),
        ] {
            let message = compile(pattern).expect_err(pattern);
            assert!(message.contains(with), "{message}");
        }
        assert!(check_in_schema("^(?!a)").expect_err("look-ahead").contains("look-around, which is not supported"));
        assert!(check_in_schema(r"\w{1000}{1000}").expect_err("too big").contains("compiles to more than"));
    }

    #[test]
    fn a_pattern_is_compiled_once_for_a_file() {
        let mut patterns = Patterns::default();
        for _ in 0..100_000 {
            patterns.compile(r"^\w{1,30}$").expect("a pattern");
        }
        assert_eq!(patterns.0.len(), 1);
    }
}
