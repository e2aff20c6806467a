//! Training a project's adapter: from data lines to a PEFT directory.

use std::path::Path;

use serde::Serialize;

use super::adapter::write_stamp;
use super::{Base, Event, Events, TrainPolicy};
use crate::adapter;
use crate::config::{BackendName, Config, DataConfig, ModelConfig, OnError, Recipe};
use crate::data::encode::{Encoded, encode_example};
use crate::data::limits::Limits;
use crate::data::{self, Example};
use crate::error::{Error, Result};
use crate::export;
use crate::files::write_atomically;
use crate::model::outline::Outline;
use crate::model::{self, Voice, load_decoder};
use crate::train::{TRAINER_STATE, TrainerState, Training, loss_plot};

/// The plot of a training, beside its adapter.
pub(super) const LOSS_PLOT: &str = "loss.svg";
/// An adapter that llama.cpp trained, in its own form.
pub(super) const GGUF_ADAPTER: &str = "adapter.gguf";
/// Raised when the same recipe would train other bytes.
const TRAINER: u32 = 1;

/// What became of an adapter.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Its directory, relative to the project.
    pub directory: String,
    /// It was trained now; else the one that was there fits.
    pub trained: bool,
    /// The training's log, when it was trained now.
    pub state: Option<TrainerState>,
}

/// What the adapter has to come from.
pub(super) struct Wanted {
    pub(super) recipe: String,
    pub(super) data: String,
    pub(super) base: String,
}

impl Wanted {
    fn fingerprint(&self) -> String {
        blake3::hash([self.recipe.as_str(), &self.data, &self.base].join("\n").as_bytes()).to_hex().to_string()
    }
}

/// Hashes of the recipe, the data and the base.
pub(super) fn wanted(config: &Config, recipe: &Recipe, base: &Base) -> Result<Wanted> {
    let files = data_of(config)?;
    let mut hasher = blake3::Hasher::new();
    for path in std::iter::once(&files.train).chain(&files.validation) {
        hasher.update(data::file_hash(path)?.as_bytes());
    }
    hasher.update(format!("{:?} {:?} {}", files.format, files.on_error, files.validation.is_some()).as_bytes());
    // What changes no byte of the adapter is none of what decides it.
    let decisive = Recipe { save_steps: None, save_total_limit: 1, gradient_checkpointing: false, ..recipe.clone() };
    let recipe = serde_json::to_string(&decisive).map_err(|e| Error::failed(e.to_string()))?;
    Ok(Wanted {
        recipe: blake3::hash(format!("{TRAINER} {recipe}").as_bytes()).to_hex().to_string(),
        data: hasher.finalize().to_hex().to_string(),
        base: base.fingerprint.clone(),
    })
}

fn data_of(config: &Config) -> Result<&DataConfig> {
    config
        .data
        .as_ref()
        .ok_or_else(|| Error::input(&config.manifest, None, "[data] is missing: there is nothing to train on"))
}

/// Trains, and writes the adapter's directory: the adapter, its stamp, `trainer_state.json` and the plot.
pub(super) fn train(
    config: &Config,
    recipe: &Recipe,
    base: &Base,
    wanted: &Wanted,
    policy: TrainPolicy,
    on_event: Events<'_>,
) -> Result<TrainerState> {
    for warning in recipe.warnings() {
        on_event(Event::Note(warning));
    }
    let place = config.adapter.as_ref().map(|a| a.path.as_path());
    let directory = place.ok_or_else(|| Error::input(&config.manifest, None, "there is no place for the adapter"))?;
    let voice = Voice::load(&base.files, &config.model)?;
    let limits = Limits::new(recipe.sequence_len, model::positions(&base.files, &config.model)?);
    let (train, validation) = examples(config, recipe, &voice, limits, on_event)?;
    let of_recipe = ModelConfig { dtype: recipe.bf16.dtype(), ..config.model.clone() };
    let decoder = match config.backend {
        BackendName::Candle => Some(load_decoder(&base.files, &of_recipe)?),
        _ => None,
    };
    let outline =
        decoder.as_ref().map_or_else(|| model::outline(&base.files, &config.model), |d| Ok(Outline::of(d)))?;
    voice.check_fits(outline.vocabulary)?;
    // A training goes on with the gradients that it began with.
    let fingerprint = match config.backend {
        BackendName::Candle => wanted.fingerprint(),
        other => blake3::hash(format!("{} {}", other.as_str(), wanted.fingerprint()).as_bytes()).to_hex().to_string(),
    };
    let checkpoints = config.store().join("checkpoints").join(&fingerprint[..16]);
    let training = Training {
        outline: &outline,
        recipe,
        train: &train,
        validation: &validation,
        checkpoints: &checkpoints,
        again: policy == TrainPolicy::Always,
        fingerprint: &fingerprint,
        base: &config.relative(Path::new(&config.model.source)),
    };
    let objective = super::backend::objective(config, base, decoder, &outline, recipe, [&train, &validation])?;
    let trained = training.run(objective, &mut |event| on_event(Event::Train(event)))?;
    // Of the adapter that was there: it is kept with that one's other files, and would be taken for the new one's.
    let gguf = directory.join(GGUF_ADAPTER);
    if gguf.is_file() {
        std::fs::remove_file(&gguf).map_err(Error::io(&gguf, "remove"))?;
    }
    adapter::save(&trained.adapter, directory, recipe.adapter_dtype)?;
    // Next, since weights without a stamp are taken for somebody else's.
    write_stamp(directory, wanted, &outline.family, outline.parameters)?;
    if config.backend != BackendName::Candle {
        // As it was rounded, so that both forms are the same adapter.
        export::convert(&adapter::load(directory)?, &outline, &base.files, directory, 1.0, &gguf)?;
    }
    trained.state.save(&directory.join(TRAINER_STATE))?;
    write_atomically(&directory.join(LOSS_PLOT), loss_plot(&trained.state).as_bytes())?;
    Ok(trained.state)
}

/// Training and validation examples in tokens.
fn examples(
    config: &Config,
    recipe: &Recipe,
    voice: &Voice,
    limits: Limits,
    on_event: Events<'_>,
) -> Result<(Vec<Encoded>, Vec<Encoded>)> {
    let data = data_of(config)?;
    if let Some(note) = limits.note() {
        on_event(Event::Note(note));
    }
    let inputs = recipe.train_on_inputs;
    let read = |path: &Path, on_event: Events<'_>| -> Result<Vec<Example>> {
        let dataset = data::load(path, data.format, data.on_error)?;
        if !dataset.skipped.is_empty() {
            let all = dataset.examples.len() + dataset.skipped.len();
            let mut note = format!(
                "{}: {} of {all} lines are skipped, as [data] on_error says",
                config.relative(path),
                dataset.skipped.len()
            );
            dataset.skipped.iter().take(5).for_each(|e| note.push_str(&format!("\n- {e}")));
            on_event(Event::Note(note));
        }
        Ok(dataset.examples)
    };
    let train = read(&data.train, on_event)?;
    let (train, validation, validation_path) = match &data.validation {
        Some(path) => (train, read(path, on_event)?, path),
        None => {
            let (train, validation) = data::hold_back(train, recipe.val_set_size, recipe.seed);
            (train, validation, &data.train)
        }
    };
    let encode = |example: &Example| encode_example(example, voice, inputs, limits);
    let train = encode_all(&data.train, &train, encode, data.on_error, on_event)?;
    let validation = encode_all(validation_path, &validation, encode, data.on_error, on_event)?;
    if train.is_empty() {
        let message = "has no line left to train on; the notes above say why lines were skipped";
        return Err(Error::input(&data.train, None, message));
    }
    Ok((train, validation))
}

fn encode_all(
    path: &Path,
    examples: &[Example],
    encode: impl Fn(&Example) -> Result<Encoded>,
    on_error: OnError,
    on_event: Events<'_>,
) -> Result<Vec<Encoded>> {
    let (mut encoded, mut errors) = (Vec::new(), Vec::new());
    for example in examples {
        match encode(example) {
            Ok(tokens) => encoded.push(tokens),
            Err(error) => errors.push(Error::input(path, example.line, error.to_string())),
        }
    }
    match on_error {
        OnError::Stop => {
            let more = errors.len().saturating_sub(20);
            errors.truncate(20);
            if more > 0 {
                errors.push(Error::failed(format!("and {more} more lines")));
            }
            Error::collect(errors)?;
        }
        OnError::Skip if !errors.is_empty() => {
            let (many, path) = (errors.len(), path.display());
            let lines = if many == 1 { "line is" } else { "lines are" };
            on_event(Event::Note(format!("{path}: {many} {lines} skipped; the first: {}", errors[0])));
        }
        OnError::Skip => {}
    }
    Ok(encoded)
}
