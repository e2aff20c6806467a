//! The cases of two runs in pairs: what became of each, and what of its answers shows that.

use std::collections::HashMap;

use serde::Serialize;

use crate::record::{Answer, CaseRecord, RunRecord, Sample, ScenarioRecord, Verdict};

/// What became of a case between two runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CaseChange {
    /// It passed and fails now.
    NewlyBroken,
    /// It failed and passes now.
    Fixed,
    /// The same verdict, and another answer.
    Changed,
    /// The same verdict and the same answer.
    Same,
    /// One of the runs has no answer to judge.
    NotEvaluated,
    /// Another question of the same name: see [`ComparedCase::differences`].
    ChangedQuestion,
    /// Only the earlier run has it.
    Gone,
    /// Only the later run has it.
    New,
}

impl CaseChange {
    /// All of them, in the order in which reports show them.
    pub const ALL: [Self; 8] = [
        Self::NewlyBroken,
        Self::Fixed,
        Self::Changed,
        Self::Same,
        Self::NotEvaluated,
        Self::ChangedQuestion,
        Self::Gone,
        Self::New,
    ];

    /// What it is when the runs change places.
    #[must_use]
    pub fn mirrored(self) -> Self {
        match self {
            Self::NewlyBroken => Self::Fixed,
            Self::Fixed => Self::NewlyBroken,
            Self::Gone => Self::New,
            Self::New => Self::Gone,
            same => same,
        }
    }

    /// Is it a pair of verdicts on the same question? Only these are counted.
    #[must_use]
    pub fn is_compared(self) -> bool {
        matches!(self, Self::NewlyBroken | Self::Fixed | Self::Changed | Self::Same)
    }
}

/// In what two cases of the same name are not the same question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Difference {
    /// The prompt, or a later turn.
    Prompt,
    /// The checks.
    Checks,
    /// How tokens are chosen: temperature, `top_k`, `top_p` or seed.
    Sampling,
    /// How many samples pass a case.
    Aggregate,
    /// The number of samples.
    Samples,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Prompt => "prompt",
            Self::Checks => "checks",
            Self::Sampling => "sampling",
            Self::Aggregate => "aggregate",
            Self::Samples => "number of samples",
        })
    }
}

/// A case of one or both runs.
#[derive(Clone, Debug, PartialEq)]
pub struct ComparedCase<'a> {
    /// What became of it.
    pub change: CaseChange,
    /// Its scenario, in the later run if that has it.
    pub scenario: &'a ScenarioRecord,
    /// The case, in the later run if that has it.
    pub case: &'a CaseRecord,
    /// The arm's earlier answer; `None` where the arm was not asked.
    pub before: Option<&'a Answer>,
    /// The arm's later answer.
    pub after: Option<&'a Answer>,
    /// Why it is a [`CaseChange::ChangedQuestion`]; else nothing.
    pub differences: Vec<Difference>,
}

impl<'a> ComparedCase<'a> {
    /// `control::facts::france`.
    #[must_use]
    pub fn test(&self) -> String {
        self.scenario.test_name(self.case)
    }

    /// The earlier and the later verdict.
    #[must_use]
    pub fn verdicts(&self) -> [Verdict; 2] {
        [self.before, self.after].map(|answer| answer.map_or(Verdict::NotEvaluated, |answer| answer.verdict))
    }

    /// The samples and the turn that show what became of it.
    #[must_use]
    pub fn shown(&self) -> Shown<'a> {
        let sides = [self.before, self.after];
        let samples = sides.map(|answer| answer.map_or(&[][..], |answer| answer.samples.as_slice()));
        let differs = samples[0].iter().zip(samples[1]).position(|(one, other)| !one.texts().eq(other.texts()));
        // Where a verdict changed, the samples that came to it show why; else the first that changed.
        let shown = match differs.filter(|_| self.change == CaseChange::Changed) {
            Some(at) => samples.map(|samples| samples.get(at)),
            None => sides.map(|answer| answer.and_then(Answer::shown)),
        };
        let text = |side: usize, turn: usize| shown[side].and_then(|sample| sample.turns.get(turn)).map(|t| &t.text);
        let turns = shown.iter().flatten().map(|sample| sample.turns.len()).max().unwrap_or(0);
        let last = turns.saturating_sub(1);
        let turn = if text(0, last) == text(1, last) {
            (0..last).find(|turn| text(0, *turn) != text(1, *turn)).unwrap_or(last)
        } else {
            last
        };
        Shown { samples: shown, turn }
    }
}

/// What is shown of both answers to a case.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shown<'a> {
    /// A sample of the earlier and of the later run.
    pub samples: [Option<&'a Sample>; 2],
    /// The last turn; an earlier one where the answers differ only there. Counted from 0.
    pub turn: usize,
}

impl<'a> Shown<'a> {
    /// What was answered; `None` where there is no answer.
    #[must_use]
    pub fn texts(&self) -> [Option<&'a str>; 2] {
        self.samples.map(|sample| sample?.turns.get(self.turn).map(|turn| turn.text.as_str()))
    }
}

type Found<'a> = (&'a ScenarioRecord, &'a CaseRecord);

/// Every case of both runs, those with the same test name together.
pub(super) fn paired<'a>(before: &'a RunRecord, after: &'a RunRecord, arm: &str) -> Vec<ComparedCase<'a>> {
    let mut earlier: HashMap<String, Found<'a>> = HashMap::new();
    for (scenario, case) in before.cases() {
        earlier.insert(scenario.test_name(case), (scenario, case));
    }
    let mut cases = Vec::new();
    for (scenario, case) in after.cases() {
        let now = case.answers.get(arm);
        let compared = match earlier.remove(&scenario.test_name(case)) {
            Some(earlier) => pair(earlier, (scenario, case), arm),
            None => {
                ComparedCase { change: CaseChange::New, scenario, case, before: None, after: now, differences: vec![] }
            }
        };
        cases.push(compared);
    }
    let gone = before.cases().filter(|(scenario, case)| earlier.contains_key(&scenario.test_name(case)));
    cases.extend(gone.map(|(scenario, case)| {
        let before = case.answers.get(arm);
        ComparedCase { change: CaseChange::Gone, scenario, case, before, after: None, differences: vec![] }
    }));
    cases
}

fn pair<'a>(earlier: Found<'a>, later: Found<'a>, arm: &str) -> ComparedCase<'a> {
    let (before, after) = (earlier.1.answers.get(arm), later.1.answers.get(arm));
    let differences = differences(earlier, later, [before, after]);
    let verdict = |answer: Option<&Answer>| answer.map_or(Verdict::NotEvaluated, |answer| answer.verdict);
    let change = match (verdict(before), verdict(after)) {
        _ if !differences.is_empty() => CaseChange::ChangedQuestion,
        (Verdict::NotEvaluated, _) | (_, Verdict::NotEvaluated) => CaseChange::NotEvaluated,
        (Verdict::Passed, Verdict::Failed) => CaseChange::NewlyBroken,
        (Verdict::Failed, Verdict::Passed) => CaseChange::Fixed,
        _ if says(before).eq(says(after)) => CaseChange::Same,
        _ => CaseChange::Changed,
    };
    ComparedCase { change, scenario: later.0, case: later.1, before, after, differences }
}

/// All that an answer says: every turn of every sample.
fn says(answer: Option<&Answer>) -> impl Iterator<Item = (usize, &str)> {
    let samples = answer.map_or(&[][..], |answer| answer.samples.as_slice());
    samples.iter().enumerate().flat_map(|(at, sample)| sample.texts().map(move |text| (at, text)))
}

fn differences(earlier: Found<'_>, later: Found<'_>, answers: [Option<&Answer>; 2]) -> Vec<Difference> {
    let ((one_scenario, one), (other_scenario, other)) = (earlier, later);
    // An answer that could not be computed may have fewer samples.
    let [one_samples, other_samples] = answers.map(|answer| answer.map_or(0, |answer| answer.samples.len()));
    let samples = one_samples != other_samples && one_samples > 0 && other_samples > 0;
    let all = [
        (Difference::Prompt, one.prompt != other.prompt || one.follow_ups != other.follow_ups),
        (Difference::Checks, one.checks != other.checks),
        (Difference::Sampling, one_scenario.sampling != other_scenario.sampling),
        (Difference::Aggregate, one_scenario.aggregate != other_scenario.aggregate),
        (Difference::Samples, samples),
    ];
    all.into_iter().filter(|(_, differs)| *differs).map(|(difference, _)| difference).collect()
}
