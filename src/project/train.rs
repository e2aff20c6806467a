//! Training a project's adapter: from data lines to a PEFT directory.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::asked::{Checked, open_tokenizer};
use super::base::Base;
use super::objective::objective;
use super::stamp::{STAMP, Stamp, Wanted, data_of};
use super::{Events, TrainPolicy, events};
use crate::config::{BackendName, Config, ModelConfig, OnError, Recipe};
use crate::data::limits::Limits;
use crate::data::{self, Example};
use crate::error::{Error, Result};
use crate::files::{replace_directory, write_atomically};
use crate::model::architecture::outline::Outline;
use crate::model::lora::{self, ADAPTER_CONFIG, ADAPTER_WEIGHTS};
use crate::model::tokenizer::ChatTokenizer;
use crate::model::{self, ModelFiles, load_decoder};
use crate::run::RunEvent;
use crate::train::encode::{Encoded, encode_example};
use crate::train::{TRAINER_STATE, TrainerState, Training, finished_state, loss_plot};

/// The plot of a training, beside its adapter.
pub(super) const LOSS_PLOT: &str = "loss.svg";
/// An adapter that llama.cpp trained, in its own form.
pub(super) const GGUF_ADAPTER: &str = "adapter.gguf";
/// What finetest writes into an adapter's directory. The stamp comes first: nothing is taken for trained without it.
pub(super) const OWN_FILES: [&str; 6] =
    [STAMP, ADAPTER_WEIGHTS, ADAPTER_CONFIG, GGUF_ADAPTER, TRAINER_STATE, LOSS_PLOT];
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

/// Where the checkpoints of a training are.
pub(super) fn checkpoints(config: &Config, fingerprint: &str) -> PathBuf {
    config.store().join("checkpoints").join(&fingerprint[..16])
}

/// What a training learns from, in tokens.
pub(super) struct Lesson {
    train: Vec<Encoded>,
    validation: Vec<Encoded>,
}

/// Checks all that a training needs and all that is asked after it, before it takes its hours: prompts and choices fit the context, every
/// data line is encoded.
///
/// # Errors
/// Something does not fit.
pub(super) fn prepare(
    config: &Config,
    recipe: &Recipe,
    files: &ModelFiles,
    checked: &Checked,
    on_event: Events<'_>,
) -> Result<Lesson> {
    for warning in recipe.warnings() {
        on_event(RunEvent::note(warning));
    }
    let (chat, limits) = open_tokenizer(config, files, checked)?;
    let lengths = Limits::new(recipe.sequence_len, limits.context);
    let (train, validation) = examples(config, recipe, &chat, lengths, on_event)?;
    Ok(Lesson { train, validation })
}

/// Trains, and replaces the adapter's directory as a whole: the adapter, its stamp, `trainer_state.json` and the plot.
pub(super) fn train(
    config: &Config,
    name: BackendName,
    base: &Base,
    wanted: &Wanted,
    lesson: Lesson,
    policy: TrainPolicy,
    on_event: Events<'_>,
) -> Result<TrainerState> {
    let place = config.adapter.as_ref().map(|a| a.path.as_path());
    let directory = place.ok_or_else(|| Error::input(&config.manifest, None, "there is no place for the adapter"))?;
    let recipe = config.recipe.as_ref().ok_or_else(|| Error::input(&config.manifest, None, "there is no [train]"))?;
    let of_recipe = ModelConfig { dtype: recipe.bf16.dtype(), ..config.model.clone() };
    let decoder = match name {
        BackendName::Candle => Some(load_decoder(&base.files, &of_recipe)?),
        BackendName::LlamaCpp | BackendName::LlamaCppF32 => None,
    };
    let outline =
        decoder.as_ref().map_or_else(|| model::outline(&base.files, &config.model), |d| Ok(Outline::of(&d.spec)))?;
    let fingerprint = wanted.fingerprint(name);
    let Lesson { train, validation } = lesson;
    let training = Training {
        outline: &outline,
        recipe,
        train: &train,
        validation: &validation,
        checkpoints: &checkpoints(config, &fingerprint),
        again: policy == TrainPolicy::Always,
        fingerprint: &fingerprint,
        base: &config.relative(Path::new(&config.model.source)),
    };
    let objective = objective(config, name, base, decoder, &outline, recipe, [&train, &validation])?;
    let trained = training.run(objective, &mut |event| events::training(event, on_event))?;
    replace_directory(directory, &OWN_FILES, |staged| {
        lora::save(&trained.adapter, staged, recipe.adapter_dtype)?;
        if name != BackendName::Candle {
            // As it was rounded, so that both forms are the same adapter.
            let rounded = lora::load(staged)?;
            lora::convert(&rounded, &outline, &base.files, directory, 1.0, &[], &staged.join(GGUF_ADAPTER))?;
        }
        write_log(&trained.state, staged)?;
        Stamp::write(staged, wanted, &outline.family, outline.parameters)
    })?;
    Ok(trained.state)
}

/// Writes a training's log and its plot where they are missing.
fn write_log(state: &TrainerState, directory: &Path) -> Result<()> {
    let (log, plot) = (directory.join(TRAINER_STATE), directory.join(LOSS_PLOT));
    if !log.is_file() {
        state.save(&log)?;
    }
    if !plot.is_file() {
        write_atomically(&plot, loss_plot(state).as_bytes())?;
    }
    Ok(())
}

/// Makes a lost log or plot of an adapter that fits again: from each other, or from the training's last checkpoint, if that is still there.
pub(super) fn restore_log(config: &Config, name: BackendName, wanted: &Wanted, directory: &Path) -> Result<()> {
    if [TRAINER_STATE, LOSS_PLOT].iter().all(|name| directory.join(name).is_file()) {
        return Ok(());
    }
    let fingerprint = wanted.fingerprint(name);
    let log = TrainerState::load(&directory.join(TRAINER_STATE)).ok();
    let state = log.or_else(|| finished_state(&checkpoints(config, &fingerprint), &fingerprint));
    state.map_or(Ok(()), |state| write_log(&state, directory))
}

/// Training and validation examples in tokens.
fn examples(
    config: &Config,
    recipe: &Recipe,
    chat: &ChatTokenizer,
    limits: Limits,
    on_event: Events<'_>,
) -> Result<(Vec<Encoded>, Vec<Encoded>)> {
    let data = data_of(config)?;
    if let Some(note) = limits.note() {
        on_event(RunEvent::note(note));
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
            on_event(RunEvent::note(note));
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
    let encode = |example: &Example| encode_example(example, chat, inputs, limits);
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
            on_event(RunEvent::note(format!("{path}: {many} {lines} skipped; the first: {}", errors[0])));
        }
        OnError::Skip => {}
    }
    Ok(encoded)
}
