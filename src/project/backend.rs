//! The backend that a project names.

use crate::backend::{Backend, CandleBackend};
#[cfg(feature = "llama-cpp")]
use crate::backend::{Kept, LlamaAdapter, LlamaCppBackend, LlamaCppObjective};
use crate::config::{BackendName, Config, Recipe};
use crate::error::{Error, Result};
use crate::model::architecture::outline::Outline;
use crate::model::decoder::Decoder;
use crate::train::encode::Encoded;
use crate::train::{InProcess, Objective};

use super::Base;
use super::adapter::Ready;

/// Name and version of a project's backend, as they decide an answer.
pub(super) fn version(config: &Config) -> String {
    match config.backend {
        BackendName::Candle => CandleBackend::version(&config.model),
        #[cfg(feature = "llama-cpp")]
        BackendName::LlamaCpp => LlamaCppBackend::version(false),
        #[cfg(feature = "llama-cpp")]
        BackendName::LlamaCppF32 => LlamaCppBackend::version(true),
        #[cfg(not(feature = "llama-cpp"))]
        BackendName::LlamaCpp | BackendName::LlamaCppF32 => config.backend.as_str().into(),
    }
}

/// A project's backend with its two arms; nothing is loaded yet.
pub(super) fn of(config: &Config, base: Base, tuned: Ready) -> Result<Box<dyn Backend>> {
    match config.backend {
        BackendName::Candle => Ok(Box::new(candle(config, base, tuned))),
        #[cfg(feature = "llama-cpp")]
        BackendName::LlamaCpp | BackendName::LlamaCppF32 => Ok(Box::new(llama_cpp(config, base, tuned)?)),
        #[cfg(not(feature = "llama-cpp"))]
        BackendName::LlamaCpp | BackendName::LlamaCppF32 => Err(not_built(config)),
    }
}

/// candle with the project's two arms.
pub(super) fn candle(config: &Config, base: Base, tuned: Ready) -> CandleBackend {
    let adapters = vec![None, Some((tuned.adapter, tuned.scale))];
    CandleBackend::new(base.files, config.model.clone(), adapters, config.run.batch)
}

/// llama.cpp with the project's two arms.
#[cfg(feature = "llama-cpp")]
pub(super) fn llama_cpp(config: &Config, base: Base, tuned: Ready) -> Result<LlamaCppBackend> {
    let adapter = LlamaAdapter {
        adapter: tuned.adapter,
        directory: tuned.directory,
        scale: tuned.scale,
        hash: format!("{} {}", tuned.hash, base.fingerprint),
    };
    let f32_of = (config.backend == BackendName::LlamaCppF32).then_some(base.fingerprint);
    let kept = Kept { directory: config.store().join("llama-cpp"), f32_of };
    LlamaCppBackend::new(base.files, config.model.clone(), vec![None, Some(adapter)], kept, config.run.batch)
}

/// What a training of the project descends; `decoder` is candle's.
pub(super) fn objective<'a>(
    config: &Config,
    base: &Base,
    decoder: Option<Decoder>,
    outline: &'a Outline,
    recipe: &'a Recipe,
    examples: [&[Encoded]; 2],
) -> Result<Box<dyn Objective + 'a>> {
    match config.backend {
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
            let _ = (base, outline, examples);
            Err(not_built(config))
        }
    }
}

/// This program has no such backend.
#[cfg(not(feature = "llama-cpp"))]
fn not_built(config: &Config) -> Error {
    let why = BackendName::parse(config.backend.as_str()).err().unwrap_or_default();
    Error::Usage(format!("the backend is {why}"))
}
