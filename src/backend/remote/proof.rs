//! Proof that a server keeps base and adapter apart, made on the wire: alone, after each other, and at the same time.
//!
//! Each trap was met: an adapter that answers for base in one batch (vllm-project/vllm #48421), keys and values of another arm out of a cache
//! (ggml-org/llama.cpp #26207), adapters that stay applied, probabilities of given text that leave an adapter's part out (vllm #51594).

use super::pool;
use super::server::Server;
use crate::error::{Error, Result};
use crate::record::{Prompt, Request};

/// How far log-probabilities of the same question may be apart.
const SAME: f64 = 0.05;
/// How much farther than in a batch of one arm: with quantised weights a batch of another size is another rounding.
const NOISE: f64 = 2.0;
/// And how much of the adapter's effect: an arm that is mixed with another moves by much of it.
const PART: f64 = 0.02;
/// Base and tuned differ by more than this somewhere, or the adapter is not applied.
const EFFECT: f64 = 1e-3;
/// Likely tokens that are compared.
const LIKELY: usize = 5;
/// Requests at the same time, half of each arm.
const TOGETHER: usize = 8;

/// A prompt that arms are proven on.
pub(super) struct Probe {
    /// As the model reads it.
    pub(super) text: String,
    /// The text's tokens, without what a tokenizer puts before raw text.
    pub(super) read: Vec<u32>,
    /// What is asked.
    pub(super) prompt: Vec<u32>,
}

/// The most likely tokens after a prompt, with their log-probabilities.
type Next = Vec<(u32, f64)>;

/// Largest change of a log-probability by the adapter, and largest difference of base from itself.
///
/// # Errors
/// The server mixes arms up, applies no adapter, or reads prompts otherwise; the trap is named, with what helps.
pub(super) fn on_the_wire(server: &dyn Server, prompts: &[Probe], arms: (usize, usize)) -> Result<(f64, f64)> {
    for probe in prompts {
        same_tokens(server, &probe.text, &probe.read)?;
    }
    let (mut effect, mut base_difference) = (0.0_f64, 0.0_f64);
    let mut alone = Vec::new();
    for Probe { prompt, .. } in prompts {
        let base = next(server, arms.0, prompt)?;
        let tuned = next(server, arms.1, prompt)?;
        let again = next(server, arms.0, prompt)?;
        let tuned_again = next(server, arms.1, prompt)?;
        effect = effect.max(apart(&base, &tuned));
        base_difference = base_difference.max(apart(&base, &again));
        refuse(apart(&base, &again), "base, asked again after tuned, is another", CACHE)?;
        refuse(apart(&tuned, &tuned_again), "tuned, asked again after base, is another", CACHE)?;
        alone.push([base, tuned]);
    }
    if effect <= EFFECT {
        return Err(Error::failed(format!(
            "the adapter is not applied: base and tuned have the same log-probabilities on every probe (at most {effect:.1e} apart); is the name of the adapter right, and its scale not 0?"
        )));
    }
    base_difference = base_difference.max(mixed(server, prompts, &alone, arms, effect)?);
    for Probe { prompt, .. } in prompts {
        generation_as_scored(server, prompt, arms.1)?;
    }
    Ok((effect, base_difference))
}

const CACHE: &str = "the server hands keys and values of one arm to another; switch its prompt cache off (llama-server: --cache-ram 0), or restart it";
const BATCH: &str = "the server mixes arms within a batch; give it room for one adapter more (vLLM: --max-loras of the number of adapters and 1), or serve each arm alone";

/// The largest differences of both arms' answers from those alone, with as many requests at the same time: of both arms, or of one.
fn together(server: &dyn Server, prompts: &[Probe], alone: &[[Next; 2]], arms: &[(usize, usize)]) -> Result<[f64; 2]> {
    let ask = |n: usize| {
        let (side, arm) = arms[n % arms.len()];
        let prompt = n / arms.len() % prompts.len();
        (prompt, side, next(server, arm, &prompts[prompt].prompt))
    };
    let mut worst = [0.0_f64; 2];
    pool::each(2 * TOGETHER, TOGETHER, ask, |_, (prompt, side, found)| {
        worst[side] = worst[side].max(apart(&alone[prompt][side], &found?));
        Ok(())
    })?;
    Ok(worst)
}

/// Both arms at the same time. What a batch of one arm alone differs by is the server's rounding, and is let be.
fn mixed(
    server: &dyn Server,
    prompts: &[Probe],
    alone: &[[Next; 2]],
    arms: (usize, usize),
    effect: f64,
) -> Result<f64> {
    let of_one =
        [together(server, prompts, alone, &[(0, arms.0)])?[0], together(server, prompts, alone, &[(1, arms.1)])?[1]];
    let of_both = together(server, prompts, alone, &[(0, arms.0), (1, arms.1)])?;
    for (side, what) in
        ["base, asked at the same time as tuned, is another", "tuned, asked at the same time as base, is another"]
            .into_iter()
            .enumerate()
    {
        refuse_beyond(of_both[side], SAME.max(NOISE * of_one[side]).max(PART * effect), what, BATCH)?;
    }
    Ok(of_one[0].max(of_both[0]))
}

/// The adapter counts for given text as it does for text that is written.
fn generation_as_scored(server: &dyn Server, prompt: &[u32], arm: usize) -> Result<()> {
    let request = Request::greedy(Prompt::Text(String::new()), 1);
    let written = server.generate(arm, prompt, &request, LIKELY).map_err(|failure| Error::failed(failure.why()))?;
    let (Some(token), Some(top)) = (written.tokens.first(), written.top.first()) else { return Ok(()) };
    let Some((_, told)) = top.iter().find(|(id, _)| id == token) else { return Ok(()) };
    let scored = server.score(arm, prompt, &[*token], 1).map_err(|failure| Error::failed(failure.why()))?;
    let found = scored.first().map_or(f64::NAN, |position| position.log_probability);
    refuse(
        (told - found).abs(),
        "tuned gives a token that it writes another log-probability when it is given it",
        "the server leaves a part of the adapter out of given text, or changes the probabilities that it tells; neither choices nor drift can be measured there",
    )
}

/// The server's tokenizer reads a prompt as the base's files here do.
fn same_tokens(server: &dyn Server, text: &str, ids: &[u32]) -> Result<()> {
    let found = server.tokenize(text).map_err(|failure| Error::failed(failure.why()))?;
    if found == ids {
        return Ok(());
    }
    let at = found.iter().zip(ids).take_while(|(a, b)| a == b).count();
    Err(Error::failed(format!(
        "the server's tokenizer reads a prompt otherwise from token {} on ({} tokens, here {}); it serves another model than [model] source, or another version of it",
        at + 1,
        found.len(),
        ids.len()
    )))
}

/// The most likely tokens after a prompt.
fn next(server: &dyn Server, arm: usize, prompt: &[u32]) -> Result<Next> {
    let request = Request::greedy(Prompt::Text(String::new()), 1);
    let written = server.generate(arm, prompt, &request, LIKELY).map_err(|failure| Error::failed(failure.why()))?;
    let top = written.top.into_iter().next().unwrap_or_default();
    if top.is_empty() { Err(Error::failed("the server tells no probabilities of what it writes")) } else { Ok(top) }
}

/// The largest difference of a log-probability. Of a token that the other list lacks it is known that it is no likelier there than the last.
fn apart(a: &Next, b: &Next) -> f64 {
    let one_way = |a: &Next, b: &Next| {
        let last = b.iter().map(|(_, p)| *p).fold(f64::INFINITY, f64::min);
        let difference = |(id, p): &(u32, f64)| match b.iter().find(|(other, _)| other == id) {
            Some((_, other)) => (p - other).abs(),
            None => (p - last).max(0.0),
        };
        a.iter().map(difference).fold(0.0, f64::max)
    };
    one_way(a, b).max(one_way(b, a))
}

fn refuse(difference: f64, what: &str, help: &str) -> Result<()> {
    refuse_beyond(difference, SAME, what, help)
}

fn refuse_beyond(difference: f64, most: f64, what: &str, help: &str) -> Result<()> {
    if difference <= most {
        return Ok(());
    }
    Err(Error::failed(format!(
        "the control group is not proven: {what} (log-probabilities are {difference:.3} apart); {help}"
    )))
}
