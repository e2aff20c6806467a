//! What a server is asked, whatever its dialect.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Value, json};

use super::http::Failure;
use crate::backend::engine::Generated;
use crate::model::tokenizer::Tokenizer;
use crate::record::{Finish, NEAR_TIE, Prompt, Request};

/// A position of a text that a server was given: the log-probability of its token, and the most likely tokens with theirs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Scored {
    pub(super) log_probability: f64,
    pub(super) top: Vec<(u32, f64)>,
}

/// How a server takes a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    /// As token ids.
    Tokens,
    /// As the text that the template made.
    Text,
    /// As messages, which it renders itself.
    Messages,
}

/// An arm's adapter that a server loads.
pub(crate) struct ToLoad {
    /// What it is called there; its hash is a part of it.
    pub(crate) name: String,
    /// Its directory, as the server sees it.
    pub(crate) path: String,
    pub(crate) rank: usize,
}

/// A prompt and what is wanted of it.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    /// The prompt in tokens.
    pub(super) tokens: &'a [u32],
    /// Its text, for a server that takes text.
    pub(super) text: Option<&'a Spelled>,
    pub(super) request: &'a Request,
}

/// A prompt's text.
pub(super) struct Spelled {
    /// The token that begins every text of the model, where the prompt has it.
    pub(super) opening: String,
    /// What comes after it.
    pub(super) text: String,
}

/// A server with base and adapters side by side. An arm is a number; base is 0.
pub(super) trait Server: Send + Sync {
    /// Its engine, version and model, as they decide an answer.
    fn identity(&self) -> &str;

    /// Tokens of the longest prompt with its answer.
    fn context(&self) -> usize;

    /// Requests that it works on at once.
    fn slots(&self) -> usize;

    /// Texts that it can score at once without harm; 0 where it tells no log-probabilities of text that it is given.
    fn scoring(&self) -> usize {
        0
    }

    /// It tells log-probabilities of what it writes.
    fn tells(&self) -> bool {
        true
    }

    fn takes(&self) -> Takes;

    /// Has the adapters loaded, where the project says where they are.
    fn load(&self, adapters: &[ToLoad]) -> crate::error::Result<()> {
        let _ = adapters;
        Ok(())
    }

    /// The token ids of a text, by its own tokenizer, where it tells them.
    fn tokenize(&self, text: &str) -> Result<Option<Vec<u32>>, Failure> {
        let _ = text;
        Ok(None)
    }

    /// An answer to a prompt, with the `k` most likely tokens of each position.
    fn generate(&self, arm: usize, asked: &Asked<'_>, k: usize) -> Result<Written, Failure>;

    /// What may come next after a prompt, as the first position of an answer of one token.
    fn next(&self, arm: usize, asked: &Asked<'_>, k: usize) -> Result<Written, Failure> {
        self.generate(arm, asked, k)
    }

    /// Log-probabilities of given tokens after a prompt, each with the `k` most likely ones.
    fn score(&self, arm: usize, prompt: &[u32], tokens: &[u32], k: usize) -> Result<Vec<Scored>, Failure> {
        let _ = (arm, prompt, tokens, k);
        Err(Failure::Wrong("this server tells no log-probabilities of text that it is given".into()))
    }

    /// Refuses a server that answers under a name that it does not have, where names tell arms apart.
    fn check_names(&self) -> Result<(), Failure>;
}

/// The fields of a request, as most dialects call them: nothing is left to a server's defaults.
pub(super) fn sampling(request: &Request) -> Value {
    let sampling = request.sampling;
    let mut fields = json!({"temperature": sampling.temperature});
    if !request.stop.is_empty() {
        fields["stop"] = request.stop.clone().into();
    }
    if sampling.is_greedy() {
        return fields;
    }
    // A negative number or 0 is no limit.
    joined(fields, json!({"top_k": sampling.top_k, "top_p": sampling.top_p, "seed": sampling.seed}))
}

/// The fields of both objects; those of `more` count where both have one.
pub(super) fn joined(mut fields: Value, more: Value) -> Value {
    if let (Some(fields), Value::Object(more)) = (fields.as_object_mut(), more) {
        fields.extend(more);
    }
    fields
}

/// An answer in OpenAI's form, which has one choice.
pub(super) fn one_choice(answer: Value) -> Result<Value, Failure> {
    match answer["choices"].as_array().map(Vec::len) {
        Some(1) => Ok(answer),
        n => Err(Failure::Wrong(format!("the server gave {} answers to one question", n.unwrap_or(0)))),
    }
}

/// An answer, as a server tells it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Words {
    /// With the token that ended the turn, where the server names it.
    Tokens(Vec<u32>),
    Text(String),
}

/// What a server generated.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Written {
    pub(super) words: Words,
    /// Something else than its length ended it.
    pub(super) stopped: bool,
    /// The most likely tokens of each position, two at least where the server tells them. Where it tells texts and no ids, a number
    /// stands for a text.
    pub(super) top: Vec<Vec<(u32, f64)>>,
    /// Tokens of the prompt, as the server counts them.
    pub(super) read: Option<usize>,
}

impl Written {
    /// As every backend gives it: up to the first token that ends a turn.
    pub(super) fn generated(self, tokenizer: &Tokenizer) -> crate::error::Result<Generated> {
        let Self { words, stopped, top, .. } = self;
        let mut tokens = match words {
            Words::Tokens(tokens) => tokens,
            Words::Text(text) => tokenizer.encode(&text, false)?,
        };
        let end = tokens.iter().position(|token| tokenizer.stop_ids().contains(token));
        tokens.truncate(end.unwrap_or(tokens.len()));
        let near =
            |top: &&Vec<(u32, f64)>| matches!(top.as_slice(), [first, second, ..] if first.1 - second.1 <= NEAR_TIE);
        let near_ties = top.iter().take(tokens.len()).filter(near).count();
        let finish = if stopped || end.is_some() { Finish::Stop } else { Finish::Length };
        Ok(Generated { tokens, finish, near_ties })
    }
}

/// A list of token ids.
pub(super) fn ids(value: &Value) -> Option<Vec<u32>> {
    value.as_array()?.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect()
}

/// The answer lacks something, or has it in another form.
pub(super) fn malformed(what: &str, answer: &Value) -> Failure {
    let shown = crate::shown::plain(&answer.to_string(), 200);
    Failure::Wrong(format!("the server's answer has no usable {what}: {shown}"))
}

/// Pairs of a token and its log-probability, the most likely first.
pub(super) fn sorted(mut top: Vec<(u32, f64)>) -> Vec<(u32, f64)> {
    top.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    top
}

/// The most likely tokens of a position, told as texts: each text is known by its hash. An object of texts, or a list of
/// `{"token", "bytes", "logprob"}`.
pub(super) fn spelt(position: &Value) -> Vec<(u32, f64)> {
    let number = |text: &str| {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        hasher.finish() as u32
    };
    let of_list = |entry: &Value| {
        // Two tokens that are parts of characters have the same text, and other bytes.
        let text = match &entry["bytes"] {
            Value::Array(bytes) => Value::Array(bytes.clone()).to_string(),
            _ => entry["token"].as_str()?.to_owned(),
        };
        Some((number(&text), entry["logprob"].as_f64()?))
    };
    sorted(match position {
        Value::Array(list) => list.iter().filter_map(of_list).collect(),
        Value::Object(texts) => texts.iter().filter_map(|(text, p)| Some((number(text), p.as_f64()?))).collect(),
        _ => Vec::new(),
    })
}

/// Refuses what was written to a prompt of another length: it was cut, or rendered by another template. `lenient` lets another template be.
pub(super) fn of_this_prompt(
    server: &dyn Server,
    asked: &Asked<'_>,
    lenient: bool,
    written: Written,
) -> Result<Written, Failure> {
    let here = asked.tokens.len();
    let (Some(there), false) = (written.read.filter(|there| *there != here), lenient) else { return Ok(written) };
    let why = match (server.takes(), &asked.request.prompt) {
        (Takes::Messages, Prompt::Messages(_)) => {
            "its chat template is another than the base's here; give it this one, or let it be: [backend] other_template = true"
        }
        _ if there < here => "it cut the prompt; start it with a larger context",
        _ => "it put something before the prompt, or has another tokenizer",
    };
    Err(Failure::Wrong(format!("the server read {there} tokens of a prompt that has {here} here: {why}")))
}

/// A count of tokens.
pub(super) fn count(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|n| usize::try_from(n).ok())
}

/// A name that no server has.
const NO_MODEL: &str = "finetest-no-such-adapter";

/// Refuses a server that answers under a name that it does not have: its names would prove nothing.
pub(super) fn check_names(url: &str, complete: impl Fn(&str) -> Result<Value, Failure>) -> Result<(), Failure> {
    match complete(NO_MODEL) {
        Err(Failure::Refused(400..=499, _)) => Ok(()),
        Err(failure) => Err(failure),
        Ok(_) => Err(Failure::Wrong(format!(
            "{url} answers under the name {NO_MODEL}, which it does not have: its names prove nothing; is there a router before it that answers for all names?"
        ))),
    }
}
