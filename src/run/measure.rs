//! What is measured of an arm besides its answers: how far it drifted from base, and that its adapter is applied.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Events, Inputs, Store, store};
use crate::backend::{Backend, DriftText, Progress};
use crate::compare::drift::{floor, summarise};
use crate::error::Result;
use crate::record::{
    ArmMeasured, CaseRecord, Completion, Drift, DriftMethod, DriftSample, Measurements, Message, Prompt, Proof, Role,
    RunError, ScenarioRecord, WHOLE,
};

/// Raised when the same texts are measured otherwise: part of a measurement's key in the store.
const DRIFT_REVISION: u32 = 3;
/// Answers that are measured once more, to see what is rounding; and of a server, whose batches are not in our hands.
const REPEATED: usize = 1;
const REPEATED_AT_SERVER: usize = 8;
/// First answers on which it is looked for how many likely tokens would show enough.
pub(super) const LOOKED_AT: usize = 2;
/// Prompts that an adapter is proven on.
pub(super) const PROBES: usize = 3;

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
    /// With how many likely tokens base's first answers would be seen whole: the same for every arm.
    decided_by: Option<Decided>,
    /// Of a part of a shared run: what was measured of each arm.
    pub(super) measured: BTreeMap<String, ArmMeasured>,
}

/// By the answer's name; nothing where all is seen, or no number was found.
type Decided = Vec<(String, Option<usize>)>;

/// What was measured, by the text's name.
type Named = Vec<(String, DriftSample)>;

/// Base's answers that drift is measured on: which one it is, what was asked, and the tokens.
pub(super) type Answers<'a> = Vec<(String, Cow<'a, Prompt>, &'a [u32])>;

impl<'a, 'e> Measuring<'a, 'e> {
    /// Nothing is measured yet.
    pub(super) fn new(
        inputs: &'a Inputs<'a>,
        scenarios: &'a [ScenarioRecord],
        backend: &'a mut dyn Backend,
        store: &'a Store,
        events: &'a Events<'e>,
    ) -> Self {
        Self {
            inputs,
            scenarios,
            backend,
            store,
            events,
            errors: Vec::new(),
            decided_by: None,
            measured: BTreeMap::new(),
        }
    }

    /// Drift on base's own answers to the control cases, all turns of each first sample, and on the project's text.
    pub(super) fn drift(&mut self, arm: usize) -> Result<Option<Drift>> {
        self.drift_of(arm, Role::Control)
    }

    /// Drift on base's own answers to the target cases, where it is asked for and all of the distributions are seen.
    pub(super) fn target_drift(&mut self, arm: usize) -> Result<Option<Drift>> {
        match self.backend.capabilities().drift() {
            Some(DriftMethod::FullKl) if self.inputs.target_drift => self.drift_of(arm, Role::Target),
            _ => Ok(None),
        }
    }

    fn drift_of(&mut self, arm: usize, role: Role) -> Result<Option<Drift>> {
        let Some(method) = self.backend.capabilities().drift() else { return Ok(None) };
        let named = self.inputs.drift_text.as_ref().filter(|_| role == Role::Control);
        let text = named.filter(|_| self.inputs.part.as_ref().is_none_or(|part| part.measures_text));
        let answers = base_answers(self.scenarios, role, &self.inputs.arms[0].name);
        if answers.is_empty() && text.is_none() {
            return Ok(None);
        }
        let of = (DRIFT_REVISION, &answers, text, method);
        if self.inputs.part.is_none() {
            let key = store::key("drift", &PairKey { arms: self.pair(arm), of })?;
            if let Some(found) = self.store.read(&key) {
                return Ok(Some(found));
            }
            let measurements = self.measurements(arm, method, source(role, named), &answers, text)?;
            let (drift, error) = sum_up(&measurements, &self.inputs.arms[arm].name)?;
            // What failed is measured again the next time.
            if let (Some(drift), None) = (&drift, &error) {
                self.store.write(&key, drift)?;
            }
            self.errors.extend(error);
            return Ok(drift);
        }
        let key = store::key("measurements", &PairKey { arms: self.pair(arm), of })?;
        let measurements: Measurements = match self.store.read(&key) {
            Some(found) => found,
            None => {
                let found = self.measurements(arm, method, source(role, named), &answers, text)?;
                if found.left_out.is_empty() {
                    self.store.write(&key, &found)?;
                }
                found
            }
        };
        // The few texts of a part may be too few to sum up.
        let enough = measurements.texts.iter().map(|(_, sample)| sample.len()).sum::<usize>() > 1;
        let (drift, error) = if enough { sum_up(&measurements, &self.inputs.arms[arm].name)? } else { (None, None) };
        self.errors.extend(error);
        let measured = self.measured.entry(self.inputs.arms[arm].name.clone()).or_default();
        match role {
            Role::Control => measured.drift = Some(measurements),
            Role::Target => measured.target_drift = Some(measurements),
        }
        Ok(drift)
    }

    /// Measures all texts, and some answers once more, each alone: what comes out otherwise is rounding.
    fn measurements(
        &mut self,
        arm: usize,
        method: DriftMethod,
        source: String,
        answers: &Answers<'_>,
        text: Option<&(String, String)>,
    ) -> Result<Measurements> {
        let (texts, left_out) = self.measured(arm, answers, text)?;
        let mut again = Vec::new();
        let repeated = if self.backend.capabilities().proves_anew { REPEATED_AT_SERVER } else { REPEATED };
        // The first ones: the first of a whole run are among the first of its parts.
        for (name, prompt, tokens) in answers.iter().take(repeated).filter(|_| left_out.is_empty()) {
            let alone = self.backend.drift(&[DriftText::Answer(prompt, tokens)], (0, arm), &mut |_| {})?;
            again.extend(alone.into_iter().next().and_then(std::result::Result::ok).map(|alone| (name.clone(), alone)));
        }
        let decided_by = match method {
            DriftMethod::TopK(_) if left_out.is_empty() => self.decided_by(answers, &texts)?,
            _ => Vec::new(),
        };
        Ok(Measurements { source, method, texts, repeated, again, decided_by, left_out })
    }

    /// With how many likely tokens the first answers would be seen whole.
    fn decided_by(&mut self, answers: &Answers<'_>, texts: &Named) -> Result<Decided> {
        if let Some(found) = &self.decided_by {
            return Ok(found.clone());
        }
        let first = answers.iter().zip(texts).take(LOOKED_AT);
        let found = first.map(|((name, prompt, tokens), (_, sample))| {
            let seen = sample.covered.iter().sum::<f64>() / sample.covered.len().max(1) as f64;
            let text = DriftText::Answer(prompt, tokens);
            Ok((name.clone(), if seen >= WHOLE { None } else { self.backend.likely_tokens_for(&text, WHOLE)? }))
        });
        let found: Decided = found.collect::<Result<_>>()?;
        self.decided_by = Some(found.clone());
        Ok(found)
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
        let mut prompts: Vec<&Prompt> = cases.map(|c| &c.prompt).take(PROBES).collect();
        if let Some(part) = self.inputs.part.as_ref().filter(|part| !part.probes.is_empty()) {
            let failed = |prompt: &&Prompt| {
                self.scenarios
                    .iter()
                    .flat_map(|s| &s.cases)
                    .any(|c| c.prompt == **prompt && c.errors().next().is_some())
            };
            let shared: Vec<&Prompt> = part.probes.iter().filter(|prompt| !failed(prompt)).collect();
            // Where all of them failed, a part's own cases are as good.
            prompts = if shared.is_empty() { prompts } else { shared };
        }
        if prompts.is_empty() {
            return Ok(None);
        }
        let key = store::key("proof", &PairKey { arms: self.pair(arm), of: &prompts })?;
        let known = if self.backend.capabilities().proves_anew { None } else { self.store.read(&key) };
        if let Some(StoredProof(found)) = known {
            return Ok(found);
        }
        let proven = self.backend.probe_adapter(&prompts, (0, arm))?;
        for note in self.backend.notes() {
            (self.events.borrow_mut())(Progress::Note(note).into());
        }
        match proven {
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

/// What drift is measured on, in words.
fn source(role: Role, text: Option<&(String, String)>) -> String {
    let answers = format!("base's answers to the {role} cases");
    match text {
        Some((name, _)) => format!("{answers} and {name}"),
        None => answers,
    }
}

/// Drift out of what was measured, and what is wrong with it.
pub(super) fn sum_up(measurements: &Measurements, arm: &str) -> Result<(Option<Drift>, Option<RunError>)> {
    let Measurements { source, method, texts, again, decided_by, left_out, .. } = measurements;
    let Some(why) = left_out.first() else {
        let mut drift = summarise(source, *method, texts)?;
        let pairs = again.iter().filter_map(|(name, alone)| {
            let (_, together) = texts.iter().find(|(text, _)| text == name)?;
            Some((together.clone(), alone.clone()))
        });
        let (first, second): (Vec<DriftSample>, Vec<DriftSample>) = pairs.unzip();
        drift.floor = floor(&first, &second);
        drift.decided_by = decided_by.iter().filter_map(|(_, k)| *k).max();
        return Ok((Some(drift), None));
    };
    let some = format!("{} of {} texts left out", left_out.len(), left_out.len() + texts.len());
    let error = RunError::Drift { arm: arm.to_owned(), why: format!("{some}: {why}") };
    let enough = texts.iter().map(|(_, sample)| sample.len()).sum::<usize>() > 1;
    let drift = if enough { Some(summarise(&format!("{source}, {some}"), *method, texts)?) } else { None };
    Ok((drift, Some(error)))
}

/// Base's answers to the cases of a role: all turns of each case's first sample.
pub(super) fn base_answers<'a>(scenarios: &'a [ScenarioRecord], role: Role, base: &str) -> Answers<'a> {
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
