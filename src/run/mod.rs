//! A run: every scenario asked of every arm, judged, and written down.
//!
//! `cargo test` and the command line both call [`execute`]; answers that the store already has are not computed again.

mod again;
mod ask;
mod event;
mod measure;
mod merge;
mod spill;
mod store;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Instant;

pub use event::RunEvent;
pub use merge::merge;
pub use store::Store;

use crate::backend::{Backend, Capabilities};
use crate::error::{Error, Result};
#[cfg(feature = "candle")]
use crate::record::Drift;
use crate::record::{
    Answer, Approved, Arm, BASE, CaseRecord, Cost, Made, ModelInfo, Part, Prompt, RunRecord, ScenarioRecord, SpillOver,
    TUNED,
};
use crate::scenario::Scenario;
use measure::Measuring;
use spill::spill_over;

/// Cases that are named at once.
const MOST_ERRORS: usize = 20;

/// What is asked of whom.
pub struct Inputs<'a> {
    /// The project's name.
    pub project: String,
    /// When, from what and on what the run is made.
    pub made: Made,
    /// The base model.
    pub model: ModelInfo,
    /// Base first.
    pub arms: Vec<Arm>,
    /// In the order of the report.
    pub scenarios: &'a [Scenario],
    /// A text besides base's answers that drift is measured on: its name and content.
    pub drift_text: Option<(String, String)>,
    /// Whether drift is also measured on base's answers to the target cases.
    pub target_drift: bool,
    /// Which part of a shared run this is; `None`: a whole run.
    pub part: Option<Shared>,
    /// Guesses at the answers: what was approved before. An answer that still holds is verified, which is faster than to generate
    /// it again, and comes out the same.
    pub approved: Approved,
}

/// A part of a run that several machines share.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shared {
    /// Its number, from 1 on.
    pub number: usize,
    /// How many parts there are.
    pub of: usize,
    /// The expression that selects the cases of all parts together; `None`: all of the project's.
    pub filter: Option<String>,
    /// What every part proves its arms on: the prompts of the whole run.
    pub probes: Vec<Prompt>,
    /// Whether this part measures drift on the text besides base's answers.
    pub measures_text: bool,
}

impl Shared {
    /// A part of a run whose cases all parts together are these, before any is left out; `first` says whether the first of them is in this
    /// part.
    #[must_use]
    pub fn new(number: usize, of: usize, filter: Option<String>, all: &[Scenario], first: bool) -> Self {
        let firsts = all.iter().filter_map(|scenario| scenario.cases.first());
        let probes = firsts.take(measure::PROBES).map(|case| case.request.prompt.clone()).collect();
        Self { number, of, filter, probes, measures_text: first }
    }
}

impl<'a> Inputs<'a> {
    /// What a backend of your own is asked: every case, of base and tuned. Nothing is approved, and drift is measured on base's answers
    /// alone; set the fields for more.
    ///
    /// A stored answer is found again by the backend's [`name`](Backend::name), by `model`, the arm and the request. What else decides
    /// an answer (a version, a checkpoint, a server's model) belongs in that name, or an old answer is taken for a new one.
    pub fn new(project: &str, model: &str, backend: &dyn Backend, scenarios: &'a [Scenario]) -> Self {
        let arm = |name: &str| {
            let all = [backend.name().as_str(), model, name].join("\n");
            let fingerprint = blake3::hash(all.as_bytes()).to_hex().to_string();
            Arm { name: name.to_owned(), fingerprint, adapter: None, scale: 1.0 }
        };
        Self {
            project: project.to_owned(),
            made: Made::now(),
            model: ModelInfo { source: model.to_owned(), ..ModelInfo::default() },
            arms: vec![arm(BASE), arm(TUNED)],
            scenarios,
            drift_text: None,
            target_drift: false,
            part: None,
            approved: Approved::default(),
        }
    }
}

/// Receives events; the backend's progress and the answers' verdicts come through it in turn.
type Events<'e> = RefCell<&'e mut dyn FnMut(RunEvent)>;

/// Asks every case of every arm, judges the answers and compares each arm with the first, base.
///
/// # Errors
/// There is no case ([`Error::NothingRan`]); a case asks what the backend cannot do; or the backend fails.
pub fn execute(
    inputs: &Inputs<'_>,
    backend: &mut dyn Backend,
    store: &Store,
    on_event: &mut dyn FnMut(RunEvent),
) -> Result<RunRecord> {
    let started = Instant::now();
    if inputs.scenarios.iter().all(|scenario| scenario.cases.is_empty()) {
        return Err(Error::NothingRan("there is no case in any scenario".into()));
    }
    let events: Events<'_> = RefCell::new(on_event);
    check_capabilities(inputs, backend.capabilities(), &backend.name(), &events)?;
    let mut cost = Cost::default();
    let answers = ask::ask(inputs, backend, store, &mut cost, &events)?;
    let scenarios = records(inputs, answers);
    let again = again::ask_again(inputs, &scenarios, backend, store, &mut cost, &events)?;
    let mut measuring = Measuring::new(inputs, &scenarios, backend, store, &events);
    let drift = by_arm(inputs, measuring.drift()?);
    let target_drift = by_arm(inputs, measuring.target_drift()?);
    let proofs = (1..inputs.arms.len()).map(|arm| measuring.proof(arm)).collect::<Result<_>>()?;
    let proof = by_arm(inputs, proofs);
    let Measuring { errors, measured, .. } = measuring;
    let part = inputs.part.as_ref().map(|part| Part {
        number: part.number,
        of: part.of,
        filter: part.filter.clone(),
        measured,
    });
    let spill_over = spilled(inputs.scenarios, &scenarios, &inputs.arms);
    cost.seconds = started.elapsed().as_secs_f64();
    Ok(RunRecord {
        version: RunRecord::VERSION,
        finetest: env!("CARGO_PKG_VERSION").to_owned(),
        project: inputs.project.clone(),
        made: inputs.made.clone(),
        model: inputs.model.clone(),
        arms: inputs.arms.clone(),
        backend: backend.name(),
        scenarios,
        drift,
        target_drift,
        spill_over,
        proof,
        again,
        errors,
        part,
        decision: None,
        cost,
    })
}

/// What was found of the arms but base, by their names.
fn by_arm<T>(inputs: &Inputs<'_>, found: Vec<Option<T>>) -> BTreeMap<String, T> {
    let named = inputs.arms.iter().skip(1).zip(found);
    named.filter_map(|(arm, found)| Some((arm.name.clone(), found?))).collect()
}

/// What of the target's form has spilled over into the controls, by the arm.
fn spilled(scenarios: &[Scenario], records: &[ScenarioRecord], arms: &[Arm]) -> BTreeMap<String, SpillOver> {
    let Some((base, others)) = arms.split_first() else { return BTreeMap::new() };
    let of = |arm: &Arm| Some((arm.name.clone(), spill_over(scenarios, records, &base.name, &arm.name)?));
    others.iter().filter_map(of).collect()
}

/// Drift of every arm from base, on base's answers to the control cases of these records. Nothing is asked.
///
/// # Errors
/// The backend fails.
#[cfg(feature = "candle")]
pub(crate) fn measure_drift(
    inputs: &Inputs<'_>,
    scenarios: &[ScenarioRecord],
    backend: &mut dyn Backend,
    store: &Store,
    on_event: &mut dyn FnMut(RunEvent),
) -> Result<Vec<Drift>> {
    let events: Events<'_> = RefCell::new(on_event);
    let mut measuring = Measuring::new(inputs, scenarios, backend, store, &events);
    let found = measuring.drift()?;
    match measuring.errors.first() {
        Some(error) => Err(Error::failed(format!("{}: {}", error.what(), error.why()))),
        None => Ok(found.into_iter().flatten().collect()),
    }
}

/// Refuses cases that a backend cannot answer, before any is asked.
fn check_capabilities(inputs: &Inputs<'_>, can: Capabilities, name: &str, events: &Events<'_>) -> Result<()> {
    if !can.scores {
        let mut errors = Vec::new();
        for scenario in inputs.scenarios {
            let choosing = |turns: &&crate::scenario::Case| {
                !turns.request.choices.is_empty() || turns.follow_ups.iter().any(|turn| !turn.choices.is_empty())
            };
            errors.extend(scenario.cases.iter().filter(choosing).map(|case| {
                let message =
                    format!("case {:?} has a choice, and {name} cannot score text that it is given", case.name);
                Error::input(&scenario.path, case.line, message)
            }));
        }
        errors.truncate(MOST_ERRORS);
        Error::collect(errors)?;
    }
    if !can.seeds && inputs.scenarios.iter().any(|scenario| scenario.repeat > 1) {
        let text = format!("{name} takes no seeds: samples of the same case are not the same the next time");
        (events.borrow_mut())(RunEvent::Note { text });
    }
    Ok(())
}

/// Puts the answers of all arms beside their cases.
fn records(inputs: &Inputs<'_>, answers: Vec<BTreeMap<String, Answer>>) -> Vec<ScenarioRecord> {
    // Answers move into the records: two copies of a large run's would be most of its memory.
    let mut answers = answers.into_iter();
    let record = |scenario: &Scenario| ScenarioRecord {
        name: scenario.name.clone(),
        path: scenario.path.clone(),
        role: scenario.role,
        description: scenario.description.clone(),
        sampling: scenario.cases.first().map(|case| case.request.sampling).unwrap_or_default(),
        aggregate: scenario.aggregate,
        cases: scenario
            .cases
            .iter()
            .map(|case| CaseRecord {
                name: case.name.clone(),
                line: Some(case.line),
                family: case.family.clone(),
                prompt: case.request.prompt.clone(),
                follow_ups: case.follow_ups.iter().map(|turn| turn.message.clone()).collect(),
                checks: case.checks_shown(),
                choices: case.choices(),
                answers: answers.next().unwrap_or_default(),
            })
            .collect(),
    };
    inputs.scenarios.iter().map(record).collect()
}
