//! Asking: every turn of every sample of every case, of every arm, in rounds of one turn each.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Instant;

use rayon::prelude::*;
use serde::Serialize;

use super::store::{self, Key};
use super::{Events, Inputs, RunEvent, Store};
use crate::backend::{Answered, Backend, Draft, Progress, Question, left_out, no_question};
use crate::error::Result;
use crate::record::{Answer, Completion, Cost, Request, Sample, Verdict};
use crate::scenario::{Case, Scenario};

/// Everything that decides one answer; its hash is the answer's name in the store.
#[derive(Serialize)]
struct AnswerKey<'a> {
    arm: &'a str,
    request: &'a Request,
}

/// One sample of one case, asked of one arm.
struct Asked {
    arm: usize,
    case: usize,
    sample: usize,
    /// The answers so far.
    turns: Vec<Completion>,
    /// Why the last turn has none.
    error: Option<String>,
}

/// A case, its scenario, and the place of its first sample among an arm's.
struct Place<'a> {
    scenario: &'a Scenario,
    case: &'a Case,
    first: usize,
}

/// Answers of every case, by the arm's name: from the store where it has them.
pub(super) fn ask(
    inputs: &Inputs<'_>,
    backend: &mut dyn Backend,
    store: &Store,
    cost: &mut Cost,
    events: &Events<'_>,
) -> Result<Vec<BTreeMap<String, Answer>>> {
    let mut first = 0;
    let mut cases = Vec::new();
    for (scenario, case) in inputs.scenarios.iter().flat_map(|s| s.cases.iter().map(move |case| (s, case))) {
        cases.push(Place { scenario, case, first });
        first += scenario.repeat;
    }
    let mut asked = Vec::with_capacity(first * inputs.arms.len());
    // All samples of the first arm, then of the next.
    for arm in 0..inputs.arms.len() {
        for (case, place) in cases.iter().enumerate() {
            let one = |sample| Asked { arm, case, sample, turns: Vec::new(), error: None };
            asked.extend((0..place.scenario.repeat).map(one));
        }
    }
    let board = Board::new(inputs, &cases, asked.len());
    let mut round = Round { inputs, cases: &cases, per_arm: first, asked, board, store, events };
    let turns = cases.iter().map(|place| place.case.turns()).max().unwrap_or(1);
    for turn in 0..turns {
        round.ask(turn, backend, cost)?;
    }
    cost.cases = round.board.seconds_by_case();
    Ok(round.answers())
}

/// What is asked, and what was answered so far.
struct Round<'a, 'e> {
    inputs: &'a Inputs<'a>,
    cases: &'a [Place<'a>],
    /// Samples of an arm.
    per_arm: usize,
    asked: Vec<Asked>,
    board: Board<'a>,
    store: &'a Store,
    events: &'a Events<'e>,
}

impl<'a> Round<'a, '_> {
    /// Asks a turn of every sample that has it and has answers to those before.
    fn ask(&mut self, turn: usize, backend: &mut dyn Backend, cost: &mut Cost) -> Result<()> {
        let cases = self.cases;
        let has_turn = |asked: &Asked| asked.error.is_none() && turn < cases[asked.case].case.turns();
        let open: Vec<usize> = (0..self.asked.len()).filter(|i| has_turn(&self.asked[*i])).collect();
        let request = |i: &usize| -> Cow<'a, Request> {
            let Asked { case, sample, turns, .. } = &self.asked[*i];
            cases[*case].case.turn(turns, *sample)
        };
        let requests: Vec<Cow<'a, Request>> = open.par_iter().map(request).collect();
        let key = |(i, request): (&usize, &Cow<'a, Request>)| {
            let arm = self.inputs.arms[self.asked[*i].arm].fingerprint.as_str();
            Ok((store::key("answer", &AnswerKey { arm, request })?, arm))
        };
        let keys = open.par_iter().zip(&requests).map(key).collect::<Result<Vec<(Key, &str)>>>()?;
        let stored: Vec<Option<Completion>> = self.store.read_all(&keys);
        let missing: Vec<usize> = (0..open.len()).filter(|at| stored[*at].is_none()).collect();
        cost.stored += open.len() - missing.len();
        cost.computed += missing.len();
        for (i, completion) in open.iter().zip(stored).filter_map(|(i, stored)| Some((*i, stored?))) {
            self.board.settle(&self.asked, i, &Ok(&completion), None, self.events);
            self.asked[i].turns.push(completion);
        }
        if missing.is_empty() {
            return Ok(());
        }
        let found =
            self.compute(turn, &Open { open: &open, requests: &requests, keys: &keys, missing: &missing }, backend)?;
        for (i, answered) in found {
            match answered {
                Ok(completion) => {
                    cost.prompt_tokens += completion.prompt_tokens;
                    cost.generated_tokens += completion.tokens.len();
                    self.asked[i].turns.push(completion);
                }
                Err(why) => self.asked[i].error = Some(why),
            }
        }
        let unanswered = |i: &&usize| self.asked[**i].error.is_none() && self.asked[**i].turns.len() <= turn;
        match open.iter().filter(unanswered).count() {
            0 => Ok(()),
            lost => Err(left_out(&backend.name(), missing.len() - lost, missing.len())),
        }
    }

    /// Answers of what is missing in the store, which they are put into as they come.
    fn compute(&mut self, turn: usize, of: &Open<'_>, backend: &mut dyn Backend) -> Result<Vec<(usize, Answered)>> {
        let Self { inputs, cases, per_arm, asked, board, store, events } = self;
        let (asked, events) = (&*asked, *events);
        let drafts = backend.capabilities().drafts;
        let question = |at: &usize| {
            let (i, request) = (of.open[*at], of.requests[*at].as_ref());
            let Asked { arm, case, sample, .. } = asked[i];
            let Place { scenario, case, .. } = &cases[case];
            let name = &inputs.arms[arm].name;
            let approved = || inputs.approved.get(&scenario.name, &case.name, name, turn).filter(|_| sample == 0);
            let other = || Some(asked[i % *per_arm].turns.get(turn)?.tokens.as_slice()).filter(|_| arm > 0);
            let draft = || approved().map(Draft::Approved).or_else(|| other().map(Draft::Other));
            Question { arm, request, draft: if drafts { draft() } else { None } }
        };
        let questions: Vec<Question<'_>> = of.missing.iter().map(question).collect();
        let mut computed: Vec<(usize, Answered)> = Vec::with_capacity(questions.len());
        let mut last = Instant::now();
        // Stored as they come: a run that is killed asks again only what it had not been answered.
        let mut keep = |ready: Vec<(usize, Answered)>| {
            if let Some((i, _)) = ready.iter().find(|(i, _)| *i >= questions.len()) {
                return Err(no_question(*i, questions.len()));
            }
            // What failed is asked again the next time.
            let good =
                ready.iter().filter_map(|(i, answered)| Some((&of.keys[of.missing[*i]], answered.as_ref().ok()?)));
            let (keys, good): (Vec<_>, Vec<_>) = good.map(|(key, answer)| (key.clone(), Some(answer))).unzip();
            store.write_all(&keys, &good)?;
            let seconds = last.elapsed().as_secs_f64() / ready.len().max(1) as f64;
            last = Instant::now();
            for (question, answered) in ready {
                let i = of.open[of.missing[question]];
                board.settle(asked, i, &answered.as_ref(), Some(seconds), events);
                computed.push((i, answered));
            }
            Ok(())
        };
        backend.answer(&questions, &mut keep, &mut |progress| (events.borrow_mut())(progress.into()))?;
        Ok(computed)
    }

    /// The samples of each case put together.
    fn answers(self) -> Vec<BTreeMap<String, Answer>> {
        let Self { inputs, cases, per_arm, asked, board, .. } = self;
        let Board { mut judged, .. } = board;
        let mut samples: Vec<Option<Sample>> = asked
            .into_iter()
            .zip(&mut judged)
            .map(|(asked, judged)| {
                let (verdict, failures) = judged.take().unwrap_or((Verdict::NotEvaluated, Vec::new()));
                Some(Sample { turns: asked.turns, verdict, failures, error: asked.error })
            })
            .collect();
        let mut answer = |arm: usize, place: &Place<'_>| {
            let from = arm * per_arm + place.first;
            let samples: Vec<Sample> =
                samples[from..from + place.scenario.repeat].iter_mut().filter_map(Option::take).collect();
            let verdict = place.scenario.aggregate.verdict(samples.iter().map(|sample| sample.verdict));
            Answer { verdict, samples }
        };
        let of_case = |place: &Place<'_>| {
            inputs.arms.iter().enumerate().map(|(arm, of)| (of.name.clone(), answer(arm, place))).collect()
        };
        cases.iter().map(of_case).collect()
    }
}

/// Samples whose next turn is asked, what it is, and which of them the store has no answer to.
struct Open<'q> {
    open: &'q [usize],
    requests: &'q [Cow<'q, Request>],
    keys: &'q [(Key, &'q str)],
    missing: &'q [usize],
}

/// What samples and cases came to, as their answers come.
struct Board<'a> {
    inputs: &'a Inputs<'a>,
    cases: &'a [Place<'a>],
    /// Of each sample whose last turn is answered, or that has an error.
    judged: Vec<Option<(Verdict, Vec<String>)>>,
    /// Of each case of each arm: samples that are not judged yet.
    left: Vec<usize>,
    /// Of each case of each arm.
    seconds: Vec<f64>,
    /// Was a sample of it computed?
    computed: Vec<bool>,
}

impl<'a> Board<'a> {
    fn new(inputs: &'a Inputs<'a>, cases: &'a [Place<'a>], samples: usize) -> Self {
        let all = cases.len() * inputs.arms.len();
        let left = inputs.arms.iter().flat_map(|_| cases.iter().map(|place| place.scenario.repeat)).collect();
        let judged = (0..samples).map(|_| None).collect();
        Self { inputs, cases, judged, left, seconds: vec![0.0; all], computed: vec![false; all] }
    }

    /// Seconds of each case of which something was computed, over all arms, to the microsecond.
    fn seconds_by_case(&self) -> BTreeMap<String, f64> {
        let all = self.cases.len();
        let arms = || 0..self.inputs.arms.len();
        let computed = |case: &usize| arms().any(|arm| self.computed[arm * all + case]);
        let seconds = |case: usize| arms().map(|arm| self.seconds[arm * all + case]).sum::<f64>();
        let name = |case: usize| self.cases[case].scenario.test_name(self.cases[case].case);
        (0..all).filter(computed).map(|case| (name(case), (seconds(case) * 1e6).round() / 1e6)).collect()
    }

    /// Takes note of a turn's answer, computed in so many seconds or else stored; tells a case's verdict with its last sample.
    fn settle(
        &mut self,
        all: &[Asked],
        i: usize,
        answered: &std::result::Result<&Completion, &String>,
        seconds: Option<f64>,
        events: &Events<'_>,
    ) {
        let Asked { arm, case, turns, .. } = &all[i];
        let Place { scenario, case: of, first } = &self.cases[*case];
        let place = arm * self.cases.len() + case;
        self.seconds[place] += seconds.unwrap_or(0.0);
        self.computed[place] |= seconds.is_some();
        let judged = match answered {
            Err(_) => (Verdict::NotEvaluated, Vec::new()),
            Ok(_) if turns.len() + 1 < of.turns() => return,
            Ok(completion) if turns.is_empty() => of.judge_turns(std::slice::from_ref(*completion)),
            Ok(completion) => of.judge_turns(&[turns.as_slice(), std::slice::from_ref(*completion)].concat()),
        };
        let why = answered.err().or(judged.1.first()).cloned();
        if self.judged[i].replace(judged).is_some() {
            return;
        }
        self.left[place] -= 1;
        if self.left[place] > 0 {
            return;
        }
        let from = i - all[i].sample;
        debug_assert_eq!(from % (all.len() / self.inputs.arms.len()), *first);
        let verdicts = self.judged[from..from + scenario.repeat].iter().flatten().map(|(verdict, _)| *verdict);
        let verdict = scenario.aggregate.verdict(verdicts);
        (events.borrow_mut())(RunEvent::CaseFinished {
            test: scenario.test_name(of),
            file: scenario.path.clone(),
            line: of.line,
            arm: self.inputs.arms[*arm].name.clone(),
            verdict,
            why: why.filter(|_| verdict != Verdict::Passed),
            stored: !self.computed[place],
            seconds: self.seconds[place],
        });
    }
}

impl From<Progress> for RunEvent {
    fn from(progress: Progress) -> Self {
        match progress {
            Progress::Started { what, units } => Self::Stage { what: what.to_owned(), units, bytes: false },
            Progress::Tokens(tokens) => Self::Advanced { units: 0, tokens },
            Progress::Done(units) => Self::Advanced { units, tokens: 0 },
            Progress::Note(text) => Self::Note { text },
        }
    }
}
