//! What is measured of an arm besides its answers: how far it drifted from base, and that its adapter is applied.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Events, Inputs, Store, store};
use crate::backend::{Backend, DriftText, Measured, Progress};
use crate::compare::drift::{floor, summarise};
use crate::error::{Error, Result};
use crate::record::{
    ArmMeasured, CaseRecord, Completion, Drift, DriftMethod, DriftSample, Measurements, Message, Prompt, Proof, Role,
    RunError, ScenarioRecord, WHOLE,
};

/// Raised when the same texts are measured otherwise: part of a measurement's key in the store.
const DRIFT_REVISION: u32 = 3;
/// Answers that are measured once more, to see what is rounding; and of a server, whose batches are not in our hands.
const REPEATED: usize = 1;
const REPEATED_AT_SERVER: usize = 8;
/// Arms whose drift is measured together. Drift is stored after each such group. More arms at once would take more memory, and more would be lost
/// when a run is interrupted.
const ARMS_AT_ONCE: usize = 8;
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

/// Makes of an arm's measurements and its name what is kept, and what is wrong with it.
type Make<'m, T> = &'m dyn Fn(Measurements, &str) -> Result<(T, Option<RunError>)>;

/// What drift is measured on, and how.
struct MeasuredOn<'a> {
    method: DriftMethod,
    /// In words.
    source: String,
    answers: Answers<'a>,
    /// The project's text, and its name.
    text: Option<&'a (String, String)>,
}

impl MeasuredOn<'_> {
    /// Samples with their texts' names, and why of the other texts nothing was measured.
    fn named(&self, samples: Vec<Measured<DriftSample>>) -> (Named, Vec<String>) {
        let (mut good, mut failed) = (Vec::new(), Vec::new());
        for (i, sample) in samples.into_iter().enumerate() {
            match (sample, self.answers.get(i)) {
                (Ok(sample), Some((test, ..))) => good.push((test.clone(), sample)),
                (Ok(sample), None) => {
                    let name = self.text.map_or("text", |(name, _)| name.as_str());
                    good.push((format!("{name}, part {}", i - self.answers.len() + 1), sample));
                }
                (Err(why), _) => failed.push(why),
            }
        }
        (good, failed)
    }
}

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

    /// Drift of each arm but base on base's own answers to the control cases, all turns of each first sample, and on the project's text.
    pub(super) fn drift(&mut self) -> Result<Vec<Option<Drift>>> {
        self.drift_of(Role::Control)
    }

    /// Drift on base's own answers to the target cases, where it is asked for and all of the distributions are seen.
    pub(super) fn target_drift(&mut self) -> Result<Vec<Option<Drift>>> {
        match self.backend.capabilities().drift() {
            Some(DriftMethod::FullKl) if self.inputs.target_drift => self.drift_of(Role::Target),
            _ => Ok(self.nothing()),
        }
    }

    /// No drift of any arm.
    fn nothing(&self) -> Vec<Option<Drift>> {
        vec![None; self.inputs.arms.len().saturating_sub(1)]
    }

    fn drift_of(&mut self, role: Role) -> Result<Vec<Option<Drift>>> {
        let Some(method) = self.backend.capabilities().drift() else { return Ok(self.nothing()) };
        let named = self.inputs.drift_text.as_ref().filter(|_| role == Role::Control);
        let text = named.filter(|_| self.inputs.part.as_ref().is_none_or(|part| part.measures_text));
        let answers = base_answers(self.scenarios, role, &self.inputs.arms[0].name);
        if answers.is_empty() && text.is_none() {
            return Ok(self.nothing());
        }
        let on = MeasuredOn { method, source: source(role, named), answers, text };
        if self.inputs.part.is_some() {
            return self.part_of(role, &on);
        }
        self.of_each("drift", &on, &|measurements, arm| sum_up(&measurements, arm))
    }

    /// Drift on a part of the answers. What was measured is kept besides, for the run that the parts are merged into.
    fn part_of(&mut self, role: Role, on: &MeasuredOn<'_>) -> Result<Vec<Option<Drift>>> {
        let found: Vec<Measurements> = self.of_each("measurements", on, &|measurements, _| Ok((measurements, None)))?;
        let mut drifts = Vec::new();
        for (arm, measurements) in self.inputs.arms[1..].iter().zip(found) {
            // The few texts of a part may be too few to sum up.
            let enough = measurements.texts.iter().map(|(_, sample)| sample.len()).sum::<usize>() > 1;
            let (drift, error) = if enough { sum_up(&measurements, &arm.name)? } else { (None, None) };
            self.errors.extend(error);
            drifts.push(drift);
            let measured = self.measured.entry(arm.name.clone()).or_default();
            match role {
                Role::Control => measured.drift = Some(measurements),
                Role::Target => measured.target_drift = Some(measurements),
            }
        }
        Ok(drifts)
    }

    /// A result for each arm but base, in their order. The store is asked for it under `kind`. Arms without a stored result are measured, and
    /// `make` turns their measurements into one. It is stored if no text was left out, so that what failed is measured again the next time.
    fn of_each<T: Serialize + DeserializeOwned>(
        &mut self,
        kind: &'static str,
        on: &MeasuredOn<'_>,
        make: Make<'_, T>,
    ) -> Result<Vec<T>> {
        let of = (DRIFT_REVISION, &on.answers, on.text, on.method);
        let key = |arm| store::key(kind, &PairKey { arms: self.pair(arm), of });
        let keys: Vec<store::Key> = (1..self.inputs.arms.len()).map(key).collect::<Result<_>>()?;
        let mut found: Vec<Option<T>> = keys.iter().map(|key| self.store.read(key)).collect();
        let missing: Vec<usize> = (0..found.len()).filter(|i| found[*i].is_none()).collect();
        for missing in missing.chunks(ARMS_AT_ONCE) {
            let arms: Vec<usize> = missing.iter().map(|i| i + 1).collect();
            for (i, measurements) in missing.iter().zip(self.measurements(&arms, on)?) {
                let whole = measurements.left_out.is_empty();
                let (made, error) = make(measurements, &self.inputs.arms[i + 1].name)?;
                if whole {
                    self.store.write(&keys[*i], &made)?;
                }
                self.errors.extend(error);
                found[*i] = Some(made);
            }
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// Measures all texts of these arms, and some answers once more, each alone: what comes out otherwise is rounding.
    fn measurements(&mut self, arms: &[usize], on: &MeasuredOn<'_>) -> Result<Vec<Measurements>> {
        let mut found = Vec::new();
        let repeated = if self.backend.capabilities().proves_anew { REPEATED_AT_SERVER } else { REPEATED };
        for (texts, left_out) in self.measured(arms, on)? {
            let decided_by = match on.method {
                DriftMethod::TopK(_) if left_out.is_empty() => self.decided_by(&on.answers, &texts)?,
                _ => Vec::new(),
            };
            let (source, method, again) = (on.source.clone(), on.method, Vec::new());
            found.push(Measurements { source, method, texts, repeated, again, decided_by, left_out });
        }
        let (whole, mut again): (Vec<usize>, Vec<&mut Measurements>) =
            arms.iter().zip(&mut found).filter(|(_, of_arm)| of_arm.left_out.is_empty()).unzip();
        if whole.is_empty() {
            return Ok(found);
        }
        // The first ones: the first of a whole run are among the first of its parts.
        for (name, prompt, tokens) in on.answers.iter().take(repeated) {
            let alone = self.backend.drift(&[DriftText::Answer(prompt, tokens)], (0, &whole), &mut |_| {})?;
            for (of_arm, alone) in again.iter_mut().zip(alone) {
                let alone = alone.into_iter().next().and_then(std::result::Result::ok);
                of_arm.again.extend(alone.map(|alone| (name.clone(), alone)));
            }
        }
        Ok(found)
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

    /// What was measured of each of these arms, and why of the other texts nothing was.
    fn measured(&mut self, arms: &[usize], on: &MeasuredOn<'_>) -> Result<Vec<(Named, Vec<String>)>> {
        let mut texts: Vec<DriftText<'_>> =
            on.answers.iter().map(|(_, prompt, tokens)| DriftText::Answer(prompt, tokens)).collect();
        if let Some((_, text)) = on.text {
            texts.push(DriftText::Plain(text));
        }
        let events = self.events;
        let mut on_progress = |progress: Progress| (events.borrow_mut())(progress.into());
        let samples = self.backend.drift(&texts, (0, arms), &mut on_progress)?;
        if samples.len() != arms.len() {
            let (name, found, asked) = (self.backend.name(), samples.len(), arms.len());
            return Err(Error::failed(format!("{name} measured the drift of {found} arms, expected {asked}")));
        }
        Ok(samples.into_iter().map(|samples| on.named(samples)).collect())
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
