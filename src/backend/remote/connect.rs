//! Finds out what a server is.

use super::http::{Client, Failure};
use super::server::Server;
use super::{llama_server, vllm};
use crate::config::{RemoteConfig, ServerKind};
use crate::error::{Error, Result};

/// Reaches a server and finds out which of its adapters is whose. `arms` are the names of the arms after base.
///
/// # Errors
/// It cannot be reached, is of no dialect that is known, or has no such adapter.
pub(super) fn connect(config: &RemoteConfig, arms: &[String]) -> Result<Box<dyn Server>> {
    let client = Client::new(config)?;
    let kind = match config.server {
        ServerKind::Auto => told(&client)?,
        kind => kind,
    };
    match kind {
        ServerKind::LlamaServer => Ok(Box::new(llama_server::LlamaServer::connect(client, config, arms)?)),
        ServerKind::Vllm | ServerKind::Auto => Ok(Box::new(vllm::Vllm::connect(client, config, arms)?)),
    }
}

/// llama-server has `/props`, vLLM `/version`.
fn told(client: &Client) -> Result<ServerKind> {
    match client.once().get("/props") {
        Ok(props) if props.get("build_info").is_some() => return Ok(ServerKind::LlamaServer),
        Err(failure @ Failure::Refused(401 | 403, _)) => return Err(Error::failed(failure.why())),
        _ => {}
    }
    match client.get("/version") {
        Ok(version) if version.get("version").is_some() => Ok(ServerKind::Vllm),
        Ok(_) | Err(Failure::Refused(..)) => Err(Error::failed(format!(
            "{} is neither llama-server nor vLLM, by /props and /version; say which dialect it speaks: [backend] server = \"llama-server\" or \"vllm\"",
            client.url()
        ))),
        Err(failure) => Err(Error::failed(failure.why())),
    }
}
