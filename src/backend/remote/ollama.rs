//! Ollama: base and each adapter are models by name. It takes a rendered text as it is (`raw`), and tells texts and no token ids, and no
//! probabilities of text that it is given: so it answers, and neither choices nor drift can be measured.
//!
//! Written from its documents, and not tried against a real one.

use serde_json::{Value, json};

use super::http::{Client, Failure};
use super::server::{Asked, Server, Takes, Words, Written, check_names, count, joined, malformed, spelt};
use crate::config::RemoteConfig;
use crate::error::{Error, Result};
use crate::shown::plain;

/// Requests at once where the manifest does not say.
const AT_ONCE: usize = 4;
/// Tokens of the longest prompt with its answer. Another number would load the model anew, so it is the same in every request.
const CONTEXT: usize = 4096;

pub(super) struct Ollama {
    client: Client,
    identity: String,
    context: usize,
    /// The model of each arm, base first.
    arms: Vec<String>,
    /// It puts the token that begins every text before a prompt.
    opens: bool,
    tells: bool,
}

impl Ollama {
    /// Reads which models there are.
    ///
    /// # Errors
    /// It cannot be reached, or lacks the model of an arm.
    pub(super) fn connect(client: Client, config: &RemoteConfig, arms: &[String]) -> Result<Self> {
        let fail = |failure: Failure| Error::failed(failure.why());
        let version = client.get("/api/version").map_err(fail)?;
        let listed = client.get("/api/tags").map_err(fail)?;
        let known = listed["models"].as_array().cloned().unwrap_or_default();
        let shown = || {
            known
                .iter()
                .filter_map(|model| model["name"].as_str())
                .map(|name| plain(name, 100))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let digest = |name: &str| {
            let named = |model: &&Value| {
                model["name"].as_str().is_some_and(|known| known == name || known.strip_suffix(":latest") == Some(name))
            };
            let digest = known.iter().find(named).map(|model| model["digest"].as_str().unwrap_or("unknown"));
            digest.map(|digest| digest.chars().take(12).collect::<String>()).ok_or_else(|| {
                Error::failed(format!("{}: it has no model {name:?}; it has {}; make it with `ollama create {name}` from a Modelfile with FROM and ADAPTER", client.url(), shown()))
            })
        };
        let base = config.model.clone().ok_or_else(|| {
            Error::failed(format!(
                "{}: which model is base is not said; it has {}; name it: [backend] model = \"…\"",
                client.url(),
                shown()
            ))
        })?;
        let names = arms.iter().map(|arm| config.adapters.get(arm).unwrap_or(arm).clone());
        let arms: Vec<String> = std::iter::once(base).chain(names).collect();
        let identified = arms.iter().map(|name| Ok(format!("{} {}", plain(name, 100), digest(name)?)));
        let identified = identified.collect::<Result<Vec<_>>>()?;
        let about = client.post("/api/show", &json!({"model": arms[0]})).map_err(fail)?;
        let about = &about["model_info"];
        let trained =
            about["general.architecture"].as_str().and_then(|name| count(&about[format!("{name}.context_length")]));
        let mut server = Self {
            identity: format!(
                "Ollama {} with {}",
                plain(version["version"].as_str().unwrap_or("unknown"), 100),
                identified.join(", ")
            ),
            context: trained.unwrap_or(CONTEXT).min(CONTEXT),
            opens: about["tokenizer.ggml.add_bos_token"].as_bool().unwrap_or(true),
            arms,
            tells: true,
            client,
        };
        let hello = server.complete(&server.arms[0], "Hello", &json!({"num_predict": 1, "num_ctx": server.context}), 1);
        server.tells = !tops(&hello.map_err(fail)?).is_empty();
        Ok(server)
    }

    fn complete(&self, model: &str, prompt: &str, options: &Value, k: usize) -> Result<Value, Failure> {
        let body = json!({"model": model, "prompt": prompt, "raw": true, "stream": false, "options": options});
        let likely = if self.tells { json!({"logprobs": true, "top_logprobs": k}) } else { json!({}) };
        self.client.post("/api/generate", &joined(body, likely))
    }
}

impl Server for Ollama {
    fn identity(&self) -> &str {
        &self.identity
    }

    fn context(&self) -> usize {
        self.context
    }

    fn slots(&self) -> usize {
        AT_ONCE
    }

    fn tells(&self) -> bool {
        self.tells
    }

    fn takes(&self) -> Takes {
        Takes::Text
    }

    fn generate(&self, arm: usize, asked: &Asked<'_>, k: usize) -> Result<Written, Failure> {
        let (request, wanted) = (asked.request, asked.request.sampling);
        let Some(spelled) = asked.text else {
            return Err(Failure::Wrong("Ollama takes text, and there is none".into()));
        };
        let prompt = if self.opens { spelled.text.clone() } else { format!("{}{}", spelled.opening, spelled.text) };
        // Every parameter is named: a Modelfile may set others.
        let options = json!({
            "num_predict": request.max_tokens, "num_ctx": self.context, "temperature": wanted.temperature,
            "top_k": if wanted.is_greedy() { 0 } else { wanted.top_k }, "top_p": if wanted.is_greedy() { 1.0 } else { wanted.top_p },
            "min_p": 0.0, "typical_p": 1.0, "repeat_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
            "seed": wanted.seed, "stop": request.stop,
        });
        let answer = self.complete(self.arms.get(arm).map_or("", String::as_str), &prompt, &options, k)?;
        let text = answer["response"].as_str().ok_or_else(|| malformed("response", &answer))?;
        Ok(Written {
            words: Words::Text(text.to_owned()),
            stopped: answer["done_reason"] == "stop",
            top: tops(&answer),
            read: count(&answer["prompt_eval_count"]),
        })
    }

    fn check_names(&self) -> Result<(), Failure> {
        check_names(self.client.url(), |model| self.complete(model, "Hello", &json!({"num_predict": 1}), 1))
    }
}

/// The most likely tokens of each position.
fn tops(answer: &Value) -> Vec<Vec<(u32, f64)>> {
    answer["logprobs"].as_array().into_iter().flatten().map(|position| spelt(&position["top_logprobs"])).collect()
}
