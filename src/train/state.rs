//! `trainer_state.json`: what happened, in the form that transformers' Trainer writes.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files::{read_regular_text, write_atomically};

/// File name of a [`TrainerState`].
pub const TRAINER_STATE: &str = "trainer_state.json";

/// One entry of the log: a training step has `loss`, a validation `eval_loss`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Optimizer steps done.
    pub step: usize,
    /// Passes over the data done.
    pub epoch: f64,
    /// Mean NLL of the step's labelled tokens, nats/token.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub loss: Option<f64>,
    /// Rate the step was made with.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub learning_rate: Option<f64>,
    /// Norm of the gradient before clipping.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub grad_norm: Option<f64>,
    /// Mean NLL of the validation set's labelled tokens, nats/token.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub eval_loss: Option<f64>,
    /// Lines of the data file that the step's examples stand in, `12,3,40`. transformers does not write it, and reads past it.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub lines: String,
}

/// Progress of a training. There is nothing volatile in it: a training that was killed and resumed writes the same bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Optimizer steps done.
    pub global_step: usize,
    /// Optimizer steps of the whole training.
    pub max_steps: usize,
    /// Passes over the data done.
    pub epoch: f64,
    /// Passes over the data in all.
    pub num_train_epochs: usize,
    /// Hash of the recipe, the data and the base: a state is resumed only with the same.
    pub fingerprint: String,
    /// The step of the validation with the least loss, where that adapter is kept.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub best_global_step: Option<usize>,
    /// Its loss.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub best_metric: Option<f64>,
    /// It ended before its last step, because no validation was better for long enough.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub stopped_early: bool,
    /// In the order of the steps.
    pub log_history: Vec<LogEntry>,
}

impl TrainerState {
    /// Reads a state.
    ///
    /// # Errors
    /// The file is missing or is not one.
    pub fn load(path: &Path) -> Result<Self> {
        let text = read_regular_text(path, u64::MAX)?;
        serde_json::from_str(&text).map_err(|e| Error::input(path, e.line(), e.to_string()))
    }

    /// Writes it, at once or not at all.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::failed(e.to_string()))?;
        write_atomically(path, text.as_bytes())
    }

    /// Whether the training is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.stopped_early || self.global_step >= self.max_steps
    }

    /// The validation losses, with their steps.
    pub fn validations(&self) -> impl Iterator<Item = (usize, f64)> {
        self.log_history.iter().filter_map(|e| e.eval_loss.map(|loss| (e.step, loss)))
    }
}
