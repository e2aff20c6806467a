//! That a server computes what the weights of this machine do, for base and for every arm: `[backend] prove_weights`.

use std::collections::BTreeMap;

use super::arms::Tested;
use super::prepared::Prepared;
use super::{Events, backend};
use crate::backend::Measured;
use crate::config::BackendName;
use crate::error::{Error, Result};
use crate::record::{BASE, DriftSample, Prompt, WeightsProof};
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
    let mut here = backend::candle(config, &prepared.base, arms);
    let mut there = backend::second(config, BackendName::Remote, &prepared.base, arms, prepared.server.as_ref())?;
    if !there.shows() {
        return Err(Error::Usage(
            "[backend] prove_weights compares log-probabilities of given text, which this server does not tell; take it out".into(),
        ));
    }
    let firsts = prepared.checked.scenarios.iter().filter_map(|scenario| scenario.cases.first());
    let prompts: Vec<&Prompt> = firsts.map(|case| &case.request.prompt).take(PROMPTS).collect();
    on_event(RunEvent::Stage { what: "comparing the server with the weights here".into(), units: 0, bytes: false });
    let given = there.chat()?.tokenizer.encode(GIVEN, true)?;
    let asked = |arm: usize| prompts.iter().map(|prompt| (arm, *prompt, given.as_slice())).collect::<Vec<_>>();
    let names: Vec<&str> = std::iter::once(BASE).chain(arms.iter().map(|arm| arm.name.as_str())).collect();
    let computed = (0..names.len()).map(|arm| here.logits(&asked(arm))).collect::<Result<Vec<_>>>()?;
    // From each arm here, to each arm of the server.
    let mut apart = Vec::new();
    for arm in 0..names.len() {
        let from = computed.iter().map(|logits| mean_kl(there.beside(&asked(arm), logits)?));
        apart.push(from.collect::<Result<Vec<f64>>>()?);
    }
    for (arm, from) in apart.iter().enumerate() {
        for (other, crossed) in from.iter().enumerate().filter(|(other, _)| *other != arm) {
            // Two adapters may be as alike as rounding leaves them.
            let least = if arm == 0 || other == 0 { from[arm] * NEARER } else { from[arm] - ROUNDING };
            if *crossed < least {
                return Err(another([from[arm], *crossed], [names[arm], names[other]]));
            }
        }
    }
    let proof = |arm: usize| WeightsProof {
        positions: prompts.len() * given.len(),
        base: apart[0][0],
        arm: apart[arm][arm],
        effect: apart[0][arm].min(apart[arm][0]),
    };
    Ok((1..names.len()).map(|arm| (names[arm].to_owned(), proof(arm))).collect())
}

/// Mean KL divergence at least, nats/token.
fn mean_kl(samples: Vec<Measured<DriftSample>>) -> Result<f64> {
    let samples = samples.into_iter().collect::<std::result::Result<Vec<_>, _>>().map_err(Error::failed)?;
    let kl: Vec<f64> = samples.into_iter().flat_map(|sample| sample.kl).collect();
    Ok(kl.iter().sum::<f64>() / kl.len().max(1) as f64)
}

fn another([own, crossed]: [f64; 2], [arm, other]: [&str; 2]) -> Error {
    Error::failed(format!(
        "the control group is not proven: what the server computes as {arm} is {own:.4} nats/token from {arm} by the weights here, and {crossed:.4} \
         from {other}, which is too near; does it serve this base, in this version, and this adapter? finetest crosscheck compares \
         them at length"
    ))
}
