//! A server is asked some cases once more: its batches are not in our hands, and what it answers otherwise by itself is no fine-tune's doing.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::{Events, Inputs, Store, store};
use crate::backend::{Backend, Question};
use crate::error::Result;
use crate::record::{AskedAgain, CaseRecord, Completion, Cost, Request, ScenarioRecord, Verdict};
use crate::scenario::Case;

/// Raised when the same cases are asked again otherwise: part of the key in the store.
const REVISION: u32 = 1;
/// Cases of each arm that are asked again.
const CASES: usize = 16;

/// A case that has one greedy answer of every arm, and a verdict on it.
struct Candidate<'a> {
    name: String,
    case: &'a Case,
    record: &'a CaseRecord,
}

impl<'a> Candidate<'a> {
    fn turns(&self, arm: &str) -> &'a [Completion] {
        self.record.answers.get(arm).and_then(|answer| answer.samples.first()).map_or(&[], |sample| &sample.turns)
    }

    /// What the last turn asks of an arm, after its answers to those before.
    fn last(&self, arm: &str) -> Cow<'a, Request> {
        self.case.turn(&self.turns(arm)[..self.case.turns() - 1], 0)
    }

    /// The same last turn, answered otherwise perhaps.
    fn compared(&self, arm: &str, second: &Completion) -> AskedAgain {
        let turns = self.turns(arm);
        let (first, before) = (&turns[turns.len() - 1], &turns[..turns.len() - 1]);
        let verdict = |last: &Completion| self.case.judge_turns(&[before, std::slice::from_ref(last)].concat()).0;
        AskedAgain {
            case: self.name.clone(),
            other_answer: first.text != second.text,
            other_verdict: verdict(first) != verdict(second),
        }
    }
}

/// Asks every arm a few cases again, if its backend may answer otherwise; by the arm's name.
///
/// # Errors
/// The backend fails, or the store.
pub(super) fn ask_again(
    inputs: &Inputs<'_>,
    records: &[ScenarioRecord],
    backend: &mut dyn Backend,
    store: &Store,
    cost: &mut Cost,
    events: &Events<'_>,
) -> Result<BTreeMap<String, Vec<AskedAgain>>> {
    if !backend.capabilities().proves_anew {
        return Ok(BTreeMap::new());
    }
    let candidates = candidates(inputs, records);
    if candidates.is_empty() {
        return Ok(BTreeMap::new());
    }
    let arms = || inputs.arms.iter().enumerate();
    let asked: Vec<(usize, &Candidate<'_>)> =
        arms().flat_map(|(arm, _)| candidates.iter().map(move |of| (arm, of))).collect();
    let name = |arm: usize| inputs.arms[arm].name.as_str();
    let requests: Vec<Cow<'_, Request>> = asked.iter().map(|(arm, of)| of.last(name(*arm))).collect();
    let first: Vec<&[Completion]> = asked.iter().map(|(arm, of)| of.turns(name(*arm))).collect();
    let fingerprints: Vec<&str> = inputs.arms.iter().map(|arm| arm.fingerprint.as_str()).collect();
    let key = store::key("again", &(REVISION, fingerprints, &requests, first))?;
    if let Some(found) = store.read(&key) {
        return Ok(found);
    }
    let questions: Vec<Question<'_>> =
        asked.iter().zip(&requests).map(|((arm, _), request)| Question { arm: *arm, request, draft: None }).collect();
    let mut answered = Vec::new();
    let mut keep = |ready: Vec<_>| {
        answered.extend(ready);
        Ok(())
    };
    backend.answer(&questions, &mut keep, &mut |progress| (events.borrow_mut())(progress.into()))?;
    let whole = answered.iter().filter(|(_, answer)| answer.is_ok()).count() == questions.len();
    let mut found: BTreeMap<String, Vec<AskedAgain>> = BTreeMap::new();
    for (question, second) in answered {
        // What is not answered again says nothing of what was.
        if let (Some((arm, of)), Ok(second)) = (asked.get(question), second) {
            cost.prompt_tokens += second.prompt_tokens;
            cost.generated_tokens += second.tokens.len();
            found.entry(name(*arm).to_owned()).or_default().push(of.compared(name(*arm), &second));
        }
    }
    found.values_mut().for_each(selected);
    if whole {
        store.write(&key, &found)?;
    }
    Ok(found)
}

/// Those that are asked again of what could be: a whole run's are among those of its parts, and of all scenarios.
pub(super) fn selected(cases: &mut Vec<AskedAgain>) {
    cases.sort_by_cached_key(|case| place(&case.case));
    cases.truncate(CASES);
}

fn place(case: &str) -> [u8; 32] {
    *blake3::hash(case.as_bytes()).as_bytes()
}

fn candidates<'a>(inputs: &Inputs<'a>, records: &'a [ScenarioRecord]) -> Vec<Candidate<'a>> {
    let mut all = Vec::new();
    for (scenario, record) in inputs.scenarios.iter().zip(records).filter(|(scenario, _)| scenario.repeat == 1) {
        let cases = scenario.cases.iter().zip(&record.cases);
        let greedy = cases.filter(|(case, answered)| {
            case.request.sampling.is_greedy()
                && answered.errors().next().is_none()
                && inputs.arms.iter().all(|arm| {
                    let sample = answered.answers.get(&arm.name).and_then(|answer| answer.samples.first());
                    let judged = answered.verdict(&arm.name) != Verdict::NotEvaluated;
                    judged && sample.is_some_and(|sample| sample.turns.len() == case.turns())
                })
        });
        all.extend(greedy.map(|(case, record)| Candidate { name: scenario.test_name(case), case, record }));
    }
    all.sort_by_cached_key(|candidate| place(&candidate.name));
    all.truncate(CASES);
    all
}
