//! Training a project's adapter: from data lines to a PEFT directory.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::lesson::Lesson;
use super::live::Watch;
use super::micro_batch::fitted;
use super::objective::llama_cpp_objective;
use super::prepared::Prepared;
use super::provenance::{ExpectedProvenance, PROVENANCE_FILE, Provenance};
use super::{Events, events};
use crate::config::{BackendName, Config, ModelConfig, Recipe};
use crate::error::{Error, Result};
use crate::files::{replace_directory, write_atomically};
use crate::model::architecture::outline::Outline;
use crate::model::decoder::Decoder;
use crate::model::lora::{self, ADAPTER_CONFIG, ADAPTER_WEIGHTS};
use crate::model::{self, load_decoder};
use crate::run::RunEvent;
use crate::train::encode::Encoded;
use crate::train::{InProcess, Objective, RateSweep, TRAINER_STATE, TrainerState, Training, finished_state, loss_plot};

/// The plot of a training, beside its adapter.
pub(super) const LOSS_PLOT: &str = "loss.svg";
/// An adapter that llama.cpp trained, in its own form.
pub(super) const GGUF_ADAPTER: &str = "adapter.gguf";
/// The template that another trainer puts beside an adapter. Beside one that finetest trained it is the user's.
pub(super) const CHAT_TEMPLATE: &str = "chat_template.jinja";
/// What finetest writes into an adapter's directory. The provenance comes first: nothing is taken for trained without it.
pub(super) const OWN_FILES: [&str; 6] =
    [PROVENANCE_FILE, ADAPTER_WEIGHTS, ADAPTER_CONFIG, GGUF_ADAPTER, TRAINER_STATE, LOSS_PLOT];
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

/// Trains a project's adapter on a backend.
pub(super) struct Trainer<'p> {
    pub(super) project: &'p Prepared<'p>,
    pub(super) name: BackendName,
    /// Restart a finished training.
    pub(super) again: bool,
}

impl Trainer<'_> {
    /// Trains, and replaces the adapter's directory as a whole: the adapter, its provenance, `trainer_state.json` and the plot.
    pub(super) fn train(
        &self,
        expected: &ExpectedProvenance,
        lesson: Lesson,
        on_event: Events<'_>,
    ) -> Result<TrainerState> {
        let (Prepared { config, base, .. }, name) = (self.project, self.name);
        let place = config.adapter.as_ref().map(|a| a.path.as_path());
        let directory =
            place.ok_or_else(|| Error::input(&config.manifest, None, "there is no place for the adapter"))?;
        let recipe =
            config.recipe.as_ref().ok_or_else(|| Error::input(&config.manifest, None, "there is no [train]"))?;
        let recipe = &fitted(recipe, &base.files, &lesson);
        let (decoder, outline) = self.opened(recipe)?;
        let fingerprint = expected.fingerprint(name);
        let Lesson { train, validation } = lesson;
        let training = Training {
            outline: &outline,
            recipe,
            train: &train,
            validation: &validation,
            checkpoints: &checkpoints(config, &fingerprint),
            again: self.again,
            fingerprint: &fingerprint,
            base: &config.relative(Path::new(&config.model.source)),
        };
        let objective = self.objective(decoder, &outline, recipe, [&train, &validation])?;
        let (mut pace, mut watch) = (events::Pace::default(), Watch::default());
        let trained = training.run(objective, &mut |event| {
            let notes: Vec<String> = pace.note(&event).into_iter().chain(watch.notes(&event)).collect();
            events::training(event, on_event);
            notes.into_iter().for_each(|note| on_event(RunEvent::note(note)));
        })?;
        replace_directory(directory, &OWN_FILES, |staged| {
            lora::save(&trained.adapter, staged, recipe.adapter_dtype)?;
            if matches!(name, BackendName::LlamaCpp | BackendName::LlamaCppF32) {
                // As it was rounded, so that both forms are the same adapter.
                let rounded = lora::load(staged)?;
                let conversion = lora::Conversion {
                    adapter: &rounded,
                    outline: &outline,
                    files: &base.files,
                    directory,
                    scale: 1.0,
                    header: &[],
                };
                conversion.write(&staged.join(GGUF_ADAPTER))?;
            }
            write_log(&trained.state, staged)?;
            Provenance::write(staged, expected, &outline.family, outline.parameters)
        })?;
        Ok(trained.state)
    }
}

impl Trainer<'_> {
    /// The base's decoder, where this crate's own trains it, and its layers.
    fn opened(&self, recipe: &Recipe) -> Result<(Option<Decoder>, Outline)> {
        let Prepared { config, base, .. } = self.project;
        let of_recipe = ModelConfig { dtype: recipe.bf16.dtype(), ..config.model.clone() };
        match self.name {
            BackendName::Candle | BackendName::Remote => {
                let decoder = load_decoder(&base.files, &of_recipe)?;
                let outline = Outline::of(&decoder.spec);
                Ok((Some(decoder), outline))
            }
            BackendName::LlamaCpp | BackendName::LlamaCppF32 => Ok((None, model::outline(&base.files, &config.model)?)),
        }
    }

    fn objective<'a>(
        &self,
        decoder: Option<Decoder>,
        outline: &'a Outline,
        recipe: &'a Recipe,
        examples: [&[Encoded]; 2],
    ) -> Result<Box<dyn Objective + 'a>> {
        match decoder {
            Some(decoder) => Ok(Box::new(InProcess::new(decoder, recipe))),
            None => llama_cpp_objective(self.project, self.name, outline, recipe, examples),
        }
    }

    /// Sweeps over learning rates; no file of the project changes.
    pub(super) fn find_rate(&self, lesson: &Lesson, recipe: &Recipe, on_event: Events<'_>) -> Result<RateSweep> {
        let recipe = &fitted(recipe, &self.project.base.files, lesson);
        let (decoder, outline) = self.opened(recipe)?;
        let training = Training {
            outline: &outline,
            recipe,
            train: &lesson.train,
            validation: &[],
            checkpoints: Path::new(""),
            again: false,
            fingerprint: "",
            base: "",
        };
        let objective = self.objective(decoder, &outline, recipe, [&lesson.train, &lesson.validation])?;
        on_event(RunEvent::Stage { what: "sweeping over rates".to_owned(), units: RateSweep::STEPS, bytes: false });
        let swept = training.find_rate(objective, &mut |event| events::training(event, on_event));
        on_event(RunEvent::StageFinished);
        swept
    }
}

/// Writes a training's log and its plot where they are missing.
pub(super) fn write_log(state: &TrainerState, directory: &Path) -> Result<()> {
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
pub(super) fn restore_log(
    config: &Config,
    name: BackendName,
    expected: &ExpectedProvenance,
    directory: &Path,
) -> Result<()> {
    if [TRAINER_STATE, LOSS_PLOT].iter().all(|name| directory.join(name).is_file()) {
        return Ok(());
    }
    let fingerprint = expected.fingerprint(name);
    let log = TrainerState::load(&directory.join(TRAINER_STATE)).ok();
    let state = log.or_else(|| finished_state(&checkpoints(config, &fingerprint), &fingerprint));
    state.map_or(Ok(()), |state| write_log(&state, directory))
}
