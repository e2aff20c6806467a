//! How far an exported model is from base and adapter.

use crate::engine::{argmax, divergence, larger, largest_difference, log_normaliser};
use crate::error::{Error, Result};
use crate::model::decoder::{Batch, Decoder};
use crate::model::linear::{Adapters, LowRank};

/// Two models' next-token distributions on the same tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Positions compared.
    pub positions: usize,
    /// Largest difference of a logit.
    pub largest: f64,
    /// Mean Σ p ln(p/q), nats a token: what a rounded weight costs, in the unit of drift.
    pub drift: f64,
    /// Share of positions with the same most likely token.
    pub same_top1: f64,
}

/// More than this is no rounding: the file does not say what it should.
const MOST_DRIFT: f64 = 0.5;

/// Logits of every position.
pub(super) fn logits(decoder: &Decoder, tokens: &[u32], tuned: Option<&LowRank>) -> Result<Vec<Vec<f32>>> {
    let slots: Vec<_> = tuned.map(|tuned| (0..tokens.len(), tuned)).into_iter().collect();
    let hidden = decoder.hidden(&Batch::new([tokens]), Adapters::Rows(&slots))?;
    let logits = decoder.logits(&hidden, &slots)?.to_vec2::<f32>()?;
    // What was written is held against this, so a base that is broken is told first.
    if tuned.is_some()
        && !logits.iter().flatten().all(|value| value.is_finite())
        && let Some(tensor) = decoder.first_non_finite()
    {
        return Err(Error::failed(format!(
            "the base's logits are not finite: its tensor `{tensor}` holds NaN or infinite values"
        )));
    }
    Ok(logits)
}

/// Compares logits; `expected` are those of base and adapter.
///
/// # Errors
/// They are too far apart for a rounding.
pub(super) fn compare(expected: &[Vec<f32>], got: &[Vec<f32>]) -> Result<Difference> {
    let (mut largest, mut drift, mut same) = (0f64, 0f64, 0usize);
    for (p, q) in expected.iter().zip(got) {
        largest = larger(largest, largest_difference(p, q));
        drift += divergence(p, q, log_normaliser(p), log_normaliser(q));
        same += usize::from(argmax(p) == argmax(q));
    }
    let positions = expected.len().max(1);
    let difference =
        Difference { positions, largest, drift: drift / positions as f64, same_top1: same as f64 / positions as f64 };
    // Written so that NaN is refused too.
    if difference.drift <= MOST_DRIFT && difference.largest.is_finite() {
        return Ok(difference);
    }
    Err(Error::failed(format!(
        "what was written does not say what base and adapter say: {} nats a token over {positions} tokens, which is no rounding",
        difference.drift
    )))
}
