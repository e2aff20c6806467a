//! The backend that a project names.

use super::adapter::Ready;
use super::base::Base;
#[cfg(not(feature = "llama-cpp"))]
use super::objective::not_built;
use crate::backend::{Backend, CandleBackend};
#[cfg(feature = "llama-cpp")]
use crate::backend::{Kept, LlamaAdapter, LlamaCppBackend};
use crate::config::{BackendName, Config};
use crate::error::Result;

/// Name and version of a project's backend, as they decide an answer.
pub(super) fn version(config: &Config, name: BackendName) -> String {
    match name {
        BackendName::Candle => CandleBackend::version(&config.model),
        #[cfg(feature = "llama-cpp")]
        BackendName::LlamaCpp => LlamaCppBackend::version(false),
        #[cfg(feature = "llama-cpp")]
        BackendName::LlamaCppF32 => LlamaCppBackend::version(true),
        #[cfg(not(feature = "llama-cpp"))]
        BackendName::LlamaCpp | BackendName::LlamaCppF32 => name.as_str().into(),
    }
}

/// A backend with a project's two arms; nothing is loaded yet.
pub(super) fn of(config: &Config, name: BackendName, base: &Base, tuned: &Ready) -> Result<Box<dyn Backend>> {
    match name {
        BackendName::Candle => Ok(Box::new(candle(config, base, tuned))),
        #[cfg(feature = "llama-cpp")]
        BackendName::LlamaCpp | BackendName::LlamaCppF32 => Ok(Box::new(llama_cpp(config, name, base, tuned)?)),
        #[cfg(not(feature = "llama-cpp"))]
        BackendName::LlamaCpp | BackendName::LlamaCppF32 => Err(not_built(name)),
    }
}

/// candle with the project's two arms.
pub(super) fn candle(config: &Config, base: &Base, tuned: &Ready) -> CandleBackend {
    let adapters = vec![None, Some((tuned.adapter.clone(), tuned.scale))];
    CandleBackend::new(base.files.clone(), config.model.clone(), adapters, config.run.batch)
}

/// llama.cpp with the project's two arms.
#[cfg(feature = "llama-cpp")]
pub(super) fn llama_cpp(config: &Config, name: BackendName, base: &Base, tuned: &Ready) -> Result<LlamaCppBackend> {
    let adapter = LlamaAdapter {
        adapter: tuned.adapter.clone(),
        directory: tuned.directory.clone(),
        scale: tuned.scale,
        hash: format!("{} {}", tuned.hash, base.fingerprint),
    };
    let f32_of = (name == BackendName::LlamaCppF32).then(|| base.fingerprint.clone());
    let kept = Kept { directory: config.store().join("llama-cpp"), f32_of };
    LlamaCppBackend::new(base.files.clone(), config.model.clone(), vec![None, Some(adapter)], kept, config.run.batch)
}
