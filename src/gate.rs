//! The gate: a policy and a run in, a decision out. Pure, and the only place that says pass or fail: exit code, JUnit, summary
//! and tests all repeat what [`decide`] said.

mod detection;
#[cfg(test)]
mod tests;
mod verdict;

use crate::compare::stats::{self, ALPHA};
use crate::compare::{Comparison, Controls, NetLoss, Rate, Tally, number, percent, points, questions_to_show};
use crate::config::{NotShown, Policy};
use crate::record::{
    BASE, Bound, Decision, Divergence, Drift, DriftMethod, Evidence, Interval, Rule, RunRecord, Unit, Verdict,
};

/// Share of verdicts that differ when a server is asked again, beyond which verdicts say nothing of a fine-tune.
const MOST_NOISE: f64 = 0.25;

pub use verdict::{DEFAULT_MAX_DRIFT, DEFAULT_MAX_NET_LOSS, KEPT_DRIFT, unreachable};

/// Judges a run by a policy, comparing each arm that the policy names, [`TUNED`](crate::record::TUNED) by default, with [`BASE`].
///
/// One rule for each threshold that the policy gives, and each of these arms. A rule that has nothing to measure, or any case of its role without a
/// verdict, is *not evaluated*, and then the gate does not pass. A policy without thresholds gives no rules and does not pass
/// either: nothing was gated ([`Decision::summary`] says so). Nor does a run of which something could not be computed: it is
/// incomplete. All comparisons include the threshold itself. Of a run of selected cases only the rules are applied that these cases let
/// measure.
///
/// A rule's verdict is that of what was measured. Beside it stands what the cases *show*: its [`Evidence`], by limits of which each is wrong in at most
/// 5 of 100. For shares these are Clopper and Pearson's at the effective number of cases, for the gain and the net loss the hull of a score
/// interval and the clustered one, for drift those of [`stats::positive_mean`]. What is shown about an arm's controls altogether is a
/// [`ControlVerdict`](crate::record::ControlVerdict). Where it is not shown whether they are kept, the gate passes or not as
/// [`Policy::not_shown`] says; by default it does not for a run that was made in CI.
///
/// The intervals that reports show are 95 %: Wilson's for shares, [`stats::paired_gain`]'s for the gain, Clopper and Pearson's share times the
/// number of control cases that base passes for broken controls, the limits' for the others.
#[must_use]
pub fn decide(run: &RunRecord, policy: &Policy) -> Decision {
    // Of a part of the cases some rules have nothing to measure, by choice.
    let applies = |rule: &Rule| run.made.selected.is_none() || rule.n > 0;
    let arms: Vec<(&str, Controls<'_>)> = policy.arms().into_iter().map(|arm| (arm, Controls::of(run, arm))).collect();
    let all = arms.iter().flat_map(|(arm, controls)| rules(run, policy, arm, controls));
    let (rules, left_out): (Vec<Rule>, Vec<Rule>) = all.partition(applies);
    let left_out = left_out.iter().map(Rule::label).collect();
    let mut decision = Decision { rules, left_out, errors: run.all_errors(), ..Decision::default() };
    for (arm, controls) in &arms {
        decision.controls.extend(verdict::verdict(run, policy, arm, controls));
    }
    let open = decision.controls.iter().filter(|controls| controls.evidence == Evidence::NotShown);
    if fails_unshown(run, policy) {
        decision.undecided = open.map(|controls| controls.arm.clone()).collect();
    }
    decision.settle();
    decision
}

/// Whether a gate does not pass that cannot tell. Of a part of the cases nothing is expected to be shown.
fn fails_unshown(run: &RunRecord, policy: &Policy) -> bool {
    let asked = policy.not_shown.map_or(run.made.ci, |what| what == NotShown::Fail);
    asked && policy.bounds_controls() && run.made.selected.is_none()
}

/// The rules of one arm.
fn rules(run: &RunRecord, policy: &Policy, arm: &str, controls: &Controls<'_>) -> Vec<Rule> {
    let comparison = Comparison::of(run, BASE, arm);
    let measured = [
        policy.min_target_pass_rate.map(|least| target_pass_rate(&comparison.target, least)),
        policy.min_target_gain.map(|least| target_gain(&comparison, least)),
        policy.min_retention.map(|least| retention(&comparison.control, controls, least)),
        policy.max_broken_controls.map(|most| broken_controls(&comparison.control, controls, most)),
        policy.max_drift.map(|most| drift(run.drift.get(arm), controls, most)),
        policy.max_net_loss.map(|most| net_loss(&comparison.control, controls, most)),
        policy.max_choice_loss.map(|most| choice_loss(controls, most)),
    ];
    measured.into_iter().flatten().map(|measurement| measurement.judge(arm)).collect()
}

/// What a rule measured, before it is compared with the threshold.
struct Measurement {
    name: &'static str,
    threshold: f64,
    /// The threshold in words.
    limit: String,
    bound: Bound,
    unit: Unit,
    value: Option<f64>,
    interval: Option<Interval>,
    /// Each wrong in at most 5 of 100.
    limits: Option<Interval>,
    /// Cases that would show what was measured.
    needed: Option<usize>,
    n: usize,
    /// What was found, in words.
    found: String,
    /// Why there is no verdict, if there is none.
    missing: Option<String>,
}

impl Measurement {
    fn judge(self, arm: &str) -> Rule {
        let value = self.value.filter(|v| v.is_finite());
        let held = |v: f64| match self.bound {
            Bound::AtMost => v <= self.threshold,
            Bound::AtLeast => v >= self.threshold,
        };
        let verdict = match (&self.missing, value) {
            (None, Some(v)) if held(v) => Verdict::Passed,
            (None, Some(_)) => Verdict::Failed,
            _ => Verdict::NotEvaluated,
        };
        let side = match self.bound {
            Bound::AtMost => "at most",
            Bound::AtLeast => "at least",
        };
        let mut explanation = format!("{}, {side} {}", self.found, self.limit);
        if let Some(missing) = &self.missing {
            explanation = format!("{explanation}; not evaluated: {missing}");
        } else if value.is_none() {
            explanation = format!("{explanation}; not evaluated: what was measured is no number");
        }
        let evidence = match verdict {
            Verdict::NotEvaluated => Evidence::NotShown,
            _ => Evidence::new(self.limits, self.bound, self.threshold),
        };
        let underpowered = verdict != Verdict::NotEvaluated
            && self.interval.is_some_and(|i| i.low < self.threshold && self.threshold < i.high);
        Rule {
            name: self.name.to_owned(),
            arm: arm.to_owned(),
            threshold: self.threshold,
            bound: self.bound,
            unit: self.unit,
            measured: value,
            interval: self.interval.filter(|i| i.low.is_finite() && i.high.is_finite()),
            n: self.n,
            verdict,
            underpowered,
            limits: self.limits.filter(|i| i.low.is_finite() && i.high.is_finite()),
            evidence,
            needed: self.needed.filter(|_| evidence == Evidence::NotShown && verdict != Verdict::NotEvaluated),
            explanation,
        }
    }
}

fn target_pass_rate(target: &Tally, least: f64) -> Measurement {
    let rate = target.tuned;
    let share = share(&rate);
    let missing = missing(rate.evaluated, rate.not_evaluated, "target");
    Measurement {
        name: "min_target_pass_rate",
        threshold: least,
        limit: percent(least),
        bound: Bound::AtLeast,
        unit: Unit::Share,
        value: rate.share(),
        interval: rate.interval(),
        limits: share_limits(rate.passed, rate.evaluated),
        needed: cases_to_tell(rate.share(), least),
        n: rate.evaluated,
        found: format!("target pass rate {share} ({} of {} target cases pass)", rate.passed, rate.evaluated),
        missing,
    }
}

fn target_gain(comparison: &Comparison<'_>, least: f64) -> Measurement {
    let target = &comparison.target;
    let gain = comparison.gain;
    let (base, tuned) = (target.kept + target.broken, target.kept + target.fixed);
    let found = match gain {
        Some(gain) => {
            let (arm, gained) = (&comparison.tuned, points(gain.gain));
            format!("target gain {gained} (base passes {base}, {arm} {tuned} of {} target cases)", gain.n)
        }
        None => "target gain unknown".to_owned(),
    };
    Measurement {
        name: "min_target_gain",
        threshold: least,
        limit: points(least),
        bound: Bound::AtLeast,
        unit: Unit::Difference,
        // From counts, so that a gain on the threshold is not lost to rounding.
        value: gain.map(|g| (tuned as f64 - base as f64) / g.n as f64),
        interval: gain.map(|g| g.interval),
        // The 95 % interval errs less than the limits may.
        limits: gain.map(|g| g.interval),
        needed: None,
        n: target.pairs,
        found,
        missing: missing(target.pairs, target.not_evaluated(), "target"),
    }
}

fn retention(control: &Tally, controls: &Controls<'_>, least: f64) -> Measurement {
    let kept = control.retention();
    let own = least;
    let least = below_noise(controls, own);
    Measurement {
        name: "min_retention",
        threshold: least,
        limit: widened(controls, least < own, percent(least)),
        bound: Bound::AtLeast,
        unit: Unit::Share,
        value: kept.share(),
        interval: kept.interval(),
        limits: controls.retention.and_then(|share| share.limits(ALPHA)),
        needed: cases_to_tell(kept.share(), least),
        n: kept.evaluated,
        found: format!(
            "retention {} ({} of {} control cases that base passes)",
            share(&kept),
            kept.passed,
            kept.evaluated
        ),
        missing: missing_controls(control).or_else(|| too_noisy(controls)),
    }
}

fn broken_controls(control: &Tally, controls: &Controls<'_>, most: usize) -> Measurement {
    let passable = control.kept + control.broken;
    let own = most;
    let most = own.max((controls.noise.unwrap_or_default().share() * passable as f64).ceil() as usize);
    let interval = stats::clopper_pearson(control.broken, passable)
        .map(|i| Interval { low: i.low * passable as f64, high: i.high * passable as f64 });
    Measurement {
        name: "max_broken_controls",
        threshold: most as f64,
        limit: widened(controls, most > own, most.to_string()),
        bound: Bound::AtMost,
        unit: Unit::Count,
        value: (passable > 0).then_some(control.broken as f64),
        interval,
        limits: share_limits(control.broken, passable)
            .map(|i| Interval { low: i.low * passable as f64, high: i.high * passable as f64 }),
        needed: None,
        n: passable,
        found: format!("{} broken of {passable} control cases that base passes", control.broken),
        missing: missing_controls(control).or_else(|| too_noisy(controls)),
    }
}

/// Drift over questions; of a record that does not hold it by text, over positions.
fn drift(drift: Option<&Drift>, controls: &Controls<'_>, most: f64) -> Measurement {
    let kl = drift.and_then(|d| d.kl);
    let (value, limits) = drift_measured(kl.as_ref(), controls);
    let (most, widened) = above_floor(drift, most);
    let limit = if widened {
        format!("{}, which is what the measurement differs by itself", number(most))
    } else {
        number(most)
    };
    Measurement {
        name: "max_drift",
        threshold: most,
        limit,
        bound: Bound::AtMost,
        unit: Unit::Nats,
        value,
        interval: limits,
        limits,
        needed: controls.drift.and_then(|drift| questions_to_show(drift.mean, drift.sd, most)),
        n: match (drift, controls.drift) {
            (Some(drift), Some(over)) if over.limits.is_some() && drift.tokens > 0 => over.clusters,
            (drift, _) => drift.map_or(0, |d| d.tokens),
        },
        found: match (drift, value, controls.drift.filter(|over| over.limits.is_some())) {
            (Some(d), Some(mean), Some(over)) => {
                let (mean, by_token) = (number(mean), kl.map_or_else(String::new, |kl| number(kl.mean)));
                let least = if d.method == DriftMethod::FullKl { "" } else { "at least " };
                format!(
                    "drift {least}{mean} nats/token over {} questions ({by_token} over {} tokens of {})",
                    over.clusters, d.tokens, d.source
                )
            }
            (Some(d), Some(mean), None) => {
                format!("drift {} nats/token ({} tokens of {})", number(mean), d.tokens, d.source)
            }
            _ => "drift unknown".to_owned(),
        },
        missing: match drift {
            None => Some("drift was not measured".to_owned()),
            Some(d) if d.tokens == 0 => Some("drift was measured on no tokens".to_owned()),
            // A lower bound beyond the threshold is beyond it, and says nothing below it.
            Some(d) if !d.is_exact() && value.is_none_or(|value| value <= most) => Some(undecided(d, value)),
            Some(_) => None,
        },
    }
}

/// Why drift by a method that sees a part decides nothing, and what would.
fn undecided(drift: &Drift, value: Option<f64>) -> String {
    let bounds = format!("max_drift bounds {}, and this run measured {}", DriftMethod::FullKl, drift.method);
    match (value, drift.covered) {
        (Some(value), Some(covered)) => format!(
            "{bounds}: drift is at least {}, with {:.1} % of base's probability seen; {}",
            number(value),
            100.0 * covered,
            match drift.decided_by {
                Some(k) =>
                    format!("[backend] top_logprobs = {k} has 99 % of it on the first answers, so set that or more"),
                None => "raise [backend] top_logprobs until that is 99 %".to_owned(),
            }
        ),
        _ => bounds,
    }
}

/// A threshold of drift that is not below what the measurement differs by itself, and whether that widened it.
fn above_floor(drift: Option<&Drift>, most: f64) -> (f64, bool) {
    let floor = drift.and_then(|drift| drift.floor?.kl).filter(|floor| floor.is_finite()).unwrap_or(0.0);
    (most.max(floor), floor > most)
}

/// A threshold of a loss that is not below the share of verdicts that differ when a server is asked again.
fn above_noise(controls: &Controls<'_>, most: f64) -> f64 {
    most.max(controls.noise.unwrap_or_default().share())
}

/// A threshold of what is kept that is not above what asking again keeps.
fn below_noise(controls: &Controls<'_>, least: f64) -> f64 {
    least.min(1.0 - controls.noise.unwrap_or_default().share())
}

/// Why verdicts decide nothing, where the server gives many others when it is asked again.
fn too_noisy(controls: &Controls<'_>) -> Option<String> {
    let noise = controls.noise.filter(|noise| noise.share() > MOST_NOISE)?;
    Some(format!(
        "{} of {} cases have another verdict when the server is asked again, so verdicts say nothing of the fine-tune; see to it that the \
         server answers the same question the same way",
        noise.verdicts, noise.cases
    ))
}

/// A threshold in words, and why it is not the one that was given.
fn widened(controls: &Controls<'_>, widened: bool, threshold: String) -> String {
    match controls.noise {
        Some(noise) if widened => format!(
            "{threshold}, since {} of {} cases have another verdict when they are asked again",
            noise.verdicts, noise.cases
        ),
        _ => threshold,
    }
}

/// Drift and its limits.
fn drift_measured(kl: Option<&Divergence>, controls: &Controls<'_>) -> (Option<f64>, Option<Interval>) {
    let Some(kl) = kl.filter(|kl| kl.mean.is_finite()) else { return (kl.map(|kl| kl.mean), None) };
    match controls.drift.filter(|over| over.limits.is_some()) {
        Some(over) => (Some(over.mean), over.limits),
        // Fewer questions than have limits, or a record of before: positions are what there is.
        None => {
            let half = stats::Z_95_ONE_SIDED * kl.se;
            let limits = Interval { low: (kl.mean - half).max(0.0), high: kl.mean + half };
            (Some(kl.mean), half.is_finite().then_some(limits))
        }
    }
}

fn net_loss(control: &Tally, controls: &Controls<'_>, most: f64) -> Measurement {
    let net = controls.net;
    let limits = net.map(|net| net.limits);
    let own = most;
    let most = above_noise(controls, own);
    Measurement {
        name: "max_net_loss",
        threshold: most,
        limit: widened(controls, most > own, points(most)),
        bound: Bound::AtMost,
        unit: Unit::Difference,
        value: net.map(|net| net.loss),
        interval: limits,
        limits,
        needed: net.and_then(|net| pairs_needed(&net, most)),
        n: net.map_or(0, |net| net.table.pairs()),
        found: match net {
            Some(NetLoss { loss, table, .. }) => format!(
                "pass rate on controls falls by {} ({} broken and {} fixed of {})",
                points(loss),
                table.broken,
                table.fixed,
                table.pairs()
            ),
            None => "change of the controls unknown".to_owned(),
        },
        missing: missing(control.pairs, control.not_evaluated(), "control").or_else(|| {
            net.is_none()
                .then(|| "both arms fail every control, however it is asked: there is nothing to lose".to_owned())
                .or_else(|| too_noisy(controls))
        }),
    }
}

fn choice_loss(controls: &Controls<'_>, most: f64) -> Measurement {
    let found = controls.choice_loss;
    let limits = found.and_then(|mean| mean.interval(ALPHA));
    Measurement {
        name: "max_choice_loss",
        threshold: most,
        limit: number(most),
        bound: Bound::AtMost,
        unit: Unit::Nats,
        value: found.map(|mean| mean.mean),
        interval: limits,
        limits,
        needed: found.and_then(|mean| questions_to_show(mean.mean, controls.choice_sd, most)),
        n: found.map_or(0, |mean| mean.clusters),
        found: match found {
            Some(mean) => format!(
                "loss of the right choice grows by {} nats ({} questions with choices)",
                number(mean.mean),
                mean.clusters
            ),
            None => "change of the choices' loss unknown".to_owned(),
        },
        missing: found.is_none().then(|| "no control has a choice that both arms scored".to_owned()),
    }
}

/// Clopper and Pearson's limits of a share of cases.
fn share_limits(hits: usize, n: usize) -> Option<Interval> {
    Some(Interval { low: stats::lower_limit(hits, n, ALPHA)?, high: stats::upper_limit(hits, n, ALPHA)? })
}

/// Cases that would show that a share like this is above the threshold, or below it.
fn cases_to_tell(share: Option<f64>, least: f64) -> Option<usize> {
    let share = share?;
    if share >= least { stats::cases_to_show(share, least) } else { stats::cases_to_show(1.0 - share, 1.0 - least) }
}

/// Pairs that would show a net loss like this on its side of the threshold.
fn pairs_needed(net: &NetLoss, most: f64) -> Option<usize> {
    let pairs = net.table.pairs();
    let flips = (net.table.broken + net.table.fixed).clamp(1, pairs);
    // The score interval is about z·√(discordance / n) wide on each side.
    let spread = (flips as f64 / pairs as f64 - net.loss * net.loss).max(0.0).sqrt();
    questions_to_show(net.loss, spread.max(1.0 / pairs as f64), most)
}

fn missing(evaluated: usize, not_evaluated: usize, role: &str) -> Option<String> {
    match (evaluated, not_evaluated) {
        (0, 0) => Some(format!("there are no {role} cases")),
        (_, 0) => None,
        (evaluated, open) => Some(format!("{open} of {} {role} cases have no answer to judge", evaluated + open)),
    }
}

fn missing_controls(control: &Tally) -> Option<String> {
    let nothing = control.kept + control.broken == 0;
    missing(control.pairs, control.not_evaluated(), "control")
        .or_else(|| nothing.then(|| "base passes none of the control cases, so there is nothing to retain".to_owned()))
}

fn share(rate: &Rate) -> String {
    rate.share().map_or_else(|| "unknown".to_owned(), percent)
}
