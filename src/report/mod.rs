//! A run for people and for machines that read on: terminal, Markdown, annotations, JUnit. All pure: a [`Report`] in, text out.

mod answers;
mod compared;
mod controls;
mod crosscheck;
pub mod escape;
mod junit;
mod markdown;
mod paint;
mod pieces;
mod runs;
mod snapshots;
mod terminal;
mod view;

use crate::compare::{Comparison, Rate, Tally, number, percent, points};
use crate::record::{
    Arm, Bound, ControlVerdict, Decision, Drift, DriftMethod, Evidence, Interval, Proof, Rule, RunRecord, TUNED, Unit,
    Verdict,
};
use view::{Group, RuleView};

pub use answers::{Answers, answers};
pub use compared::Compared;
pub use crosscheck::crosscheck;
pub use junit::junit;
pub use markdown::{annotations, markdown};
pub use paint::Style;
pub use runs::{ListedRun, RunSummary, listed_runs};
#[cfg(feature = "candle")]
pub(crate) use snapshots::{snapshot_counts, snapshot_difference, snapshot_status};
pub use terminal::{terminal, terminal_gate};

/// What there is to report. How the run ended is [`Decision::ending`] alone.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// The run.
    pub run: &'a RunRecord,
    /// Its arms, each compared with base, the one that is judged first: [`Comparison::all`].
    pub comparisons: &'a [Comparison<'a>],
    /// What the gate decided about it.
    pub decision: &'a Decision,
    /// What was written: a label and a path each.
    pub files: &'a [(String, String)],
}

/// What is said of an answer that hangs on rounding.
const NEAR_TIE: &str =
    "answer is unstable: two tokens are almost tied, so another machine or batch size may answer differently";

/// How the intervals come about: two of the same cases may differ, which looks like a mistake.
const INTERVALS: &str = "intervals are 95 %: pass rates and retention over cases (Wilson), and the gain over scenarios, which is wider because the cases \
                         of a scenario resemble each other; those of drift, net loss and choice loss are the limits";

/// `4/5`, or `–` when nothing was evaluated.
fn fraction(rate: &Rate) -> String {
    if rate.evaluated == 0 { "–".to_owned() } else { format!("{}/{}", rate.passed, rate.evaluated) }
}

/// `80 %`, or `–` when nothing was evaluated.
fn share(rate: &Rate) -> String {
    rate.share().map_or_else(|| "–".to_owned(), percent)
}

/// A value as its unit is said: `87.5 %`, `+12.5 points`, `3`, `0.0213 nats`.
fn amount(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Share => percent(value),
        Unit::Difference => points(value),
        Unit::Nats => format!("{} nats", number(value)),
        Unit::Count => format!("{value:.0}"),
    }
}

/// An interval in its unit, which is said once: `[53, 97.8] %`.
fn interval(unit: Unit, of: Interval) -> String {
    let bare = |value: f64| match unit {
        Unit::Share => percent(value).trim_end_matches(" %").to_owned(),
        Unit::Difference => points(value).trim_end_matches(" points").to_owned(),
        Unit::Nats => number(significant(value)),
        Unit::Count => format!("{value:.1}"),
    };
    let sign = if unit == Unit::Share { " %" } else { "" };
    format!("[{}, {}]{sign}", bare(of.low), bare(of.high))
}

/// Three significant digits are worth reading in an interval.
fn significant(value: f64) -> f64 {
    format!("{value:.2e}").parse().unwrap_or(value)
}

/// `≥ 75 %` or `≤ 3`.
fn threshold(rule: &Rule) -> String {
    let sign = match rule.bound {
        Bound::AtMost => "≤",
        Bound::AtLeast => "≥",
    };
    format!("{sign} {}", amount(rule.unit, rule.threshold))
}

/// What a rule measured: `76.9 % (10/13)`.
fn measured(rule: &RuleView<'_>) -> String {
    let value = rule.rule.measured.map_or_else(|| "–".to_owned(), |value| amount(rule.rule.unit, value));
    rule.counts.as_ref().map_or_else(|| value.clone(), |counts| format!("{value} ({counts})"))
}

/// What [`evidence`] says.
const SHOWN: &str = "shown: the one-sided 95 % limit of the measured value is on the same side of the threshold. Not shown: the threshold is between the \
                     two limits, so there are too few cases to decide; about the given number would, if the value stayed";

/// What the cases show about a rule: `shown kept`, `shown missed`, `not shown, needs ~60`.
fn evidence(rule: &Rule) -> Option<String> {
    let of_target = rule.name.starts_with("min_target");
    match rule.evidence {
        _ if rule.verdict == Verdict::NotEvaluated || rule.limits.is_none() => None,
        Evidence::Kept if of_target => Some("shown reached".to_owned()),
        Evidence::Lost if of_target => Some("shown missed".to_owned()),
        Evidence::NotShown => {
            Some(format!("not shown{}", rule.needed.map_or_else(String::new, |cases| format!(", needs ~{cases}"))))
        }
        evidence => Some(evidence.words().to_owned()),
    }
}

/// What is shown about an arm's controls, in a sentence.
fn controls_sentence(verdict: &ControlVerdict) -> String {
    let arm = if verdict.arm == TUNED { String::new() } else { format!(" of {}", verdict.arm) };
    match verdict.evidence {
        Evidence::Kept => format!("The controls{arm} are shown kept: {}.", verdict.explanation),
        Evidence::Lost => format!("The controls{arm} are shown lost: {}.", verdict.explanation),
        Evidence::NotShown => format!("Whether the controls{arm} are kept is not shown: {}.", verdict.explanation),
    }
}

/// An arm's adapter, and its scale when it is not 1.
fn adapter(arm: &Arm) -> String {
    match (&arm.adapter, arm.scale) {
        (None, _) => "none".to_owned(),
        (Some(path), 1.0) => path.clone(),
        (Some(path), scale) => format!("{path} at scale {scale}"),
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

/// How the targets came out: `gain +80 points [+62, +93]`.
fn gain(comparison: &Comparison<'_>) -> String {
    match comparison.gain {
        None => "gain unknown".to_owned(),
        Some(g) => format!("gain {} {}", points(g.gain), interval(Unit::Difference, g.interval)),
    }
}

/// How the controls came out: `retention 93 % [82, 98] %`.
fn retention(control: &Tally) -> String {
    let kept = control.retention();
    match (kept.share(), kept.interval()) {
        (Some(share), Some(i)) => format!("retention {} {}", percent(share), interval(Unit::Share, i)),
        _ => "retention unknown".to_owned(),
    }
}

/// The first characters of a fingerprint, enough to tell two apart.
fn short(fingerprint: &str) -> &str {
    fingerprint.char_indices().nth(10).map_or(fingerprint, |(at, _)| &fingerprint[..at])
}

/// `0.0213 ± 0.0031 nats/token …`, and how many tokens it rests on.
fn drift(d: &Drift) -> String {
    let distributions = d.kl.map_or_else(String::new, |kl| {
        let same = d.same_top1.map_or_else(String::new, |share| format!("; same first choice {}", percent(share)));
        let (mean, se, median, p99) = (number(kl.mean), number(kl.se), number(kl.median), number(kl.p99));
        format!("{mean} ± {se} nats/token over tokens (median {median}, p99 {p99}){same}; ")
    });
    let seen = d
        .covered
        .map_or_else(String::new, |covered| format!(", which have {:.1} % of base's probability", 100.0 * covered));
    let method = if d.method == DriftMethod::FullKl { String::new() } else { format!(" by {}{seen}", d.method) };
    let (change, se) = (d.nll_change(), d.nll_change_se);
    let floor = d.floor.and_then(|floor| floor.kl).map_or_else(String::new, |kl| {
        if kl == 0.0 {
            "; no difference when measured again".to_owned()
        } else {
            format!("; {} difference when measured again", number(kl))
        }
    });
    format!("{distributions}NLL {change:+.4} ± {se:.4}; {} tokens of {}{method}{floor}", d.tokens, d.source)
}

/// That an arm's adapter is applied and base is untouched.
fn proof(p: &Proof) -> String {
    let untouched = if p.base_difference == 0.0 {
        "base is unaffected".to_owned()
    } else {
        format!("base is unaffected ({}, rounding)", number(p.base_difference))
    };
    if p.by_answers {
        return format!(
            "answers of base and tuned differ, and base answers the same again; a weak proof, since the server tells no log-probabilities ({} layers)",
            p.adapted_modules
        );
    }
    let effect = number(p.adapter_effect);
    let weights = p.weights.map_or_else(String::new, |of| {
        let [base, arm, effect] = [of.base, of.arm, of.effect].map(number);
        format!("; from the weights here the server is {base} (base) and {arm} (adapter) nats/token at least, crosswise {effect}")
    });
    format!("active in {} layers, logits change by up to {effect}; {untouched}{weights}", p.adapted_modules)
}

/// What a server answered otherwise when it was asked again; nothing where it was not.
fn again(run: &RunRecord, arm: &str) -> Option<String> {
    let noise = run.noise(arm)?;
    let said = match (noise.answers, noise.verdicts) {
        (0, _) => "all answered alike".to_owned(),
        (answers, 0) => format!("{answers} read otherwise, with the same verdicts"),
        (answers, verdicts) => format!("{answers} read otherwise, {verdicts} with another verdict"),
    };
    Some(format!("{} cases of both arms; {said}", noise.cases))
}

/// Cases by scenario: `fields 3, json-only 4`.
fn groups(groups: &[Group<'_>]) -> String {
    let count = |group: &Group<'_>| format!("{} {}", group.scenario.name, group.cases.len());
    groups.iter().map(count).collect::<Vec<_>>().join(", ")
}

/// When and from what a run was made.
fn made(run: &RunRecord) -> Option<String> {
    let git = run.made.git.as_ref().map(|git| {
        let dirty = if git.dirty { " with changes" } else { "" };
        format!("commit {}{dirty}", short(&git.commit))
    });
    let parts = [Some(run.made.time.clone()), git, Some(run.made.machine.clone())];
    let known: Vec<String> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
    (!known.is_empty()).then(|| known.join(", "))
}

#[cfg(test)]
pub(crate) mod tests;
