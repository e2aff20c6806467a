//! What a trained adapter came from: `finetest.json` beside it. The adapter is used only while all of it is still so.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::base::Base;
use super::launch;
use crate::config::{BackendName, Config, DataConfig, Recipe};
use crate::data::file_hash;
use crate::error::{Error, Result};
use crate::files::{read_own, read_regular_text, write_atomically};
use crate::model::lora::{ADAPTER_CONFIG, ADAPTER_WEIGHTS};

/// File beside an adapter that says what it was trained from.
pub(super) const PROVENANCE_FILE: &str = "finetest.json";
/// Bytes of a provenance.
const LONGEST: u64 = 1 << 20;

/// Raised when the same recipe would train other bytes.
const TRAINER: u32 = 1;

/// What the adapter has to come from.
pub(super) struct ExpectedProvenance {
    pub(super) recipe: String,
    pub(super) data: String,
    pub(super) base: String,
}

impl ExpectedProvenance {
    /// Of a training on one backend: it continues with the gradients that it began with.
    pub(super) fn fingerprint(&self, backend: BackendName) -> String {
        let expected = [self.recipe.as_str(), &self.data, &self.base].join("\n");
        let expected = blake3::hash(expected.as_bytes()).to_hex().to_string();
        match backend {
            // A server trains nothing.
            BackendName::Candle | BackendName::Remote => expected,
            BackendName::LlamaCpp | BackendName::LlamaCppF32 => {
                blake3::hash(format!("{} {expected}", backend.as_str()).as_bytes()).to_hex().to_string()
            }
        }
    }
}

/// Hashes of the recipe, the data and the base.
pub(super) fn expected_provenance(config: &Config, recipe: &Recipe, base: &Base) -> Result<ExpectedProvenance> {
    // What changes no byte of the adapter is none of what decides it.
    let own = Recipe { save_steps: None, save_total_limit: 1, gradient_checkpointing: false, ..recipe.clone() };
    let decisive = Recipe { launch: recipe.launch.decisive(), ..own };
    let mut recipe_text = serde_json::to_string(&decisive).map_err(|e| Error::failed(e.to_string()))?;
    recipe_text.push_str(&launch::decisive(config, recipe)?);
    let recipe = recipe_text;
    Ok(ExpectedProvenance {
        recipe: blake3::hash(format!("{TRAINER} {recipe}").as_bytes()).to_hex().to_string(),
        data: data_hash(data_of(config)?)?,
        base: base.fingerprint.clone(),
    })
}

/// Hash of the training and validation files, and of how they are read.
pub(super) fn data_hash(data: &DataConfig) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for path in std::iter::once(&data.train).chain(&data.validation) {
        hasher.update(file_hash(path)?.as_bytes());
    }
    hasher.update(format!("{:?} {:?} {}", data.format, data.on_error, data.validation.is_some()).as_bytes());
    Ok(hasher.finalize().to_hex().to_string())
}

pub(super) fn data_of(config: &Config) -> Result<&DataConfig> {
    config
        .data
        .as_ref()
        .ok_or_else(|| Error::input(&config.manifest, None, "[data] is missing: there is nothing to train on"))
}

/// Hashes of what an adapter was trained from, and of what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Provenance {
    /// Hash of `[train]`, without what only says how often to look.
    pub(super) recipe: String,
    /// Hash of the training and validation files, and of how they are read.
    pub(super) data: String,
    /// Hash of the base's weights, tokenizer and template.
    pub(super) base: String,
    /// Hash of `adapter_model.safetensors`.
    pub(super) adapter: String,
    /// Hash of `adapter_config.json`, which scales what the tensors say.
    pub(super) config: String,
    /// Architecture of the base, for reports.
    pub(super) family: String,
    /// Weights of the base, for reports.
    pub(super) parameters: u64,
}

impl Provenance {
    /// Writes the provenance of an adapter that was just written to `directory`.
    pub(super) fn write(directory: &Path, expected: &ExpectedProvenance, family: &str, parameters: u64) -> Result<()> {
        let provenance = Self {
            recipe: expected.recipe.clone(),
            data: expected.data.clone(),
            base: expected.base.clone(),
            adapter: hash_file(&directory.join(ADAPTER_WEIGHTS))?,
            config: hash_file(&directory.join(ADAPTER_CONFIG))?,
            family: family.to_owned(),
            parameters,
        };
        let json = serde_json::to_string_pretty(&provenance).map_err(|e| Error::failed(e.to_string()))?;
        write_atomically(&directory.join(PROVENANCE_FILE), json.as_bytes())
    }

    /// Reads the provenance in a directory; `None` where there is none.
    ///
    /// # Errors
    /// It cannot be read, or is not a provenance of this version.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(PROVENANCE_FILE);
        // A link to nothing and a pipe are there, and are not a provenance.
        if path.symlink_metadata().is_err() {
            return Ok(None);
        }
        let text = read_regular_text(&path, LONGEST)?;
        serde_json::from_str(&text).map(Some).map_err(|e| {
            let message = format!(
                "is damaged or of another version of finetest: {e}; train the adapter again with `finetest train --force`, or remove \
                 this file and [train] to test the adapter as it is"
            );
            Error::input(&path, e.line(), message)
        })
    }

    /// Which of the adapter's files is not the one that this provenance was written for.
    pub(super) fn changed_file(&self, directory: &Path) -> Result<Option<&'static str>> {
        for (name, hash) in [(ADAPTER_WEIGHTS, &self.adapter), (ADAPTER_CONFIG, &self.config)] {
            let path = directory.join(name);
            if !path.is_file() || hash_file(&path)? != *hash {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }
}

/// Files that an adapter has, whoever trained it.
const FOREIGN: [&str; 3] = [ADAPTER_WEIGHTS, ADAPTER_CONFIG, "adapter_model.bin"];

/// Why the adapter in `directory` is not the one that is expected; `None` when it is.
///
/// # Errors
/// It is somebody else's.
pub(super) fn mismatch(directory: &Path, expected: &ExpectedProvenance) -> Result<Option<String>> {
    let provenance = Provenance::read(directory)?;
    // Also where its weights are pickled, or lie on a disk that is not there now.
    let foreign = FOREIGN.iter().any(|name| directory.join(name).symlink_metadata().is_ok());
    if provenance.is_none() && !foreign {
        return Ok(Some("there is none yet".into()));
    }
    let Some(provenance) = provenance else {
        let message = format!(
            "holds an adapter that finetest did not train (there is no {PROVENANCE_FILE} beside it), and training would overwrite it; \
             remove [train] from the manifest to test it as it is, or give another [adapter] path"
        );
        return Err(Error::model(directory, message));
    };
    let changed = [
        ("recipe", provenance.recipe != expected.recipe),
        ("data", provenance.data != expected.data),
        ("base model", provenance.base != expected.base),
    ];
    let changed: Vec<&str> = changed.iter().filter(|(_, changed)| *changed).map(|(what, _)| *what).collect();
    if !changed.is_empty() {
        return Ok(Some(format!("its {} changed", changed.join(" and "))));
    }
    Ok(provenance.changed_file(directory)?.map(|file| format!("{file} is not what was trained")))
}

/// Hash of a file's content.
pub(super) fn hash_file(path: &Path) -> Result<String> {
    let bytes = read_own(path)?;
    Ok(blake3::hash(&bytes).to_hex().to_string())
}
