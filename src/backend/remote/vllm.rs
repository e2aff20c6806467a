//! vLLM's OpenAI-compatible server. Base and each adapter are models by name.

use std::sync::OnceLock;

use serde_json::{Value, json};

use super::http::{Client, Failure};
use super::models::Models;
use super::server::{
    Asked, Scored, Server, Takes, ToLoad, Words, Written, check_names, count, ids, joined, malformed, one_choice,
    sampling, sorted,
};
use crate::config::RemoteConfig;
use crate::error::{Error, Result};
use crate::shown::plain;

/// Requests at once where the manifest does not say: vLLM batches them as they come.
const AT_ONCE: usize = 16;

pub(super) struct Vllm {
    client: Client,
    identity: String,
    context: usize,
    base: String,
    /// The models of the arms after base; nothing until they are loaded.
    arms: OnceLock<Vec<String>>,
}

impl Vllm {
    /// Reads which models there are.
    ///
    /// # Errors
    /// It cannot be reached, or has no model by the name of an arm.
    pub(super) fn connect(client: Client, config: &RemoteConfig, arms: &[String]) -> Result<Self> {
        let fail = |failure: Failure| Error::failed(failure.why());
        let version = client.get("/version").map_err(fail)?;
        let models = Models::of(&client)?;
        let base = models.base(config)?;
        let version = plain(version["version"].as_str().unwrap_or("unknown"), 100);
        let engine = format!("vLLM {version} with {}", models.root(&base));
        let of = |arm: &String| models.adapter(config, arm, &base, "--lora-modules");
        let (identity, arms) = match &config.adapters_at {
            // An arm's fingerprint has its adapter's hash already.
            Some(_) => (engine, OnceLock::new()),
            None => {
                let names = arms.iter().map(of).collect::<Result<Vec<_>>>()?;
                (format!("{engine} and {}", plain(&names.join(", "), 300)), OnceLock::from(names))
            }
        };
        Ok(Self { identity, context: models.context(&base)?, base, arms, client })
    }

    fn load_one(&self, adapter: &ToLoad) -> Result<()> {
        let ToLoad { name, path, rank } = adapter;
        let body = json!({"lora_name": name, "lora_path": path});
        let why = match self.client.order("/v1/load_lora_adapter", &body) {
            Ok(()) => return Ok(()),
            Err(Failure::Refused(status, said)) => format!("it answered {status}: {said}"),
            Err(failure) => failure.why(),
        };
        Err(Error::failed(format!(
            "{} does not load the adapter {path:?}: {why}. It has to see that path, be started with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and \
             --enable-lora, and take a rank of {rank}: --max-lora-rank",
            self.client.url()
        )))
    }

    fn complete(&self, model: &str, prompt: &[u32], fields: Value) -> Result<Value, Failure> {
        let body = json!({"model": model, "prompt": prompt, "add_special_tokens": false, "stream": false});
        one_choice(self.client.post("/v1/completions", &joined(body, fields))?)
    }

    fn model(&self, arm: usize) -> &str {
        match arm.checked_sub(1) {
            None => &self.base,
            Some(i) => self.arms.get().and_then(|arms| arms.get(i)).map_or("", String::as_str),
        }
    }
}

impl Server for Vllm {
    fn identity(&self) -> &str {
        &self.identity
    }

    fn context(&self) -> usize {
        self.context
    }

    fn slots(&self) -> usize {
        AT_ONCE
    }

    fn scoring(&self) -> usize {
        // Two texts with prompt_logprobs in one step take a CPU engine with adapters down.
        1
    }

    fn takes(&self) -> Takes {
        Takes::Tokens
    }

    fn load(&self, adapters: &[ToLoad]) -> Result<()> {
        if self.arms.get().is_some() {
            return Ok(());
        }
        let models = Models::of(&self.client)?;
        // Its name has its hash, so that one of the same name is the same.
        adapters.iter().filter(|adapter| !models.has(&adapter.name)).try_for_each(|adapter| self.load_one(adapter))?;
        let _ = self.arms.set(adapters.iter().map(|adapter| adapter.name.clone()).collect());
        Ok(())
    }

    fn tokenize(&self, text: &str) -> Result<Option<Vec<u32>>, Failure> {
        let answer = self
            .client
            .post("/tokenize", &json!({"model": self.model(0), "prompt": text, "add_special_tokens": false}))?;
        ids(&answer["tokens"]).map(Some).ok_or_else(|| malformed("tokens", &answer))
    }

    fn generate(&self, arm: usize, asked: &Asked<'_>, k: usize) -> Result<Written, Failure> {
        let fields = json!({
            "max_tokens": asked.request.max_tokens, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0,
            "return_token_ids": true, "logprobs": k, "return_tokens_as_token_ids": true,
        });
        let answer = self.complete(self.model(arm), asked.tokens, joined(fields, sampling(asked.request)))?;
        let choice = &answer["choices"][0];
        let tokens = ids(&choice["token_ids"]).ok_or_else(|| malformed("token_ids", &answer))?;
        let tops = choice["logprobs"]["top_logprobs"].as_array().cloned().unwrap_or_default();
        let id = |name: &str| name.strip_prefix("token_id:").and_then(|id| id.parse().ok());
        let top = |position: &Value| {
            let pairs = position.as_object().into_iter().flatten();
            sorted(pairs.filter_map(|(name, value)| Some((id(name)?, value.as_f64()?))).collect())
        };
        Ok(Written {
            words: Words::Tokens(tokens),
            stopped: choice["finish_reason"].as_str() == Some("stop"),
            top: tops.iter().map(top).collect(),
            read: count(&answer["usage"]["prompt_tokens"]),
        })
    }

    fn score(&self, arm: usize, prompt: &[u32], tokens: &[u32], k: usize) -> Result<Vec<Scored>, Failure> {
        let whole = [prompt, tokens].concat();
        let answer =
            self.complete(self.model(arm), &whole, json!({"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": k}))?;
        let positions = answer["choices"][0]["prompt_logprobs"].as_array().filter(|list| list.len() == whole.len());
        let positions = positions.ok_or_else(|| malformed("prompt_logprobs", &answer))?;
        let read = |(position, token): (&Value, &u32)| {
            let pairs = position.as_object()?.iter();
            let top: Option<Vec<(u32, f64)>> =
                pairs.map(|(id, value)| Some((id.parse().ok()?, value["logprob"].as_f64()?))).collect();
            let top = sorted(top?);
            let log_probability = top.iter().find(|(id, _)| id == token)?.1;
            // The token itself comes in addition, where it is not among the most likely.
            let top = top.into_iter().take(k).collect();
            Some(Scored { log_probability, top })
        };
        let scored: Option<Vec<Scored>> = positions[prompt.len()..].iter().zip(tokens).map(read).collect();
        scored.ok_or_else(|| malformed("prompt_logprobs of the given tokens", &answer))
    }

    fn check_names(&self) -> Result<(), Failure> {
        check_names(self.client.url(), |model| self.complete(model, &[1], json!({"max_tokens": 1, "temperature": 0.0})))
    }
}
