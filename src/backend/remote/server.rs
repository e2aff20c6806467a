//! What a server is asked, whatever its dialect.

use serde_json::Value;

use super::http::Failure;
use crate::backend::engine::Generated;
use crate::record::{Finish, NEAR_TIE, Request};

/// A position of a text that a server was given: the log-probability of its token, and the most likely tokens with theirs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Scored {
    pub(super) log_probability: f64,
    pub(super) top: Vec<(u32, f64)>,
}

/// A server with base and adapters side by side. An arm is a number; base is 0.
pub(super) trait Server: Send + Sync {
    /// Its engine, version and model, as they decide an answer.
    fn identity(&self) -> &str;

    /// Tokens of the longest prompt with its answer.
    fn context(&self) -> usize;

    /// Requests that it works on at once.
    fn slots(&self) -> usize;

    /// Texts that it can score at once without harm.
    fn scoring(&self) -> usize;

    /// The token ids of a text, by its own tokenizer.
    fn tokenize(&self, text: &str) -> Result<Vec<u32>, Failure>;

    /// An answer to a prompt in tokens, with the `k` most likely tokens of each position.
    fn generate(&self, arm: usize, prompt: &[u32], request: &Request, k: usize) -> Result<Written, Failure>;

    /// Log-probabilities of given tokens after a prompt, each with the `k` most likely ones.
    fn score(&self, arm: usize, prompt: &[u32], tokens: &[u32], k: usize) -> Result<Vec<Scored>, Failure>;

    /// Refuses a server that answers under a name that it does not have, where names tell arms apart.
    fn check_names(&self) -> Result<(), Failure>;
}

/// The fields of every request, as both dialects call them: nothing is left to a server's defaults.
pub(super) fn sampling(request: &Request) -> Vec<(&'static str, Value)> {
    let sampling = request.sampling;
    let mut fields = vec![("temperature", sampling.temperature.into()), ("stream", false.into())];
    if !request.stop.is_empty() {
        fields.push(("stop", request.stop.clone().into()));
    }
    if !sampling.is_greedy() {
        // A negative number or 0 is no limit.
        fields.extend([
            ("top_k", sampling.top_k.into()),
            ("top_p", sampling.top_p.into()),
            ("seed", sampling.seed.into()),
        ]);
    }
    fields
}

/// What a server generated.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Written {
    /// With the token that ended the turn, where the server names it.
    pub(super) tokens: Vec<u32>,
    /// Something else than its length ended it.
    pub(super) stopped: bool,
    /// The most likely tokens of each position, two at least where the server tells them.
    pub(super) top: Vec<Vec<(u32, f64)>>,
}

impl Written {
    /// As every backend gives it: up to the first token that ends a turn.
    pub(super) fn generated(self, ends: &[u32]) -> Generated {
        let Self { mut tokens, stopped, top } = self;
        let end = tokens.iter().position(|token| ends.contains(token));
        tokens.truncate(end.unwrap_or(tokens.len()));
        let near =
            |top: &&Vec<(u32, f64)>| matches!(top.as_slice(), [first, second, ..] if first.1 - second.1 <= NEAR_TIE);
        let near_ties = top.iter().take(tokens.len()).filter(near).count();
        let finish = if stopped || end.is_some() { Finish::Stop } else { Finish::Length };
        Generated { tokens, finish, near_ties }
    }
}

/// A list of token ids.
pub(super) fn ids(value: &Value) -> Option<Vec<u32>> {
    value.as_array()?.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect()
}

/// The answer lacks something, or has it in another form.
pub(super) fn malformed(what: &str, answer: &Value) -> Failure {
    let shown = crate::shown::plain(&answer.to_string(), 200);
    Failure::Gone(format!("the server's answer has no usable {what}: {shown}"))
}

/// Pairs of a token and its log-probability, the most likely first.
pub(super) fn sorted(mut top: Vec<(u32, f64)>) -> Vec<(u32, f64)> {
    top.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    top
}
