//! A project from its manifest to a decision: the model is fetched, the adapter trained if it has to be, base and tuned are
//! asked, and what came of it is written down.
//!
//! The command line and the test harness both begin here, so that they cannot disagree.

mod adapter;
mod backend;
#[cfg(feature = "llama-cpp")]
mod crosscheck;
mod early;
mod runs;
mod stamp;
mod train;

use std::path::{Path, PathBuf};

use crate::backend::{ENGINE_REVISION, Progress};
use crate::config::Config;
use crate::data;
use crate::error::{Error, Result};
use crate::files::{Lock, sweep, sweep_directory};
use crate::gate;
use crate::model::{ModelFiles, ModelKind, SourceEvent, sources};
use crate::record::{Arm, BASE, Decision, ModelInfo, RunRecord, TUNED};
use crate::run::{Inputs, Store, execute};
use crate::scenario;
use crate::snapshot;
use crate::train::TrainEvent;

#[cfg(feature = "llama-cpp")]
pub use crosscheck::crosscheck;
use early::Checked;
pub use train::Summary;

/// What is going on; a command line draws it.
#[derive(Clone, Debug)]
pub enum Event {
    /// Files are fetched.
    Source(SourceEvent),
    /// An adapter is trained.
    Train(TrainEvent),
    /// Answers are computed.
    Progress(Progress),
    /// Something that a person should know.
    Note(String),
}

/// Receives [`Event`]s.
pub type Events<'e> = &'e mut dyn FnMut(Event);

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
    /// What the environment variable `FINETEST_TRAIN` says: `auto`, `never` or `always`.
    ///
    /// # Errors
    /// It says something else.
    pub fn from_env() -> Result<Self> {
        match std::env::var("FINETEST_TRAIN").as_deref() {
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

/// A model's files, and the hash of all that decides its answers.
pub(crate) struct Base {
    pub(crate) files: ModelFiles,
    /// Of weights, tokenizer and template.
    pub(crate) fingerprint: String,
    /// Of the weights alone, with `config.json`.
    pub(crate) weights: String,
}

/// One process works on a project at a time; a second waits and says so.
pub(crate) fn lock(config: &Config, on_event: Events<'_>) -> Result<Lock> {
    let path = config.store().join("lock");
    let lock = Lock::acquire(&path, || {
        on_event(Event::Note(format!("another finetest works on this project; waiting for {}", path.display())))
    })?;
    sweep_leftovers(config);
    Ok(lock)
}

/// Removes what killed runs of this project left half written; the project is locked, so nobody is writing.
fn sweep_leftovers(config: &Config) {
    if let Some(adapter) = config.adapter.as_ref().filter(|_| config.recipe.is_some()) {
        sweep_directory(&adapter.path);
    }
    for room in ["runs", "checkpoints", "replaced", "llama-cpp"] {
        let room = config.store().join(room);
        sweep(&room);
        let inside = std::fs::read_dir(&room).into_iter().flatten().flatten().map(|entry| entry.path());
        inside.filter(|path| path.is_dir()).for_each(|path| sweep(&path));
    }
}

/// Fetches the base model of a project; `check` may refuse it by its small files before its weights are downloaded.
fn base(config: &Config, check: sources::Check<'_>, on_event: Events<'_>) -> Result<Base> {
    let sources = sources::Sources::from_env()?;
    let files = sources.resolve_checked(&config.model, check, &mut |e| on_event(Event::Source(e)))?;
    let weights = sources.fingerprint(&files, &mut |e| on_event(Event::Source(e)))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(weights.as_bytes());
    let mut chat: Vec<&Path> = Vec::new();
    if let ModelKind::HuggingFace(found) = &files.kind {
        let optional = [&found.tokenizer, &found.tokenizer_config, &found.generation_config, &found.chat_template];
        chat.extend(optional.into_iter().flatten().map(PathBuf::as_path));
    }
    chat.extend(config.model.chat_template.as_deref());
    for path in chat {
        hasher.update(data::file_hash(path)?.as_bytes());
    }
    Ok(Base { files, fingerprint: hasher.finalize().to_hex().to_string(), weights })
}

/// Runs a project: fetches the base, trains the adapter if `policy` lets it and it has to, asks both arms, and gates.
///
/// Written to a folder of the run's own, `<store>/runs/<manifest>/<time>-<hash>/`: `run.json`, `report.md` and `junit.xml`. `latest`
/// beside it leads to the newest.
///
/// # Errors
/// Anything a person has to put right first; a failed gate is not an error, but a [`Decision`].
pub fn run(config: &Config, policy: TrainPolicy, on_event: Events<'_>) -> Result<Outcome> {
    let checked = early::check_run(config)?;
    if let Some(note) = scenario::passed_over(config) {
        on_event(Event::Note(note));
    }
    let _lock = lock(config, on_event)?;
    let run = ask(config, &checked, policy, on_event)?;
    let decision = gate::decide(&run, &config.gate);
    let files = runs::write(config, &run, &decision)?;
    Ok(Outcome { run, decision, files })
}

/// Asks both arms every case on the project's backend; the project is locked.
fn ask(config: &Config, checked: &Checked, policy: TrainPolicy, on_event: Events<'_>) -> Result<RunRecord> {
    let base = base(config, &mut |files| early::check_model(config, files, checked), on_event)?;
    let tuned = adapter::ready(config, &base, checked, policy, on_event)?;
    let model = ModelInfo {
        source: config.relative(Path::new(&config.model.source)),
        family: tuned.family.clone(),
        parameters: tuned.parameters,
        fingerprint: base.fingerprint.clone(),
        weights: base.weights.clone(),
    };
    let Checked { scenarios, drift_text } = checked;
    let arms = arms(config, &base, &tuned);
    let names = scenarios.iter().map(|s| s.name.as_str());
    let approved = snapshot::approved(&config.run.snapshots, names, &[BASE, TUNED]);
    let drift_text = drift_text.clone();
    let inputs = Inputs { project: config.project.clone(), model, arms, scenarios, drift_text, approved };
    let files = base.files.clone();
    let mut backend = backend::of(config, base, tuned)?;
    let store = Store::new(config.store().join("store"));
    let run = execute(&inputs, &mut *backend, &store, &mut |p| on_event(Event::Progress(p)));
    // A backend knows no scenarios: of a prompt that does not fit, the check tells the file and the case.
    run.map_err(|error| early::open_tokenizer(config, &files, checked).err().unwrap_or(error))
}

/// Trains a project's adapter, if `policy` says so or there is none that fits.
///
/// # Errors
/// As [`run()`].
pub fn train(config: &Config, policy: TrainPolicy, on_event: Events<'_>) -> Result<Summary> {
    early::check_training(config)?;
    let _lock = lock(config, on_event)?;
    // What is asked after it is the run's to check.
    let checked = Checked::default();
    let base = base(config, &mut |files| early::check_model(config, files, &checked), on_event)?;
    adapter::ready(config, &base, &checked, policy, on_event).map(|ready| ready.summary)
}

fn arms(config: &Config, base: &Base, tuned: &adapter::Ready) -> Vec<Arm> {
    let context = config.model.context.map_or_else(|| "default".to_owned(), |c| c.to_string());
    let fingerprint = |adapter: &str| {
        let engine = format!("{} revision {ENGINE_REVISION}", backend::version(config));
        let all = [base.fingerprint.as_str(), adapter, &engine, &context].join("\n");
        blake3::hash(all.as_bytes()).to_hex().to_string()
    };
    let path = config.relative(&tuned.directory);
    vec![
        Arm { name: BASE.into(), fingerprint: fingerprint("none"), adapter: None, scale: 1.0 },
        Arm {
            name: TUNED.into(),
            fingerprint: fingerprint(&format!("{} × {}", tuned.hash, tuned.scale)),
            adapter: Some(path),
            scale: tuned.scale,
        },
    ]
}
