//! A project from its manifest to a decision: the model is fetched, the adapter trained if it has to be, base and tuned are
//! asked, and what came of it is written down.
//!
//! The command line and the test harness both begin here, so that they cannot disagree.

mod adapter;
mod advice;
mod arms;
mod ask;
mod asked;
mod backend;
mod base;
mod calibrate;
mod checkup;
mod crosscheck;
mod data;
mod early;
mod engine;
mod estimate;
mod events;
mod launch;
mod lesson;
mod live;
mod made;
mod merge;
mod micro_batch;
mod objective;
mod prepared;
mod provenance;
mod question;
mod runs;
mod select;
mod server;
mod train;
mod weights;

use crate::config::{Config, MANIFEST, NotShown};
use crate::error::{Error, Result};
use crate::gate;
use crate::record::{Decision, Role, RunRecord};
use crate::run::RunEvent;
use crate::scenario::{self, Scenario};
use crate::snapshot::{self, SnapshotState, compare_files};
use crate::train::RateSweep;

use asked::Checked;
pub use calibrate::{CalibrateOptions, Calibration, LEAST_NULLS, Written, calibrate};
pub use checkup::{Checkup, Finding, State, check};
pub use crosscheck::crosscheck;
pub use data::data_options;
pub(crate) use data::first_look;
pub use estimate::Estimate;
pub use merge::merge;
use prepared::Prepared;
pub(crate) use prepared::lock;
pub use question::{Question, ask};
pub(crate) use runs::{is_run_name, last_record, named_record, record_in, recorded};
pub use select::{Listed, Selection, list};
pub use train::Summary;

/// Receives [`RunEvent`]s.
pub type Events<'e> = &'e mut dyn FnMut(RunEvent);

/// Whether an adapter may be trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrainPolicy {
    /// When there is none that fits recipe, data and base.
    #[default]
    Auto,
    /// Not at all: that there is none is an error.
    Never,
    /// Even when there is one.
    Always,
}

impl TrainPolicy {
    /// What the environment variable `FINETEST_TRAIN` says: `auto`, `never` or `always`. Without it `never` where `CI` is set, since a
    /// training there is lost with the machine; else `auto`.
    ///
    /// # Errors
    /// It says something else.
    pub fn from_env() -> Result<Self> {
        match std::env::var("FINETEST_TRAIN").as_deref() {
            Err(_) | Ok("") if snapshot::is_ci() => Ok(Self::Never),
            Err(_) | Ok("" | "auto") => Ok(Self::Auto),
            Ok("never") => Ok(Self::Never),
            Ok("always") => Ok(Self::Always),
            Ok(other) => Err(Error::Usage(format!("FINETEST_TRAIN is {other:?}, expected auto, never or always"))),
        }
    }
}

/// A run, the gate's decision, and where both are written.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was asked and answered.
    pub run: RunRecord,
    /// What the gate says of it.
    pub decision: Decision,
    /// What was written: a label and a path each.
    pub files: Vec<(String, String)>,
}

/// How a project is run.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Whether the adapter may be trained.
    pub policy: TrainPolicy,
    /// Which tests are asked.
    pub selection: Selection,
    /// Samples of each case of a scenario with a temperature, instead of its own `repeat`.
    pub repeat: Option<usize>,
    /// Whether an answer that is not as approved fails the run.
    pub check_snapshots: bool,
}

/// Runs a project: fetches the base, trains the adapter if `policy` lets it and it has to, asks both arms, and gates.
///
/// Written to a folder of the run's own, `<store>/runs/<manifest>/<time>-<hash>/`: `run.json`, `report.md` and `junit.xml`. `latest`
/// beside it leads to the newest.
///
/// # Errors
/// Anything a person has to put right first; a failed gate is not an error, but a [`Decision`].
pub fn run(config: &Config, policy: TrainPolicy, on_event: Events<'_>) -> Result<Outcome> {
    run_selected(config, &RunOptions { policy, ..RunOptions::default() }, on_event)
}

/// Runs the selected tests of a project, as [`run()`] does all. A run of a part does not become the manifest's last one.
///
/// # Errors
/// As [`run()`]; no test is selected.
pub fn run_selected(config: &Config, options: &RunOptions, on_event: Events<'_>) -> Result<Outcome> {
    let mut checked = early::check_run(config)?;
    let selected = merge::share(config, &options.selection, &mut checked)?;
    repeat(&mut checked, options.repeat)?;
    if let Some(note) = scenario::passed_over(config) {
        on_event(RunEvent::note(note));
    }
    if selected.is_none() {
        for note in reachable(config, &checked.scenarios)? {
            on_event(RunEvent::note(note));
        }
    }
    for note in checked.scenarios.iter().filter_map(Scenario::placeholder) {
        on_event(RunEvent::note(note));
    }
    let prepared = Prepared::open(config, checked, on_event)?;
    let tuned = prepared.adapter(config.backend, options.policy, on_event)?;
    let arms = prepared.arms(config.backend, tuned)?;
    let weights = weights::prove(&prepared, &arms, on_event)?;
    let mut run = prepared.ask(config.backend, &arms, on_event)?;
    for (arm, proof) in &mut run.proof {
        proof.weights = weights.get(arm).copied();
    }
    run.made.selected = selected;
    settle(config, run, options.check_snapshots)
}

/// Gates a run and writes it down.
fn settle(config: &Config, mut run: RunRecord, check_snapshots: bool) -> Result<Outcome> {
    let mut decision = gate::decide(&run, &config.gate);
    if check_snapshots {
        decision.snapshots = unapproved(config, &run).unwrap_or_default();
        decision.settle();
    }
    run.decision = Some(decision.clone());
    let files = runs::write(config, &run, &decision)?;
    Ok(Outcome { run, decision, files })
}

/// Thresholds that so few controls could never show to be kept, said before anything is asked.
///
/// # Errors
/// There are some, and the policy fails what is not shown.
fn reachable(config: &Config, scenarios: &[Scenario]) -> Result<Vec<String>> {
    let controls = scenarios.iter().filter(|scenario| scenario.role == Role::Control);
    let first = |case: &&scenario::Case| case.family.as_deref().is_none_or(|family| family == case.name);
    let questions: usize = controls.map(|scenario| scenario.cases.iter().filter(first).count()).sum();
    let found = gate::unreachable(&config.gate, questions);
    if config.gate.not_shown == Some(NotShown::Fail) && !found.is_empty() {
        let message = format!("[gate] {}; write more controls, or take not_shown = \"fail\" out", found.join("; "));
        return Err(Error::input(&config.manifest, None, message));
    }
    Ok(found)
}

/// Whether a manifest's answers are approved: snapshots are of the project's own adapter, not of every recipe's.
#[must_use]
pub fn has_snapshots(config: &Config) -> bool {
    config.manifest.file_name().is_some_and(|name| name == MANIFEST)
}

/// The scenarios whose answers are not as approved, a phrase each; `None` where answers are not compared with snapshots.
#[must_use]
pub fn unapproved(config: &Config, run: &RunRecord) -> Option<Vec<String>> {
    if !has_snapshots(config) || run.made.selected.is_some() {
        return None;
    }
    let arms: Vec<&str> = config.run.snapshot_arms.iter().map(String::as_str).collect();
    let state = |scenario| match compare_files(&config.run.snapshots, scenario, &arms) {
        Ok(SnapshotState::Same) => None,
        Ok(SnapshotState::Changed { .. }) => Some(format!("{} changed", scenario.name)),
        Ok(SnapshotState::Missing) => Some(format!("{} is new", scenario.name)),
        Err(error) => Some(error.to_string()),
    };
    Some(run.scenarios.iter().filter_map(state).collect())
}

/// Asks each case of a scenario with a temperature so often.
fn repeat(checked: &mut Checked, repeat: Option<usize>) -> Result<()> {
    let Some(repeat) = repeat else { return Ok(()) };
    let mut found = false;
    for scenario in &mut checked.scenarios {
        let is_drawn = scenario.cases.iter().any(|case| case.request.sampling.temperature > 0.0);
        if is_drawn {
            scenario.repeat = repeat;
            found = true;
        }
    }
    if found || repeat == 1 {
        return Ok(());
    }
    let message = "--repeat asks for several samples, and no selected scenario has a temperature: greedy answers are all the same";
    Err(Error::Usage(message.into()))
}

/// Trains a project's adapter, if `policy` says so or there is none that fits.
///
/// # Errors
/// As [`run()`].
pub fn train(config: &Config, policy: TrainPolicy, on_event: Events<'_>) -> Result<Summary> {
    early::check_training(config)?;
    // What is asked after it is the run's to check.
    let prepared = Prepared::open(config, Checked::default(), on_event)?;
    prepared.adapter(config.backend, policy, on_event).map(|tuned| tuned.summary)
}

/// Sweeps over learning rates with a project's recipe and data. Nothing of the project changes.
///
/// # Errors
/// As [`train`]; the loss breaks at the first rates already.
pub fn find_rate(config: &Config, on_event: Events<'_>) -> Result<RateSweep> {
    early::check_training(config)?;
    let prepared = Prepared::open(config, Checked::default(), on_event)?;
    let recipe = config.recipe.as_ref().ok_or_else(|| Error::input(&config.manifest, None, "there is no [train]"))?;
    if !recipe.engine.is_own() {
        let message =
            format!("--find-lr sweeps with finetest's own training, and [train] engine is {}", recipe.engine.name());
        return Err(Error::Usage(message));
    }
    let lesson = lesson::prepare(config, recipe, &prepared.base.files, &prepared.checked, on_event)?;
    let trainer = train::Trainer { project: &prepared, name: config.backend, again: false };
    trainer.find_rate(&lesson, recipe, on_event)
}
