//! What is measured of an arm besides its answers: how far it drifted from base, and that its adapter is applied.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{Events, Inputs, Store, store};
use crate::backend::{Backend, DriftText, Progress};
use crate::compare::DriftSample;
use crate::compare::drift::{floor, summarise};
use crate::error::Result;
use crate::record::{
    CaseRecord, Completion, Drift, DriftMethod, Floor, Message, Prompt, Proof, Role, RunError, ScenarioRecord,
};

/// Raised when the same texts are measured otherwise: part of a measurement's key in the store.
const DRIFT_REVISION: u32 = 3;
/// Answers that are measured once more, to see what is rounding.
const REPEATED: usize = 1;
/// Prompts that an adapter is proven on.
const PROBES: usize = 3;

/// What decides a measurement of two arms; its hash is the measurement's name in the store.
#[derive(Serialize)]
struct PairKey<'a, T: Serialize> {
    arms: [&'a str; 2],
    of: T,
}

#[derive(Serialize, Deserialize)]
struct StoredProof(Option<Proof>);

/// A run's arms on a backend, and what of them could not be measured.
pub(super) struct Measuring<'a, 'e> {
    pub(super) inputs: &'a Inputs<'a>,
    pub(super) scenarios: &'a [ScenarioRecord],
    pub(super) backend: &'a mut dyn Backend,
    pub(super) store: &'a Store,
    pub(super) events: &'a Events<'e>,
    pub(super) errors: Vec<RunError>,
}

/// What was measured, by the text's name.
type Named = Vec<(String, DriftSample)>;

/// Base's answers that drift is measured on: which one it is, what was asked, and the tokens.
type Answers<'a> = Vec<(String, Cow<'a, Prompt>, &'a [u32])>;

impl<'a> Measuring<'a, '_> {
    /// Drift on base's own answers to the control cases, all turns of each first sample, and on the project's text.
    pub(super) fn drift(&mut self, arm: usize) -> Result<Option<Drift>> {
        self.drift_of(arm, Role::Control, self.inputs.drift_text.as_ref())
    }

    /// Drift on base's own answers to the target cases, where it is asked for and all of the distributions are seen.
    pub(super) fn target_drift(&mut self, arm: usize) -> Result<Option<Drift>> {
        match self.backend.capabilities().drift() {
            Some(DriftMethod::FullKl) if self.inputs.target_drift => self.drift_of(arm, Role::Target, None),
            _ => Ok(None),
        }
    }

    fn drift_of(&mut self, arm: usize, role: Role, text: Option<&'a (String, String)>) -> Result<Option<Drift>> {
        let Some(method) = self.backend.capabilities().drift() else { return Ok(None) };
        let answers = base_answers(self.scenarios, role, &self.inputs.arms[0].name);
        let mut source = format!("base's answers to the {role} cases");
        if let Some((name, _)) = text {
            source = format!("{source} and {name}");
        }
        if answers.is_empty() && text.is_none() {
            return Ok(None);
        }
        let of = (DRIFT_REVISION, &answers, text, method);
        let key = store::key("drift", &PairKey { arms: self.pair(arm), of })?;
        if let Some(found) = self.store.read(&key) {
            return Ok(Some(found));
        }
        let (good, failed) = self.measured(arm, &answers, text)?;
        let Some(why) = failed.first() else {
            let mut drift = summarise(&source, method, &good)?;
            drift.floor = self.floor(arm, &answers, &good)?;
            self.store.write(&key, &drift)?;
            return Ok(Some(drift));
        };
        // Not stored: what failed is measured again the next time.
        let left_out = format!("{} of {} texts left out", failed.len(), failed.len() + good.len());
        let arm = self.inputs.arms[arm].name.clone();
        self.errors.push(RunError::Drift { arm, why: format!("{left_out}: {why}") });
        let enough = good.iter().map(|(_, sample)| sample.len()).sum::<usize>() > 1;
        Ok(if enough { Some(summarise(&format!("{source}, {left_out}"), method, &good)?) } else { None })
    }

    /// Measures some answers once more, each alone: what comes out otherwise is rounding. `None` where there is none to measure.
    fn floor(&mut self, arm: usize, answers: &Answers<'_>, good: &Named) -> Result<Option<Floor>> {
        let every = answers.len().div_ceil(REPEATED).max(1);
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for (name, prompt, tokens) in answers.iter().step_by(every) {
            let alone = self.backend.drift(&[DriftText::Answer(prompt, tokens)], (0, arm), &mut |_| {})?;
            let together = good.iter().find(|(text, _)| text == name).map(|(_, sample)| sample.clone());
            if let (Some(Ok(alone)), Some(together)) = (alone.into_iter().next(), together) {
                first.push(together);
                second.push(alone);
            }
        }
        Ok(floor(&first, &second))
    }

    /// What was measured, and why of the other texts nothing was.
    fn measured(
        &mut self,
        arm: usize,
        answers: &Answers<'_>,
        text: Option<&(String, String)>,
    ) -> Result<(Named, Vec<String>)> {
        let mut texts: Vec<DriftText<'_>> =
            answers.iter().map(|(_, prompt, tokens)| DriftText::Answer(prompt, tokens)).collect();
        if let Some((_, text)) = text {
            texts.push(DriftText::Plain(text));
        }
        let events = self.events;
        let mut on_progress = |progress: Progress| (events.borrow_mut())(progress.into());
        let samples = self.backend.drift(&texts, (0, arm), &mut on_progress)?;
        let (mut good, mut failed) = (Vec::new(), Vec::new());
        for (i, sample) in samples.into_iter().enumerate() {
            match (sample, answers.get(i), text) {
                (Ok(sample), Some((test, ..)), _) => good.push((test.clone(), sample)),
                (Ok(sample), None, text) => {
                    let name = text.map_or("text", |(name, _)| name.as_str());
                    good.push((format!("{name}, part {}", i - answers.len() + 1), sample));
                }
                (Err(why), ..) => failed.push(why),
            }
        }
        Ok((good, failed))
    }

    /// That an arm's adapter is applied.
    pub(super) fn proof(&mut self, arm: usize) -> Result<Option<Proof>> {
        if !self.backend.capabilities().adapters {
            return Ok(None);
        }
        // A prompt that had no answer would have none here either.
        let cases = self.scenarios.iter().filter_map(|s| s.cases.iter().find(|c| c.errors().next().is_none()));
        let prompts: Vec<&Prompt> = cases.map(|c| &c.prompt).take(PROBES).collect();
        if prompts.is_empty() {
            return Ok(None);
        }
        let key = store::key("proof", &PairKey { arms: self.pair(arm), of: &prompts })?;
        let known = if self.backend.capabilities().proves_anew { None } else { self.store.read(&key) };
        if let Some(StoredProof(found)) = known {
            return Ok(found);
        }
        match self.backend.probe_adapter(&prompts, (0, arm))? {
            Ok(proof) => {
                self.store.write(&key, &StoredProof(Some(proof.clone())))?;
                Ok(Some(proof))
            }
            Err(why) => {
                let arm = self.inputs.arms[arm].name.clone();
                self.errors.push(RunError::Proof { arm, why });
                Ok(None)
            }
        }
    }

    /// Fingerprints of base and an arm.
    fn pair(&self, arm: usize) -> [&'a str; 2] {
        [&self.inputs.arms[0].fingerprint, &self.inputs.arms[arm].fingerprint]
    }
}

/// Base's answers to the cases of a role: all turns of each case's first sample.
fn base_answers<'a>(scenarios: &'a [ScenarioRecord], role: Role, base: &str) -> Answers<'a> {
    let scenarios = scenarios.iter().filter(|scenario| scenario.role == role);
    let cases = scenarios.flat_map(|scenario| scenario.cases.iter().map(move |case| (scenario, case)));
    let mut answers = Vec::new();
    for (scenario, case) in cases {
        let Some(sample) = case.answers.get(base).and_then(|answer| answer.samples.first()) else { continue };
        for (turn, completion) in
            sample.turns.iter().enumerate().filter(|(_, completion)| !completion.tokens.is_empty())
        {
            let name = match turn {
                0 => scenario.test_name(case),
                turn => format!("{}, turn {}", scenario.test_name(case), turn + 1),
            };
            answers.push((name, prompt_of(case, &sample.turns[..turn]), completion.tokens.as_slice()));
        }
    }
    answers
}

/// What a case asked after these answers.
fn prompt_of<'a>(case: &'a CaseRecord, answers: &[Completion]) -> Cow<'a, Prompt> {
    match &case.prompt {
        Prompt::Messages(messages) if !answers.is_empty() => {
            let mut messages = messages.clone();
            for (answer, next) in answers.iter().zip(&case.follow_ups) {
                messages.push(Message::new("assistant", answer.text.as_str()));
                messages.push(Message::new("user", next.as_str()));
            }
            Cow::Owned(Prompt::Messages(messages))
        }
        prompt => Cow::Borrowed(prompt),
    }
}
