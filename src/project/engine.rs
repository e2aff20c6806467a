//! Training a project's adapter by another program: axolotl, TRL, LLaMA-Factory, or a command of the user's.

use std::path::Path;

use serde_json::Value;

use super::Events;
use super::launch::{MOST_BYTES, no_gguf, own_config, python};
use super::lesson::{Split, split};
use super::prepared::Prepared;
use super::provenance::{ExpectedProvenance, Provenance, data_of};
use super::train::{CHAT_TEMPLATE, OWN_FILES, write_log};
use crate::config::{BackendName, Engine, Recipe};
use crate::data;
use crate::error::{Error, Result};
use crate::files::{copy_atomically, read_regular_text, replace_directory, write_atomically};
use crate::model;
use crate::model::ModelKind;
use crate::model::lora::{self, ADAPTER_CONFIG, ADAPTER_WEIGHTS};
use crate::run::RunEvent;
use crate::train::TrainerState;
use crate::train::engine::{Job, find, run, state, write_examples};

/// Has an engine train, and replaces the adapter's directory as a whole with what it wrote.
///
/// # Errors
/// The engine fails, writes no adapter that fits the base, or ran with fewer processes; its files are kept.
pub(super) fn train(
    project: &Prepared<'_>,
    name: BackendName,
    recipe: &Recipe,
    expected: &ExpectedProvenance,
    on_event: Events<'_>,
) -> Result<TrainerState> {
    let Prepared { config, base, .. } = project;
    let place = config.adapter.as_ref().map(|a| a.path.as_path());
    let adapter = place.ok_or_else(|| Error::input(&config.manifest, None, "there is no place for the adapter"))?;
    let outline = model::outline(&base.files, &config.model)?;
    let fingerprint = expected.fingerprint(name);
    let job = prepare(project, recipe, &fingerprint)?;
    let what = format!("training with {}", recipe.engine.name());
    on_event(RunEvent::note(format!(
        "{what}: {} examples, {} to validate; its log is {}",
        job.examples.0,
        job.examples.1,
        config.relative(&job.directory.join("engine.log"))
    )));
    on_event(RunEvent::Stage { what, units: job.steps(), bytes: false });
    let launched = job.launched();
    // Each process may print its own.
    let steps = job.steps();
    let ran = run(&launched, &mut |step, loss| {
        on_event(RunEvent::Step { step: step.min(steps), loss: Some(loss), tokens: 0 });
    });
    on_event(RunEvent::StageFinished);
    ran?;
    let found = find(&job.output())?;
    let opened = lora::open(&found.directory, &outline)?;
    if opened.is_zero() {
        return Err(Error::model(
            &found.directory,
            "the engine wrote an adapter that changes nothing: every product B·A in it is zero",
        ));
    }
    check_base(&job, recipe, &opened.base)?;
    let log = state(&job, &fingerprint)?;
    if log.is_none() {
        on_event(RunEvent::note(format!(
            "{} wrote no trainer_state.json, so there is no plot of its losses",
            recipe.engine.name()
        )));
    }
    let log = log.unwrap_or_default();
    let own: Vec<&str> = OWN_FILES.into_iter().chain([CHAT_TEMPLATE]).collect();
    replace_directory(adapter, &own, |staged| {
        copy_atomically(&found.directory.join(ADAPTER_WEIGHTS), &staged.join(ADAPTER_WEIGHTS))?;
        write_adapter_config(&found.directory, staged, &config.relative(Path::new(&config.model.source)))?;
        if let Some(template) = &found.template {
            copy_atomically(template, &staged.join(CHAT_TEMPLATE))?;
        }
        if !log.log_history.is_empty() {
            write_log(&log, staged)?;
        }
        Provenance::write(staged, expected, &outline.family, outline.parameters)
    })?;
    Ok(log)
}

/// Writes the data and the configuration into a directory of the training's own.
fn prepare<'r>(project: &Prepared<'_>, recipe: &'r Recipe, fingerprint: &str) -> Result<Job<'r>> {
    let Prepared { config, base, .. } = project;
    let directory = config.store().join("engine").join(&fingerprint[..16]);
    // What an earlier training left half done.
    if directory.exists() {
        std::fs::remove_dir_all(&directory).map_err(Error::io(&directory, "remove"))?;
    }
    std::fs::create_dir_all(&directory).map_err(Error::io(&directory, "make"))?;
    let directory = std::path::absolute(&directory).map_err(Error::io(&directory, "find"))?;
    let model = match (&recipe.launch.model, &base.files.kind) {
        (Some(model), _) => {
            let here = config.root.join(model);
            if here.is_dir() { absolute(&here)? } else { model.clone() }
        }
        (None, ModelKind::HuggingFace(_)) => absolute(&base.files.root)?,
        (None, ModelKind::Gguf(path)) => return Err(no_gguf(recipe, path)),
    };
    // What is wrong with its lines was said before.
    let read =
        |path: &Path| data::load(path, data_of(config)?.format, data_of(config)?.on_error).map(|set| set.examples);
    let Split { train, validation, sources } = split(config, recipe, read)?;
    let python = python(config, recipe)?;
    let job = Job { recipe, model, directory, examples: (train.len(), validation.len()), python };
    write_examples(recipe.engine, &train, sources[0], &job.data())?;
    if !validation.is_empty() {
        write_examples(recipe.engine, &validation, sources[1], &job.validation())?;
    }
    let own = own_config(config, recipe)?;
    job.write_config(own.as_ref().map(|(path, text)| (path.as_path(), text.as_str())))?;
    Ok(job)
}

fn absolute(path: &Path) -> Result<String> {
    let path = std::path::absolute(path).map_err(Error::io(path, "find"))?;
    Ok(path.display().to_string())
}

/// An engine that finetest told its base has trained that one.
fn check_base(job: &Job<'_>, recipe: &Recipe, trained: &str) -> Result<()> {
    let own = recipe.engine == Engine::Command || recipe.launch.config.is_some();
    if own || trained.is_empty() || trained == job.model || Path::new(trained) == Path::new(&job.model) {
        return Ok(());
    }
    Err(Error::failed(format!("the engine trained an adapter of {trained:?}, and was told to train {:?}", job.model)))
}

/// The adapter's configuration, with the base named as the manifest names it, and not by this machine's path.
fn write_adapter_config(from: &Path, to: &Path, base: &str) -> Result<()> {
    let path = from.join(ADAPTER_CONFIG);
    let text = read_regular_text(&path, MOST_BYTES)?;
    let mut read: Value = serde_json::from_str(&text)
        .map_err(|error| Error::input(&path, error.line(), format!("is no JSON: {error}")))?;
    read["base_model_name_or_path"] = base.into();
    let text = serde_json::to_string_pretty(&read).map_err(|error| Error::failed(error.to_string()))?;
    write_atomically(&to.join(ADAPTER_CONFIG), text.as_bytes())
}
