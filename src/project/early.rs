//! What can be checked before anything is downloaded, loaded or trained: a mistake is reported in the first second, and not after an hour.

use std::path::{Path, PathBuf};

use super::asked::{Checked, open_tokenizer};
use super::launch;
use super::lesson;
use super::provenance::{Provenance, data_hash, data_of};
use crate::config::{ArmSource, Config, DataConfig};
use crate::data;
use crate::data::limits::drift_text;
use crate::error::{Error, Result};
use crate::model::ModelFiles;
use crate::model::lora;
use crate::model::tokenizer::ChatTemplate;
use crate::scenario;

/// Reads and checks all that a run needs besides the model.
///
/// # Errors
/// A scenario, a data line, the adapter's directory, the template or the drift text cannot be used.
pub(super) fn check_run(config: &Config) -> Result<Checked> {
    let scenarios = scenario::load_all(config)?;
    let named = |path: &PathBuf| -> Result<_> { Ok((config.relative(path), drift_text(path)?)) };
    let drift_text = config.run.drift_text.as_ref().map(named).transpose()?;
    check_subject(config)?;
    Ok(Checked { scenarios, drift_text, ..Checked::default() })
}

/// Checks what is compared: there is an adapter, or what it is trained from.
///
/// # Errors
/// There is neither; as [`check_training`].
pub(super) fn check_subject(config: &Config) -> Result<()> {
    if config.adapter.is_none() {
        let message = "there is neither [adapter] nor [train], so there is nothing to compare the base with; give [adapter] path = \
                       \"DIR\", or --adapter DIR";
        return Err(Error::input(&config.manifest, None, message));
    }
    check_training(config)
}

/// Checks all that a training needs besides the model.
///
/// # Errors
/// As [`check_run`].
pub(super) fn check_training(config: &Config) -> Result<()> {
    if let Some(path) = &config.model.chat_template {
        ChatTemplate::check_file(path)?;
    }
    check_places(config)?;
    for arm in &config.arms {
        if let ArmSource::Adapter(path) = &arm.source {
            check_adapter(config, path)
                .map_err(|error| Error::input(&config.manifest, arm.line, format!("[arms.{}]: {error}", arm.name)))?;
        }
    }
    if let Some(recipe) = &config.recipe {
        launch::check(config, recipe)?;
    }
    match (&config.recipe, &config.adapter) {
        (Some(_), adapter) => check_data(data_of(config)?, adapter.as_ref().map(|a| a.path.as_path())),
        (None, Some(adapter)) => check_adapter(config, &adapter.path),
        (None, None) => Ok(()),
    }
}

/// Reads every data line, unless the adapter says that it was trained on these very bytes.
fn check_data(data: &DataConfig, adapter: Option<&Path>) -> Result<()> {
    let provenance = adapter.and_then(|directory| Provenance::read(directory).ok().flatten());
    let hash = data_hash(data)?;
    if provenance.is_some_and(|provenance| provenance.data == hash) {
        return Ok(());
    }
    for path in std::iter::once(&data.train).chain(&data.validation) {
        data::load(path, data.format, data.on_error)?;
    }
    Ok(())
}

/// Refuses an adapter to be trained, or a store, whose directory is or holds what a person made, or lies in it.
fn check_places(config: &Config) -> Result<()> {
    let adapter = config.adapter.as_ref().filter(|_| config.recipe.is_some()).map(|adapter| adapter.path.as_path());
    let source = Path::new(&config.model.source);
    let data = config.data.iter().flat_map(|data| std::iter::once(&data.train).chain(&data.validation));
    let mut theirs: Vec<(&str, &Path)> = vec![
        ("the project", &config.root),
        ("the base", source),
        ("the scenarios", &config.run.scenarios),
        ("the snapshots", &config.run.snapshots),
    ];
    theirs.extend(data.map(|path| ("the data", path.as_path())));
    let (store, root) = (config.store(), real(&config.root));
    let ours = adapter.map(|path| ("[adapter] path", path)).into_iter().chain([("[run] store", store)]);
    for (key, path) in ours {
        for (what, other) in &theirs {
            let (mine, other) = (real(path), real(other));
            // Everything lies in the project, and so in what holds it. A store may be shared by the projects below it.
            let inside = other.is_dir() && mine.starts_with(&other) && !root.starts_with(&other);
            let holds = other.starts_with(&mine) && (key != "[run] store" || mine.starts_with(&root));
            if mine == other || inside || holds {
                let (path, other) = (config.relative(path), config.relative(&other));
                let message = format!(
                    "{key} is {path:?}, and {what} is {other:?}: finetest writes into a directory of its own; give another place"
                );
                return Err(Error::input(&config.manifest, None, message));
            }
        }
    }
    match adapter.filter(|path| real(path).starts_with(real(store)) || real(store).starts_with(real(path))) {
        Some(path) => {
            let message = format!(
                "[adapter] path is {:?}, and [run] store is {:?}, which may be deleted at any time; give another place",
                config.relative(path),
                config.relative(store)
            );
            Err(Error::input(&config.manifest, None, message))
        }
        None => Ok(()),
    }
}

/// A path without links and `..`, also of what is not there yet.
fn real(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    for above in absolute.ancestors() {
        if let Ok(found) = above.canonicalize() {
            return found.join(absolute.strip_prefix(above).unwrap_or(Path::new("")));
        }
    }
    absolute
}

/// Reads an adapter that is tested as it is.
fn check_adapter(config: &Config, path: &Path) -> Result<()> {
    if !path.exists() {
        let message = "there is no such adapter; [adapter] path is a PEFT directory or a GGUF file";
        return Err(Error::model(config.relative(path), message));
    }
    // Whether the tensors of a GGUF file fit is reported with the base.
    if lora::is_gguf(path) { Ok(()) } else { lora::load(path).map(|_| ()) }
}

/// Checks what the model's small files tell: the tokenizer fits, prompts and choices fit the context, and so does every data line.
///
/// # Errors
/// One does not.
pub(super) fn check_model(config: &Config, files: &ModelFiles, checked: &Checked) -> Result<()> {
    match &config.recipe {
        // Its notes are for the training itself to show.
        Some(recipe) => lesson::prepare(config, recipe, files, checked, &mut |_| {}).map(|_| ()),
        None => open_tokenizer(config, files, checked).map(|_| ()),
    }
}
