//! Any server with `/v1/chat/completions`: base and adapters are models by name. It takes messages and renders them itself, tells texts and
//! no token ids, and no probabilities of text that it is given: so it answers, and neither choices nor drift can be measured.

use serde_json::{Value, json};

use super::http::{Client, Failure};
use super::models::Models;
use super::server::{
    Asked, Server, Takes, Words, Written, check_names, count, joined, malformed, one_choice, sampling, spelt,
};
use crate::config::RemoteConfig;
use crate::error::{Error, Result};
use crate::record::Prompt;
use crate::shown::plain;

/// Requests at once where the manifest does not say.
const AT_ONCE: usize = 16;
/// Likely tokens that OpenAI's own interface tells at most.
const MOST_LIKELY: usize = 20;

pub(super) struct OpenAi {
    client: Client,
    identity: String,
    /// The model of each arm, base first.
    arms: Vec<String>,
    tells: bool,
}

impl OpenAi {
    /// Finds out whether it tells log-probabilities.
    ///
    /// # Errors
    /// It cannot be reached, or has no base.
    pub(super) fn connect(client: Client, config: &RemoteConfig, arms: &[String]) -> Result<Self> {
        let base = Models::of(&client)?.base(config)?;
        let names = arms.iter().map(|arm| config.adapters.get(arm).unwrap_or(arm).clone());
        let arms: Vec<String> = std::iter::once(base).chain(names).collect();
        let mut server = Self {
            identity: format!(
                "a server at {} whose version is not told, with {}",
                client.url(),
                plain(&arms.join(", "), 300)
            ),
            arms,
            tells: true,
            client,
        };
        let hello = json!([{"role": "user", "content": "Hello"}]);
        let asked = |server: &Self| server.complete(&server.arms[0], "messages", &hello, fields(1, 1, server.tells));
        server.tells = match asked(&server) {
            Ok(answer) => !tops(&answer).is_empty(),
            Err(Failure::Refused(400 | 422, _)) => false,
            Err(failure) => return Err(Error::failed(failure.why())),
        };
        Ok(server)
    }

    /// An answer to messages, or to a text.
    fn complete(&self, model: &str, key: &str, prompt: &Value, fields: Value) -> Result<Value, Failure> {
        let body = json!({"model": model, key: prompt, "stream": false});
        let path = if key == "messages" { "/v1/chat/completions" } else { "/v1/completions" };
        one_choice(self.client.post(path, &joined(body, fields))?)
    }
}

impl Server for OpenAi {
    fn identity(&self) -> &str {
        &self.identity
    }

    fn context(&self) -> usize {
        usize::MAX
    }

    fn slots(&self) -> usize {
        AT_ONCE
    }

    fn tells(&self) -> bool {
        self.tells
    }

    fn takes(&self) -> Takes {
        Takes::Messages
    }

    fn generate(&self, arm: usize, asked: &Asked<'_>, k: usize) -> Result<Written, Failure> {
        let request = asked.request;
        let (key, prompt) = match &request.prompt {
            Prompt::Messages(messages) => {
                let message =
                    |message: &crate::record::Message| json!({"role": message.role, "content": message.content});
                ("messages", messages.iter().map(message).collect())
            }
            Prompt::Text(text) => ("prompt", json!(text)),
        };
        let fields = match key {
            "messages" => fields(request.max_tokens, k, self.tells),
            _ if self.tells => json!({"max_tokens": request.max_tokens, "logprobs": k}),
            _ => json!({"max_tokens": request.max_tokens}),
        };
        let mut drawn = sampling(request);
        // 0 is no limit, and not every server knows the field.
        if let Some(drawn) = drawn.as_object_mut().filter(|drawn| drawn.get("top_k") == Some(&json!(0))) {
            drawn.remove("top_k");
        }
        let answer =
            self.complete(self.arms.get(arm).map_or("", String::as_str), key, &prompt, joined(fields, drawn))?;
        let choice = &answer["choices"][0];
        let text = choice["message"]["content"].as_str().or_else(|| choice["text"].as_str());
        let text = text.ok_or_else(|| malformed("content", &answer))?;
        Ok(Written {
            words: Words::Text(text.to_owned()),
            stopped: choice["finish_reason"] == "stop",
            top: tops(&answer),
            read: count(&answer["usage"]["prompt_tokens"]),
        })
    }

    fn check_names(&self) -> Result<(), Failure> {
        let hello = json!([{"role": "user", "content": "Hello"}]);
        check_names(self.client.url(), |model| self.complete(model, "messages", &hello, json!({"max_tokens": 1})))
    }
}

fn fields(tokens: usize, k: usize, tells: bool) -> Value {
    if tells {
        json!({"max_tokens": tokens, "logprobs": true, "top_logprobs": k.min(MOST_LIKELY)})
    } else {
        json!({"max_tokens": tokens})
    }
}

/// The most likely tokens of each position: a list of a chat's answer, an object of a text's.
fn tops(answer: &Value) -> Vec<Vec<(u32, f64)>> {
    let told = &answer["choices"][0]["logprobs"];
    match told["content"].as_array() {
        Some(positions) => positions.iter().map(|position| spelt(&position["top_logprobs"])).collect(),
        None => told["top_logprobs"].as_array().into_iter().flatten().map(spelt).collect(),
    }
}
