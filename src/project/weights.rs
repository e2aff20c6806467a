//! That a server computes what the weights of this machine do, for base and for every arm: `[backend] prove_weights`.

use std::collections::BTreeMap;

use super::arms::Tested;
use super::prepared::Prepared;
use super::{Events, backend};
use crate::backend::{CandleBackend, Second};
use crate::config::BackendName;
use crate::error::{Error, Result};
use crate::record::{BASE, Prompt, WeightsProof};
use crate::run::RunEvent;

/// Prompts that are compared.
const PROMPTS: usize = 3;
/// How much nearer the server has to be to an arm here than to base, and to base than to an arm: quantization moves it less than that.
const NEARER: f64 = 2.0;
/// How much nearer to another adapter it may be than to its own, nats/token.
const ROUNDING: f64 = 0.01;
/// What is given as the answer to each: the same text for every arm, so that nothing has to be written first.
const GIVEN: &str = "The answer to this question is";

/// Proves every arm, by its name, where the manifest asks for it.
///
/// # Errors
/// The server computes an arm otherwise than these weights do; it scores no text.
pub(super) fn prove(
    prepared: &Prepared<'_>,
    arms: &[Tested],
    on_event: Events<'_>,
) -> Result<BTreeMap<String, WeightsProof>> {
    let config = prepared.config;
    let asked =
        config.backend == BackendName::Remote && config.remote.as_ref().is_some_and(|remote| remote.prove_weights);
    if !asked || arms.is_empty() {
        return Ok(BTreeMap::new());
    }
    let here = backend::candle(config, &prepared.base, arms);
    let there = backend::second(config, BackendName::Remote, &prepared.base, arms, prepared.server.as_ref())?;
    if !there.shows() {
        return Err(Error::Usage(
            "[backend] prove_weights compares log-probabilities of given text, which this server does not tell; take it out".into(),
        ));
    }
    let mut pair = Pair { here, there };
    let firsts = prepared.checked.scenarios.iter().filter_map(|scenario| scenario.cases.first());
    let prompts: Vec<&Prompt> = firsts.map(|case| &case.request.prompt).take(PROMPTS).collect();
    on_event(RunEvent::Stage { what: "comparing the server with the weights here".into(), units: 0, bytes: false });
    let given = pair.there.chat()?.tokenizer.encode(GIVEN, true)?;
    let said: Said<'_> = prompts.into_iter().map(|prompt| (prompt, given.as_slice())).collect();
    let names: Vec<&str> = std::iter::once(BASE).chain(arms.iter().map(|arm| arm.name.as_str())).collect();
    let mut own = Vec::new();
    // Of each arm: how far the server is crosswise, as this arm from base here, and as base from this arm here.
    let mut crosswise = vec![f64::INFINITY; names.len()];
    for there in 0..names.len() {
        let found = pair.apart([there, there], &said)?;
        for here in (0..names.len()).filter(|here| *here != there) {
            let crossed = pair.apart([there, here], &said)?;
            let with_base = there == 0 || here == 0;
            // Two adapters may be as alike as rounding leaves them.
            if crossed < if with_base { found * NEARER } else { found - ROUNDING } {
                return Err(another([found, crossed], [names[there], names[here]]));
            }
            if with_base {
                let arm = there.max(here);
                crosswise[arm] = crosswise[arm].min(crossed);
            }
        }
        own.push(found);
    }
    let positions = said.len() * given.len();
    let proof = |arm: usize| WeightsProof { positions, base: own[0], arm: own[arm], effect: crosswise[arm] };
    Ok((1..names.len()).map(|arm| (names[arm].to_owned(), proof(arm))).collect())
}

fn another([own, crossed]: [f64; 2], [arm, other]: [&str; 2]) -> Error {
    Error::failed(format!(
        "the control group is not proven: what the server computes as {arm} is {own:.4} nats/token from {arm} by the weights here, and {crossed:.4} \
         from {other}, which is too near; does it serve this base, in this version, and this adapter? finetest crosscheck compares \
         them at length"
    ))
}

/// Prompts, and the tokens that are given as their answers.
type Said<'a> = Vec<(&'a Prompt, &'a [u32])>;

struct Pair {
    here: CandleBackend,
    there: Box<dyn Second>,
}

impl Pair {
    /// Mean KL divergence at least, nats/token, to an arm of the server from one here.
    fn apart(&mut self, [there, here]: [usize; 2], said: &Said<'_>) -> Result<f64> {
        let of = |arm: usize| said.iter().map(|(prompt, tokens)| (arm, *prompt, *tokens)).collect::<Vec<_>>();
        let logits = self.here.logits(&of(here))?;
        let mut kl = Vec::new();
        for sample in self.there.beside(&of(there), &logits)? {
            kl.extend(sample.map_err(Error::failed)?.kl);
        }
        Ok(kl.iter().sum::<f64>() / kl.len().max(1) as f64)
    }
}
