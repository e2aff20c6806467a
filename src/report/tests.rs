use super::*;
use crate::config::Policy;
use crate::record::Role;
use crate::record::fixture::{self, F, N, P};

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
        ..Policy::default()
    }
}

/// Calls `check` with a report on `run`.
pub(crate) fn with_report<T>(run: &RunRecord, policy: &Policy, check: impl FnOnce(&Report<'_>) -> T) -> T {
    let (comparisons, decision) = (Comparison::all(run), crate::gate::decide(run, policy));
    let files =
        [("report".to_owned(), ".finetest/report.md".to_owned()), ("run".to_owned(), ".finetest/run.json".to_owned())];
    check(&Report { run, comparisons: &comparisons, decision: &decision, files: &files })
}

#[test]
fn failures_and_open_cases_are_listed_apart() {
    let mut run = example();
    run.scenarios.push(fixture::scenario("open", Role::Control, &[(P, N)]));
    with_report(&run, &policy(), |report| {
        let view = view::View::of(report);
        let failed = &view.arms[0].failed_targets;
        assert_eq!(failed.iter().map(|case| case.test.as_str()).collect::<Vec<_>>(), ["target::fields::case_4"]);
        assert_eq!(groups(&view.open), "open 1");
        assert_eq!(groups(&view.arms[0].fixed), "fields 3, json-only 4, facts 1");
    });
}

/// The example with a third arm, which answers as base does.
fn three_arms() -> RunRecord {
    let mut run = example();
    run.arms.push(Arm { name: "half".into(), scale: 0.5, ..run.arms[1].clone() });
    for case in run.scenarios.iter_mut().flat_map(|scenario| &mut scenario.cases) {
        let tuned = case.answers["tuned"].clone();
        case.answers.insert("half".into(), if case.name == "paris" { tuned } else { case.answers["base"].clone() });
    }
    run.drift.insert("half".into(), fixture::drift());
    run
}

#[test]
fn further_arms_are_in_every_report() {
    let policy = Policy { arms: vec!["tuned".into(), "half".into()], ..policy() };
    with_report(&three_arms(), &policy, |report| {
        let text = terminal(report, Style { color: false, width: 100 });
        assert!(text.contains("arms against base (2)") && text.contains("half::min_target_gain"), "{text}");
        assert!(text.contains("broken: base passes, half fails (1)"), "{text}");
        assert!(text.contains("adapters/diagnostics at scale 0.5"), "{text}");
        let page = markdown(report);
        assert!(page.contains("| `half` | 0 % | gain +0 points") && page.contains("`half::min_retention`"), "{page}");
        let xml = junit(report).expect("XML");
        assert!(xml.contains("name=\"half::control::facts::paris\""), "{xml}");
        assert!(xml.contains("name=\"gate::half::min_target_gain\""), "{xml}");
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
