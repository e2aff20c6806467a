//! The base of a project.

use crate::model::ModelFiles;

/// A model's files, and the hash of all that decides its answers.
pub(super) struct Base {
    pub(super) files: ModelFiles,
    /// Of weights, tokenizer and template.
    pub(super) fingerprint: String,
    /// Of the weights alone, with `config.json`.
    pub(super) weights: String,
}
