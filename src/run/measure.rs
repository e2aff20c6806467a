//! What is measured of an arm besides its answers: how far it drifted from base, and that its adapter is applied.

use serde::{Deserialize, Serialize};

use super::{Events, Inputs, Store, store};
use crate::backend::{Backend, DriftText, Progress};
use crate::compare::DriftSample;
use crate::compare::drift::summarise;
use crate::error::Result;
use crate::record::{CaseRecord, Drift, Prompt, Proof, Role, RunError, ScenarioRecord};

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

/// Base's answers that drift is measured on: the case's test, what was asked, and the tokens.
type Answers<'a> = Vec<(String, &'a Prompt, &'a [u32])>;

impl<'a> Measuring<'a, '_> {
    /// Drift on base's own first answers to the control cases, and on the project's text.
    pub(super) fn drift(&mut self, arm: usize) -> Result<Option<Drift>> {
        let Some(method) = self.backend.capabilities().drift() else { return Ok(None) };
        let answers = base_answers(self.scenarios, &self.inputs.arms[0].name);
        let mut source = "base's answers to the control cases".to_owned();
        if let Some((name, _)) = &self.inputs.drift_text {
            source = format!("{source} and {name}");
        }
        if answers.is_empty() && self.inputs.drift_text.is_none() {
            return Ok(None);
        }
        let key =
            store::key("drift", &PairKey { arms: self.pair(arm), of: (&answers, &self.inputs.drift_text, method) })?;
        if let Some(found) = self.store.read(&key) {
            return Ok(Some(found));
        }
        let (good, failed) = self.measured(arm, &answers)?;
        let Some(why) = failed.first() else {
            let drift = summarise(&source, method, &good)?;
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

    /// What was measured, and why of the other texts nothing was.
    fn measured(&mut self, arm: usize, answers: &Answers<'_>) -> Result<(Named, Vec<String>)> {
        let mut texts: Vec<DriftText<'_>> =
            answers.iter().map(|(_, prompt, tokens)| DriftText::Answer(prompt, tokens)).collect();
        if let Some((_, text)) = &self.inputs.drift_text {
            texts.push(DriftText::Plain(text));
        }
        let events = self.events;
        let mut on_progress = |progress: Progress| (events.borrow_mut())(progress.into());
        let samples = self.backend.drift(&texts, (0, arm), &mut on_progress)?;
        let (mut good, mut failed) = (Vec::new(), Vec::new());
        for (i, sample) in samples.into_iter().enumerate() {
            match (sample, answers.get(i), &self.inputs.drift_text) {
                (Ok(sample), Some((test, ..)), _) => good.push((test.clone(), sample)),
                (Ok(sample), None, text) => {
                    let name = text.as_ref().map_or("text", |(name, _)| name.as_str());
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
        if let Some(StoredProof(found)) = self.store.read(&key) {
            return Ok(found);
        }
        match self.backend.prove(&prompts, (0, arm))? {
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

/// Base's first answer to each control case that has one.
fn base_answers<'a>(scenarios: &'a [ScenarioRecord], base: &str) -> Answers<'a> {
    let control = scenarios.iter().filter(|s| s.role == Role::Control);
    let cases = control.flat_map(|scenario| scenario.cases.iter().map(move |case| (scenario, case)));
    let answer = |(scenario, case): (&'a ScenarioRecord, &'a CaseRecord)| {
        let first = case.answers.get(base)?.samples.first()?.turns.first()?;
        Some((scenario.test_name(case), &case.prompt, first.tokens.as_slice()))
            .filter(|(.., tokens)| !tokens.is_empty())
    };
    cases.filter_map(answer).collect()
}
