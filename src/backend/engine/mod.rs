//! Arms × prompts: many sequences of several adapters answered in one pass over the weights.
//!
//! The engine knows prompts as tokens and arms as adapters; nothing of scenarios, templates or verdicts.
//! A batch holds rows of every arm; the frozen products are computed for all rows at once and each arm's adapter touches only its
//! own rows. What prompts begin with in common is computed once an arm.

mod choose;
mod generate;
mod prefix;
mod score;
#[cfg(test)]
mod tests;

use std::ops::Range;

use candle_core::Tensor;

pub(crate) use choose::Ends;
#[cfg(feature = "llama-cpp")]
pub(crate) use choose::{Choice, choose};
pub(crate) use generate::{Draft, Generated, Generation};
#[cfg(feature = "llama-cpp")]
pub(crate) use prefix::shared_beginnings;
pub(crate) use score::{Compared, Continuation};

use crate::error::{Error, Result};
use crate::model::decoder::cache::Cache;
use crate::model::decoder::linear::Adapters;
use crate::model::decoder::{Batch, Decoder};
use crate::model::ops::in_pool;
use crate::model::ops::low_rank::LowRank;

/// Tokens of one prefill: more sequences wait for the next one.
const PREFILL_TOKENS: usize = 1024;

/// What an engine tells while it works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// So many tokens were computed.
    Tokens(usize),
    /// So many answers or texts are done.
    Done(usize),
}

/// A decoder and the adapters of its arms.
pub(crate) struct Engine<'m> {
    pub(crate) decoder: &'m Decoder,
    /// `None` is base.
    pub(crate) arms: &'m [Option<LowRank>],
    /// Most rows decoded together.
    pub(crate) batch: usize,
}

/// Tokens for one arm to continue from a cache.
struct Row<'t> {
    arm: usize,
    tokens: &'t [u32],
    cache: &'t mut Cache,
}

impl Engine<'_> {
    /// Runs rows, which must be ordered by arm, and returns the hidden state of every token, (tokens, hidden).
    fn forward(&self, rows: &mut [Row<'_>]) -> Result<Tensor> {
        let batch = Batch::continued(rows.iter().map(|r| (r.tokens, r.cache.len())));
        let last = batch.positions.iter().max().map_or(0, |p| p + 1);
        if last > self.decoder.spec.context {
            let context = self.decoder.spec.context;
            return Err(Error::failed(format!("a sequence of {last} tokens is longer than the context of {context}")));
        }
        let arms = rows.iter().zip(batch.sequences.iter()).map(|(row, s)| (row.arm, s.rows.len()));
        let slots = self.slots(arms);
        let mut caches: Vec<&mut Cache> = rows.iter_mut().map(|r| &mut *r.cache).collect();
        Ok(in_pool(|| self.decoder.hidden_cached(&batch, Adapters::Rows(&slots), &mut caches))?)
    }

    /// Whose the rows of a batch are that has so many rows of each arm, one after another.
    fn slots(&self, arms: impl Iterator<Item = (usize, usize)>) -> Vec<(Range<usize>, &LowRank)> {
        let mut slots: Vec<(Range<usize>, usize)> = Vec::new();
        let mut end = 0;
        for (arm, rows) in arms {
            end += rows;
            match slots.last_mut() {
                Some((range, last)) if *last == arm => range.end = end,
                _ => slots.push((end - rows..end, arm)),
            }
        }
        slots.into_iter().filter_map(|(range, arm)| Some((range, self.arms[arm].as_ref()?))).collect()
    }

    /// Logits (rows, vocabulary) of rows of these arms, checked to be finite.
    fn logits(&self, hidden: &Tensor, arms: impl Iterator<Item = usize>) -> Result<Tensor> {
        let slots = self.slots(arms.map(|arm| (arm, 1)));
        let logits = in_pool(|| self.decoder.logits(hidden, &slots))?;
        let sum = logits.sum_all()?.to_scalar::<f32>()?;
        if !sum.is_finite() {
            return Err(self.not_finite());
        }
        Ok(logits)
    }

    fn not_finite(&self) -> Error {
        Error::failed(match self.decoder.first_non_finite() {
            Some(tensor) => {
                format!("the model's answer is not finite: its tensor `{tensor}` holds NaN or infinite values")
            }
            None => {
                "the model's answer is not finite, although its weights are: the adapter may have diverged".to_owned()
            }
        })
    }

    /// Logits of a prompt's last position, for several arms asked together; `arms` must be ascending.
    ///
    /// # Errors
    /// As [`Self::generate`].
    pub(crate) fn last_logits(&self, prompt: &[u32], arms: &[usize]) -> Result<Vec<Vec<f32>>> {
        let mut caches: Vec<Cache> = arms.iter().map(|_| self.decoder.cache()).collect();
        let mut rows: Vec<Row<'_>> =
            arms.iter().zip(&mut caches).map(|(arm, cache)| Row { arm: *arm, tokens: prompt, cache }).collect();
        let hidden = self.forward(&mut rows)?;
        let ends: Vec<u32> = (1..=arms.len()).map(|n| (n * prompt.len()) as u32 - 1).collect();
        let last = hidden.index_select(&Tensor::from_vec(ends, arms.len(), hidden.device())?, 0)?;
        Ok(self.logits(&last, arms.iter().copied())?.to_vec2::<f32>()?)
    }
}
