//! How an answer's tokens are chosen.

use serde::{Deserialize, Serialize};

/// How the next token is chosen. Default: the most likely, so that the same question has the same answer.
///
/// With a temperature T the distribution softmax(logits / T) is cut to its `top_k` most likely tokens, then to the fewest of them
/// that together have `top_p` (in this order, as transformers does), and drawn from. The draw for the n-th token depends on
/// `seed` and n alone: neither on what else is in the batch, nor on the arm, nor on the backend, so that base and tuned meet the
/// same luck.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Sampling {
    /// Divides the logits; 0 takes the most likely token. Default 0.
    pub temperature: f64,
    /// Tokens to choose among; 0 is all of them. Default 0.
    pub top_k: usize,
    /// Share of the probability to choose within, above 0 and at most 1. Default 1.
    pub top_p: f64,
    /// Decides the draws. Default 0.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 }
    }
}

impl Sampling {
    /// Is the most likely token taken?
    #[must_use]
    pub fn is_greedy(&self) -> bool {
        self.temperature <= 0.0
    }
}
