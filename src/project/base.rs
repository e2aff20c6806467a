//! The base of a project.

use crate::config::Config;
use crate::model::ModelFiles;
use crate::model::sources::Sources;

/// A model's files, and the hash of all that decides its answers.
pub(super) struct Base {
    pub(super) files: ModelFiles,
    /// Of weights, tokenizer and template.
    pub(super) fingerprint: String,
    /// Of the weights alone, with `config.json`; [`OF_SERVER`] where they are not here.
    pub(super) weights: String,
}

/// The base's files, if all of them are on this machine.
pub(super) fn files_here(config: &Config) -> Option<ModelFiles> {
    Sources::from_env().ok()?.offline().resolve(&config.model, &mut |_| {}).ok()
}

/// In place of a hash, of weights that a server has and this machine has not.
pub(super) const OF_SERVER: &str = "the server's";

impl Base {
    /// Whether the weights are here.
    pub(super) fn is_here(&self) -> bool {
        self.weights != OF_SERVER
    }
}
