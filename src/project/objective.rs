//! What a project's training descends.

use super::base::Base;
#[cfg(feature = "llama-cpp")]
use crate::backend::LlamaCppObjective;
use crate::config::{BackendName, Config, Recipe};
use crate::error::{Error, Result};
use crate::model::architecture::outline::Outline;
use crate::model::decoder::Decoder;
use crate::train::encode::Encoded;
use crate::train::{InProcess, Objective};

/// What a training of the project descends; `decoder` is candle's.
pub(super) fn objective<'a>(
    config: &Config,
    name: BackendName,
    base: &Base,
    decoder: Option<Decoder>,
    outline: &'a Outline,
    recipe: &'a Recipe,
    examples: [&[Encoded]; 2],
) -> Result<Box<dyn Objective + 'a>> {
    match name {
        BackendName::Candle => {
            let decoder = decoder.ok_or_else(|| Error::failed("candle trains a decoder that is loaded"))?;
            Ok(Box::new(InProcess::new(decoder, recipe)))
        }
        #[cfg(feature = "llama-cpp")]
        BackendName::LlamaCpp | BackendName::LlamaCppF32 => {
            let objective =
                LlamaCppObjective::new(&base.files, &config.model, outline, recipe, &examples, config.store())?;
            Ok(Box::new(objective))
        }
        #[cfg(not(feature = "llama-cpp"))]
        BackendName::LlamaCpp | BackendName::LlamaCppF32 => {
            let _ = (config, base, outline, examples);
            Err(not_built(name))
        }
    }
}

/// This program has no such backend.
#[cfg(not(feature = "llama-cpp"))]
pub(super) fn not_built(name: BackendName) -> Error {
    let why = BackendName::parse(name.as_str()).err().unwrap_or_default();
    Error::Usage(format!("the backend is {why}"))
}
