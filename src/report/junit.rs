//! The report as JUnit in the Jenkins dialect: a suite a scenario, and one for the gate.

use std::time::Duration;

use quick_junit::{NonSuccessKind, Property, Report as Document, TestCase, TestCaseStatus, TestSuite};

use crate::compare::{CaseOutcome, Comparison, case_outcome};
use crate::error::{Error, Result};
use crate::record::{CaseRecord, Rule, ScenarioRecord, Verdict};
use crate::report::escape::xml_safe;
use crate::report::view::asked;
use crate::report::{Report, evidence};

/// Renders a report as JUnit.
///
/// What a case came to is [`case_outcome`]'s word; whether it counts is the gate's. When its rules passed, a failed case is a
/// skipped test that says `tolerated by the gate` and why it failed; when they did not, it is a failure. So the document has failures or
/// errors exactly when the exit code is not 0. Without thresholds the suite `gate` has one failure. A test's `file` and `line` are those of
/// its case, and its time is that of its answers, which is 0 when they were stored.
///
/// # Errors
/// The document could not be written.
pub fn junit(report: &Report<'_>) -> Result<String> {
    let mut document = Document::new("finetest");
    let seconds = report.run.cost.seconds;
    if seconds.is_finite() && (0.0..1e9).contains(&seconds) {
        document.set_time(Duration::from_secs_f64(seconds));
    }
    for (i, comparison) in report.comparisons.iter().enumerate() {
        // The first arm's tests have the names that `cargo test` has; those of further arms begin with the arm's.
        let prefix = if i == 0 { String::new() } else { format!("{}::", comparison.tuned) };
        for scenario in &report.run.scenarios {
            let mut suite = TestSuite::new(text(&format!("{prefix}{}::{}", scenario.role, scenario.name)));
            suite.add_property(Property::new("file", text(&scenario.path)));
            suite.add_property(Property::new("role", scenario.role.to_string()));
            let cases = scenario.cases.iter().map(|case| test(report, comparison, &prefix, scenario, case));
            suite.add_test_cases(cases);
            document.add_test_suite(suite);
        }
    }
    if !report.run.errors.is_empty() {
        document.add_test_suite(errors(report));
    }
    document.add_test_suite(gate(report));
    document.to_string().map_err(|e| Error::failed(format!("cannot write JUnit: {e}")))
}

fn text(text: &str) -> String {
    xml_safe(text).into_owned()
}

fn test(
    report: &Report<'_>,
    c: &Comparison<'_>,
    prefix: &str,
    scenario: &ScenarioRecord,
    case: &CaseRecord,
) -> TestCase {
    let outcome = case_outcome(case, scenario.role, &c.base, &c.tuned);
    let gated = report.decision.blames(&c.tuned);
    let (word, reason) = match &outcome {
        CaseOutcome::Passed => ("passed", None),
        CaseOutcome::Failed(why) => ("failed", Some(why)),
        CaseOutcome::Skipped(why) => ("skipped", Some(why)),
        CaseOutcome::NotEvaluated(why) => ("not-evaluated", Some(why)),
    };
    let mut status = match &outcome {
        CaseOutcome::Passed => TestCaseStatus::success(),
        CaseOutcome::Failed(_) if gated => TestCaseStatus::non_success(NonSuccessKind::Failure),
        CaseOutcome::NotEvaluated(_) if gated || case.errors().next().is_some() => {
            TestCaseStatus::non_success(NonSuccessKind::Error)
        }
        CaseOutcome::Failed(_) | CaseOutcome::Skipped(_) | CaseOutcome::NotEvaluated(_) => TestCaseStatus::skipped(),
    };
    if let Some(reason) = reason {
        let tolerated = if word == "failed" && !gated { "tolerated by the gate: " } else { "" };
        status.set_type(word).set_message(text(&format!("{tolerated}{reason}")));
    }
    let name = scenario.test_name(case);
    let mut test = TestCase::new(text(&format!("{prefix}{name}")), status);
    test.set_classname(text(&format!("{}.{}", scenario.role, scenario.name)));
    test.extra.insert("file".into(), text(&scenario.path).into());
    if let Some(line) = case.line {
        test.extra.insert("line".into(), line.to_string().into());
    }
    // The time of all arms together is reported with the first.
    let seconds = report.run.cost.cases.get(&name).filter(|seconds| prefix.is_empty() && **seconds >= 0.0);
    test.set_time(seconds.map_or(Duration::ZERO, |seconds| Duration::from_secs_f64(seconds.min(1e9))));
    test.add_property(Property::new("verdict", word));
    // What passes needs no reading, and would be most of the document.
    if let Some(reason) = reason {
        let mut output = format!("asked: {}\n{word}: {reason}\n", asked(case));
        for arm in [&c.base, &c.tuned] {
            output.push_str(&format!("{arm}: {}\n", case.text(arm).unwrap_or("(no answer)")));
        }
        test.set_system_out(text(&output));
    }
    test
}

/// What besides an answer could not be computed.
fn errors(report: &Report<'_>) -> TestSuite {
    let mut suite = TestSuite::new("run");
    for error in &report.run.errors {
        let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
        status.set_type("error").set_message(text(error.why()));
        suite.add_test_case(TestCase::new(text(&format!("run::{}", error.what())), status));
    }
    suite
}

fn gate(report: &Report<'_>) -> TestSuite {
    let mut suite = TestSuite::new("gate");
    for rule in &report.decision.rules {
        suite.add_test_case(rule_test(rule));
    }
    let mut failed = |name: &str, kind: &str, why: &str| {
        let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
        status.set_type(kind).set_message(text(why));
        suite.add_test_case(TestCase::new(name, status));
    };
    if report.decision.rules.is_empty() {
        failed("gate::thresholds", "not-gated", &report.decision.summary());
    }
    for arm in &report.decision.undecided {
        failed(&format!("gate::controls::{arm}"), "not-shown", "not shown whether the controls are kept");
    }
    for scenario in &report.decision.snapshots {
        failed("gate::snapshots", "changed", scenario);
    }
    suite
}

fn rule_test(rule: &Rule) -> TestCase {
    let mut status = match rule.verdict {
        Verdict::Passed => TestCaseStatus::success(),
        Verdict::Failed => TestCaseStatus::non_success(NonSuccessKind::Failure),
        Verdict::NotEvaluated => TestCaseStatus::non_success(NonSuccessKind::Error),
    };
    status.set_type(match rule.verdict {
        Verdict::Passed => "passed",
        Verdict::Failed => "failed",
        Verdict::NotEvaluated => "not-evaluated",
    });
    status.set_message(text(&rule.explanation));
    let mut test = TestCase::new(text(&format!("gate::{}", rule.label())), status);
    test.set_classname("gate");
    let note = evidence(rule).map_or_else(String::new, |shown| format!("; {shown}"));
    test.set_system_out(text(&format!("{}{note}\n", rule.explanation)));
    test
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Policy;
    use crate::record::fixture::{self, N, P};
    use crate::record::{Role, RunError, RunRecord};
    use crate::report::tests::{example, policy, with_report};

    fn document(run: &RunRecord, policy: &Policy) -> Document {
        let xml = with_report(run, policy, |report| junit(report).expect("a document"));
        Document::deserialize_from_str(&xml).expect("JUnit that parses")
    }

    fn lenient() -> Policy {
        Policy { max_broken_controls: Some(9), ..Policy::default() }
    }

    #[test]
    fn a_suite_a_scenario_and_one_for_the_gate() {
        let run = example();
        let document = document(&run, &policy());
        let names: Vec<&str> = document.test_suites.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names.len(), run.scenarios.len() + 1);
        assert_eq!((names[0], names[names.len() - 1]), ("target::fields", "gate"));
        assert_eq!(document.tests, run.cases().count() + 5);
        // Three broken controls, one target failure, one rule; one control case that base fails too.
        assert_eq!((document.failures, document.errors, document.skipped), (5, 0, 1));
    }

    #[test]
    fn failed_cases_are_no_failures_when_the_gate_passed() {
        let document = document(&example(), &lenient());
        assert_eq!((document.failures, document.errors, document.skipped), (0, 0, 5));
        let broken =
            document.test_suites.iter().flat_map(|s| &s.test_cases).find(|t| t.name.as_str().ends_with("paris"));
        let broken = broken.expect("the broken case");
        assert!(broken.properties.iter().any(|p| p.name.as_str() == "verdict" && p.value.as_str() == "failed"));
        let TestCaseStatus::Skipped { message: Some(message), .. } = &broken.status else { panic!("{broken:?}") };
        assert!(message.as_str().starts_with("tolerated by the gate: broken"), "{message:?}");
        assert_eq!(
            broken.extra.iter().find(|(name, _)| name.as_str() == "file").map(|(_, file)| file.as_str()),
            Some("scenarios/facts.toml")
        );
        assert!(broken.system_out.as_ref().is_some_and(|o| o.as_str().contains("failed: broken")));
    }

    #[test]
    fn the_document_fails_exactly_when_the_exit_code_does() {
        for policy in [policy(), lenient(), Policy::default()] {
            let failed = with_report(&example(), &policy, |r| r.decision.exit_code() != 0);
            let document = document(&example(), &policy);
            assert_eq!(document.failures + document.errors > 0, failed, "{policy:?}");
        }
    }

    #[test]
    fn a_case_without_an_answer_is_an_error_or_skipped_never_passed() {
        let run = fixture::run(vec![fixture::scenario("open", Role::Control, &[(P, P), (P, N)])]);
        let strict = document(&run, &Policy { min_retention: Some(0.5), ..Policy::default() });
        assert_eq!((strict.errors, strict.failures), (2, 0));
        let elsewhere = document(&run, &Policy { max_drift: Some(1.0), ..Policy::default() });
        assert_eq!((elsewhere.errors, elsewhere.skipped), (0, 1));
    }

    #[test]
    fn what_could_not_be_measured_is_an_error_beside_the_gate() {
        let mut run = example();
        run.errors.push(RunError::Drift { arm: "tuned".into(), why: "1 of 9 texts left out: \u{1b}died".into() });
        let document = document(&run, &lenient());
        assert_eq!((document.failures, document.errors), (0, 1));
        assert_eq!(run.exit_code(&crate::gate::decide(&run, &lenient())), crate::error::exit::ERROR);
        let test = document.test_suites.iter().flat_map(|s| &s.test_cases).find(|t| t.name.as_str() == "run::drift");
        assert!(test.is_some());
    }

    #[test]
    fn forbidden_characters_are_shown() {
        let xml = with_report(&example(), &policy(), |report| junit(report).expect("a document"));
        assert!(xml.contains("\\u{1b}[2J") && xml.contains("\\u{202e}evil"));
        assert!(!xml.contains(['\u{1b}', '\u{202e}']) && !xml.contains("<script>"));
    }
}
