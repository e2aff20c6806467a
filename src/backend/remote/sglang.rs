//! SGLang's own `/generate`, which takes token ids and tells log-probabilities of a text that it is given.
//!
//! Written from its documents, and not tried against a real one.

use serde_json::{Value, json};

use super::http::{Client, Failure};
use super::models::Models;
use super::server::{Asked, Scored, Server, Takes, Words, Written, check_names, count, ids, joined, malformed, sorted};
use crate::config::RemoteConfig;
use crate::error::Result;
use crate::shown::plain;

/// Requests at once where the manifest does not say: it batches them as they come.
const AT_ONCE: usize = 16;

pub(super) struct Sglang {
    client: Client,
    identity: String,
    context: usize,
    /// The adapter of each arm, base first, which has none.
    arms: Vec<Option<String>>,
}

impl Sglang {
    /// Reads which models there are.
    ///
    /// # Errors
    /// It cannot be reached, or has no adapter by the name of an arm.
    pub(super) fn connect(client: Client, config: &RemoteConfig, arms: &[String]) -> Result<Self> {
        let models = Models::of(&client)?;
        let base = models.base(config)?;
        // Versions differ in where they tell it.
        let info = ["/server_info", "/get_server_info"].into_iter().find_map(|path| client.once().get(path).ok());
        let version = info.as_ref().and_then(|info| info["version"].as_str()).unwrap_or("unknown");
        let of = |arm: &String| models.adapter(config, arm, &base, "--lora-paths");
        let names = arms.iter().map(of).collect::<Result<Vec<_>>>()?;
        Ok(Self {
            identity: format!(
                "SGLang {} with {} and {}",
                plain(version, 100),
                models.root(&base),
                plain(&names.join(", "), 300)
            ),
            context: models.context(&base)?,
            arms: std::iter::once(None).chain(names.into_iter().map(Some)).collect(),
            client,
        })
    }

    fn generated(&self, adapter: Option<&str>, prompt: &[u32], sampling: Value, more: Value) -> Result<Value, Failure> {
        let body = json!({"input_ids": prompt, "lora_path": adapter, "sampling_params": sampling, "return_logprob": true, "stream": false});
        self.client.post("/generate", &joined(body, more))
    }

    fn adapter(&self, arm: usize) -> Option<&str> {
        self.arms.get(arm).and_then(Option::as_deref)
    }
}

impl Server for Sglang {
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
        usize::MAX
    }

    fn takes(&self) -> Takes {
        Takes::Tokens
    }

    fn tokenize(&self, text: &str) -> Result<Option<Vec<u32>>, Failure> {
        match self.client.post("/tokenize", &json!({"prompt": text, "add_special_tokens": false})) {
            Ok(answer) => ids(&answer["tokens"]).map(Some).ok_or_else(|| malformed("tokens", &answer)),
            // Older versions have no such path.
            Err(Failure::Refused(404 | 405, _)) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    fn generate(&self, arm: usize, asked: &Asked<'_>, k: usize) -> Result<Written, Failure> {
        let wanted = asked.request.sampling;
        // Of an end or a stop nothing is cut off: what comes after is cut here, as of every backend.
        let all = json!({
            "max_new_tokens": asked.request.max_tokens, "temperature": wanted.temperature, "top_k": -1, "top_p": 1.0, "min_p": 0.0,
            "repetition_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0,
            "stop": asked.request.stop, "skip_special_tokens": false, "no_stop_trim": true,
        });
        let drawn = if wanted.is_greedy() {
            json!({})
        } else {
            let top_k = if wanted.top_k == 0 { json!(-1) } else { json!(wanted.top_k) };
            json!({"top_k": top_k, "top_p": wanted.top_p, "sampling_seed": wanted.seed})
        };
        let answer = self.generated(
            self.adapter(arm),
            asked.tokens,
            joined(all, drawn),
            json!({"logprob_start_len": -1, "top_logprobs_num": k}),
        )?;
        let tokens = ids(&answer["output_ids"]).ok_or_else(|| malformed("output_ids", &answer))?;
        let about = &answer["meta_info"];
        let top = about["output_top_logprobs"].as_array().into_iter().flatten().map(pairs).collect::<Option<Vec<_>>>();
        Ok(Written {
            words: Words::Tokens(tokens),
            stopped: about["finish_reason"]["type"] == "stop",
            top: top.ok_or_else(|| malformed("output_top_logprobs", &answer))?,
            read: count(&about["prompt_tokens"]),
        })
    }

    fn score(&self, arm: usize, prompt: &[u32], tokens: &[u32], k: usize) -> Result<Vec<Scored>, Failure> {
        let whole = [prompt, tokens].concat();
        let start = prompt.len().saturating_sub(1);
        let more = json!({"logprob_start_len": start, "top_logprobs_num": k});
        let answer =
            self.generated(self.adapter(arm), &whole, json!({"max_new_tokens": 1, "temperature": 0.0}), more)?;
        // Lists begin at the start or one behind it; the given tokens are the last of them.
        let last = |name: &str| {
            let list = answer["meta_info"][name].as_array()?;
            list.get(list.len().checked_sub(tokens.len())?..)
        };
        let (Some(own), Some(tops)) = (last("input_token_logprobs"), last("input_top_logprobs")) else {
            return Err(malformed("input_token_logprobs", &answer));
        };
        let read = |((own, top), token): ((&Value, &Value), &u32)| {
            let (id, log_probability) = pair(own)?;
            let top = pairs(top)?.into_iter().take(k).collect();
            (id == *token).then_some(Scored { log_probability, top })
        };
        let scored: Option<Vec<Scored>> = own.iter().zip(tops).zip(tokens).map(read).collect();
        scored.ok_or_else(|| malformed("input_token_logprobs of the given tokens", &answer))
    }

    fn check_names(&self) -> Result<(), Failure> {
        check_names(self.client.url(), |name| {
            self.generated(Some(name), &[1], json!({"max_new_tokens": 1, "temperature": 0.0}), json!({}))
        })
    }
}

/// A token and its log-probability, of `[log-probability, id, text]`.
fn pair(entry: &Value) -> Option<(u32, f64)> {
    Some((u32::try_from(entry[1].as_u64()?).ok()?, entry[0].as_f64()?))
}

fn pairs(position: &Value) -> Option<Vec<(u32, f64)>> {
    position.as_array()?.iter().map(pair).collect::<Option<Vec<_>>>().map(sorted)
}
