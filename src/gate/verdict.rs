//! Whether an arm kept what base can do: kept, lost, or not shown, out of every measure of the controls.

use super::detection::detection;
use super::drift_measured;
use crate::compare::stats::{self, ALPHA, holm, mcnemar_mid_p};
use crate::compare::{Controls, number, percent, points, questions_to_show};
use crate::config::Policy;
use crate::record::{Bound, ControlMeasure, ControlVerdict, Evidence, Interval, LostScenario, RunRecord, Unit};

/// Drift beyond which controls are lost, in nats/token over questions, where the manifest gives no `max_drift`. Of the harmless adapters of
/// finetest's study few had more.
pub const DEFAULT_MAX_DRIFT: f64 = 0.15;
/// Drift within which controls are kept, where the manifest gives no `max_drift`. Of the harmful adapters of the study few had less. Between the
/// two were both, and drift decides nothing.
pub const KEPT_DRIFT: f64 = 0.09;
/// Net loss that is too much, where the manifest gives no `max_net_loss`: five points.
pub const DEFAULT_MAX_NET_LOSS: f64 = 0.05;

/// What is shown about an arm's controls; `None` without controls.
///
/// The measures stand in the order of their power at a few dozen questions: drift, the loss of the right choice, the net loss of passed cases, and
/// retention. The controls are *lost* when one of the first three is shown beyond its threshold. They are *kept* when one of them is shown within
/// it, and none is shown beyond. Retention decides only where the manifest has a threshold for it: it counts what base passes, which can only be
/// lost, and so it is lower than the net change says. A measure without a threshold decides nothing.
pub(super) fn verdict(run: &RunRecord, policy: &Policy, arm: &str, controls: &Controls<'_>) -> Option<ControlVerdict> {
    if controls.questions.is_empty() {
        return None;
    }
    let all = [
        drift(run, policy, arm, controls),
        choice_loss(policy, controls),
        net_loss(policy, controls),
        retention(policy, controls),
    ];
    let measures: Vec<ControlMeasure> = all.into_iter().flatten().collect();
    let shows = |evidence| measures.iter().find(|measure| measure.evidence == evidence);
    let decided = shows(Evidence::Lost).or_else(|| shows(Evidence::Kept));
    let evidence = decided.map_or(Evidence::NotShown, |measure| measure.evidence);
    let by = decided.map_or_else(String::new, |measure| measure.name.clone());
    let explanation = explanation(evidence, decided, &measures);
    Some(ControlVerdict {
        arm: arm.to_owned(),
        evidence,
        by,
        questions: controls.questions.len(),
        dead: controls.dead().map(crate::compare::Question::name).collect(),
        guessing: controls.guessing,
        rephrasing: controls.rephrasing,
        lost: lost_scenarios(arm, controls),
        detection: detection(controls.questions.len()),
        explanation,
        measures,
    })
}

/// A measure that is judged by limits.
struct Measured {
    name: &'static str,
    value: f64,
    limits: Option<Interval>,
    threshold: Option<f64>,
    /// What shows that controls are kept, where that is not the threshold.
    kept_within: Option<f64>,
    given: bool,
    unit: Unit,
    bound: Bound,
    n: usize,
    detectable: Option<f64>,
    needed: Option<usize>,
}

impl Measured {
    fn judge(self) -> ControlMeasure {
        let shows = |threshold| Evidence::new(self.limits, self.bound, threshold);
        let evidence = match (self.threshold.map(shows), self.kept_within.map(shows)) {
            (Some(Evidence::Kept), Some(Evidence::NotShown | Evidence::Lost)) | (None, _) => Evidence::NotShown,
            (Some(evidence), _) => evidence,
        };
        let open = evidence == Evidence::NotShown && self.threshold.is_some();
        ControlMeasure {
            name: self.name.to_owned(),
            measured: self.value,
            limits: self.limits,
            threshold: self.threshold,
            kept_within: self.kept_within,
            given: self.given,
            unit: self.unit,
            bound: self.bound,
            n: self.n,
            evidence,
            detectable: self.detectable,
            needed: self.needed.filter(|_| open),
        }
    }
}

fn drift(run: &RunRecord, policy: &Policy, arm: &str, controls: &Controls<'_>) -> Option<ControlMeasure> {
    let drift = run.drift.get(arm)?;
    let (value, limits) = drift_measured(drift.kl.as_ref(), controls);
    let (threshold, _) = super::above_floor(Some(drift), policy.max_drift.unwrap_or(DEFAULT_MAX_DRIFT));
    // A lower bound can show that controls are lost, and nothing else.
    if !drift.is_exact() && limits.is_none_or(|limits| limits.low <= threshold) {
        return None;
    }
    let kept_within = policy.max_drift.is_none().then(|| super::above_floor(Some(drift), KEPT_DRIFT).0.min(threshold));
    let over = controls.drift;
    let value = value.filter(|value| value.is_finite())?;
    // Between the two no number of questions decides.
    let nearest = match kept_within {
        Some(kept) if value <= kept => Some(kept),
        Some(_) if value <= threshold => None,
        _ => Some(threshold),
    };
    let measured = Measured {
        name: "drift",
        value,
        limits,
        threshold: Some(threshold),
        kept_within,
        given: policy.max_drift.is_some(),
        unit: Unit::Nats,
        bound: Bound::AtMost,
        n: over.map_or(drift.texts.len(), |over| over.clusters),
        detectable: over.and_then(|over| stats::minimum_detectable_change(over.clusters, over.sd)),
        needed: over.zip(nearest).and_then(|(over, nearest)| questions_to_show(over.mean, over.sd, nearest)),
    };
    Some(measured.judge())
}

fn choice_loss(policy: &Policy, controls: &Controls<'_>) -> Option<ControlMeasure> {
    let mean = controls.choice_loss?;
    let measured = Measured {
        name: "choice_loss",
        kept_within: None,
        value: mean.mean,
        limits: mean.interval(ALPHA),
        threshold: policy.max_choice_loss,
        given: policy.max_choice_loss.is_some(),
        unit: Unit::Nats,
        bound: Bound::AtMost,
        n: mean.clusters,
        detectable: stats::minimum_detectable_change(mean.clusters, controls.choice_sd),
        needed: policy.max_choice_loss.and_then(|most| questions_to_show(mean.mean, controls.choice_sd, most)),
    };
    Some(measured.judge())
}

fn net_loss(policy: &Policy, controls: &Controls<'_>) -> Option<ControlMeasure> {
    let net = controls.net.filter(|_| super::too_noisy(controls).is_none())?;
    // Controls that base passes one and all can only be lost: jitter alone would go beyond a threshold that nobody chose for them.
    let own = (!controls.all_pass()).then_some(DEFAULT_MAX_NET_LOSS);
    let threshold = policy.max_net_loss.or(own).map(|most| super::above_noise(controls, most));
    let measured = Measured {
        name: "net_loss",
        kept_within: None,
        value: net.loss,
        limits: Some(net.limits),
        threshold,
        given: policy.max_net_loss.is_some(),
        unit: Unit::Difference,
        bound: Bound::AtMost,
        n: net.table.pairs(),
        detectable: stats::minimum_detectable_effect(net.table.pairs(), net.table.broken + net.table.fixed),
        needed: threshold.and_then(|threshold| super::pairs_needed(&net, threshold)),
    };
    Some(measured.judge())
}

fn retention(policy: &Policy, controls: &Controls<'_>) -> Option<ControlMeasure> {
    let kept = controls.retention.filter(|_| super::too_noisy(controls).is_none())?;
    let share = kept.hits as f64 / kept.n as f64;
    let threshold = policy.min_retention.map(|least| super::below_noise(controls, least));
    let measured = Measured {
        name: "retention",
        kept_within: None,
        value: share,
        limits: kept.limits(ALPHA),
        threshold,
        given: policy.min_retention.is_some(),
        unit: Unit::Share,
        bound: Bound::AtLeast,
        n: kept.n,
        detectable: None,
        needed: threshold.and_then(|least| super::cases_to_tell(Some(share), least)),
    };
    Some(measured.judge())
}

/// Scenarios that lost more than they gained, by the mid-p test of flips, corrected for the number of scenarios.
fn lost_scenarios(arm: &str, controls: &Controls<'_>) -> Vec<LostScenario> {
    let tables = controls.flips_by_scenario(arm);
    let p: Vec<f64> = tables.iter().map(|(_, table)| mcnemar_mid_p(table.broken, table.fixed)).collect();
    let adjusted = holm(&p);
    let lost = tables.into_iter().zip(adjusted).filter(|(_, p)| *p <= ALPHA);
    lost.map(|((scenario, table), p)| LostScenario {
        scenario: scenario.name.clone(),
        broken: table.broken,
        fixed: table.fixed,
        p,
    })
    .collect()
}

fn explanation(evidence: Evidence, decided: Option<&ControlMeasure>, measures: &[ControlMeasure]) -> String {
    let amount = |measure: &ControlMeasure, value: f64| match measure.unit {
        Unit::Share => percent(value),
        Unit::Difference => points(value),
        _ => number(value),
    };
    match decided {
        Some(measure) => {
            let side = match (evidence, measure.bound) {
                (Evidence::Lost, Bound::AtMost) | (Evidence::Kept, Bound::AtLeast) => "above",
                _ => "below",
            };
            let limit = measure
                .limits
                .map_or(measure.measured, |limits| if side == "above" { limits.low } else { limits.high });
            let threshold = measure.kept_within.filter(|_| evidence == Evidence::Kept).or(measure.threshold);
            format!(
                "{} is {}; its {} limit {} is {side} {}{}",
                measure.name.replace('_', " "),
                amount(measure, measure.measured),
                if side == "above" { "lower" } else { "upper" },
                amount(measure, limit),
                amount(measure, threshold.unwrap_or(f64::NAN)),
                if measure.given { "" } else { ", finetest's own threshold" },
            )
        }
        None => {
            let between = measures.iter().find_map(|measure| {
                let (kept, lost) = (measure.kept_within?, measure.threshold?);
                (measure.measured > kept && measure.measured <= lost).then_some((measure, kept, lost))
            });
            if let Some((measure, kept, lost)) = between {
                return format!(
                    "{} is {}, between {} and {}, where finetest's own study found harmless adapters and harmful ones; read the answers, or \
                     give a threshold of yours",
                    measure.name.replace('_', " "),
                    amount(measure, measure.measured),
                    amount(measure, kept),
                    amount(measure, lost)
                );
            }
            let nearest = measures
                .iter()
                .filter_map(|measure| Some((measure, measure.needed?)))
                .min_by_key(|(_, needed)| *needed);
            match nearest {
                Some((measure, needed)) => {
                    let more = needed.saturating_sub(measure.n).max(1);
                    let of =
                        if measure.name == "drift" || measure.name == "choice_loss" { "questions" } else { "cases" };
                    format!(
                        "there are too few controls to decide; about {more} more {of} would ({})",
                        measure.name.replace('_', " ")
                    )
                }
                None => "there are too few controls to decide".to_owned(),
            }
        }
    }
}

/// Thresholds that no result of so many control questions could show to be kept: each with what would do.
#[must_use]
pub fn unreachable(policy: &Policy, questions: usize) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(least) = policy.min_retention
        && stats::losses_allowed(questions, least).is_none()
    {
        let needed = stats::none_lost_needed(least).map_or_else(|| "no number can".to_owned(), |n| format!("{n} can"));
        found.push(format!(
            "{questions} control questions cannot show min_retention = {least}, even if tuned keeps all of them; {needed}"
        ));
    }
    if let Some(most) = policy.max_net_loss {
        let shows = |n: usize| {
            let table = stats::FlipTable { both: n, ..Default::default() };
            stats::tango_paired(&table, ALPHA).is_some_and(|limits| -limits.low <= most)
        };
        if !shows(questions) {
            let needed = (questions + 1..10_000).find(|n| shows(*n));
            let needed = needed.map_or_else(|| "no number below 10000 can".to_owned(), |n| format!("{n} can"));
            found.push(format!(
                "{questions} control questions cannot show max_net_loss = {most}, even if no verdict changes; {needed}"
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::decide;
    use super::*;
    use crate::config::NotShown;
    use crate::record::fixture::{self, F, P};
    use crate::record::{Role, TUNED, Verdict};

    /// Controls with these verdicts, and drift that is `kl` on each but for some spread.
    fn run(verdicts: &[(Verdict, Verdict)], kl: f32) -> RunRecord {
        let mut run = fixture::run(vec![
            fixture::scenario("t", Role::Target, &[(F, P); 4]),
            fixture::scenario("facts", Role::Control, verdicts),
        ]);
        let texts = (0..verdicts.len()).map(|i| {
            let value = kl * (0.7 + 0.3 * (i % 3) as f32);
            fixture::text_drift(&format!("control::facts::case_{}", i + 1), &[value, value])
        });
        run.drift.get_mut(TUNED).expect("drift").texts = texts.collect();
        run
    }

    fn controls(run: &RunRecord, policy: &Policy) -> ControlVerdict {
        decide(run, policy).controls.into_iter().next().expect("controls")
    }

    #[test]
    fn the_harmless_the_middle_and_the_harmful_are_told_apart() {
        // As three adapters of the example were measured: 4 lost and 1 gained, 11 and 2, 22 and none, of 36.
        let verdicts = |broken: usize, fixed: usize, kept: usize| {
            let mut all = vec![(P, P); kept];
            all.extend(vec![(P, F); broken]);
            all.extend(vec![(F, P); fixed]);
            all.resize(36, (F, F));
            all
        };
        let judged = |broken, fixed, kl| {
            let controls = controls(&run(&verdicts(broken, fixed, 22 - broken.min(22)), kl), &Policy::default());
            (controls.evidence, controls.by)
        };
        assert_eq!(judged(4, 1, 0.063), (Evidence::Kept, "drift".to_owned()));
        // Between finetest's own thresholds drift says nothing.
        assert_eq!(judged(4, 1, 0.13), (Evidence::NotShown, String::new()));
        assert_eq!(judged(1, 1, 0.01), (Evidence::Kept, "drift".to_owned()));
        assert_eq!(judged(11, 2, 0.29), (Evidence::Lost, "drift".to_owned()));
        assert_eq!(judged(22, 0, 0.86), (Evidence::Lost, "drift".to_owned()));
        // Broken answers at little drift are a loss too.
        assert_eq!(judged(20, 0, 0.05), (Evidence::Lost, "net_loss".to_owned()));
    }

    #[test]
    fn controls_that_base_passes_one_and_all_are_no_fair_test_of_what_was_lost() {
        let mut all = vec![(P, P); 30];
        all.extend(vec![(P, F); 8]);
        let mut run = run(&all, 0.01);
        let judged = controls(&run, &Policy::default());
        assert_eq!((judged.evidence, judged.by.as_str()), (Evidence::Kept, "drift"));
        run.drift.clear();
        assert_eq!(controls(&run, &Policy::default()).evidence, Evidence::NotShown);
        let given = Policy { max_net_loss: Some(0.05), ..Policy::default() };
        assert_eq!(controls(&run, &given).evidence, Evidence::Lost);
    }

    #[test]
    fn a_few_controls_show_nothing_and_say_how_many_would() {
        let mut few = run(&[(P, P), (P, F), (P, P), (F, F)], 0.1);
        few.drift.clear();
        let found = controls(&few, &Policy::default());
        assert_eq!((found.evidence, found.by.as_str()), (Evidence::NotShown, ""));
        assert!(found.explanation.contains("too few controls to decide; about"), "{}", found.explanation);
        let net = found.measures.iter().find(|m| m.name == "net_loss").expect("net loss");
        assert!(net.needed.is_some_and(|n| n > 4) && net.detectable.is_some());
    }

    #[test]
    fn what_is_not_shown_passes_or_fails_as_the_policy_says() {
        let mut few = run(&[(P, P), (P, P)], 0.1);
        few.drift.clear();
        let with = |not_shown| Policy { min_retention: Some(0.9), not_shown, ..Policy::default() };
        assert!(decide(&few, &with(None)).passed);
        let refused = decide(&few, &with(Some(NotShown::Fail)));
        assert!(!refused.passed && refused.rules_passed());
        assert_eq!(refused.undecided, ["tuned"]);
        assert_eq!(refused.summary(), "the only rule passed; not shown whether tuned kept the controls");
        assert_eq!((refused.exit_code(), refused.ending().word()), (100, "FAIL"));
        few.made.ci = true;
        assert!(!decide(&few, &with(None)).passed);
        assert!(decide(&few, &with(Some(NotShown::Warn))).passed);
        // Nothing about controls was asked of the gate.
        assert!(decide(&few, &Policy { min_target_gain: Some(0.1), ..Policy::default() }).passed);
    }

    #[test]
    fn a_scenario_that_is_lost_by_itself_is_named() {
        let mut run = run(&[(P, P); 30], 0.01);
        run.scenarios.push(fixture::scenario("sums", Role::Control, &[(P, F); 9]));
        let lost = controls(&run, &Policy::default()).lost;
        assert_eq!(lost.len(), 1);
        assert_eq!((lost[0].scenario.as_str(), lost[0].broken, lost[0].fixed), ("sums", 9, 0));
        assert!(lost[0].p < 0.01);
    }

    #[test]
    fn thresholds_that_so_few_could_never_show() {
        let policy = Policy { min_retention: Some(0.9), max_net_loss: Some(0.05), ..Policy::default() };
        let found = unreachable(&policy, 20);
        assert!(
            found[0].starts_with("20 control questions cannot show min_retention = 0.9")
                && found[0].ends_with("29 can"),
            "{found:?}"
        );
        assert!(found[1].contains("max_net_loss = 0.05") && found[1].ends_with("can"), "{found:?}");
        assert!(unreachable(&policy, 100).is_empty());
        assert!(unreachable(&Policy::default(), 1).is_empty());
    }

    /// Whatever is odd about a run, a gate that asks for a proof does not pass by silence.
    #[test]
    fn an_odd_run_never_passes_by_silence() {
        use crate::record::fixture::N;
        let strict = Policy {
            min_retention: Some(0.8),
            max_net_loss: Some(0.05),
            not_shown: Some(NotShown::Fail),
            ..Policy::default()
        };
        let odd: [(&str, &[(Verdict, Verdict)]); 5] = [
            ("nothing evaluated", &[(N, N), (N, P)]),
            ("one case", &[(P, P)]),
            ("no flip among three", &[(P, P), (P, P), (F, F)]),
            ("base passes nothing", &[(F, F), (F, F), (F, F), (F, F)]),
            ("half not evaluated", &[(P, P), (P, N), (P, P), (N, P)]),
        ];
        for (what, verdicts) in odd {
            let mut run = run(verdicts, 0.01);
            run.drift.clear();
            let decision = decide(&run, &strict);
            assert!(!decision.passed, "{what}: {decision:#?}");
            assert!(decision.controls.iter().all(|controls| controls.evidence != Evidence::Kept), "{what}");
        }
        // Drift and likelihoods that are no numbers are no evidence.
        let mut broken = run(&[(P, P); 20], 0.01);
        let drift = broken.drift.get_mut(TUNED).expect("drift");
        drift.texts.iter_mut().for_each(|text| text.values[0] = f32::NAN);
        drift.kl.as_mut().expect("KL").mean = f64::NAN;
        let measures = controls(&broken, &Policy::default()).measures;
        assert!(measures.iter().all(|measure| measure.name != "drift"), "{measures:?}");
    }

    #[test]
    fn without_controls_there_is_no_verdict() {
        let mut run = run(&[], 0.1);
        run.drift.clear();
        assert!(decide(&run, &Policy::default()).controls.is_empty());
    }
}
