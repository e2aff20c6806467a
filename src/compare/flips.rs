//! Cases whose verdict differs between the arms, and what a single case comes to as a test.

use super::failures_shown;
use crate::record::{Answer, CaseRecord, Role, RunRecord, ScenarioRecord, Verdict};

/// Which way a verdict went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlipKind {
    /// Base passed, tuned fails.
    Broken,
    /// Base failed, tuned passes.
    Fixed,
}

/// A case whose verdict differs between the arms (arXiv 2407.09141).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flip<'a> {
    /// Its scenario.
    pub scenario: &'a ScenarioRecord,
    /// The case, with both answers.
    pub case: &'a CaseRecord,
    /// Which way.
    pub kind: FlipKind,
}

pub(super) fn flips<'a>(run: &'a RunRecord, base: &str, tuned: &str) -> Vec<Flip<'a>> {
    let kind = |case: &CaseRecord| match (case.verdict(base), case.verdict(tuned)) {
        (Verdict::Passed, Verdict::Failed) => Some(FlipKind::Broken),
        (Verdict::Failed, Verdict::Passed) => Some(FlipKind::Fixed),
        _ => None,
    };
    run.cases().filter_map(|(scenario, case)| Some(Flip { scenario, case, kind: kind(case)? })).collect()
}

/// What one case came to, seen as a test of tuned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaseOutcome {
    /// Tuned passes.
    Passed,
    /// A target case that tuned fails, or a control case that it broke: why.
    Failed(String),
    /// Nothing can be said about the fine-tune: a control case that base fails too.
    Skipped(String),
    /// An arm gave no answer to judge: which.
    NotEvaluated(String),
}

/// What a case of a scenario with `role` came to, with the arms named `base` and `tuned`.
///
/// A target case asks what tuned can do; a control case asks what it has lost, so one that base fails too is skipped. Whether a
/// failed case fails the run is for the gate to say, which allows some.
#[must_use]
pub fn case_outcome(case: &CaseRecord, role: Role, base: &str, tuned: &str) -> CaseOutcome {
    let why = |arm: &str| {
        let sample = case.answers.get(arm).and_then(Answer::shown);
        let failures = sample.map(|sample| failures_shown(case, sample)).unwrap_or_default();
        let told: Vec<String> = failures.iter().map(ToString::to_string).collect();
        if told.is_empty() { "a check does not hold".to_owned() } else { told.join("; ") }
    };
    let because = |arm: &str| {
        let error = case.errors().find(|(name, _)| *name == arm);
        error.map_or_else(String::new, |(_, error)| format!(": {error}"))
    };
    match (role, case.verdict(base), case.verdict(tuned)) {
        (_, _, Verdict::NotEvaluated) => {
            CaseOutcome::NotEvaluated(format!("{tuned} gave no answer to judge{}", because(tuned)))
        }
        (_, Verdict::NotEvaluated, _) => {
            CaseOutcome::NotEvaluated(format!("{base} gave no answer to compare with{}", because(base)))
        }
        (_, _, Verdict::Passed) => CaseOutcome::Passed,
        (Role::Target, _, Verdict::Failed) => CaseOutcome::Failed(format!("{tuned} fails: {}", why(tuned))),
        (Role::Control, Verdict::Passed, Verdict::Failed) => {
            CaseOutcome::Failed(format!("broken: {base} passes and {tuned} fails: {}", why(tuned)))
        }
        (Role::Control, Verdict::Failed, Verdict::Failed) => {
            CaseOutcome::Skipped(format!("{base} fails it too, so there was nothing to lose: {}", why(base)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::fixture::{self, F, N, P};
    use crate::record::{BASE, TUNED};

    fn outcome(role: Role, verdicts: (Verdict, Verdict)) -> CaseOutcome {
        case_outcome(&fixture::scenario("s", role, &[verdicts]).cases[0], role, BASE, TUNED)
    }

    #[test]
    fn a_target_case_fails_when_tuned_fails() {
        assert_eq!(outcome(Role::Target, (F, P)), CaseOutcome::Passed);
        for base in [P, F] {
            let CaseOutcome::Failed(why) = outcome(Role::Target, (base, F)) else { panic!("must fail") };
            assert!(why.contains("contains \"4\""), "{why}");
        }
    }

    #[test]
    fn a_control_case_fails_only_when_it_is_broken() {
        assert!(matches!(outcome(Role::Control, (P, F)), CaseOutcome::Failed(_)));
        assert!(matches!(outcome(Role::Control, (F, F)), CaseOutcome::Skipped(_)));
        assert_eq!(outcome(Role::Control, (F, P)), CaseOutcome::Passed);
    }

    #[test]
    fn without_an_answer_of_either_arm_nothing_passes() {
        for verdicts in [(P, N), (N, P), (N, N), (N, F)] {
            for role in [Role::Target, Role::Control] {
                assert!(matches!(outcome(role, verdicts), CaseOutcome::NotEvaluated(_)), "{verdicts:?}");
            }
        }
    }
}
