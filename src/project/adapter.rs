//! The adapter of a project: the trained one when it fits recipe, data and base, else a new one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::engine;
use super::lesson;
use super::prepared::Prepared;
use super::provenance::{self, Provenance, expected_provenance, hash_file, mismatch};
use super::train::{self, Summary, Trainer};
use super::{Events, TrainPolicy};
use crate::config::{BackendName, Config, Recipe};
use crate::error::{Error, Result};
use crate::files::copy_atomically;
use crate::model;
use crate::model::lora::{self, ADAPTER_CONFIG, ADAPTER_WEIGHTS, Adapter};
use crate::run::RunEvent;
use crate::train::TrainerState;

/// An adapter that can be asked.
#[derive(Clone)]
pub(super) struct LoadedAdapter {
    pub(super) adapter: Arc<Adapter>,
    /// Its PEFT directory, or its GGUF file.
    pub(super) directory: PathBuf,
    /// Hash of its files.
    pub(super) hash: String,
    pub(super) scale: f64,
    pub(super) family: String,
    pub(super) parameters: u64,
    pub(super) summary: Summary,
}

/// The project's adapter: trained before, or now.
///
/// # Errors
/// It has to be trained and `policy` forbids it; the directory holds an adapter that finetest did not train.
pub(super) fn ready(
    project: &Prepared<'_>,
    name: BackendName,
    policy: TrainPolicy,
    on_event: Events<'_>,
) -> Result<LoadedAdapter> {
    let Prepared { config, base, .. } = project;
    let Some(place) = &config.adapter else {
        return Err(Error::input(
            &config.manifest,
            None,
            "there is neither [adapter] nor [train]: there is no adapter",
        ));
    };
    let directory = &place.path;
    let state = trained(project, name, policy, on_event)?;
    let summary = Summary { directory: config.relative(directory), trained: state.is_some(), state };
    let provenance = own_provenance(config, directory, on_event)?;
    if let Some(provenance) = &provenance
        && base.is_here()
        && provenance.base != base.fingerprint
    {
        let message = "the adapter was trained on another base, or the base's configuration, tokenizer or template changed since; give the \
                       base that it was trained on, or remove finetest.json beside it to test it on this one";
        return Err(Error::model(directory, message));
    }
    let (adapter, family, parameters) = match provenance {
        // Ours, so it is a PEFT directory and fits the base.
        Some(provenance) => {
            let asked = |recipe: &Recipe| !recipe.engine.is_own();
            if config.recipe.as_ref().is_some_and(asked)
                && let Some(why) = lora::provenance::other_template(directory, &config.root, &base.files, &config.model)
            {
                let message = format!(
                    "base and tuned would be asked other prompts than tuned was trained on: {why}. Or have the engine use the base's, and train again"
                );
                return Err(Error::model(directory, message));
            }
            (lora::load(directory)?, provenance.family, provenance.parameters)
        }
        None => {
            let outline = model::outline(&base.files, &config.model)?;
            let adapter = lora::open(directory, &outline)?;
            let notes = lora::provenance::notes(&adapter, &config.root, &base.files, &config.model, &outline)?;
            notes.into_iter().for_each(|note| on_event(RunEvent::note(note)));
            (adapter, outline.family, outline.parameters)
        }
    };
    Ok(LoadedAdapter {
        adapter: Arc::new(adapter),
        directory: directory.clone(),
        hash: hash_of(directory)?,
        scale: place.scale,
        family,
        parameters,
        summary,
    })
}

/// Trains the project's adapter if `policy` says so or the one that is there does not fit; `None`: it was not trained.
fn trained(
    project: &Prepared<'_>,
    name: BackendName,
    policy: TrainPolicy,
    on_event: Events<'_>,
) -> Result<Option<TrainerState>> {
    let Prepared { config, base, checked, .. } = project;
    let (Some(recipe), Some(place)) = (&config.recipe, &config.adapter) else { return Ok(None) };
    let directory = &place.path;
    let expected = expected_provenance(config, recipe, base)?;
    let reason = match policy {
        TrainPolicy::Always => Some("once more, as --force or FINETEST_TRAIN=always asks".to_owned()),
        TrainPolicy::Auto | TrainPolicy::Never => mismatch(directory, &expected)?,
    };
    let Some(reason) = reason else {
        train::restore_log(config, name, &expected, directory)?;
        return Ok(None);
    };
    if policy == TrainPolicy::Never {
        let directory = config.relative(directory);
        return Err(Error::failed(format!(
            "{directory}: the adapter has to be trained ({reason}), and training is off (--train never, FINETEST_TRAIN=never, or CI is set); run `finetest train`, or \
             pass --train auto"
        )));
    }
    on_event(RunEvent::note(format!("training {} ({reason})", config.relative(directory))));
    let lesson = lesson::prepare(config, recipe, &base.files, checked, on_event)?;
    keep_old(config, directory, on_event)?;
    if !recipe.engine.is_own() {
        return engine::train(project, name, recipe, &expected, on_event).map(Some);
    }
    let trainer = Trainer { project, name, again: policy == TrainPolicy::Always };
    trainer.train(&expected, lesson, on_event).map(Some)
}

/// The provenance of an adapter that is still what finetest trained.
fn own_provenance(config: &Config, directory: &Path, on_event: Events<'_>) -> Result<Option<Provenance>> {
    let Some(provenance) = Provenance::read(directory)? else { return Ok(None) };
    let Some(file) = provenance.changed_file(directory)? else { return Ok(Some(provenance)) };
    let shown = config.relative(&directory.join(file));
    on_event(RunEvent::note(format!("{shown} is not what finetest trained; it is tested as it is")));
    Ok(None)
}

/// Moves an older adapter out of the way, where it can be found again.
fn keep_old(config: &Config, directory: &Path, on_event: Events<'_>) -> Result<()> {
    // A GGUF adapter may lie there alone, and the new one's would be written over it.
    let mut hasher = blake3::Hasher::new();
    let there: Vec<&str> = train::OWN_FILES.into_iter().filter(|file| directory.join(file).is_file()).collect();
    if there.is_empty() {
        return Ok(());
    }
    for file in &there {
        hasher.update(provenance::hash_file(&directory.join(file))?.as_bytes());
    }
    let name = directory.file_name().map_or_else(|| "adapter".into(), |n| n.to_string_lossy().into_owned());
    let kept = config.store().join("replaced").join(format!("{name}-{}", &hasher.finalize().to_hex()[..12]));
    for file in there {
        copy_atomically(&directory.join(file), &kept.join(file))?;
    }
    on_event(RunEvent::note(format!("the adapter that it replaces is kept in {}", config.relative(&kept))));
    Ok(())
}

/// Hash of an adapter's files.
pub(super) fn hash_of(directory: &Path) -> Result<String> {
    if lora::is_gguf(directory) {
        return hash_file(directory);
    }
    Ok([hash_file(&directory.join(ADAPTER_WEIGHTS))?, hash_file(&directory.join(ADAPTER_CONFIG))?].join(""))
}
