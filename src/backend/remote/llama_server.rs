//! llama.cpp's own server. Every request names the scale of every adapter: one that leaves them out is answered by whatever the server was
//! started with. No request uses the prompt cache, which would hand one arm's keys and values to another (ggml-org/llama.cpp #26207).

use std::sync::OnceLock;

use serde_json::{Value, json};

use super::http::{Client, Failure};
use super::server::{Asked, Scored, Server, Takes, Words, Written, count, ids, joined, malformed, sampling, sorted};
use crate::config::RemoteConfig;
use crate::error::{Error, Result};
use crate::shown::plain;

pub(super) struct LlamaServer {
    client: Client,
    identity: String,
    context: usize,
    slots: usize,
    /// Each adapter's number at the server.
    adapters: Vec<u64>,
    /// The adapter of each arm and its scale, base first.
    arms: Vec<Option<(u64, f64)>>,
    /// The token that ends an answer, once one was seen: no grammar can ask for it, and it follows one that is at its end.
    end: OnceLock<u32>,
}

impl LlamaServer {
    /// Reads what the server says of itself.
    ///
    /// # Errors
    /// It cannot be reached, or has no adapter by the name of an arm.
    pub(super) fn connect(client: Client, config: &RemoteConfig, arms: &[(String, f64)]) -> Result<Self> {
        let fail = |failure: Failure| Error::failed(failure.why());
        let props = client.get("/props").map_err(fail)?;
        let text = |key: &str| plain(props[key].as_str().unwrap_or("unknown"), 200);
        let context = count(&props["default_generation_settings"]["n_ctx"]);
        let context = context.ok_or_else(|| fail(malformed("n_ctx", &props)))?;
        let listed = client.get("/lora-adapters").map_err(fail)?;
        let listed = listed.as_array().cloned().unwrap_or_default();
        let known: Vec<(u64, String)> = listed
            .iter()
            .filter_map(|adapter| {
                Some((adapter["id"].as_u64()?, adapter["path"].as_str().unwrap_or_default().to_owned()))
            })
            .collect();
        let of = |(arm, scale): &(String, f64)| {
            let id = find(arm, config.adapters.get(arm).map(String::as_str), &known, client.url())?;
            Ok(Some((id, *scale)))
        };
        let arms = std::iter::once(Ok(None)).chain(arms.iter().map(of)).collect::<Result<Vec<_>>>()?;
        let paths: Vec<&str> = known.iter().map(|(_, path)| path.as_str()).collect();
        Ok(Self {
            identity: format!(
                "llama-server {} with {} and {}",
                text("build_info"),
                text("model_path"),
                plain(&paths.join(", "), 300)
            ),
            context,
            slots: count(&props["total_slots"]).unwrap_or(1).max(1),
            adapters: known.iter().map(|(id, _)| *id).collect(),
            arms,
            end: OnceLock::new(),
            client,
        })
    }

    fn lora(&self, arm: usize) -> Value {
        let own = self.arms.get(arm).copied().flatten();
        let scale =
            |id: &u64| json!({"id": id, "scale": own.filter(|(own, _)| own == id).map_or(0.0, |(_, scale)| scale)});
        self.adapters.iter().map(scale).collect()
    }

    /// A completion, whose prompt was read afresh.
    fn complete(&self, arm: usize, prompt: &[u32], fields: Value) -> Result<Value, Failure> {
        let body = json!({"prompt": prompt, "lora": self.lora(arm), "cache_prompt": false, "return_tokens": true});
        let answer = self.client.post("/completion", &joined(body, fields))?;
        if answer["truncated"].as_bool() == Some(true) {
            return Err(Failure::Refused(
                200,
                "the prompt was cut by the server; start it with a larger context".into(),
            ));
        }
        if answer["timings"]["cache_n"].as_i64().is_some_and(|cached| cached > 0) {
            return Err(Failure::Wrong(
                "the server took keys and values from its cache, although it was told not to; they may be another arm's. Start it with --cache-ram 0".into(),
            ));
        }
        Ok(answer)
    }

    /// A token after a prompt. Of one that is a part of a character the server tells nothing; what it tells is what was before a grammar,
    /// so beside a letter stands the same.
    fn letter(&self, arm: usize, prompt: &[u32], k: usize) -> Result<Value, Failure> {
        let mut asked = fields(1, k);
        asked["grammar"] = "root ::= [a-zA-Z]".into();
        self.complete(arm, prompt, asked)
    }

    /// One position after a prompt.
    fn position(&self, arm: usize, prompt: &[u32], k: usize) -> Result<Vec<(u32, f64)>, Failure> {
        let answer = self.letter(arm, prompt, k)?;
        tops(&answer)?.into_iter().next().ok_or_else(|| malformed("completion_probabilities", &answer))
    }

    /// Given tokens in one request, where a grammar can ask for them: for all of them, or for all but one that ends the answer.
    fn forced(&self, arm: usize, prompt: &[u32], tokens: &[u32], k: usize) -> Result<Option<Vec<Scored>>, Failure> {
        let Some((last, before)) = tokens.split_last().filter(|(_, before)| !before.is_empty()) else {
            return self.by_grammar(arm, prompt, tokens, tokens, k);
        };
        if self.end.get() != Some(last) {
            let found = self.by_grammar(arm, prompt, tokens, tokens, k)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        let found = self.by_grammar(arm, prompt, tokens, before, k)?;
        if found.is_some() {
            let _ = self.end.set(*last);
        }
        Ok(found)
    }

    /// Given tokens in one request: a grammar that has no other text than `asked`. The probabilities told are those before it.
    fn by_grammar(
        &self,
        arm: usize,
        prompt: &[u32],
        tokens: &[u32],
        asked: &[u32],
        k: usize,
    ) -> Result<Option<Vec<Scored>>, Failure> {
        let mut fields = fields(tokens.len(), k);
        let rule: Vec<String> = asked.iter().map(|token| format!("<[{token}]>")).collect();
        fields["grammar"] = format!("root ::= {}", rule.join(" ")).into();
        let answer = match self.complete(arm, prompt, fields) {
            Ok(answer) => answer,
            // A token that is a part of a character, or ends the turn, is none that a grammar can ask for.
            Err(Failure::Refused(..)) => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let Some(written) = ids(&answer["tokens"]) else { return Err(malformed("tokens", &answer)) };
        let tops = tops(&answer)?;
        if written.get(..tokens.len()) != Some(tokens) || tops.len() < tokens.len() {
            return Ok(None);
        }
        let chosen = chosen(&answer)?;
        let scored = tops.into_iter().zip(chosen).take(tokens.len());
        Ok(Some(scored.map(|(top, log_probability)| Scored { log_probability, top }).collect()))
    }
}

impl Server for LlamaServer {
    fn identity(&self) -> &str {
        &self.identity
    }

    fn context(&self) -> usize {
        self.context
    }

    fn slots(&self) -> usize {
        self.slots
    }

    fn scoring(&self) -> usize {
        self.slots
    }

    fn takes(&self) -> Takes {
        Takes::Tokens
    }

    fn tokenize(&self, text: &str) -> Result<Option<Vec<u32>>, Failure> {
        let answer =
            self.client.post("/tokenize", &json!({"content": text, "add_special": false, "parse_special": true}))?;
        ids(&answer["tokens"]).map(Some).ok_or_else(|| malformed("tokens", &answer))
    }

    fn generate(&self, arm: usize, asked: &Asked<'_>, k: usize) -> Result<Written, Failure> {
        let fields = joined(fields(asked.request.max_tokens, k), sampling(asked.request));
        let answer = self.complete(arm, asked.tokens, fields)?;
        let tokens = ids(&answer["tokens"]).ok_or_else(|| malformed("tokens", &answer))?;
        let stopped = answer["stop_type"].as_str().is_some_and(|why| why != "limit" && why != "none");
        let read = count(&answer["tokens_evaluated"]);
        let top = told(&answer, &tokens)?;
        Ok(Written { words: Words::Tokens(tokens), stopped, top, read })
    }

    fn next(&self, arm: usize, asked: &Asked<'_>, k: usize) -> Result<Written, Failure> {
        let answer = self.letter(arm, asked.tokens, k)?;
        let read = count(&answer["tokens_evaluated"]);
        Ok(Written { words: Words::Tokens(Vec::new()), stopped: false, top: tops(&answer)?, read })
    }

    fn score(&self, arm: usize, prompt: &[u32], tokens: &[u32], k: usize) -> Result<Vec<Scored>, Failure> {
        if let Some(scored) = self.forced(arm, prompt, tokens, k)? {
            return Ok(scored);
        }
        let mut text = prompt.to_vec();
        let mut all = Vec::new();
        for token in tokens {
            let mut k = k.max(1000);
            let (top, log_probability) = loop {
                let top = self.position(arm, &text, k)?;
                if let Some((_, found)) = top.iter().find(|(id, _)| id == token) {
                    let found = *found;
                    break (top, found);
                }
                if top.len() < k {
                    return Err(Failure::Refused(200, format!("the server gives token {token} no probability")));
                }
                k *= 16;
            };
            all.push(Scored { log_probability, top });
            text.push(*token);
        }
        Ok(all)
    }

    fn check_names(&self) -> Result<(), Failure> {
        // It takes any number, and answers as base. So each request names all numbers that there are, and the proof tells arms apart.
        Ok(())
    }
}

/// The adapter of an arm: by its number, its path or its file's name; the only one, where none is named.
fn find(arm: &str, named: Option<&str>, known: &[(u64, String)], url: &str) -> Result<u64> {
    let file = |path: &str| path.rsplit(['/', '\\']).next().unwrap_or_default().to_owned();
    let found: Vec<u64> = match named {
        Some(name) => known
            .iter()
            .filter(|(id, path)| {
                id.to_string() == name
                    || path == name
                    || file(path) == name
                    || file(path).strip_suffix(".gguf") == Some(name)
            })
            .map(|(id, _)| *id)
            .collect(),
        None if known.len() == 1 => vec![known[0].0],
        None => Vec::new(),
    };
    if let [id] = found.as_slice() {
        return Ok(*id);
    }
    let paths: Vec<String> = known.iter().map(|(id, path)| format!("{id}: {}", plain(path, 100))).collect();
    let there = if paths.is_empty() {
        "it has none; start it with --lora FILE, which `finetest export --format gguf-adapter` writes".to_owned()
    } else {
        format!("it has {}; name one by its number or file: [backend.adapters] {arm} = \"…\"", paths.join(", "))
    };
    let asked = named.map_or_else(
        || format!("which adapter is {arm}'s is not said"),
        |name| format!("it has no adapter {name:?} for {arm}"),
    );
    Err(Error::failed(format!("{url}: {asked}: {there}")))
}

/// The request's fields for a completion of `tokens` tokens that lists the `k` most likely ones of each position. All samplers are off.
fn fields(tokens: usize, k: usize) -> Value {
    json!({
        "n_predict": tokens, "n_probs": k, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0,
        "repeat_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "dry_multiplier": 0.0, "xtc_probability": 0.0,
        "mirostat": 0, "stream": false,
    })
}

/// The positions that it tells something of: none is left where all tokens are parts of characters.
fn positions(answer: &Value) -> Result<&[Value], Failure> {
    match &answer["completion_probabilities"] {
        Value::Array(positions) => Ok(positions),
        Value::Null => Ok(&[]),
        _ => Err(malformed("completion_probabilities", answer)),
    }
}

/// The most likely tokens of each position.
fn tops(answer: &Value) -> Result<Vec<Vec<(u32, f64)>>, Failure> {
    let pair = |entry: &Value| {
        let id = u32::try_from(entry["id"].as_u64()?).ok()?;
        Some((id, entry["logprob"].as_f64()?))
    };
    let top = |position: &Value| -> Option<Vec<(u32, f64)>> {
        position["top_logprobs"].as_array()?.iter().map(pair).collect()
    };
    let all: Option<Vec<_>> = positions(answer)?.iter().map(|position| top(position).map(sorted)).collect();
    all.ok_or_else(|| malformed("top_logprobs", answer))
}

/// As [`tops`], up to the first token that the server tells nothing of.
fn told(answer: &Value, tokens: &[u32]) -> Result<Vec<Vec<(u32, f64)>>, Failure> {
    let own = positions(answer)?.iter().map(|position| position["id"].as_u64());
    let alike = own.zip(tokens).take_while(|(own, token)| *own == Some(u64::from(**token))).count();
    Ok(tops(answer)?.into_iter().take(alike).collect())
}

/// The log-probability of each position's own token.
fn chosen(answer: &Value) -> Result<Vec<f64>, Failure> {
    let all: Option<Vec<f64>> = positions(answer)?.iter().map(|position| position["logprob"].as_f64()).collect();
    all.ok_or_else(|| malformed("logprob", answer))
}
