//! The backend that a project names.

use std::sync::Arc;

use super::arms::Tested;
use super::base::Base;
#[cfg(not(feature = "llama-cpp"))]
use super::objective::not_built;
use super::server::NO_SERVER;
use crate::backend::{Backend, CandleBackend, Here, Remote, RemoteBackend, Second};
#[cfg(feature = "llama-cpp")]
use crate::backend::{ConvertedFiles, LlamaAdapter, LlamaCppBackend};
use crate::config::{BackendName, Config};
use crate::error::{Error, Result};

/// Name and version of a project's backend, as they decide an answer.
pub(super) fn version(config: &Config, name: BackendName, server: Option<&Arc<Remote>>) -> String {
    match name {
        BackendName::Remote => server.map_or_else(|| name.as_str().into(), |server| server.identity().to_owned()),
        BackendName::Candle => CandleBackend::version(&config.model),
        #[cfg(feature = "llama-cpp")]
        BackendName::LlamaCpp => LlamaCppBackend::version(false, config.gpu.as_ref()),
        #[cfg(feature = "llama-cpp")]
        BackendName::LlamaCppF32 => LlamaCppBackend::version(true, config.gpu.as_ref()),
        #[cfg(not(feature = "llama-cpp"))]
        BackendName::LlamaCpp | BackendName::LlamaCppF32 => name.as_str().into(),
    }
}

/// A backend with base and these arms; nothing is loaded yet.
pub(super) fn open(
    config: &Config,
    name: BackendName,
    base: &Base,
    arms: &[Tested],
    server: Option<&Arc<Remote>>,
) -> Result<Box<dyn Backend>> {
    match name {
        BackendName::Remote => Ok(Box::new(remote(config, base, arms, server)?)),
        BackendName::Candle => Ok(Box::new(candle(config, base, arms))),
        #[cfg(feature = "llama-cpp")]
        BackendName::LlamaCpp | BackendName::LlamaCppF32 => Ok(Box::new(llama_cpp(config, name, base, arms)?)),
        #[cfg(not(feature = "llama-cpp"))]
        BackendName::LlamaCpp | BackendName::LlamaCppF32 => Err(not_built(name)),
    }
}

/// A backend to be compared with candle; nothing is loaded yet.
pub(super) fn second(
    config: &Config,
    name: BackendName,
    base: &Base,
    arms: &[Tested],
    server: Option<&Arc<Remote>>,
) -> Result<Box<dyn Second>> {
    match name {
        BackendName::Remote => Ok(Box::new(remote(config, base, arms, server)?)),
        BackendName::Candle => Err(Error::Usage("candle is compared with another backend, not with itself".into())),
        #[cfg(feature = "llama-cpp")]
        BackendName::LlamaCpp | BackendName::LlamaCppF32 => Ok(Box::new(llama_cpp(config, name, base, arms)?)),
        #[cfg(not(feature = "llama-cpp"))]
        BackendName::LlamaCpp | BackendName::LlamaCppF32 => Err(not_built(name)),
    }
}

/// The project's server with base and these arms.
fn remote(config: &Config, base: &Base, arms: &[Tested], server: Option<&Arc<Remote>>) -> Result<RemoteBackend> {
    let server = server.ok_or_else(|| Error::Usage(NO_SERVER.into()))?;
    let here = |Tested { name, ready }: &Tested| Here {
        arm: name.clone(),
        adapter: ready.adapter.clone(),
        hash: ready.hash.clone(),
        path: std::path::absolute(&ready.directory).unwrap_or_else(|_| ready.directory.clone()).display().to_string(),
        below: config.relative(&ready.directory),
    };
    let adapters = std::iter::once(None).chain(arms.iter().map(|arm| Some(here(arm)))).collect();
    Ok(RemoteBackend::new(server.clone(), base.files.clone(), config.model.clone(), adapters))
}

/// candle with base and these arms.
pub(super) fn candle(config: &Config, base: &Base, arms: &[Tested]) -> CandleBackend {
    let of = |arm: &Tested| Some((arm.ready.adapter.clone(), arm.ready.scale));
    let adapters = std::iter::once(None).chain(arms.iter().map(of)).collect();
    CandleBackend::new(base.files.clone(), config.model.clone(), adapters, config.run.batch)
}

/// llama.cpp with base and these arms.
#[cfg(feature = "llama-cpp")]
fn llama_cpp(config: &Config, name: BackendName, base: &Base, arms: &[Tested]) -> Result<LlamaCppBackend> {
    let adapter = |Tested { ready, .. }: &Tested| LlamaAdapter {
        adapter: ready.adapter.clone(),
        directory: ready.directory.clone(),
        scale: ready.scale,
        hash: format!("{} {}", ready.hash, base.fingerprint),
    };
    let arms = std::iter::once(None).chain(arms.iter().map(|arm| Some(adapter(arm)))).collect();
    let f32_of = (name == BackendName::LlamaCppF32).then(|| base.fingerprint.clone());
    let converted = ConvertedFiles { directory: config.store().join("llama-cpp"), f32_of };
    LlamaCppBackend::new(
        base.files.clone(),
        config.model.clone(),
        arms,
        converted,
        (config.gpu.clone(), config.run.batch),
    )
}
