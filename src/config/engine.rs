//! `[train] engine`: who trains, and how the trainer is started.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Recipe;
use super::micro_batch::MicroBatch;

/// Who trains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// finetest, on the backend of the project.
    #[default]
    Finetest,
    /// axolotl.
    Axolotl,
    /// TRL's supervised fine-tuning.
    Trl,
    /// LLaMA-Factory.
    Llamafactory,
    /// A command of your own.
    Command,
}

impl Engine {
    /// finetest itself trains.
    #[must_use]
    pub fn is_own(&self) -> bool {
        *self == Self::Finetest
    }

    /// As its makers write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Finetest => "finetest",
            Self::Axolotl => "axolotl",
            Self::Trl => "TRL",
            Self::Llamafactory => "LLaMA-Factory",
            Self::Command => "the command",
        }
    }

    /// Environment variable that names its Python where the manifest does not.
    #[must_use]
    pub fn python_variable(self) -> Option<&'static str> {
        match self {
            Self::Axolotl => Some("FINETEST_AXOLOTL_PYTHON"),
            Self::Trl => Some("FINETEST_TRL_PYTHON"),
            Self::Llamafactory => Some("FINETEST_LLAMAFACTORY_PYTHON"),
            Self::Finetest | Self::Command => None,
        }
    }
}

/// `[train.launch]`: how another trainer is started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Launch {
    /// Python of the engine's own environment; default: what FINETEST_TRL_PYTHON, FINETEST_AXOLOTL_PYTHON or FINETEST_LLAMAFACTORY_PYTHON
    /// names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub python: Option<PathBuf>,
    /// The model that the engine loads, a directory or a name on the Hugging Face Hub; default: `[model] source`. A base that is a GGUF file
    /// needs it: engines train the model that the file was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Processes that train together; default 1. If another number took part, the training is an error.
    pub processes: usize,
    /// A configuration of yours instead of the one that finetest writes. In it `{model}`, `{data}`, `{validation}`, `{output}` and
    /// `{directory}` are replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<PathBuf>,
    /// Further keys of the configuration that finetest writes, as the engine names them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<String, serde_json::Value>,
    /// The program and its arguments instead of finetest's own, such as a launcher with its options. `{config}`, `{python}` and what is
    /// replaced in a configuration are replaced here too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Train on a base that is quantised to four bits (QLoRA, on a GPU); default false.
    pub load_in_4bit: bool,
    /// Hours after which a training is ended; default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_hours: Option<f64>,
}

impl Default for Launch {
    fn default() -> Self {
        Self {
            python: None,
            model: None,
            processes: 1,
            config: None,
            keys: BTreeMap::new(),
            command: Vec::new(),
            load_in_4bit: false,
            timeout_hours: None,
        }
    }
}

/// Processes: above it a number is a slip.
const MOST_PROCESSES: usize = 4096;

impl Launch {
    /// Nothing is said.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// What decides the adapter: not where Python is, nor how long it may take.
    #[must_use]
    pub(crate) fn decisive(&self) -> Self {
        Self { python: None, timeout_hours: None, ..self.clone() }
    }
}

/// What is wrong with the engine of a recipe: a key of `[train]`, and why.
pub(super) fn check(recipe: &Recipe, fail: &mut impl FnMut(&str, String)) {
    let (engine, launch) = (recipe.engine, &recipe.launch);
    if engine.is_own() {
        if !launch.is_default() {
            fail("launch", "is for another engine; say which one: [train] engine = \"trl\", \"axolotl\", \"llamafactory\" or \"command\"".into());
        }
        return;
    }
    if !(1..=MOST_PROCESSES).contains(&launch.processes) {
        fail("launch.processes", format!("is {}, expected 1 to {MOST_PROCESSES}", launch.processes));
    }
    if let Some(hours) = launch.timeout_hours.filter(|hours| !(hours.is_finite() && *hours > 0.0)) {
        fail("launch.timeout_hours", format!("is {hours}, expected more than 0"));
    }
    if engine == Engine::Command && launch.command.is_empty() {
        fail("launch.command", "is missing; give the program and its arguments, such as [\"python\", \"train.py\", \"{data}\", \"{output}\"]".into());
    }
    if launch.config.is_some() && !launch.keys.is_empty() {
        fail(
            "launch.keys",
            "are added to the configuration that finetest writes, and launch.config is yours; write them there".into(),
        );
    }
    if launch.config.is_some() || engine == Engine::Command {
        return;
    }
    let name = engine.name();
    let unmapped = [
        ("micro_batch_size", recipe.micro_batch_size == MicroBatch::Auto, "give a number"),
        ("early_stopping_patience", engine == Engine::Trl && recipe.early_stopping_patience.is_some(), "take it out"),
        ("train_on_inputs", engine == Engine::Axolotl && recipe.train_on_inputs, "take it out"),
        ("lora_alpha", engine == Engine::Llamafactory && recipe.lora_alpha.fract() != 0.0, "give a whole number"),
    ];
    for (key, _, help) in unmapped.iter().filter(|(_, unmapped, _)| *unmapped) {
        fail(key, format!("has nothing like it in {name}; {help}, or write launch.config yourself"));
    }
}
