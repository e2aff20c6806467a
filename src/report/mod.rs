//! A run for people and for machines that read on: terminal, Markdown, annotations, JUnit. All pure: a [`Report`] in, text out.

mod crosscheck;
pub mod escape;
mod junit;
mod markdown;
mod paint;
mod terminal;

use crate::compare::{Comparison, Rate, Tally, number};
use crate::record::{Bound, CaseRecord, Decision, DriftMethod, Role, Rule, RunRecord, Unit, Verdict};

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
    case.failures(arm)
}

/// What is said of an answer that hangs on rounding.
const NEAR_TIE: &str = "answer hangs on a near-tie between two tokens: another batch or machine may answer otherwise";

/// Those of `arms` whose answer to the case hangs on a near-tie.
fn near_ties<'a>(case: &CaseRecord, arms: &[&'a str]) -> Vec<&'a str> {
    let close = |arm: &&&str| {
        let completion = case.answers.get(**arm).and_then(crate::record::Answer::completion);
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

/// `drift 0.0213 ± 0.0031 nats/token …` of an arm, and how many tokens it rests on.
fn drift(run: &RunRecord, arm: &str) -> Option<String> {
    let d = run.drift.get(arm)?;
    let distributions = d.kl.map_or_else(String::new, |kl| {
        let same = d.same_top1.map_or_else(String::new, |share| format!("; same first choice {:.1} %", 100.0 * share));
        format!(
            "{} ± {} nats/token (median {}, p99 {}){same}; ",
            number(kl.mean),
            number(kl.se),
            number(kl.median),
            number(kl.p99)
        )
    });
    let method = if d.method == DriftMethod::FullKl { String::new() } else { format!(" by {}", d.method) };
    Some(format!(
        "{distributions}NLL {:+.4} ± {:.4}; {} tokens of {}{method}",
        d.nll_change(),
        d.nll_change_se,
        d.tokens,
        d.source
    ))
}

/// That an arm's adapter is applied and base is untouched.
fn proof(run: &RunRecord, arm: &str) -> Option<String> {
    let p = run.proof.get(arm)?;
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
pub(crate) mod tests;
