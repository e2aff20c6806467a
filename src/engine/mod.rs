//! Arms × prompts: many sequences of several adapters answered in one pass over the weights.
//!
//! The engine knows prompts as tokens and arms as adapters; nothing of scenarios, templates or verdicts. Decoding is greedy.
//! A batch holds rows of every arm; the frozen products are computed for all rows at once and each arm's adapter touches only its
//! own rows. What prompts begin with in common is computed once an arm.

mod generate;
mod prefix;
mod score;

use std::ops::Range;

use candle_core::Tensor;

pub(crate) use generate::{Generated, Generation};
pub(crate) use score::{Compared, Continuation};

use crate::error::{Error, Result};
use crate::model::cache::Cache;
use crate::model::decoder::{Batch, Decoder};
use crate::model::linear::{Adapters, LowRank};

/// Tokens of one prefill: more sequences wait for the next one.
const PREFILL_TOKENS: usize = 1024;

/// A decoder and the adapters of its arms.
pub(crate) struct Engine<'m> {
    pub(crate) decoder: &'m Decoder,
    /// `None` is base.
    pub(crate) arms: Vec<Option<LowRank>>,
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
        let slots = self.slots(rows, &batch.sequences);
        let mut caches: Vec<&mut Cache> = rows.iter_mut().map(|r| &mut *r.cache).collect();
        Ok(self.decoder.hidden_cached(&batch, Adapters::Rows(&slots), &mut caches)?)
    }

    fn slots(&self, rows: &[Row<'_>], sequences: &[Range<usize>]) -> Vec<(Range<usize>, &LowRank)> {
        let mut slots: Vec<(Range<usize>, usize)> = Vec::new();
        for (row, sequence) in rows.iter().zip(sequences) {
            match slots.last_mut() {
                Some((range, arm)) if *arm == row.arm => range.end = sequence.end,
                _ => slots.push((sequence.clone(), row.arm)),
            }
        }
        slots.into_iter().filter_map(|(range, arm)| Some((range, self.arms[arm].as_ref()?))).collect()
    }

    /// Logits (rows, vocabulary), checked to be finite.
    fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let logits = self.decoder.logits(hidden)?;
        let sum = logits.sum_all()?.to_scalar::<f32>()?;
        if !sum.is_finite() {
            return Err(self.not_finite());
        }
        Ok(logits)
    }

    fn not_finite(&self) -> Error {
        Error::failed(match self.decoder.first_non_finite() {
            Some(tensor) => format!("the model's answer is not finite: its tensor `{tensor}` holds NaN or infinite values"),
            None => "the model's answer is not finite, although its weights are: the adapter may have diverged".to_owned(),
        })
    }

    /// Largest difference of the last position's logits, over all prompts, between two arms.
    ///
    /// # Errors
    /// As [`Self::generate`].
    pub(crate) fn logit_difference(&self, prompts: &[&[u32]], one: usize, other: usize) -> Result<f64> {
        let mut largest = 0f64;
        for prompt in prompts {
            let mut caches = [self.decoder.cache(), self.decoder.cache()];
            let mut pairs = [one.min(other), one.max(other)].into_iter().zip(caches.iter_mut());
            let mut rows: Vec<Row<'_>> = pairs.by_ref().map(|(arm, cache)| Row { arm, tokens: prompt, cache }).collect();
            let hidden = self.forward(&mut rows)?;
            let ends = Tensor::new(&[prompt.len() as u32 - 1, 2 * prompt.len() as u32 - 1], hidden.device())?;
            let logits = self.logits(&hidden.index_select(&ends, 0)?)?.to_vec2::<f32>()?;
            let differences = logits[0].iter().zip(&logits[1]).map(|(a, b)| f64::from((a - b).abs()));
            largest = differences.fold(largest, f64::max);
        }
        Ok(largest)
    }

    /// Logits of the last position of each prompt, asked of one arm alone.
    pub(crate) fn last_logits(&self, prompts: &[&[u32]], arm: usize) -> Result<Vec<Vec<f32>>> {
        let ask = |prompt: &&[u32]| {
            let mut cache = self.decoder.cache();
            let hidden = self.forward(&mut [Row { arm, tokens: prompt, cache: &mut cache }])?;
            let last = hidden.narrow(0, prompt.len() - 1, 1)?;
            Ok(self.logits(&last)?.flatten_all()?.to_vec1::<f32>()?)
        };
        prompts.iter().map(ask).collect()
    }
}

/// Index of the largest value; the first of equal ones.
pub(crate) fn argmax(row: &[f32]) -> u32 {
    let mut best = 0;
    for (i, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = i;
        }
    }
    best as u32
}
