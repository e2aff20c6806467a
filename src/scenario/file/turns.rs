//! What a case asks after its first answer, and how often it is asked.

use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;

use super::checks::RawCheck;
use super::{RawScenario, Reader, choices};
use crate::data::limits::MOST_TEXT_BYTES;
use crate::record::{Aggregate, Prompt};
use crate::scenario::FollowUp;

/// Turns of a case after its first: each is a question of its own to every arm.
const MOST_TURNS: usize = 100;
/// Samples of a case.
const MOST_SAMPLES: usize = 1000;

/// One of a case's `then`.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct RawTurn {
    /// The user's message.
    prompt: String,
    /// Maximum number of new tokens of the answer to it; default: the file's.
    max_tokens: Option<usize>,
    /// Checks of the answer to it, besides the file's.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "Vec<RawCheck>"))]
    checks: Vec<Spanned<RawCheck>>,
}

impl RawTurn {
    pub(super) fn has_checks(&self) -> bool {
        !self.checks.is_empty()
    }
}

impl Reader<'_> {
    /// What the user says after each answer.
    pub(super) fn follow_ups(
        &mut self,
        at: &Range<usize>,
        case: &str,
        prompt: &Prompt,
        raw: Vec<Spanned<RawTurn>>,
    ) -> Vec<FollowUp> {
        if raw.len() > MOST_TURNS {
            self.fail(at, format!("case {case} has {} turns in then, expected at most {MOST_TURNS}", raw.len()));
            return Vec::new();
        }
        if matches!(prompt, Prompt::Text(_)) && !raw.is_empty() {
            self.fail(at, format!("case {case} has text and then; only a prompt or messages have turns"));
        }
        let mut turns = Vec::new();
        for turn in raw {
            let at = turn.span();
            let RawTurn { prompt: message, max_tokens, checks } = turn.into_inner();
            if message.trim().is_empty() {
                self.fail(&at, format!("case {case} asks nothing in a turn of then: its prompt is empty"));
            }
            if message.len() > MOST_TEXT_BYTES {
                let long = message.len();
                self.fail(&at, format!("case {case} asks {long} bytes in a turn, expected at most {MOST_TEXT_BYTES}"));
            }
            let checks = self.checks(checks);
            let max_tokens = self.max_tokens(&at, case, max_tokens, &checks);
            turns.push(FollowUp { message, max_tokens, choices: choices(&checks), checks });
        }
        turns
    }

    /// How many samples a case has, and what they come to together.
    pub(super) fn repeat(&mut self, raw: &RawScenario) -> (usize, Aggregate) {
        let repeat = raw.repeat.as_ref().map_or(1, |repeat| *repeat.get_ref());
        if let Some(given) = &raw.repeat {
            if !(1..=MOST_SAMPLES).contains(&repeat) {
                self.fail(&given.span(), format!("repeat is {repeat}, expected 1 to {MOST_SAMPLES}"));
            } else if repeat > 1 && self.sampling.is_greedy() {
                let message = format!(
                    "repeat is {repeat}, and without a temperature above 0 every answer is the same; give one, or take repeat out"
                );
                self.fail(&given.span(), message);
            }
        }
        let aggregate = raw.aggregate.as_ref().map_or(Aggregate::All, |aggregate| *aggregate.get_ref());
        if let Some(given) = &raw.aggregate {
            if repeat == 1 {
                self.fail(&given.span(), "aggregate has no effect without repeat above 1; give one, or take it out");
            }
            if let Aggregate::Rate(share) = aggregate
                && !(share > 0.0 && share <= 1.0)
            {
                self.fail(&given.span(), format!("aggregate's rate is {share}, expected above 0 and at most 1"));
            }
        }
        (repeat, aggregate)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{cases, refused, scenario};
    use crate::record::{Aggregate, Message, Prompt};

    const ASKED: &str = "prompt = \"My name is Ada.\"\n";

    #[test]
    fn a_case_goes_on_after_its_answer() {
        let text = format!(
            "checks = [\"no-repetition\"]\n[[cases]]\n{ASKED}\
             then = [{{ prompt = \"What is my name?\", checks = [{{ contains = \"Ada\" }}], max_tokens = 9 }}, {{ prompt = \"Bye\" }}]\n"
        );
        let case = cases(&text).expect("a case").remove(0);
        let turns: Vec<(&str, usize, usize)> =
            case.follow_ups.iter().map(|turn| (turn.message.as_str(), turn.max_tokens, turn.checks.len())).collect();
        assert_eq!(turns, [("What is my name?", 9, 2), ("Bye", 64, 1)]);
        let answer = crate::scenario::tests::completion("Hello Ada.");
        let asked = case.turn(&[answer], 0).into_owned();
        let Prompt::Messages(messages) = asked.prompt else { panic!("messages") };
        assert_eq!(
            messages,
            [("user", "My name is Ada."), ("assistant", "Hello Ada."), ("user", "What is my name?")]
                .map(|(role, text)| Message::new(role, text))
        );
        assert_eq!(asked.max_tokens, 9);
    }

    #[test]
    fn turns_that_cannot_be_asked_are_refused_with_their_line() {
        let case = |then: &str| cases(&format!("[[cases]]\n{ASKED}checks = [\"json\"]\nthen = [\n{then}]\n"));
        refused(case("{ prompt = \" \" }"), 7, "its prompt is empty");
        refused(case("{ prompt = \"x\", chekcs = [] }"), 7, "chekcs");
        refused(case("{ prompt = \"x\", max_tokens = 0 }"), 7, "max_tokens = 0");
        let many = "{ prompt = \"x\" },".repeat(101);
        refused(case(&many), 3, "has 101 turns in then, expected at most 100");
        let text = cases("[[cases]]\ntext = \"x\"\nchecks = [\"json\"]\nthen = [{ prompt = \"x\" }]");
        refused(text, 3, "only a prompt or messages have turns");
        refused(cases(&format!("[[cases]]\n{ASKED}then = [{{ prompt = \"x\" }}]")), 3, "could not fail");
    }

    #[test]
    fn a_case_is_repeated_with_a_temperature_alone() {
        let with = |head: &str| format!("{head}\n[[cases]]\n{ASKED}checks = [\"json\"]\n");
        let found = scenario(&with("temperature = 0.7\nseed = 40\nrepeat = 5\naggregate = { rate = 0.6 }"));
        let found = found.expect("a scenario");
        assert_eq!((found.repeat, found.aggregate), (5, Aggregate::Rate(0.6)));
        assert_eq!(found.cases[0].turn(&[], 3).sampling.seed, 43);
        let any = scenario(&with("temperature = 1\nrepeat = 2\naggregate = \"any\"")).expect("a scenario");
        assert_eq!(any.aggregate, Aggregate::Any);
        let refuse = |head: &str, line, why: &str| refused(scenario(&with(head)).map(|s| s.cases), line, why);
        refuse("repeat = 3", 3, "without a temperature above 0 every answer is the same");
        refuse("temperature = 1\nrepeat = 0", 4, "repeat is 0, expected 1 to 1000");
        refuse("temperature = 1\nrepeat = 1001", 4, "repeat is 1001");
        refuse("temperature = 1\naggregate = \"any\"", 4, "no effect without repeat");
        refuse("temperature = 1\nrepeat = 2\naggregate = { rate = 1.5 }", 5, "rate is 1.5");
        refuse("temperature = 1\nrepeat = 2\naggregate = \"most\"", 5, "most");
    }
}
