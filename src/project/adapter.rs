//! The adapter of a project: the trained one when it fits recipe, data and base, else a new one.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::train::{self, GGUF_ADAPTER, Summary};
use super::{Base, Event, Events, TrainPolicy};
use crate::adapter::{self, ADAPTER_CONFIG, ADAPTER_WEIGHTS, Adapter};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::model;

/// File beside an adapter that says what it was trained from.
const STAMP: &str = "finetest.json";

/// What a trained adapter came from; it is used only while all of it is still so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stamp {
    /// Hash of `[train]`, without what only says how often to look.
    pub(super) recipe: String,
    /// Hash of the training and validation files, and of how they are read.
    pub(super) data: String,
    /// Hash of the base's weights, tokenizer and template.
    pub(super) base: String,
    /// Hash of `adapter_model.safetensors`.
    pub(super) adapter: String,
    /// Architecture of the base, for reports.
    pub(super) family: String,
    /// Weights of the base, for reports.
    pub(super) parameters: u64,
}

/// An adapter that can be asked.
pub(super) struct Ready {
    pub(super) adapter: Adapter,
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
pub(super) fn ready(config: &Config, base: &Base, policy: TrainPolicy, on_event: Events<'_>) -> Result<Ready> {
    let Some(place) = &config.adapter else {
        return Err(Error::input(
            &config.manifest,
            None,
            "there is neither [adapter] nor [train]: there is no adapter",
        ));
    };
    let directory = &place.path;
    let mut summary = Summary { directory: config.relative(directory), trained: false, state: None };
    if let Some(recipe) = &config.recipe {
        let wanted = train::wanted(config, recipe, base)?;
        let reason = match policy {
            TrainPolicy::Always => Some("once more, as --force or FINETEST_TRAIN=always asks".to_owned()),
            _ => mismatch(directory, &wanted)?,
        };
        if let Some(reason) = reason {
            if policy == TrainPolicy::Never {
                let directory = config.relative(directory);
                return Err(Error::failed(format!(
                    "{directory}: the adapter has to be trained ({reason}), and FINETEST_TRAIN=never forbids it; run `finetest train`"
                )));
            }
            on_event(Event::Note(format!("training {} ({reason})", config.relative(directory))));
            keep_old(config, directory, on_event)?;
            summary.state = Some(train::train(config, recipe, base, &wanted, policy, on_event)?);
            summary.trained = true;
        }
    }
    let stamp = read_stamp(directory)?;
    if let Some(stamp) = &stamp
        && stamp.base != base.fingerprint
    {
        let message = "the adapter was trained on another base (or its tokenizer or template changed): its stamp names another fingerprint";
        return Err(Error::model(directory, message));
    }
    let (adapter, family, parameters) = match stamp {
        // Ours, so it is a PEFT directory and fits the base.
        Some(stamp) => (adapter::load(directory)?, stamp.family, stamp.parameters),
        None => {
            let outline = model::outline(&base.files, &config.model)?;
            let adapter = adapter::open(directory, &outline)?;
            let notes = adapter::provenance::notes(&adapter, &config.root, &base.files, &config.model, &outline)?;
            notes.into_iter().for_each(|note| on_event(Event::Note(note)));
            (adapter, outline.family, outline.parameters)
        }
    };
    let hash = if adapter::is_gguf(directory) { hash_file(directory)? } else { hash_files(directory)? };
    Ok(Ready { adapter, directory: directory.clone(), hash, scale: place.scale, family, parameters, summary })
}

/// Writes the stamp of an adapter that was just trained.
pub(super) fn write_stamp(directory: &Path, wanted: &train::Wanted, family: &str, parameters: u64) -> Result<()> {
    let stamp = Stamp {
        recipe: wanted.recipe.clone(),
        data: wanted.data.clone(),
        base: wanted.base.clone(),
        adapter: hash_file(&directory.join(ADAPTER_WEIGHTS))?,
        family: family.to_owned(),
        parameters,
    };
    let json = serde_json::to_string_pretty(&stamp).map_err(|e| Error::failed(e.to_string()))?;
    write_atomically(&directory.join(STAMP), json.as_bytes())
}

/// Why the adapter in `directory` is not the one that is wanted; `None` when it is.
fn mismatch(directory: &Path, wanted: &train::Wanted) -> Result<Option<String>> {
    let weights = directory.join(ADAPTER_WEIGHTS);
    if !weights.is_file() {
        return Ok(Some("there is none yet".into()));
    }
    let Some(stamp) = read_stamp(directory)? else {
        let message = format!(
            "holds an adapter that finetest did not train (there is no {STAMP} beside it), and training would overwrite it; \
             remove [train] from the manifest to test it as it is, or give another [adapter] path"
        );
        return Err(Error::model(directory, message));
    };
    let changed = [
        ("recipe", stamp.recipe != wanted.recipe),
        ("data", stamp.data != wanted.data),
        ("base model", stamp.base != wanted.base),
    ];
    let changed: Vec<&str> = changed.iter().filter(|(_, changed)| *changed).map(|(what, _)| *what).collect();
    if !changed.is_empty() {
        return Ok(Some(format!("its {} changed", changed.join(" and "))));
    }
    if stamp.adapter != hash_file(&weights)? {
        return Ok(Some(format!("{ADAPTER_WEIGHTS} is not what was trained")));
    }
    Ok(None)
}

/// Moves an older adapter out of the way, where it can be found again.
fn keep_old(config: &Config, directory: &Path, on_event: Events<'_>) -> Result<()> {
    // A GGUF adapter may lie there alone, and the new one's would be written over it.
    let weights = [ADAPTER_WEIGHTS, GGUF_ADAPTER].map(|file| directory.join(file));
    let Some(weights) = weights.iter().find(|file| file.is_file()) else { return Ok(()) };
    let name = directory.file_name().map_or_else(|| "adapter".into(), |n| n.to_string_lossy().into_owned());
    let old = hash_file(weights)?;
    let kept = config.store().join("replaced").join(format!("{name}-{}", &old[..12]));
    std::fs::create_dir_all(&kept).map_err(Error::io(&kept, "create"))?;
    for file in [ADAPTER_WEIGHTS, ADAPTER_CONFIG, GGUF_ADAPTER, STAMP] {
        let from = directory.join(file);
        if from.is_file() {
            std::fs::copy(&from, kept.join(file)).map_err(Error::io(&from, "copy"))?;
        }
    }
    on_event(Event::Note(format!("the adapter that it replaces is kept in {}", config.relative(&kept))));
    Ok(())
}

fn read_stamp(directory: &Path) -> Result<Option<Stamp>> {
    let path = directory.join(STAMP);
    if !path.is_file() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path, "read"))?;
    serde_json::from_str(&text).map(Some).map_err(|e| Error::input(&path, e.line(), e.to_string()))
}

fn hash_file(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
    Ok(blake3::hash(&bytes).to_hex().to_string())
}

fn hash_files(directory: &Path) -> Result<String> {
    Ok([hash_file(&directory.join(ADAPTER_WEIGHTS))?, hash_file(&directory.join(ADAPTER_CONFIG))?].join(""))
}
