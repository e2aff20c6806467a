//! What a project's training descends when llama.cpp computes it.

use super::prepared::Prepared;
#[cfg(feature = "llama-cpp")]
use crate::backend::LlamaCppObjective;
use crate::config::{BackendName, Recipe};
#[cfg(not(feature = "llama-cpp"))]
use crate::error::Error;
use crate::error::Result;
use crate::model::architecture::outline::Outline;
use crate::train::Objective;
use crate::train::encode::Encoded;

/// What a training of the project on llama.cpp descends.
///
/// # Errors
/// This program was built without llama.cpp; it cannot train this base or these examples.
pub(super) fn llama_cpp_objective<'a>(
    project: &Prepared<'_>,
    name: BackendName,
    outline: &'a Outline,
    recipe: &'a Recipe,
    examples: [&[Encoded]; 2],
) -> Result<Box<dyn Objective + 'a>> {
    #[cfg(feature = "llama-cpp")]
    {
        let _ = name;
        let Prepared { config, base, .. } = project;
        let objective = LlamaCppObjective::new(&base.files, &config.model, outline, recipe, &examples, config.store())?;
        Ok(Box::new(objective))
    }
    #[cfg(not(feature = "llama-cpp"))]
    {
        let _ = (project, outline, recipe, examples);
        Err(not_built(name))
    }
}

/// This program has no such backend.
#[cfg(not(feature = "llama-cpp"))]
pub(super) fn not_built(name: BackendName) -> Error {
    let why = BackendName::parse(name.as_str()).err().unwrap_or_default();
    Error::Usage(format!("the backend is {why}"))
}
