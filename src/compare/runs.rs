//! Two recorded runs compared case by case: what an arm lost, gained, or answers in other words since the earlier run.

mod notes;
mod pairs;

use std::collections::HashMap;

use serde::Serialize;

use super::{Comparison, PairedGain, Rate, stats};
use crate::error::exit;
use crate::record::{Arm, BASE, Drift, Ending, Role, RunRecord, ScenarioRecord, Verdict};

pub use notes::Note;
pub use pairs::{CaseChange, ComparedCase, Difference, Shown};

/// How many cases became what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    cases: [usize; CaseChange::ALL.len()],
    /// Compared cases that pass in both runs.
    pub both_pass: usize,
}

impl Counts {
    fn add(&mut self, case: &ComparedCase<'_>) {
        self.cases[case.change as usize] += 1;
        let passes = case.change.is_compared() && case.verdicts() == [Verdict::Passed; 2];
        self.both_pass += usize::from(passes);
    }

    /// Cases that became `change`.
    #[must_use]
    pub fn count(&self, change: CaseChange) -> usize {
        self.cases[change as usize]
    }

    /// Cases of one or both runs.
    #[must_use]
    pub fn all(&self) -> usize {
        self.cases.iter().sum()
    }

    /// Cases with a verdict on the same question in both runs.
    #[must_use]
    pub fn compared(&self) -> usize {
        CaseChange::ALL.into_iter().filter(|change| change.is_compared()).map(|change| self.count(change)).sum()
    }

    /// The compared cases that passed before and that pass now.
    #[must_use]
    pub fn rates(&self) -> [Rate; 2] {
        let not_evaluated = self.count(CaseChange::NotEvaluated);
        let rate = |flip| Rate { passed: self.both_pass + self.count(flip), evaluated: self.compared(), not_evaluated };
        [CaseChange::NewlyBroken, CaseChange::Fixed].map(rate)
    }

    /// Exact one-sided McNemar p of "more newly broken than fixed"; see [`stats::mcnemar_exact`].
    #[must_use]
    pub fn broken_p(&self) -> f64 {
        stats::mcnemar_exact(self.count(CaseChange::NewlyBroken), self.count(CaseChange::Fixed))
    }
}

/// The cases of a role, or of both.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Total {
    /// How many became what.
    pub counts: Counts,
    /// Pass rate of the compared cases now − before, with its interval, clustered by scenario; `None` without such a case.
    pub difference: Option<PairedGain>,
}

impl Total {
    fn of<'c, 'a: 'c>(cases: impl Iterator<Item = &'c ComparedCase<'a>>) -> Self {
        let mut counts = Counts::default();
        let mut clusters: Vec<(String, Vec<(bool, bool)>)> = Vec::new();
        for case in cases {
            counts.add(case);
            if !case.change.is_compared() {
                continue;
            }
            let [before, after] = case.verdicts().map(|verdict| verdict == Verdict::Passed);
            let scenario = format!("{}::{}", case.scenario.role, case.scenario.name);
            match clusters.last_mut().filter(|(last, _)| *last == scenario) {
                Some((_, pairs)) => pairs.push((before, after)),
                None => clusters.push((scenario, vec![(before, after)])),
            }
        }
        let pairs: Vec<Vec<(bool, bool)>> = clusters.into_iter().map(|(_, pairs)| pairs).collect();
        Self { counts, difference: stats::paired_gain(&pairs) }
    }
}

/// A scenario's row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScenarioChange<'a> {
    /// The scenario, in the later run if that has it.
    pub scenario: &'a ScenarioRecord,
    /// How many of its cases became what.
    pub counts: Counts,
}

/// One of the two runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Side<'a> {
    /// The run.
    pub run: &'a RunRecord,
    /// The arm that is compared.
    pub arm: &'a Arm,
    /// The arm's retention of all control cases of this run; `None` for base, which loses nothing to itself.
    pub retention: Option<Rate>,
    /// The arm's drift, where it was measured.
    pub drift: Option<&'a Drift>,
}

impl<'a> Side<'a> {
    fn of(run: &'a RunRecord, arm: &str, which: &'static str) -> Result<Self, Incomparable> {
        let Some(found) = run.arms.iter().find(|other| other.name == arm) else {
            let arms = run.arms.iter().map(|arm| arm.name.clone()).collect();
            return Err(Incomparable::NoArm { arm: arm.to_owned(), which, arms });
        };
        let retention = (arm != BASE).then(|| Comparison::of(run, BASE, arm).control.retention());
        Ok(Self { run, arm: found, retention, drift: run.drift.get(arm) })
    }
}

/// Whether the drift of both runs is one quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DriftPair {
    /// Both measured it by one method on the same kind of text.
    Comparable,
    /// They measured it by different methods, which are different quantities.
    OtherMethod,
    /// They measured it on different texts.
    OtherText,
    /// One of them did not measure it.
    OnlyOne,
    /// Neither measured it.
    NotMeasured,
}

/// Why two runs cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Incomparable {
    /// A run has no such arm.
    #[error("the {which} run has no arm `{arm}`; its arms are: {}; choose one with --arm", .arms.join(", "))]
    NoArm {
        /// The arm.
        arm: String,
        /// `first` or `second`.
        which: &'static str,
        /// The arms that it has.
        arms: Vec<String>,
    },
    /// The base models differ.
    #[error(
        "the base models differ in {what}: {before} in the first run, {after} in the second; finetest compares runs of one base: \
         run both adapters on the same base"
    )]
    OtherBase {
        /// In what: their weights, or tokenizer and template.
        what: &'static str,
        /// The earlier run's.
        before: String,
        /// The later run's.
        after: String,
    },
    /// No case has a name in common.
    #[error(
        "no test is in both runs: the first has {} ({}, …), the second {} ({}, …); compare two runs of the same scenarios",
        .before.0, .before.1, .after.0, .after.1
    )]
    NothingInCommon {
        /// How many the earlier run has, and one of them.
        before: (usize, String),
        /// How many the later run has, and one of them.
        after: (usize, String),
    },
    /// Every common case is another question.
    #[error(
        "none of the {cases} tests that are in both runs is the same question: {} differ, as in {example}; make the older run again \
         with the scenarios as they are now",
        .differences.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
    )]
    OtherQuestions {
        /// Tests with the same name.
        cases: usize,
        /// In what the first of them differs.
        differences: Vec<Difference>,
        /// The first of them.
        example: String,
    },
}

/// What makes a comparison fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailOn {
    /// A case that passed and fails now.
    #[default]
    NewlyBroken,
    /// Any other verdict or answer.
    Changed,
    /// Nothing.
    Never,
}

/// One arm of two runs compared.
#[derive(Clone, Debug, PartialEq)]
pub struct RunComparison<'a> {
    /// The earlier run.
    pub before: Side<'a>,
    /// The later run.
    pub after: Side<'a>,
    /// Every case of one or both runs: in the order of the later run, then those that are gone.
    pub cases: Vec<ComparedCase<'a>>,
    /// One for each scenario of one or both runs.
    pub scenarios: Vec<ScenarioChange<'a>>,
    /// All target cases.
    pub target: Total,
    /// All control cases.
    pub control: Total,
    /// All cases.
    pub all: Total,
    /// What else differs.
    pub notes: Vec<Note>,
}

impl<'a> RunComparison<'a> {
    /// Compares the arm named `arm` in an earlier and a later run.
    ///
    /// # Errors
    /// The runs are of different bases, one has no such arm, or there is no case that both ran as the same question.
    pub fn of(before: &'a RunRecord, after: &'a RunRecord, arm: &str) -> Result<Self, Incomparable> {
        one_base(before, after)?;
        let (before, after) = (Side::of(before, arm, "first")?, Side::of(after, arm, "second")?);
        let cases = pairs::paired(before.run, after.run, arm);
        something_in_common(before.run, after.run, &cases)?;
        let of = |role| Total::of(cases.iter().filter(move |case| case.scenario.role == role));
        let (target, control, all) = (of(Role::Target), of(Role::Control), Total::of(cases.iter()));
        let scenarios = scenarios(&cases);
        Ok(Self { notes: notes::notes(before, after), before, after, scenarios, target, control, all, cases })
    }

    /// Name of the arm that is compared.
    #[must_use]
    pub fn arm(&self) -> &'a str {
        &self.after.arm.name
    }

    /// The totals of a role.
    #[must_use]
    pub fn total(&self, role: Role) -> &Total {
        match role {
            Role::Target => &self.target,
            Role::Control => &self.control,
        }
    }

    /// Cases that became `change`, control cases first: those tell of forgetting.
    pub fn became(&self, change: CaseChange) -> impl Iterator<Item = &ComparedCase<'a>> {
        let of = move |role| self.cases.iter().filter(move |c| c.change == change && c.scenario.role == role);
        of(Role::Control).chain(of(Role::Target))
    }

    /// Whether the drift of both runs may be read side by side.
    #[must_use]
    pub fn drift(&self) -> DriftPair {
        match (self.before.drift, self.after.drift) {
            (None, None) => DriftPair::NotMeasured,
            (None, _) | (_, None) => DriftPair::OnlyOne,
            (Some(before), Some(after)) if before.method != after.method => DriftPair::OtherMethod,
            (Some(before), Some(after)) if before.source != after.source => DriftPair::OtherText,
            _ => DriftPair::Comparable,
        }
    }

    /// How the comparison ends. It is incomplete when a case without an answer might be one that it fails on.
    #[must_use]
    pub fn ending(&self, fail_on: FailOn) -> Ending {
        let count = |change| self.all.counts.count(change);
        let broken = count(CaseChange::NewlyBroken);
        let found = match fail_on {
            FailOn::Never => return Ending::NotGated,
            FailOn::NewlyBroken => broken,
            FailOn::Changed => broken + count(CaseChange::Fixed) + count(CaseChange::Changed),
        };
        let might_be = |case: &ComparedCase<'_>| match (fail_on, case.verdicts()) {
            (FailOn::NewlyBroken, [before, after]) => before == Verdict::Passed && after == Verdict::NotEvaluated,
            (_, [before, after]) => before != after,
        };
        let mut open = self.cases.iter().filter(|case| case.change == CaseChange::NotEvaluated);
        match found {
            0 if self.all.counts.compared() == 0 || open.any(might_be) => Ending::Incomplete,
            0 => Ending::Passed,
            _ => Ending::Failed,
        }
    }

    /// Exit code of a command that ends with this comparison.
    #[must_use]
    pub fn exit_code(&self, fail_on: FailOn) -> u8 {
        match self.ending(fail_on) {
            Ending::Passed | Ending::NotGated => exit::PASS,
            Ending::Failed => exit::GATE_FAILED,
            Ending::Incomplete => exit::ERROR,
        }
    }
}

/// Refuses runs of different bases: what differs then is not the fine-tune.
fn one_base(before: &RunRecord, after: &RunRecord) -> Result<(), Incomparable> {
    let (one, other) = (&before.model, &after.model);
    let known = !one.fingerprint.is_empty() && !other.fingerprint.is_empty();
    // Of a backend of one's own there are no hashes.
    let is_same = if known { one.fingerprint == other.fingerprint } else { one.source == other.source };
    if is_same {
        return Ok(());
    }
    let weights = !one.weights.is_empty() && one.weights == other.weights;
    let what = if weights { "tokenizer or chat template" } else { "weights" };
    let shown = |run: &RunRecord, hash: &str| match short(hash) {
        "" => run.model.source.clone(),
        hash => format!("{} (hash {hash})", run.model.source),
    };
    let hashes = if weights || one.weights.is_empty() || other.weights.is_empty() {
        [&one.fingerprint, &other.fingerprint]
    } else {
        [&one.weights, &other.weights]
    };
    Err(Incomparable::OtherBase { what, before: shown(before, hashes[0]), after: shown(after, hashes[1]) })
}

/// The first characters of a hash, enough to tell two apart.
fn short(hash: &str) -> &str {
    hash.char_indices().nth(10).map_or(hash, |(at, _)| &hash[..at])
}

/// Refuses runs without a single question in common.
fn something_in_common(before: &RunRecord, after: &RunRecord, cases: &[ComparedCase<'_>]) -> Result<(), Incomparable> {
    let both = |case: &&ComparedCase<'_>| !matches!(case.change, CaseChange::Gone | CaseChange::New);
    let other = |case: &&ComparedCase<'_>| case.change == CaseChange::ChangedQuestion;
    let (common, changed) = (cases.iter().filter(both).count(), cases.iter().filter(other).count());
    let Some(first) = cases.iter().find(other).filter(|_| common == changed) else {
        if common > 0 {
            return Ok(());
        }
        let named = |run: &RunRecord| {
            let first = run.cases().next().map_or_else(String::new, |(scenario, case)| scenario.test_name(case));
            (run.cases().count(), first)
        };
        return Err(Incomparable::NothingInCommon { before: named(before), after: named(after) });
    };
    let differences = first.differences.clone();
    Err(Incomparable::OtherQuestions { cases: common, differences, example: first.test() })
}

fn scenarios<'a>(cases: &[ComparedCase<'a>]) -> Vec<ScenarioChange<'a>> {
    let mut rows: Vec<ScenarioChange<'a>> = Vec::new();
    let mut known: HashMap<(Role, &str), usize> = HashMap::new();
    for case in cases {
        let at = *known.entry((case.scenario.role, case.scenario.name.as_str())).or_insert_with(|| {
            rows.push(ScenarioChange { scenario: case.scenario, counts: Counts::default() });
            rows.len() - 1
        });
        rows[at].counts.add(case);
    }
    rows
}

#[cfg(test)]
mod tests;
