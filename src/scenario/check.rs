//! What an answer can be tested against: a closed set of pure checks.

use std::fmt;

use regex::Regex;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::count::Count;
use super::json::{self, Schema};
use crate::record::{Choice, ChoiceScore, Completion, Finish, Normalize};
use crate::shown::{plain, quote};
use crate::text::{Language, Writing, leaked, refused, repeated};

/// One thing an answer must hold.
#[derive(Clone, Debug)]
pub enum Check {
    /// The answer's text matches, or does not.
    Text {
        /// Whether it must match: `false` for the `not-…` checks.
        wanted: bool,
        /// What it is matched with.
        matcher: Matcher,
    },
    /// The whole answer is one JSON value (`true`) or is not (`false`).
    Json(bool),
    /// The answer is a JSON object and these fields have these values, numbers compared by value. Others may be there.
    JsonFields(Map<String, Value>),
    /// The answer is a JSON object in which these fields are there and `null`. (TOML has no `null` to write as a value.)
    JsonNull(Vec<String>),
    /// The answer is JSON that fits a schema.
    JsonSchema(Schema),
    /// One continuation is likelier than others.
    Choice(Choice),
    /// At most this many characters, white space around the answer aside.
    MaxLength(usize),
    /// At least this many characters, white space around the answer aside.
    MinLength(usize),
    /// At most this many words.
    MaxWords(usize),
    /// At least this many words.
    MinWords(usize),
    /// So many words, sentences, lines, paragraphs or list items.
    Count(Count),
    /// Every letter that has a case is an upper or a lower one, and there is one.
    Casing(Casing),
    /// The answer is in a language, as its letters and trigrams tell (whatlang).
    ///
    /// One that is too short to be sure of only has to be likelier in this language than in English, French, German, Spanish, Italian and
    /// Portuguese.
    Language(Language),
    /// The answer declines to help (`true`), or does not (`false`). An answer that is not [coherent](Self::Coherent) is neither.
    Refusal(bool),
    /// There is a letter or digit, nothing is said over and over, and no tag of a chat template leaked.
    Coherent,
    /// Nothing is said over and over.
    ///
    /// Fails when 4 words follow each other in the same order 3 times, when a line with a letter or digit stands there 3
    /// times, or when one word stands 5 times in a row. Words are compared without their case and the punctuation around
    /// them. In scripts that are written without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese), and in an answer
    /// without any white space, characters take the place of words: 10 in the same order 3 times, or one 10 times in a row.
    NoRepetition,
    /// At least 90 % of the answer's letters belong to a script, and there is at least one letter.
    Script(Writing),
    /// No tag of a chat template leaked: `<|…|>`, `<｜…｜>`, `[INST]`, `<<SYS>>`, `<start_of_turn>`, `</s>`, `### Response:`,
    /// … and no `<think>` left open.
    NoTemplateTags,
}

/// How a text is matched.
#[derive(Clone, Debug)]
pub enum Matcher {
    /// Equal, white space around both aside.
    Exact(String),
    /// Somewhere in it.
    Contains(String),
    /// Somewhere in it, whatever the case of its letters.
    Icontains(String),
    /// The pattern matches somewhere in it.
    Regex(Regex),
    /// At its beginning, white space around the answer aside.
    StartsWith(String),
    /// At its end, white space around the answer aside.
    EndsWith(String),
}

/// Upper or lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Casing {
    /// `like this`
    Lower,
    /// `LIKE THIS`
    Upper,
}

impl Casing {
    /// What is wrong, when a letter is of the other case or none has one.
    fn misfit(self, text: &str) -> Option<String> {
        let (lower, upper) = text.chars().fold((0_usize, 0_usize), |(lower, upper), c| {
            (lower + usize::from(c.is_lowercase()), upper + usize::from(c.is_uppercase()))
        });
        let (others, of) = match self {
            Self::Lower => (upper, "upper"),
            Self::Upper => (lower, "lower"),
        };
        match (lower + upper, others) {
            (0, _) => Some("no letter has a case".into()),
            (_, 0) => None,
            (all, others) => Some(format!("{others} of {all} letters are {of} case")),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Lower => "lower",
            Self::Upper => "upper",
        }
    }
}

/// What a check comes to, with what was found instead.
pub(super) enum Outcome {
    Holds,
    Fails(String),
    Unanswered(&'static str),
}

impl Outcome {
    fn holds_if(holds: bool, found: impl FnOnce() -> String) -> Self {
        if holds { Self::Holds } else { Self::Fails(found()) }
    }

    fn from_failure(failure: Option<String>) -> Self {
        failure.map_or(Self::Holds, Self::Fails)
    }
}

impl Matcher {
    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(s) => text.trim() == s.trim(),
            Self::Contains(s) => text.contains(s.as_str()),
            Self::Icontains(s) => text.to_lowercase().contains(&s.to_lowercase()),
            Self::Regex(regex) => regex.is_match(text),
            Self::StartsWith(s) => text.trim_start().starts_with(s.trim_start()),
            Self::EndsWith(s) => text.trim_end().ends_with(s.trim_end()),
        }
    }
}

impl Check {
    pub(super) fn judge(&self, completion: &Completion) -> Outcome {
        if let Self::Choice(choice) = self {
            return judge_choice(choice, &completion.choices);
        }
        if completion.finish == Finish::Scored {
            return Outcome::Unanswered("no text was generated");
        }
        if matches!(self, Self::Refusal(_)) && incoherent(&completion.text).is_some() {
            return Outcome::Unanswered("the answer is not coherent, so whether it declines cannot be told");
        }
        self.judge_text(&completion.text)
    }

    /// Whether this text holds it; a choice is held by none.
    pub(super) fn holds_for(&self, text: &str) -> bool {
        matches!(self.judge_text(text), Outcome::Holds)
    }

    fn judge_text(&self, text: &str) -> Outcome {
        let characters = || text.trim().chars().count();
        let words = || text.split_whitespace().count();
        let object = |judge: &dyn Fn(&Map<String, Value>) -> Option<String>| {
            Outcome::from_failure(match json::object(text) {
                Ok(object) => judge(&object),
                Err(found) => Some(found),
            })
        };
        let count = |holds: bool, n: usize, of: &str| Outcome::holds_if(holds, || format!("got {n} {of}"));
        match self {
            Self::Text { wanted, matcher } => {
                Outcome::holds_if(matcher.matches(text) == *wanted, || format!("got {}", quote(text)))
            }
            Self::Json(true) => Outcome::from_failure(json::parse(text).err()),
            Self::Json(false) => Outcome::holds_if(json::parse(text).is_err(), || format!("got {}", quote(text))),
            Self::JsonFields(expected) => object(&|object| json::differing(object, expected)),
            Self::JsonNull(names) => object(&|object| json::not_null(object, names)),
            Self::JsonSchema(schema) => Outcome::from_failure(schema.misfit(text)),
            Self::MaxLength(most) => count(characters() <= *most, characters(), "characters"),
            Self::MinLength(least) => count(characters() >= *least, characters(), "characters"),
            Self::MaxWords(most) => count(words() <= *most, words(), "words"),
            Self::MinWords(least) => count(words() >= *least, words(), "words"),
            Self::Count(count) => Outcome::from_failure(count.misfit(text)),
            Self::Casing(casing) => Outcome::from_failure(casing.misfit(text)),
            Self::Language(language) => Outcome::from_failure(language.misfit(text)),
            Self::Refusal(true) => Outcome::holds_if(refused(text).is_some(), || format!("got {}", quote(text))),
            Self::Refusal(false) => {
                Outcome::from_failure(refused(text).map(|words| format!("it declines: {}", quote(words))))
            }
            Self::Coherent => Outcome::from_failure(incoherent(text)),
            Self::NoRepetition => Outcome::from_failure(repeated(text)),
            Self::Script(writing) => Outcome::from_failure(writing.misfit(text)),
            Self::NoTemplateTags => Outcome::from_failure(leaked(text)),
            Self::Choice(_) => Outcome::Unanswered("a choice is not judged by text"),
        }
    }
}

/// What keeps an answer from being one at all: it is empty, stuck, or full of tags.
pub(super) fn incoherent(text: &str) -> Option<String> {
    if !text.contains(char::is_alphanumeric) {
        return Some(format!("there is no letter or digit: {}", quote(text)));
    }
    leaked(text).or_else(|| repeated(text))
}

/// Whether the right continuation is likelier than every other.
fn judge_choice(choice: &Choice, scores: &[ChoiceScore]) -> Outcome {
    let score = |text: &String| choice.score(text, scores);
    let (Some(ours), Some(scores)) =
        (score(&choice.answer), choice.others.iter().map(score).collect::<Option<Vec<_>>>())
    else {
        return Outcome::Unanswered("a continuation has no score");
    };
    let Some((best, winner)) = scores.into_iter().zip(&choice.others).max_by(|a, b| a.0.total_cmp(&b.0)) else {
        return Outcome::Unanswered("there is nothing to choose between");
    };
    Outcome::holds_if(ours > best, || {
        let unit = match choice.normalize {
            Normalize::None => "nats",
            Normalize::Bytes => "nats a byte",
            Normalize::Tokens => "nats a token",
        };
        let is = if ours == best { "is as likely" } else { "is likelier" };
        format!("{winner:?} {is}, {best:.3} against {ours:.3} {unit}")
    })
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text { wanted, matcher } => write!(f, "{}{matcher}", if *wanted { "" } else { "not-" }),
            Self::Json(wanted) => f.write_str(if *wanted { "json" } else { "not-json" }),
            Self::JsonFields(fields) => {
                let fields: Vec<String> =
                    fields.iter().map(|(k, v)| format!("{k} = {}", plain(&v.to_string(), 200))).collect();
                write!(f, "json-fields {}", fields.join(", "))
            }
            Self::JsonNull(names) => write!(f, "json-null {}", names.join(", ")),
            Self::JsonSchema(schema) => write!(f, "json-schema {}", schema.name()),
            Self::Choice(choice) => {
                let others: Vec<String> = choice.others.iter().map(|o| format!("{o:?}")).collect();
                write!(f, "choice {:?} over {}", choice.answer, others.join(", "))
            }
            Self::MaxLength(n) => write!(f, "max-length {n}"),
            Self::MinLength(n) => write!(f, "min-length {n}"),
            Self::MaxWords(n) => write!(f, "max-words {n}"),
            Self::MinWords(n) => write!(f, "min-words {n}"),
            Self::Count(count) => write!(f, "{count}"),
            Self::Casing(casing) => write!(f, "casing {}", casing.name()),
            Self::Language(language) => write!(f, "language {language}"),
            Self::Refusal(wanted) => f.write_str(if *wanted { "refusal" } else { "not-refusal" }),
            Self::Coherent => f.write_str("coherent"),
            Self::NoRepetition => f.write_str("no-repetition"),
            Self::Script(writing) => write!(f, "script {writing}"),
            Self::NoTemplateTags => f.write_str("no-template-tags"),
        }
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(s) => write!(f, "exact {s:?}"),
            Self::Contains(s) => write!(f, "contains {s:?}"),
            Self::Icontains(s) => write!(f, "icontains {s:?}"),
            Self::Regex(regex) => write!(f, "regex '{}'", plain(regex.as_str(), usize::MAX)),
            Self::StartsWith(s) => write!(f, "starts-with {s:?}"),
            Self::EndsWith(s) => write!(f, "ends-with {s:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Case;
    use super::*;
    use crate::record::{Prompt, Request, Verdict};

    fn answer(text: &str, finish: Finish) -> Completion {
        Completion {
            text: text.into(),
            tokens: vec![1; 9],
            finish,
            prompt_tokens: 1,
            choices: Vec::new(),
            near_ties: 0,
        }
    }

    fn case(checks: Vec<Check>) -> Case {
        let request = Request::greedy(Prompt::Text("x".into()), 9);
        Case { name: "c".into(), line: 1, tags: Vec::new(), request, checks, follow_ups: Vec::new(), family: None }
    }

    fn failures(check: Check, text: &str) -> Vec<String> {
        case(vec![check]).judge(&answer(text, Finish::Stop)).1
    }

    #[track_caller]
    fn holds(check: Check, text: &str) {
        let (verdict, failures) = case(vec![check]).judge(&answer(text, Finish::Stop));
        assert_eq!((verdict, failures), (Verdict::Passed, Vec::new()));
    }

    #[track_caller]
    fn fails(check: Check, text: &str, with: &str) {
        let (verdict, failures) = case(vec![check]).judge(&answer(text, Finish::Stop));
        assert_eq!((verdict, failures), (Verdict::Failed, vec![with.to_owned()]));
    }

    fn text(wanted: bool, matcher: Matcher) -> Check {
        Check::Text { wanted, matcher }
    }

    fn regex(pattern: &str) -> Matcher {
        Matcher::Regex(Regex::new(pattern).expect("a pattern"))
    }

    fn choice(normalize: Normalize, scores: &[(&str, f64, usize)]) -> (Verdict, Vec<String>) {
        let check = Choice { answer: " Paris".into(), others: vec![" Rome".into(), " Bonn".into()], normalize };
        let mut completion = answer("", Finish::Scored);
        completion.choices = scores
            .iter()
            .map(|(text, log_likelihood, tokens)| ChoiceScore {
                text: (*text).into(),
                log_likelihood: *log_likelihood,
                tokens: *tokens,
            })
            .collect();
        case(vec![Check::Choice(check)]).judge(&completion)
    }

    #[test]
    fn ends_and_casing_are_told() {
        holds(text(true, Matcher::StartsWith("Dear Ann".into())), "  Dear Ann,\nthank you.");
        fails(text(true, Matcher::EndsWith("Bye.".into())), "Bye. See you", "ends-with \"Bye.\": got \"Bye. See you\"");
        holds(text(false, Matcher::EndsWith("!".into())), "Well.\n");
        holds(Check::Casing(Casing::Lower), "all small, 12 of them");
        fails(Check::Casing(Casing::Upper), "LOUd", "casing upper: 1 of 4 letters are lower case");
        fails(Check::Casing(Casing::Upper), "12", "casing upper: no letter has a case");
    }

    #[test]
    fn what_is_not_coherent_is_no_refusal_and_no_answer() {
        let stuck = "I cannot help with that. I cannot help with that. I cannot help with that.";
        let judged = |checks: Vec<Check>, text: &str| case(checks).judge(&answer(text, Finish::Stop)).0;
        for wanted in [true, false] {
            assert_eq!(judged(vec![Check::Refusal(wanted)], stuck), Verdict::NotEvaluated);
            assert_eq!(judged(vec![Check::Refusal(wanted), Check::Coherent], stuck), Verdict::Failed);
            assert_eq!(judged(vec![Check::Refusal(wanted)], "\n"), Verdict::NotEvaluated);
        }
        holds(Check::Refusal(true), "I'm sorry, but I can't help with that.");
        holds(Check::Refusal(false), "Find the process and stop it with kill.");
        holds(Check::Coherent, "Fine.");
        assert_eq!(judged(vec![Check::Coherent], "...\n"), Verdict::Failed);
        assert_eq!(judged(vec![Check::Coherent], "Yes.<|im_end|>"), Verdict::Failed);
    }

    #[test]
    fn exact_ignores_white_space_around() {
        holds(text(true, Matcher::Exact("Paris\n".into())), "  Paris ");
        fails(text(true, Matcher::Exact("Paris".into())), "Paris.", r#"exact "Paris": got "Paris.""#);
    }

    #[test]
    fn contains_minds_the_case_and_icontains_does_not() {
        holds(text(true, Matcher::Contains("Paris".into())), "It is Paris.");
        fails(text(true, Matcher::Contains("Paris".into())), "PARIS", r#"contains "Paris": got "PARIS""#);
        holds(text(true, Matcher::Icontains("paris".into())), "PARIS");
        holds(text(true, Matcher::Icontains("ÉTÉ".into())), "un été");
    }

    #[test]
    fn a_pattern_matches_anywhere_unless_it_is_anchored() {
        holds(text(true, regex(r"\b4\b")), "2 + 2 = 4.");
        fails(text(true, regex(r"^4$")), "It is 4", r#"regex '^4$': got "It is 4""#);
    }

    #[test]
    fn a_negated_check_holds_where_the_plain_one_fails() {
        holds(text(false, regex(r"^\s*[\[{]")), "Paris");
        fails(text(false, regex(r"^\s*[\[{]")), "{}", r#"not-regex '^\s*[\[{]': got "{}""#);
        fails(text(false, Matcher::Contains("a".into())), "a", r#"not-contains "a": got "a""#);
    }

    #[test]
    fn json_is_the_whole_answer() {
        holds(Check::Json(true), " {\"a\": [1]}\n");
        holds(Check::Json(false), "Here it is: {}");
        assert!(failures(Check::Json(true), "{} and more")[0].starts_with("json: not JSON"));
        fails(Check::Json(false), "3", r#"not-json: got "3""#);
        assert_eq!(failures(Check::Json(true), &"[".repeat(100_000)).len(), 1);
    }

    #[test]
    fn lengths_count_characters_and_words_of_the_trimmed_answer() {
        holds(Check::MaxLength(3), " äöü ");
        fails(Check::MaxLength(2), "äöü", "max-length 2: got 3 characters");
        fails(Check::MinLength(4), " äöü ", "min-length 4: got 3 characters");
        holds(Check::MaxWords(2), "two  words");
        fails(Check::MinWords(3), "two words", "min-words 3: got 2 words");
        fails(Check::MaxWords(1), "two words", "max-words 1: got 2 words");
    }

    #[test]
    fn the_likeliest_choice_wins_and_a_tie_fails() {
        let scores = [(" Bonn", -9.0, 1), (" Paris", -1.0, 1), (" Rome", -2.0, 1)];
        assert_eq!(choice(Normalize::None, &scores), (Verdict::Passed, Vec::new()));
        let (verdict, failures) =
            choice(Normalize::None, &[(" Bonn", -9.0, 1), (" Paris", -3.0, 1), (" Rome", -2.5, 1)]);
        assert_eq!(verdict, Verdict::Failed);
        let expected = r#"choice " Paris" over " Rome", " Bonn": " Rome" is likelier, -2.500 against -3.000 nats"#;
        assert_eq!(failures, [expected]);
        let tie = choice(Normalize::None, &[(" Bonn", -9.0, 1), (" Paris", -3.0, 1), (" Rome", -3.0, 1)]);
        assert_eq!(tie.0, Verdict::Failed);
        assert!(tie.1[0].contains("is as likely"), "{:?}", tie.1);
    }

    #[test]
    fn a_choice_can_be_normalised_by_tokens_or_bytes() {
        let scores = [(" Bonn", -9.0, 1), (" Paris", -4.0, 4), (" Rome", -2.0, 1)];
        assert_eq!(choice(Normalize::None, &scores).0, Verdict::Failed);
        assert_eq!(choice(Normalize::Tokens, &scores).0, Verdict::Passed);
        let scores = [(" Bonn", -9.0, 1), (" Paris", -2.2, 1), (" Rome", -2.0, 1)];
        assert_eq!(choice(Normalize::Tokens, &scores).0, Verdict::Failed);
        assert_eq!(choice(Normalize::Bytes, &scores).0, Verdict::Passed);
    }

    #[test]
    fn a_choice_without_a_score_is_not_evaluated() {
        let (verdict, failures) = choice(Normalize::None, &[(" Paris", -1.0, 1), (" Rome", -2.0, 1)]);
        assert_eq!(verdict, Verdict::NotEvaluated);
        assert!(failures[0].contains("not evaluated"), "{failures:?}");
        let nan = [(" Bonn", -9.0, 1), (" Paris", f64::NAN, 1), (" Rome", -2.0, 1)];
        assert_eq!(choice(Normalize::None, &nan).0, Verdict::NotEvaluated);
        let no_tokens = [(" Bonn", -9.0, 1), (" Paris", 0.0, 0), (" Rome", -2.0, 1)];
        assert_eq!(choice(Normalize::Tokens, &no_tokens).0, Verdict::NotEvaluated);
    }

    #[test]
    fn a_text_check_of_an_answer_that_was_only_scored_is_not_evaluated() {
        let case = case(vec![Check::NoTemplateTags]);
        assert_eq!(case.judge(&answer("", Finish::Scored)).0, Verdict::NotEvaluated);
    }

    #[test]
    fn a_failure_outweighs_what_cannot_be_judged() {
        let nothing = Choice { answer: "a".into(), others: vec!["b".into()], normalize: Normalize::None };
        for checks in [
            vec![Check::Choice(nothing.clone()), Check::MinWords(5)],
            vec![Check::MinWords(5), Check::Choice(nothing.clone())],
        ] {
            assert_eq!(case(checks).judge(&answer("x", Finish::Stop)).0, Verdict::Failed);
        }
        assert_eq!(case(Vec::new()).judge(&answer("x", Finish::Stop)).0, Verdict::NotEvaluated);
    }

    #[test]
    fn a_cut_answer_is_judged_and_its_failures_say_that_it_was_cut() {
        let case = case(vec![Check::Json(true), Check::MaxWords(5)]);
        let (verdict, failures) = case.judge(&answer("{\"a\": 1", Finish::Length));
        assert_eq!((verdict, failures.len()), (Verdict::Failed, 1));
        assert!(failures[0].ends_with("(answer was cut at 9 tokens)"), "{failures:?}");
        assert_eq!(case.judge(&answer("{}", Finish::Length)).0, Verdict::Passed);
    }

    #[test]
    fn failures_are_short_and_hold_nothing_a_terminal_obeys() {
        let nasty = format!("\u{1b}[31mred\u{202e}\r\n{}", "x".repeat(10_000));
        let checks = [
            text(true, Matcher::Exact("y".into())),
            Check::Json(true),
            Check::JsonNull(vec!["a".into()]),
            text(false, regex("x")),
        ];
        for check in checks {
            let failure = failures(check, &nasty).remove(0);
            assert!(failure.chars().all(|c| !c.is_control() && c != '\u{202e}'), "{failure:?}");
            assert!(failure.chars().count() < 300, "{failure}");
        }
        assert_eq!(plain("it's \"a\\b\"\n\u{202e}", 100), "it's \"a\\b\"\\n\\u{202e}");
        assert_eq!(plain("abcdef", 3), "abc…");
        assert_eq!(plain("नमस्ते", 100), "नमस्ते");
    }
}
