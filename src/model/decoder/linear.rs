//! A linear layer: frozen weights, and a place for adapters.

use std::ops::Range;

use candle_core::{Result, Tensor};

use crate::model::ops::low_rank::LowRank;
use crate::random::mix;

use crate::model::ops::lora::{self, Dropout, Frozen, Slot};
use crate::model::ops::tape::Tape;

/// Which rows of a batch see which adapter.
#[derive(Clone, Copy)]
pub(crate) enum Adapters<'a> {
    /// Each range of rows has its own; rows in no range are base's. For inference.
    Rows(&'a [(Range<usize>, &'a LowRank)]),
    /// One adapter on every row, with gradients for its tensors when there is a tape that watches them; with `checkpointing` the
    /// tape keeps each block's input alone, and the backward runs the block again.
    Train { adapter: &'a LowRank, dropout: Option<Dropout>, tape: Option<&'a Tape>, checkpointing: bool },
}

impl<'a> Adapters<'a> {
    /// Which rows of the batch see which adapter; none in training.
    pub(crate) fn rows(&self) -> &'a [(Range<usize>, &'a LowRank)] {
        match self {
            Self::Rows(rows) => rows,
            Self::Train { .. } => &[],
        }
    }

    /// Where operations are noted for a backward.
    pub(crate) fn tape(&self) -> Option<&'a Tape> {
        match self {
            Self::Rows(_) => None,
            Self::Train { tape, .. } => *tape,
        }
    }
}

/// y = x Wᵀ + b, plus adapters.
pub(crate) struct Linear {
    /// Module path, which is also the adapter's key.
    pub(crate) path: String,
    pub(crate) frozen: Frozen,
    /// A number of its own, so that each layer drops other inputs.
    pub(crate) index: u64,
}

impl Linear {
    /// `x` (tokens, in) → (tokens, out).
    pub(crate) fn forward(&self, x: &Tensor, adapters: Adapters<'_>) -> Result<Tensor> {
        match adapters {
            Adapters::Train { adapter, dropout, tape, .. } => match adapter.pairs.get(&self.path) {
                Some(pair) => {
                    let dropout = dropout.map(|d| Dropout { seed: mix(d.seed ^ mix(self.index)), ..d });
                    lora::lora(tape, x, &self.frozen, [&pair.a, &pair.b], pair.scale, dropout)
                }
                None => lora::linear(tape, x, &self.frozen, Vec::new()),
            },
            Adapters::Rows(rows) => {
                let slot = |(rows, adapter): &(Range<usize>, &LowRank)| {
                    let pair = adapter.pairs.get(&self.path)?;
                    Some(Slot { rows: rows.clone(), pair: pair.clone() })
                };
                lora::linear(None, x, &self.frozen, rows.iter().filter_map(slot).collect())
            }
        }
    }
}
