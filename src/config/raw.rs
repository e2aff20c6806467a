//! A manifest as it is written.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::backend::RawBackend;
use super::{DataFormat, Dtype, OnError, Policy, Recipe, RunConfig};

/// A manifest as it is written. Nothing is required here, because a manifest may leave everything to the one it extends.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawManifest {
    pub(super) extends: Option<Spanned<PathBuf>>,
    #[serde(default)]
    pub(super) project: RawProject,
    #[serde(default)]
    pub(super) model: RawModel,
    pub(super) adapter: Option<RawAdapter>,
    #[serde(default)]
    pub(super) arms: BTreeMap<String, RawArm>,
    pub(super) data: Option<RawData>,
    pub(super) train: Option<Recipe>,
    #[serde(default)]
    pub(super) backend: RawBackend,
    #[serde(default)]
    pub(super) run: RunConfig,
    #[serde(default)]
    pub(super) gate: Policy,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawProject {
    pub(super) name: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawModel {
    pub(super) source: Option<String>,
    pub(super) sha256: Option<String>,
    pub(super) chat_template: Option<PathBuf>,
    pub(super) context: Option<usize>,
    #[serde(default)]
    pub(super) dtype: Dtype,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawArm {
    pub(super) adapter: Option<PathBuf>,
    pub(super) checkpoint: Option<usize>,
    pub(super) scale: Option<f64>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAdapter {
    pub(super) path: Option<PathBuf>,
    pub(super) scale: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawData {
    pub(super) train: Option<PathBuf>,
    pub(super) validation: Option<PathBuf>,
    #[serde(default)]
    pub(super) format: DataFormat,
    #[serde(default)]
    pub(super) on_error: OnError,
}
