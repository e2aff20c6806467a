//! `[backend]`: what answers.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::gpu::{self, Devices, GpuConfig, RawLayers};
use super::places::Places;
use crate::error::Error;

/// A backend by its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendName {
    /// The decoder of this crate, in this process.
    #[default]
    Candle,
    /// llama.cpp, in a process of its own.
    LlamaCpp,
    /// llama.cpp on the base's weights widened to f32: what it computes without its rounding of activations to 8 bits.
    LlamaCppF32,
    /// A server.
    Remote,
}

impl BackendName {
    /// As it is written in a manifest and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Candle => "candle",
            Self::LlamaCpp => "llama-cpp",
            Self::LlamaCppF32 => "llama-cpp-f32",
            Self::Remote => "remote",
        }
    }

    /// The backend of this name.
    ///
    /// # Errors
    /// A name that is not known, with those that are; a backend that this program was built without, with how to build it.
    pub fn parse(name: &str) -> Result<Self, String> {
        match name {
            "candle" => Ok(Self::Candle),
            "remote" => Ok(Self::Remote),
            "llama-cpp" if cfg!(feature = "llama-cpp") => Ok(Self::LlamaCpp),
            "llama-cpp-f32" if cfg!(feature = "llama-cpp") => Ok(Self::LlamaCppF32),
            "llama-cpp" | "llama-cpp-f32" => Err(format!(
                "{name:?}, which this program was built without; build it with `cargo build --release --features llama-cpp` \
                 (it needs cmake and libclang)"
            )),
            _ => Err(format!("{name:?}, which is not known; known are: candle, llama-cpp, llama-cpp-f32, remote")),
        }
    }
}

/// `[backend]` as it is written.
#[derive(Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawBackend {
    /// Inference backend: `candle`, `llama-cpp`, `llama-cpp-f32` (weights in f32, for a small model), or `remote` (a server); default
    /// `candle`.
    pub(super) name: Option<String>,
    /// Last layers that llama.cpp computes on a GPU, the head counted as one, or `"all"`; default `"all"` where this program is built for a
    /// GPU, else 0.
    pub(super) gpu_layers: Option<RawLayers>,
    /// llama.cpp's name of the GPU, such as `CUDA0`, or a list; default: every GPU that it finds.
    pub(super) device: Option<Devices>,
    /// Address of the server of `remote`: `http://localhost:8000`; or a list of addresses, which serve the same.
    pub(super) url: Option<Urls>,
    /// What the server of `remote` is: `auto` (default, it is asked), `llama-server`, `vllm`, `sglang`, `ollama`, or `openai` for any
    /// other with `/v1/chat/completions`.
    pub(super) server: ServerKind,
    /// The server's name of base; default: the only one that it has. `ollama` and `openai` need it.
    pub(super) model: Option<String>,
    /// The server's name of each arm's adapter: a number or file (llama-server), else a model's name; default: the arm's name, or the
    /// only adapter that there is.
    pub(super) adapters: BTreeMap<String, String>,
    /// This project's directory as vLLM sees it, which loads the adapters from there under names that carry their hashes; `.` where both are
    /// on one machine; default: the server has them.
    pub(super) adapters_at: Option<String>,
    /// A server that takes messages only may render them otherwise than the base's template here; default `false`: that is an error.
    pub(super) other_template: Option<bool>,
    /// Compare the server with the weights of base and adapters on this machine, before anything is asked; they are fetched for that; default
    /// `false`.
    pub(super) prove_weights: Option<bool>,
    /// Environment variable that holds the server's key; default: none is sent.
    pub(super) api_key_env: Option<String>,
    /// Requests at the same time to each address; default: the slots that the server has (llama-server), 4 (ollama), or 16.
    pub(super) concurrency: Option<usize>,
    /// Seconds that a request may take; default 300.
    pub(super) timeout: Option<f64>,
    /// Most likely tokens of each position that drift is measured on; default 20, and 0 for likelihoods alone.
    pub(super) top_logprobs: Option<usize>,
}

/// One address, or several.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub(super) enum Urls {
    One(String),
    Several(Vec<String>),
}

/// What a server is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, serde::Serialize))]
#[serde(rename_all = "kebab-case")]
pub enum ServerKind {
    /// It is asked what it is.
    #[default]
    Auto,
    /// llama.cpp's server.
    LlamaServer,
    /// vLLM's OpenAI-compatible server.
    Vllm,
    /// SGLang's server.
    Sglang,
    /// Ollama.
    Ollama,
    /// Any server with `/v1/chat/completions`.
    Openai,
}

/// `[backend]` of a server.
#[derive(Clone, Debug, PartialEq)]
pub struct RemoteConfig {
    /// Its addresses, without a slash at the end.
    pub urls: Vec<String>,
    /// What it is.
    pub server: ServerKind,
    /// Its name of base.
    pub model: Option<String>,
    /// Its name of each arm's adapter.
    pub adapters: BTreeMap<String, String>,
    /// This project's directory as the server sees it, where it loads the adapters from; `None`: it has them.
    pub adapters_at: Option<String>,
    /// It may render messages otherwise than the base's template here.
    pub other_template: bool,
    /// It is compared with the weights of this machine before anything is asked.
    pub prove_weights: bool,
    /// Environment variable that holds its key.
    pub api_key_env: Option<String>,
    /// Requests at the same time to each address.
    pub concurrency: Option<usize>,
    /// Seconds that a request may take.
    pub timeout: f64,
    /// Most likely tokens of each position that drift is measured on.
    pub top_logprobs: usize,
}

/// Requests at the same time, seconds of a request, and likely tokens of a position: above these a number is a slip.
const MOST_AT_ONCE: usize = 4096;
const MOST_SECONDS: f64 = 86_400.0;
const MOST_LIKELY: usize = 1 << 20;

/// `[backend]`, checked.
#[derive(Default)]
pub(super) struct Resolved {
    pub(super) name: BackendName,
    pub(super) remote: Option<RemoteConfig>,
    pub(super) gpu: Option<GpuConfig>,
}

impl RawBackend {
    /// The backend, with its server if it is one and its GPU if it has one.
    pub(super) fn resolve(mut self, places: &Places, errors: &mut Vec<Error>) -> Resolved {
        let name = self.name.as_deref().map_or(Ok(BackendName::default()), BackendName::parse);
        let name = match name {
            Ok(name) => name,
            Err(message) => {
                errors.push(places.error("backend.name", format!("is {message}")));
                return Resolved::default();
            }
        };
        let gpu =
            gpu::resolve(name.as_str(), self.gpu_layers.take(), self.device.take()).unwrap_or_else(|(key, why)| {
                errors.push(places.error(&format!("backend.{key}"), why));
                None
            });
        Resolved { name, remote: self.remote(name, places, errors), gpu }
    }

    /// The server's keys, checked; `None` of another backend, which has none of them.
    fn remote(self, name: BackendName, places: &Places, errors: &mut Vec<Error>) -> Option<RemoteConfig> {
        let mut fail = |key: &str, message: String| errors.push(places.error(&format!("backend.{key}"), message));
        if name != BackendName::Remote {
            let given = [
                ("url", self.url.is_some()),
                ("model", self.model.is_some()),
                ("adapters", !self.adapters.is_empty()),
                ("adapters_at", self.adapters_at.is_some()),
                ("prove_weights", self.prove_weights.is_some()),
                ("api_key_env", self.api_key_env.is_some()),
            ];
            if let Some((key, _)) = given.into_iter().find(|(_, given)| *given) {
                fail(
                    key,
                    format!(
                        "is a server's, and the backend is {}; say [backend] name = \"remote\", or take it out",
                        name.as_str()
                    ),
                );
            }
            return None;
        }
        let urls = match addresses(self.url) {
            Ok(urls) => urls,
            Err(why) => {
                fail("url", why);
                return None;
            }
        };
        if let Some(Err(why)) = self.adapters_at.as_deref().map(|at| check_place(at, &self.adapters)) {
            fail("adapters_at", why);
        }
        let timeout = self.timeout.unwrap_or(300.0);
        if !(timeout.is_finite() && timeout > 0.0 && timeout <= MOST_SECONDS) {
            fail("timeout", format!("is {timeout}, expected seconds above 0, at most {MOST_SECONDS}"));
        }
        if let Some(n) = self.concurrency.filter(|n| !(1..=MOST_AT_ONCE).contains(n)) {
            fail("concurrency", format!("is {n}, expected 1 to {MOST_AT_ONCE}"));
        }
        let top_logprobs = self.top_logprobs.unwrap_or(20);
        if top_logprobs > MOST_LIKELY {
            fail("top_logprobs", format!("is {top_logprobs}, expected at most {MOST_LIKELY}"));
        }
        Some(RemoteConfig {
            urls,
            server: self.server,
            model: self.model,
            adapters: self.adapters,
            adapters_at: self.adapters_at,
            other_template: self.other_template.unwrap_or_default(),
            prove_weights: self.prove_weights.unwrap_or_default(),
            api_key_env: self.api_key_env,
            concurrency: self.concurrency,
            timeout,
            top_logprobs,
        })
    }
}

/// The servers' addresses, without a slash and `/v1` at the end.
fn addresses(given: Option<Urls>) -> Result<Vec<String>, String> {
    let mut urls = match given {
        Some(Urls::One(url)) => vec![url],
        Some(Urls::Several(urls)) => urls,
        None => Vec::new(),
    };
    if urls.is_empty() {
        return Err("is missing; give the server's address, such as \"http://localhost:8000\"".into());
    }
    for url in &mut urls {
        check_url(url)?;
        let bare = url.trim_end_matches('/');
        *url = bare.strip_suffix("/v1").unwrap_or(bare).to_owned();
    }
    match (1..urls.len()).find(|i| urls[..*i].contains(&urls[*i])) {
        Some(twice) => Err(format!("has {:?} twice; name each server once", urls[twice])),
        None => Ok(urls),
    }
}

/// Where a server finds the adapters that it loads.
fn check_place(at: &str, named: &BTreeMap<String, String>) -> Result<(), String> {
    if !named.is_empty() {
        return Err(
            "has adapters loaded, and [backend.adapters] names some that the server has; take one of them out".into()
        );
    }
    if at == "." || at.starts_with('/') {
        Ok(())
    } else {
        Err(format!("is {at:?}, expected \".\" or this project's whole path as the server sees it"))
    }
}

/// An address of a server, without a key or a password in it.
fn check_url(url: &str) -> Result<(), String> {
    let Some(rest) = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")) else {
        return Err(format!("is {url:?}, expected http://HOST:PORT or https://HOST:PORT"));
    };
    let host = rest.split('/').next().unwrap_or_default();
    if host.contains('@') || rest.contains('?') {
        // What may be a secret is not repeated.
        return Err("holds a name, a password or a key; name the environment variable that holds the key: api_key_env = \"NAME\"".into());
    }
    if host.is_empty() || host.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(format!("is {url:?}, expected http://HOST:PORT or https://HOST:PORT"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_known_or_the_known_ones_are_named() {
        assert_eq!(BackendName::parse("candle"), Ok(BackendName::Candle));
        let message = BackendName::parse("vllm").expect_err("not known");
        assert!(message.contains("\"vllm\"") && message.contains("candle, llama-cpp"), "{message}");
        match BackendName::parse("llama-cpp") {
            Ok(found) => assert_eq!(found.as_str(), "llama-cpp"),
            Err(message) => assert!(message.contains("--features llama-cpp"), "{message}"),
        }
    }
}
