//! A run for people and for machines that read on: terminal, Markdown, annotations, JUnit. All pure: a [`Report`] in, text out.

mod crosscheck;
pub mod escape;
mod junit;
mod markdown;
mod paint;
mod terminal;

use crate::compare::{Comparison, Rate, Tally, number};
use crate::record::{Bound, CaseRecord, Decision, Role, Rule, RunRecord, Unit, Verdict};

pub use crosscheck::crosscheck;
pub use junit::junit;
pub use markdown::{annotations, markdown};
pub use paint::Style;
pub use terminal::{terminal, terminal_gate};

/// What there is to report. How the run ended is [`Decision::ending`] alone.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// The run.
    pub run: &'a RunRecord,
    /// Its arms compared.
    pub comparison: &'a Comparison<'a>,
    /// What the gate decided about it.
    pub decision: &'a Decision,
    /// What was written: a label and a path each.
    pub files: &'a [(String, String)],
}

/// Target cases that tuned fails and that are not broken (those are shown on their own), with their scenario.
fn failed_targets<'a>(report: &Report<'a>) -> Vec<(&'a crate::record::ScenarioRecord, &'a CaseRecord)> {
    let c = report.comparison;
    let plain =
        |case: &CaseRecord| case.verdict(&c.tuned) == Verdict::Failed && case.verdict(&c.base) != Verdict::Passed;
    report.run.cases().filter(|(s, case)| s.role == Role::Target && plain(case)).collect()
}

/// Cases that one of the two arms gave no answer to.
fn open_cases<'a>(report: &Report<'a>) -> Vec<(&'a crate::record::ScenarioRecord, &'a CaseRecord)> {
    let c = report.comparison;
    let open =
        |case: &CaseRecord| [&c.base, &c.tuned].into_iter().any(|arm| case.verdict(arm) == Verdict::NotEvaluated);
    report.run.cases().filter(|(_, case)| open(case)).collect()
}

/// First line of what was asked, without blank lines before it.
fn first_line(case: &CaseRecord) -> &str {
    let text = case.prompt.headline();
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or("").trim()
}

/// The failures of an arm on a case.
fn failures<'a>(case: &'a CaseRecord, arm: &str) -> &'a [String] {
    case.answers.get(arm).map_or(&[], |a| &a.failures)
}

/// What is said of an answer that hangs on rounding.
const NEAR_TIE: &str = "answer hangs on a near-tie between two tokens: another batch or machine may answer otherwise";

/// Those of `arms` whose answer to the case hangs on a near-tie.
fn near_ties<'a>(case: &CaseRecord, arms: &[&'a str]) -> Vec<&'a str> {
    let close = |arm: &&&str| {
        let completion = case.answers.get(**arm).and_then(|answer| answer.completion.as_ref());
        completion.is_some_and(|completion| completion.near_ties > 0)
    };
    arms.iter().filter(close).copied().collect()
}

/// `4/5`, or `–` when nothing was evaluated.
fn fraction(rate: &Rate) -> String {
    if rate.evaluated == 0 { "–".to_owned() } else { format!("{}/{}", rate.passed, rate.evaluated) }
}

/// `80 %`, or `–` when nothing was evaluated. Never rounded up to 100 or down to 0.
fn percent(rate: &Rate) -> String {
    match rate.share() {
        None => "–".to_owned(),
        Some(share) => {
            let whole = (share * 100.0).round();
            let inside = rate.passed > 0 && rate.passed < rate.evaluated;
            format!("{} %", if inside { whole.clamp(1.0, 99.0) } else { whole })
        }
    }
}

fn interval(low: f64, high: f64) -> String {
    format!("[{}, {}]", round(low), round(high))
}

/// Three significant places at most are worth reading in an interval.
fn round(value: f64) -> String {
    if value.abs() >= 10.0 {
        return format!("{value:.1}");
    }
    let digits = if value.abs() >= 0.1 || value == 0.0 { 2 } else { 4 };
    number(format!("{value:.digits$}").parse().unwrap_or(value))
}

/// `≥ 0.75` or `≤ 3`.
fn threshold(rule: &Rule) -> String {
    let sign = match rule.bound {
        Bound::AtMost => "≤",
        Bound::AtLeast => "≥",
    };
    format!("{sign} {}", amount(rule, rule.threshold))
}

/// What a rule measured.
fn measured(rule: &Rule) -> String {
    rule.measured.map_or_else(|| "–".to_owned(), |value| amount(rule, value))
}

/// A count as a count, anything else as [`number`].
fn amount(rule: &Rule, value: f64) -> String {
    match rule.unit {
        Unit::Count => format!("{value:.0}"),
        Unit::Number => number(value),
    }
}

/// The adapter of the tuned arm, and its scale when it is not 1.
fn adapter(report: &Report<'_>) -> String {
    let arm = report.run.arms.iter().find(|arm| arm.name == report.comparison.tuned);
    match arm.and_then(|arm| arm.adapter.as_ref().map(|path| (path, arm.scale))) {
        None => "none".to_owned(),
        Some((path, 1.0)) => path.clone(),
        Some((path, scale)) => format!("{path} at scale {scale}"),
    }
}

/// `llama, 134.5 M weights`.
fn model_size(run: &RunRecord) -> String {
    let count = run.model.parameters as f64;
    let size = match run.model.parameters {
        0..1_000_000 => format!("{count}"),
        1_000_000..1_000_000_000 => format!("{:.1} M", count / 1e6),
        _ => format!("{:.2} B", count / 1e9),
    };
    format!("{}, {size} weights", run.model.family)
}

/// How the targets came out: `gain +0.80, 95 % [0.62, 0.93]`.
fn gain(comparison: &Comparison<'_>) -> String {
    match comparison.gain {
        None => "gain unknown".to_owned(),
        Some(g) => format!("gain {:+.2} {}", g.gain, interval(g.interval.low, g.interval.high)),
    }
}

/// How the controls came out: `retention 0.93 [0.82, 0.98]`.
fn retention(control: &Tally) -> String {
    let kept = control.retention();
    match (kept.share(), kept.interval()) {
        (Some(share), Some(i)) => format!("retention {share:.2} {}", interval(i.low, i.high)),
        _ => "retention unknown".to_owned(),
    }
}

/// The first characters of a fingerprint, enough to tell two apart.
fn short(fingerprint: &str) -> &str {
    fingerprint.char_indices().nth(10).map_or(fingerprint, |(at, _)| &fingerprint[..at])
}

/// `drift 0.0213 ± 0.0031 nats/token …` and how many tokens it rests on.
fn drift(run: &RunRecord) -> Option<String> {
    let d = run.drift.as_ref()?;
    Some(format!(
        "{} ± {} nats/token (median {}, p99 {}); same first choice {:.1} %; NLL {:+.4} ± {:.4}; {} tokens of {}",
        number(d.kl_mean),
        number(d.kl_se),
        number(d.kl_median),
        number(d.kl_p99),
        100.0 * d.same_top1,
        d.nll_change(),
        d.nll_change_se,
        d.tokens,
        d.source
    ))
}

/// That the adapter is applied and base is untouched.
fn proof(run: &RunRecord) -> Option<String> {
    let p = run.proof.as_ref()?;
    let untouched = if p.base_difference == 0.0 {
        "base is untouched".to_owned()
    } else {
        format!("base differs from base asked alone by {}", number(p.base_difference))
    };
    Some(format!(
        "the adapter moves logits by up to {} through {} layers; {untouched}",
        number(p.adapter_effect),
        p.adapted_modules
    ))
}

/// What "underpowered" means here, when a rule is.
fn power_note(report: &Report<'_>) -> Option<String> {
    report.decision.rules.iter().any(|r| r.underpowered).then(|| {
        let see = |tally: &Tally, role: Role| {
            tally
                .minimum_detectable_effect()
                .map(|e| format!("{} {role} cases show a change of {e:.2} or more", tally.pairs))
        };
        let c = report.comparison;
        let sizes: Vec<String> =
            [see(&c.target, Role::Target), see(&c.control, Role::Control)].into_iter().flatten().collect();
        format!(
            "underpowered: the threshold lies inside the 95 % interval, so this many cases cannot tell; {}",
            sizes.join(", ")
        )
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::Policy;
    use crate::record::fixture::{self, F, N, P};
    use crate::record::{BASE, TUNED};

    /// A run with everything in it: gains, a broken control, target failures, long and hostile answers.
    pub(crate) fn example() -> RunRecord {
        let json = r#"{"tool": "rustc", "severity": "error", "file": "src/main.rs", "line": 4, "code": "E0308"}"#;
        let mut fields = fixture::scenario("fields", Role::Target, &[(F, P), (F, P), (F, P)]);
        let prompt = "error[E0308]: mismatched types\n --> src/main.rs:4:9";
        fields.cases.push(fixture::case(
            "case_4",
            prompt,
            (F, "This error means that the types do not match."),
            (F, json),
        ));
        let mut arithmetic = fixture::scenario("arithmetic", Role::Control, &[(P, P), (P, P), (F, F)]);
        let sum = "What is 17 + 25? Answer in one sentence.";
        arithmetic.cases.push(fixture::case(
            "case_4",
            sum,
            (P, "17 + 25 is equal to 42."),
            (F, "17 + 25 is equal to 41."),
        ));
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
        }
    }

    /// Calls `check` with a report on `run`.
    pub(crate) fn with_report<T>(run: &RunRecord, policy: &Policy, check: impl FnOnce(&Report<'_>) -> T) -> T {
        let (comparison, decision) = (Comparison::of(run, BASE, TUNED), crate::gate::decide(run, policy));
        let files = [
            ("report".to_owned(), ".finetest/report.md".to_owned()),
            ("run".to_owned(), ".finetest/run.json".to_owned()),
        ];
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
}
