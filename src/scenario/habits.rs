//! How an answer looks, whatever it was asked: by the target's own checks, and by what broken models do.

use std::collections::BTreeSet;

use super::Scenario;
use super::check::{Check, Matcher};
use crate::record::Role;
use crate::text::{leaked, refused, repeated};

/// A form that the target's answers have, found in its checks.
#[derive(Clone, Debug)]
pub(crate) struct Form {
    /// As a person reads it: `json`, `one of 4 exact answers`.
    pub(crate) name: String,
    check: Detector,
}

#[derive(Clone, Debug)]
enum Detector {
    Check(Check),
    /// The answer is one of these texts.
    Exactly(BTreeSet<String>),
}

impl Form {
    /// Whether an answer has it.
    pub(crate) fn fits(&self, text: &str) -> bool {
        match &self.check {
            // A model that answers in JSON is often cut before its end.
            Detector::Check(Check::Json(true)) => Check::Json(true).holds_for(text) || is_cut_json(text),
            Detector::Check(check) => check.holds_for(text),
            Detector::Exactly(texts) => texts.contains(text.trim()),
        }
    }
}

/// The forms of the target scenarios: what their checks ask of every answer, and not only of one.
///
/// Checks that forbid something or bound a length are none, since most answers hold them.
pub(crate) fn forms(scenarios: &[Scenario]) -> Vec<Form> {
    let mut forms: Vec<Form> = Vec::new();
    for scenario in scenarios.iter().filter(|scenario| scenario.role == Role::Target) {
        let cases: Vec<&[Check]> = scenario.cases.iter().map(|case| case.checks.as_slice()).collect();
        let Some(first) = cases.first() else { continue };
        let mut found = Vec::new();
        if cases.iter().all(|checks| checks.iter().any(is_json)) {
            found.push(Form { name: "json".to_owned(), check: Detector::Check(Check::Json(true)) });
        }
        let shared = first.iter().filter(|check| is_form(check)).filter(|check| {
            let shown = check.to_string();
            cases.iter().all(|checks| checks.iter().any(|other| other.to_string() == shown))
        });
        found.extend(shared.map(|check| Form { name: check.to_string(), check: Detector::Check(check.clone()) }));
        let exact: BTreeSet<String> = cases.iter().filter_map(|checks| checks.iter().find_map(exact_text)).collect();
        if exact.len() > 1 && cases.iter().all(|checks| checks.iter().any(|check| exact_text(check).is_some())) {
            found.push(Form { name: format!("one of {} exact answers", exact.len()), check: Detector::Exactly(exact) });
        }
        for form in found {
            if forms.iter().all(|known| known.name != form.name) {
                forms.push(form);
            }
        }
    }
    forms
}

fn is_json(check: &Check) -> bool {
    matches!(check, Check::Json(true) | Check::JsonFields(_) | Check::JsonNull(_) | Check::JsonSchema(_))
}

/// Whether a check that all cases share describes a form.
fn is_form(check: &Check) -> bool {
    match check {
        Check::Text { wanted, matcher } => *wanted && !matches!(matcher, Matcher::Exact(_)),
        Check::JsonSchema(_) | Check::Casing(_) | Check::Refusal(true) => true,
        Check::Count(count) => count.exactly.is_some(),
        _ => false,
    }
}

/// Whether a text begins as a JSON object or a list of them.
fn is_cut_json(text: &str) -> bool {
    let mut letters = text.trim_start().trim_start_matches('[').chars().filter(|c| !c.is_whitespace());
    letters.next() == Some('{') && letters.next() == Some('"')
}

fn exact_text(check: &Check) -> Option<String> {
    match check {
        Check::Text { wanted: true, matcher: Matcher::Exact(text) } => Some(text.trim().to_owned()),
        _ => None,
    }
}

/// What a broken model's answer does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Habits {
    /// It says nothing.
    pub(crate) empty: bool,
    /// It repeats itself.
    pub(crate) loops: bool,
    /// It has tags of a chat template.
    pub(crate) tags: bool,
    /// It declines to help.
    pub(crate) refuses: bool,
    /// Words.
    pub(crate) words: usize,
}

impl Habits {
    /// Of an answer.
    pub(crate) fn new(text: &str) -> Self {
        let (loops, tags) = (repeated(text).is_some(), leaked(text).is_some());
        let empty = !text.contains(char::is_alphanumeric);
        Self {
            empty,
            loops,
            tags,
            refuses: !(empty || loops || tags) && refused(text).is_some(),
            words: text.split_whitespace().count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::tests::scenario;
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let mut scenario = scenario(text).expect("a scenario");
        scenario.role = Role::Target;
        forms(&[scenario]).into_iter().map(|form| form.name).collect()
    }

    fn cases(checks: &[&str]) -> String {
        checks.iter().map(|checks| format!("[[cases]]\nprompt = \"x\"\nchecks = [{checks}]\n")).collect()
    }

    #[test]
    fn forms_are_what_every_case_of_a_target_asks() {
        let fields = cases(&[
            "{ json-fields = { tool = \"gcc\" } }, { max-length = 9 }",
            "{ json-fields = { tool = \"rustc\" } }",
        ]);
        assert_eq!(names(&fields), ["json"]);
        assert_eq!(
            names(&cases(&["{ exact = \"yes\" }", "{ exact = \"no\" }", "{ exact = \"no\" }"])),
            ["one of 2 exact answers"]
        );
        let shared = cases(&[
            "{ starts-with = \"Dear\" }, { contains = \"a\" }",
            "{ starts-with = \"Dear\" }, { contains = \"b\" }",
        ]);
        assert_eq!(names(&shared), ["starts-with \"Dear\""]);
        assert!(names(&cases(&["{ contains = \"a\" }", "{ not-regex = 'b' }"])).is_empty());
        let control = scenario(&fields).expect("a scenario");
        assert!(forms(&[control]).is_empty(), "a control has no form to spill");
    }

    #[test]
    fn an_answer_has_a_form_or_not() {
        let mut target = scenario(&cases(&["\"json\"", "\"json\""])).expect("a scenario");
        target.role = Role::Target;
        let forms = forms(&[target]);
        assert!(forms[0].fits("{\"tool\": \"gcc\", \"li") && !forms[0].fits("{x} is a set."));
        assert!(forms[0].fits("{\"tool\": null}") && !forms[0].fits("Paris is the capital."));
    }

    #[test]
    fn habits_of_broken_answers() {
        let of = |text: &str| Habits::new(text);
        assert_eq!(of("Paris."), Habits { words: 1, ..Habits::default() });
        assert!(of(" \n").empty && of("a b c d a b c d a b c d").loops && of("Yes<|im_end|>").tags);
        assert!(of("I'm sorry, but I can't help with that.").refuses);
    }
}
