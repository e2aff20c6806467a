use super::*;
use crate::config::Policy;
use crate::record::fixture::{self, F, N, P};
use crate::record::{BASE, TUNED};

/// A run with everything in it: gains, a broken control, target failures, long and hostile answers.
pub(crate) fn example() -> RunRecord {
    let json = r#"{"tool": "rustc", "severity": "error", "file": "src/main.rs", "line": 4, "code": "E0308"}"#;
    let mut fields = fixture::scenario("fields", Role::Target, &[(F, P), (F, P), (F, P)]);
    let prompt = "error[E0308]: mismatched types\n --> src/main.rs:4:9";
    fields.cases.push(fixture::case("case_4", prompt, (F, "This error means that the types do not match."), (F, json)));
    let mut arithmetic = fixture::scenario("arithmetic", Role::Control, &[(P, P), (P, P), (F, F)]);
    let sum = "What is 17 + 25? Answer in one sentence.";
    arithmetic.cases.push(fixture::case("case_4", sum, (P, "17 + 25 is equal to 42."), (F, "17 + 25 is equal to 41.")));
    let mut facts = fixture::scenario("facts", Role::Control, &[(P, P), (P, P), (P, P), (F, P)]);
    let capital = "What is the capital of France?";
    facts.cases.push(fixture::case("paris", capital, (P, "The capital of France is Paris."), (F, json)));
    let code = (P, "def add(a, b):\n    return a + b");
    let hostile = (F, "\u{1b}[2J```\n</details><script>alert(1)</script> @octocat\n\u{202e}evil");
    let mut short_code = fixture::scenario("code", Role::Control, &[(P, P)]);
    short_code.cases.push(fixture::case("add", "Write add(a, b) in Python.", code, hostile));
    let script = fixture::scenario("non-latin-script", Role::Control, &[(P, P), (P, P), (P, P), (P, P)]);
    fixture::run(vec![
        fields,
        fixture::scenario("json-only", Role::Target, &[(F, P); 4]),
        arithmetic,
        short_code,
        facts,
        script,
    ])
}

pub(crate) fn policy() -> Policy {
    Policy {
        min_target_pass_rate: Some(0.75),
        min_target_gain: Some(0.5),
        min_retention: Some(0.85),
        max_broken_controls: Some(4),
        max_drift: Some(0.05),
        arms: Vec::new(),
    }
}

/// Calls `check` with a report on `run`.
pub(crate) fn with_report<T>(run: &RunRecord, policy: &Policy, check: impl FnOnce(&Report<'_>) -> T) -> T {
    let (comparison, decision) = (Comparison::of(run, BASE, TUNED), crate::gate::decide(run, policy));
    let files =
        [("report".to_owned(), ".finetest/report.md".to_owned()), ("run".to_owned(), ".finetest/run.json".to_owned())];
    check(&Report { run, comparison: &comparison, decision: &decision, files: &files })
}

#[test]
fn a_share_is_never_rounded_to_all_or_nothing() {
    let rate = |passed, evaluated| percent(&Rate { passed, evaluated, not_evaluated: 0 });
    assert_eq!(
        [rate(999, 1000), rate(1, 1000), rate(4, 4), rate(0, 4), rate(0, 0)],
        ["99 %", "1 %", "100 %", "0 %", "–"]
    );
}

#[test]
fn failures_and_open_cases_are_listed_apart() {
    let mut run = example();
    run.scenarios.push(fixture::scenario("open", Role::Control, &[(P, N)]));
    with_report(&run, &policy(), |report| {
        let names = |cases: Vec<(&crate::record::ScenarioRecord, &CaseRecord)>| -> Vec<String> {
            cases.iter().map(|(s, c)| s.test_name(c)).collect()
        };
        assert_eq!(names(failed_targets(report)), ["target::fields::case_4"]);
        assert_eq!(names(open_cases(report)), ["control::open::case_1"]);
    });
}

/// Every form of a report, whole: what changes in it is seen in review.
#[test]
fn whole_reports_are_as_approved() {
    let run = example();
    with_report(&run, &policy(), |report| {
        insta::assert_snapshot!("terminal", terminal(report, Style { color: false, width: 100 }));
        insta::assert_snapshot!("markdown", markdown(report));
        insta::assert_snapshot!("junit", junit(report).expect("XML"));
        insta::assert_snapshot!("annotations", annotations(report).join("\n"));
    });
}
