//! Any server with `/v1/chat/completions`: base and adapters are models by name. It takes messages and renders them itself, tells texts and
//! no token ids, and no probabilities of text that it is given: so it answers, and neither choices nor drift can be measured.

use serde_json::{Value, json};

use super::http::{Client, Failure};
use super::models::Models;
use super::server::{Asked, Scored, Server, Takes, Words, Written, check_names, count, malformed, sampling, spelt};
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
        let mut body = json!({"model": model, key: prompt, "stream": false});
        if let (Some(body), Value::Object(fields)) = (body.as_object_mut(), fields) {
            body.extend(fields);
        }
        let path = if key == "messages" { "/v1/chat/completions" } else { "/v1/completions" };
        let answer = self.client.post(path, &body)?;
        match answer["choices"].as_array().map(Vec::len) {
            Some(1) => Ok(answer),
            n => Err(Failure::Wrong(format!("the server gave {} answers to one question", n.unwrap_or(0)))),
        }
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

    fn scoring(&self) -> usize {
        0
    }

    fn tells(&self) -> bool {
        self.tells
    }

    fn takes(&self) -> Takes {
        Takes::Messages
    }

    fn tokenize(&self, _: &str) -> Result<Option<Vec<u32>>, Failure> {
        Ok(None)
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
        let mut fields = match key {
            "messages" => fields(request.max_tokens, k, self.tells),
            _ if self.tells => json!({"max_tokens": request.max_tokens, "logprobs": k}),
            _ => json!({"max_tokens": request.max_tokens}),
        };
        if let Some(fields) = fields.as_object_mut() {
            // 0 is no limit, and not every server knows the field.
            let known = sampling(request).into_iter().filter(|(key, value)| *key != "top_k" || *value != 0);
            fields.extend(known.map(|(key, value)| (key.to_owned(), value)));
        }
        let answer = self.complete(self.arms.get(arm).map_or("", String::as_str), key, &prompt, fields)?;
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

    fn score(&self, _: usize, _: &[u32], _: &[u32], _: usize) -> Result<Vec<Scored>, Failure> {
        Err(Failure::Wrong("this server tells no log-probabilities of text that it is given".into()))
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
