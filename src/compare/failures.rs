//! Failures as a person reads them beside the answer: what the answer says already is not said again.

use crate::record::{CaseRecord, Completion, Sample};
use crate::shown::quote;

/// Why checks of a sample do not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureShown {
    /// The checks with this reason, in words: `contains "Paris"`; of a check of JSON fields its name alone.
    pub checks: Vec<String>,
    /// What was found instead; empty where the answer itself says it.
    pub found: String,
}

impl std::fmt::Display for FailureShown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let colon = if self.found.is_empty() { "" } else { ": " };
        write!(f, "{}{colon}{}", self.checks.join(", "), self.found)
    }
}

/// The failures of a sample of `case`: each once, checks that fail for the same reason together, and without the answer that they quote,
/// which is shown beside them.
///
/// ```text
/// contains "4": got "It is 5."                          contains "4"
/// json: not JSON (…): got "It is 5."                    json, json-fields: not JSON (…)
/// json-fields a = 1, b = 2: not JSON (…): got …
/// json-fields a = 1, b = 2: b: got 3, expected 2        json-fields: b: got 3, expected 2
/// ```
#[must_use]
pub fn failures_shown(case: &CaseRecord, sample: &Sample) -> Vec<FailureShown> {
    let mut shown: Vec<FailureShown> = Vec::new();
    for failure in &sample.failures {
        let (check, found) = parted(case, failure);
        let found = without_answer(found, &sample.turns);
        let check = if check.contains("json-fields ") { short(check, "json-fields") } else { check.to_owned() };
        let said = shown.iter().any(|other| other.found == found && other.checks.contains(&check));
        match shown.iter_mut().find(|other| !found.is_empty() && other.found == found) {
            _ if said => {}
            Some(same) => same.checks.push(check),
            None => shown.push(FailureShown { checks: vec![check], found: found.to_owned() }),
        }
    }
    shown
}

/// A failure's check and what was found.
fn parted<'f>(case: &CaseRecord, failure: &'f str) -> (&'f str, &'f str) {
    // The longest, since the words of one check may begin those of another.
    let known = case
        .checks
        .iter()
        .filter(|check| failure.strip_prefix(check.as_str()).is_some_and(|rest| rest.starts_with(": ")));
    let length = known.map(String::len).max().or_else(|| failure.find(": "));
    length.map_or((failure, ""), |at| (&failure[..at], &failure[at + 2..]))
}

/// `turn 2: json-fields a = 1` as `turn 2: json-fields`.
fn short(check: &str, name: &str) -> String {
    check.find(name).map_or_else(|| check.to_owned(), |at| check[..at + name.len()].to_owned())
}

/// What was found, without the answer in quotes at its end, and without that it was cut, which its end shows.
fn without_answer<'f>(found: &'f str, turns: &[Completion]) -> &'f str {
    for turn in turns.iter().rev() {
        let quoted = format!("got {}", quote(&turn.text));
        let Some(at) = found.find(&quoted) else { continue };
        let rest = &found[at + quoted.len()..];
        if rest.is_empty() || rest.starts_with(" (answer was cut") {
            return found[..at].trim_end_matches(": ");
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::fixture::{self, F, P};

    #[test]
    fn what_the_answer_says_is_not_said_again() {
        let mut case = fixture::case("one", "x", (P, "4"), (F, "It is \"5\"."));
        case.checks =
            ["contains \"4\"", "json", "json-fields a = 1, b = 2", "max-words 2", "turn 2: json-fields c = 3"]
                .map(str::to_owned)
                .to_vec();
        let got = "got \"It is \\\"5\\\".\"";
        let sample = &mut case.answers.get_mut("tuned").expect("an answer").samples[0];
        sample.failures = vec![
            format!("contains \"4\": {got}"),
            format!("contains \"4\": {got}"),
            format!("json: not JSON (line 1): {got} (answer was cut at 3 tokens)"),
            format!("json-fields a = 1, b = 2: not JSON (line 1): {got}"),
            "max-words 2: got 3 words".into(),
            "turn 2: json-fields c = 3: c: got 4, expected 3".into(),
        ];
        let shown: Vec<String> =
            failures_shown(&case, &case.answers["tuned"].samples[0]).iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "contains \"4\"",
                "json, json-fields: not JSON (line 1)",
                "max-words 2: got 3 words",
                "turn 2: json-fields: c: got 4, expected 3",
            ]
        );
    }
}
