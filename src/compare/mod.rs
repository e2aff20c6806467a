//! What the fine-tune changed: two arms of one run, case by case, with statistics that fit a few dozen cases.

mod controls;
pub mod crosscheck;
pub mod diff;
pub mod drift;
mod failures;
mod flips;
mod runs;
mod shared;
pub mod stats;

use crate::record::{BASE, Interval, Role, RunRecord, ScenarioRecord, Verdict};

pub use crate::record::DriftSample;
pub use controls::{Controls, NetLoss, Question, chance_flips, questions_to_show};
pub use diff::{Change, DiffLine, Divergence, Span, WordDiff, first_divergence, line_diff, word_diff};
pub use failures::{FailureShown, failures_shown};
pub use flips::{CaseOutcome, Flip, FlipKind, case_outcome};
pub use runs::{
    CaseChange, ComparedCase, Counts, Difference, DriftPair, FailOn, Incomparable, Note, RunComparison, ScenarioChange,
    Shown, Side, Total,
};
pub use shared::{Shared, shared_words};
pub use stats::PairedGain;

/// How many cases an arm passed. Cases without an answer are counted apart: never as a pass, never as a zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// Cases that pass.
    pub passed: usize,
    /// Cases that pass or fail.
    pub evaluated: usize,
    /// Cases without an answer to judge.
    pub not_evaluated: usize,
}

impl Rate {
    fn count(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::NotEvaluated => self.not_evaluated += 1,
            Verdict::Passed => {
                self.passed += 1;
                self.evaluated += 1;
            }
            Verdict::Failed => self.evaluated += 1,
        }
    }

    /// `passed / evaluated`; `None` when nothing was evaluated.
    #[must_use]
    pub fn share(&self) -> Option<f64> {
        (self.evaluated > 0).then(|| self.passed as f64 / self.evaluated as f64)
    }

    /// Wilson's 95 % interval of [`Rate::share`].
    #[must_use]
    pub fn interval(&self) -> Option<Interval> {
        stats::wilson(self.passed, self.evaluated)
    }
}

/// Both arms on the same cases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Cases.
    pub cases: usize,
    /// Base's verdicts.
    pub base: Rate,
    /// Tuned's verdicts.
    pub tuned: Rate,
    /// Cases that both arms answered: what flips, retention and gain are counted over.
    pub pairs: usize,
    /// Pairs that both arms pass.
    pub kept: usize,
    /// Pairs that base passes and tuned fails.
    pub broken: usize,
    /// Pairs that base fails and tuned passes.
    pub fixed: usize,
}

impl Tally {
    fn count(&mut self, base: Verdict, tuned: Verdict) {
        self.cases += 1;
        self.base.count(base);
        self.tuned.count(tuned);
        let (base, tuned) = match (base, tuned) {
            (Verdict::NotEvaluated, _) | (_, Verdict::NotEvaluated) => return,
            (base, tuned) => (base == Verdict::Passed, tuned == Verdict::Passed),
        };
        self.pairs += 1;
        self.kept += usize::from(base && tuned);
        self.broken += usize::from(base && !tuned);
        self.fixed += usize::from(!base && tuned);
    }

    fn add(&mut self, other: &Self) {
        let rate = |into: &mut Rate, from: &Rate| {
            into.passed += from.passed;
            into.evaluated += from.evaluated;
            into.not_evaluated += from.not_evaluated;
        };
        rate(&mut self.base, &other.base);
        rate(&mut self.tuned, &other.tuned);
        self.cases += other.cases;
        self.pairs += other.pairs;
        self.kept += other.kept;
        self.broken += other.broken;
        self.fixed += other.fixed;
    }

    /// Pairs that one of the arms did not answer.
    #[must_use]
    pub fn not_evaluated(&self) -> usize {
        self.cases - self.pairs
    }

    /// Of the pairs that base passes, those that tuned passes too; a [`Rate`] with its interval.
    #[must_use]
    pub fn retention(&self) -> Rate {
        Rate { passed: self.kept, evaluated: self.kept + self.broken, not_evaluated: self.not_evaluated() }
    }

    /// Exact one-sided McNemar p of "more broken than fixed"; see [`stats::mcnemar_exact`].
    #[must_use]
    pub fn broken_p(&self) -> f64 {
        stats::mcnemar_exact(self.broken, self.fixed)
    }

    /// Smallest difference in pass rate this many pairs show; see [`stats::minimum_detectable_effect`].
    #[must_use]
    pub fn minimum_detectable_effect(&self) -> Option<f64> {
        stats::minimum_detectable_effect(self.pairs, self.broken + self.fixed)
    }
}

/// One scenario's row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScenarioRow<'a> {
    /// The scenario.
    pub scenario: &'a ScenarioRecord,
    /// Both arms on its cases.
    pub tally: Tally,
}

/// Two arms of a run compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison<'a> {
    /// Name of the control arm.
    pub base: String,
    /// Name of the arm that is judged.
    pub tuned: String,
    /// All target cases.
    pub target: Tally,
    /// All control cases.
    pub control: Tally,
    /// How the pass rate on target cases changes, with its interval; `None` without a pair.
    pub gain: Option<PairedGain>,
    /// One a scenario, in the run's order.
    pub scenarios: Vec<ScenarioRow<'a>>,
    /// Cases whose verdict differs, in the run's order.
    pub flips: Vec<Flip<'a>>,
}

impl<'a> Comparison<'a> {
    /// Compares the arms named `base` and `tuned`. An arm that the run does not have is not evaluated on any case.
    #[must_use]
    pub fn of(run: &'a RunRecord, base: &str, tuned: &str) -> Self {
        let row = |scenario: &'a ScenarioRecord| {
            let mut tally = Tally::default();
            scenario.cases.iter().for_each(|case| tally.count(case.verdict(base), case.verdict(tuned)));
            ScenarioRow { scenario, tally }
        };
        let scenarios: Vec<ScenarioRow<'a>> = run.scenarios.iter().map(row).collect();
        let total = |role: Role| {
            let mut total = Tally::default();
            scenarios.iter().filter(|row| row.scenario.role == role).for_each(|row| total.add(&row.tally));
            total
        };
        let (target, control) = (total(Role::Target), total(Role::Control));
        let pair = |base: Verdict, tuned: Verdict| {
            let both = base != Verdict::NotEvaluated && tuned != Verdict::NotEvaluated;
            both.then_some((base == Verdict::Passed, tuned == Verdict::Passed))
        };
        let targets = run.scenarios.iter().filter(|s| s.role == Role::Target);
        let clusters: Vec<Vec<(bool, bool)>> =
            targets.map(|s| s.cases.iter().filter_map(|c| pair(c.verdict(base), c.verdict(tuned))).collect()).collect();
        Self {
            base: base.to_owned(),
            tuned: tuned.to_owned(),
            target,
            control,
            gain: stats::paired_gain(&clusters),
            scenarios,
            flips: flips::flips(run, base, tuned),
        }
    }

    /// Every arm compared with base, in the run's order: [`TUNED`](crate::record::TUNED) comes first.
    #[must_use]
    pub fn all(run: &'a RunRecord) -> Vec<Self> {
        run.arms.iter().filter(|arm| arm.name != BASE).map(|arm| Self::of(run, BASE, &arm.name)).collect()
    }

    /// The totals of a role.
    #[must_use]
    pub fn tally(&self, role: Role) -> &Tally {
        match role {
            Role::Target => &self.target,
            Role::Control => &self.control,
        }
    }

    /// Cases that base passes and tuned fails, control cases first.
    pub fn broken(&self) -> impl Iterator<Item = &Flip<'a>> {
        let of = |role| self.flips.iter().filter(move |f| f.kind == FlipKind::Broken && f.scenario.role == role);
        of(Role::Control).chain(of(Role::Target))
    }

    /// Cases that base fails and tuned passes.
    pub fn fixed(&self) -> impl Iterator<Item = &Flip<'a>> {
        self.flips.iter().filter(|f| f.kind == FlipKind::Fixed)
    }

    /// Cases that one of the two arms did not answer.
    #[must_use]
    pub fn not_evaluated(&self) -> usize {
        self.target.not_evaluated() + self.control.not_evaluated()
    }
}

/// A share, a gain or a divergence as a person writes it: two decimals, four when they say more, small ones by their digits.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        return "no number".to_owned();
    }
    if size > 0.0 && size < 1e-4 {
        return format!("{value:.1e}");
    }
    let long = if size < 0.01 { format!("{value:.6}") } else { format!("{value:.4}") };
    let short = long.trim_end_matches('0');
    let decimals = short.len() - short.find('.').map_or(0, |at| at + 1);
    if decimals < 2 { format!("{value:.2}") } else { short.to_owned() }
}

/// A share in percent, to a tenth: `87.5 %`. Never rounded up to 100 or down to 0.
pub(crate) fn percent(share: f64) -> String {
    if !share.is_finite() {
        return "no number".to_owned();
    }
    let inside = share > 0.0 && share < 1.0;
    let tenths = (share * 1000.0).round() / 10.0;
    format!("{} %", if inside { tenths.clamp(0.1, 99.9) } else { tenths })
}

/// A difference of shares in percentage points, to a tenth: `+12.5 points`.
pub(crate) fn points(difference: f64) -> String {
    if !difference.is_finite() {
        return "no number".to_owned();
    }
    // Adding 0 makes −0 be 0.
    format!("{:+} points", (difference * 1000.0).round() / 10.0 + 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::TUNED;
    use crate::record::fixture::{self, F, N, P};

    #[test]
    fn shares_and_differences_are_said_in_one_unit() {
        assert_eq!(
            [0.875, 0.75, 1.0, 0.0, 0.9999, 0.0001, 2.0 / 3.0].map(percent),
            ["87.5 %", "75 %", "100 %", "0 %", "99.9 %", "0.1 %", "66.7 %"]
        );
        assert_eq!([0.5, -0.125, -0.0001, 0.0].map(points), ["+50 points", "-12.5 points", "+0 points", "+0 points"]);
        assert_eq!((percent(f64::NAN).as_str(), points(f64::INFINITY).as_str()), ("no number", "no number"));
    }

    fn run() -> RunRecord {
        fixture::run(vec![
            fixture::scenario("fields", Role::Target, &[(F, P), (F, P), (F, F), (P, F)]),
            fixture::scenario("json", Role::Target, &[(F, P), (F, N)]),
            fixture::scenario("facts", Role::Control, &[(P, P), (P, F), (F, P), (N, P)]),
            fixture::scenario("sums", Role::Control, &[(P, P), (P, P), (F, F)]),
        ])
    }

    #[test]
    fn what_was_not_evaluated_is_neither_pass_nor_zero() {
        let run = run();
        let c = Comparison::of(&run, BASE, TUNED);
        assert_eq!(c.target.base, Rate { passed: 1, evaluated: 6, not_evaluated: 0 });
        assert_eq!(c.target.tuned, Rate { passed: 3, evaluated: 5, not_evaluated: 1 });
        assert_eq!((c.target.cases, c.target.pairs, c.not_evaluated()), (6, 5, 2));
        assert_eq!(Rate { passed: 0, evaluated: 0, not_evaluated: 3 }.share(), None);
    }

    #[test]
    fn retention_is_over_the_control_cases_that_base_passes() {
        let run = run();
        let control = Comparison::of(&run, BASE, TUNED).control;
        assert_eq!(control.retention(), Rate { passed: 3, evaluated: 4, not_evaluated: 1 });
        assert_eq!((control.broken, control.fixed, control.broken_p()), (1, 1, 0.75));
    }

    #[test]
    fn gain_is_over_the_targets_pairs() {
        let run = run();
        let gain = Comparison::of(&run, BASE, TUNED).gain.expect("pairs");
        assert_eq!(gain.n, 5);
        assert!((gain.gain - 0.4).abs() < 1e-12);
    }

    #[test]
    fn flips_name_scenario_and_case_controls_first() {
        let run = run();
        let c = Comparison::of(&run, BASE, TUNED);
        let name = |f: &Flip| f.scenario.test_name(f.case);
        assert_eq!(c.broken().map(name).collect::<Vec<_>>(), ["control::facts::case_2", "target::fields::case_4"]);
        assert_eq!(c.fixed().count(), 4);
    }

    #[test]
    fn an_arm_that_is_not_there_is_not_evaluated() {
        let run = run();
        let c = Comparison::of(&run, BASE, "checkpoint-7");
        assert_eq!(c.target.tuned, Rate { passed: 0, evaluated: 0, not_evaluated: 6 });
        assert_eq!((c.flips.len(), c.gain, c.control.pairs), (0, None, 0));
    }

    #[test]
    fn a_row_a_scenario_adds_up_to_the_totals() {
        let run = run();
        let c = Comparison::of(&run, BASE, TUNED);
        assert_eq!(c.scenarios.len(), 4);
        assert_eq!(c.scenarios.iter().map(|r| r.tally.cases).sum::<usize>(), c.target.cases + c.control.cases);
        assert_eq!(c.tally(Role::Control).cases, 7);
    }

    #[test]
    fn numbers_keep_the_digits_that_tell() {
        let written = [0.85, 0.5, 0.0213, 1.0, 0.0, -0.25, 0.004, 0.0002, 0.00001, 1.0 / 3.0].map(number);
        assert_eq!(written, ["0.85", "0.50", "0.0213", "1.00", "0.00", "-0.25", "0.004", "0.0002", "1.0e-5", "0.3333"]);
        assert_eq!(number(f64::NAN), "no number");
    }
}
