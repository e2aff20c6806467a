//! The base of a project.

use crate::model::ModelFiles;

/// A model's files, and the hash of all that decides its answers.
pub(super) struct Base {
    pub(super) files: ModelFiles,
    /// Of weights, tokenizer and template.
    pub(super) fingerprint: String,
    /// Of the weights alone, with `config.json`; [`OF_SERVER`] where they are not here.
    pub(super) weights: String,
}

/// In place of a hash, of weights that a server has and this machine has not.
pub(super) const OF_SERVER: &str = "the server's";

impl Base {
    /// Whether the weights are here.
    pub(super) fn is_here(&self) -> bool {
        self.weights != OF_SERVER
    }
}
