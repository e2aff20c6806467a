//! Finds out what a server is.

use super::http::{Client, Failure, Patience};
use super::server::Server;
use super::{llama_server, ollama, openai, sglang, vllm};
use crate::config::{RemoteConfig, ServerKind};
use crate::error::{Error, Result};

/// Reaches the server at an address and finds out which of its adapters is whose. `arms` are the arms after base: their
/// names, and the scales of their adapters.
///
/// # Errors
/// It cannot be reached, is of no dialect that is known, or has no such adapter.
pub(super) fn connect(
    config: &RemoteConfig,
    url: &str,
    patience: &Patience,
    arms: &[(String, f64)],
) -> Result<Box<dyn Server>> {
    let client = Client::new(config, url, patience)?;
    let kind = match config.server {
        ServerKind::Auto => told(&client)?,
        kind => kind,
    };
    if kind == ServerKind::LlamaServer {
        if config.adapters_at.is_some() {
            return Err(Error::failed(format!(
                "{url} is llama-server, which loads adapters when it starts: give it --lora FILE, and take [backend] adapters_at out"
            )));
        }
        return Ok(Box::new(llama_server::LlamaServer::connect(client, config, arms)?));
    }
    if let Some((name, scale)) = arms.iter().find(|(_, scale)| *scale != 1.0) {
        return Err(Error::failed(format!(
            "{url} applies an adapter whole, and {name}'s scale is {scale}; ask llama-server, which takes a scale, or have an adapter made that is scaled so"
        )));
    }
    if let (Some(_), ServerKind::Sglang | ServerKind::Ollama | ServerKind::Openai) = (&config.adapters_at, kind) {
        return Err(Error::failed(format!(
            "{url} is asked to load adapters, which only vLLM is: start the server with them, and take [backend] adapters_at out"
        )));
    }
    let arms: Vec<String> = arms.iter().map(|(name, _)| name.clone()).collect();
    let arms = arms.as_slice();
    Ok(match kind {
        ServerKind::Vllm => Box::new(vllm::Vllm::connect(client, config, arms)?),
        ServerKind::Sglang => Box::new(sglang::Sglang::connect(client, config, arms)?),
        ServerKind::Ollama => Box::new(ollama::Ollama::connect(client, config, arms)?),
        ServerKind::Openai | ServerKind::Auto | ServerKind::LlamaServer => {
            Box::new(openai::OpenAi::connect(client, config, arms)?)
        }
    })
}

/// llama-server has `/props`, vLLM `/version`, Ollama `/api/version`; SGLang says whose its models are. All others are asked as OpenAI's are.
fn told(client: &Client) -> Result<ServerKind> {
    let fail = |failure: Failure| Error::failed(failure.why());
    match client.once().get("/props") {
        Ok(props) if props.get("build_info").is_some() => return Ok(ServerKind::LlamaServer),
        Err(failure @ Failure::Refused(401 | 403, _)) => return Err(fail(failure)),
        _ => {}
    }
    let has = |path: &str| match client.get(path) {
        Ok(found) => Ok(found["version"].is_string()),
        Err(Failure::Refused(..)) => Ok(false),
        Err(failure) => Err(fail(failure)),
    };
    if has("/version")? {
        return Ok(ServerKind::Vllm);
    }
    if has("/api/version")? {
        return Ok(ServerKind::Ollama);
    }
    match client.get("/v1/models") {
        Ok(models) if models["data"][0]["owned_by"] == "sglang" => Ok(ServerKind::Sglang),
        Ok(models) if models["data"].is_array() => Ok(ServerKind::Openai),
        Ok(_) | Err(Failure::Refused(404 | 405, _)) => Err(Error::failed(format!(
            "{} lists no models at /v1/models; is this the server's address? If so, say which dialect it speaks: [backend] server = \"llama-server\", \"vllm\", \"sglang\", \"ollama\" or \"openai\"",
            client.url()
        ))),
        Err(failure) => Err(fail(failure)),
    }
}
