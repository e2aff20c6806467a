//! What a training descends: the loss of an adapter on examples, and its gradients.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use candle_core::Tensor;

use super::encode::Encoded;
use crate::config::Recipe;
use crate::error::{Error, Result};
use crate::model::decoder::linear::Adapters;
use crate::model::decoder::{Batch, Decoder};
use crate::model::lora::Adapter;
use crate::model::ops::in_pool;
use crate::model::ops::lora::Dropout;
use crate::model::ops::tape::{Tape, select_rows};
use crate::random::mix;

/// Shorter beginnings are not worth sharing.
const SHORTEST_PREFIX: usize = 8;

/// Gradients of an adapter, by `<module path>.lora_A` and `.lora_B`.
pub(crate) type Gradients = BTreeMap<String, Vec<f32>>;

/// Computes losses and gradients of an adapter on a frozen base.
pub(crate) trait Objective {
    /// Mean NLL of the labelled tokens of all micro-batches, and its gradients; `step`: optimizer steps done, for what is random.
    /// A loss that is not finite is no error here.
    ///
    /// # Errors
    /// A token outside the vocabulary, an example past the context, a tensor without a gradient.
    fn gradients(&mut self, adapter: &Adapter, micro: &[Vec<&Encoded>], step: usize) -> Result<(f64, Gradients)>;

    /// Mean NLL of the examples' labelled tokens; nothing is dropped.
    ///
    /// # Errors
    /// As [`Self::gradients`].
    fn loss(&mut self, adapter: &Adapter, examples: &[Encoded]) -> Result<f64>;

    /// The first frozen tensor that holds NaN or infinite values, when one does.
    ///
    /// # Errors
    /// The base's weights cannot be read here.
    fn first_non_finite(&self) -> Result<Option<String>>;
}

/// The decoder of this crate, in this process.
pub(crate) struct InProcess<'a, D> {
    decoder: D,
    recipe: &'a Recipe,
}

impl<D: Borrow<Decoder> + Sync> Objective for InProcess<'_, D> {
    fn gradients(&mut self, adapter: &Adapter, micro: &[Vec<&Encoded>], step: usize) -> Result<(f64, Gradients)> {
        let this = &*self;
        in_pool(|| this.gradients_of(adapter, micro, step))
    }

    fn loss(&mut self, adapter: &Adapter, examples: &[Encoded]) -> Result<f64> {
        let this = &*self;
        in_pool(|| this.loss_of(adapter, examples))
    }

    fn first_non_finite(&self) -> Result<Option<String>> {
        Ok(self.decoder.borrow().first_non_finite())
    }
}

impl<'a, D: Borrow<Decoder>> InProcess<'a, D> {
    /// `decoder`: one's own, or a borrowed one.
    pub(crate) fn new(decoder: D, recipe: &'a Recipe) -> Self {
        Self { decoder, recipe }
    }

    fn gradients_of(&self, adapter: &Adapter, micro: &[Vec<&Encoded>], step: usize) -> Result<(f64, Gradients)> {
        let labelled: usize = micro.iter().flatten().map(|e| targets(e).count()).sum();
        let (mut loss, mut gradients) = (0.0, Gradients::new());
        for (i, batch) in micro.iter().enumerate() {
            let adapter = adapter.low_rank(1.0)?;
            let tape = Tape::default();
            for pair in adapter.pairs.values() {
                tape.watch(&pair.a);
                tape.watch(&pair.b);
            }
            let dropout = (self.recipe.lora_dropout > 0.0).then(|| Dropout {
                p: self.recipe.lora_dropout,
                seed: mix(self.recipe.seed ^ mix(step as u64) ^ mix(!(i as u64))),
            });
            let checkpointing = self.recipe.gradient_checkpointing;
            let adapters = Adapters::Train { adapter: &adapter, dropout, tape: Some(&tape), checkpointing };
            let part = self.sum(batch, adapters, labelled as f64)?;
            loss += f64::from(part.to_scalar::<f32>()?);
            if !f64::is_finite(loss) {
                return Ok((loss, gradients));
            }
            let tensors: Vec<(String, &Tensor)> = adapter
                .pairs
                .iter()
                .flat_map(|(path, p)| [(format!("{path}.lora_A"), &p.a), (format!("{path}.lora_B"), &p.b)])
                .collect();
            let read = tape.inputs();
            let one = part.ones_like()?;
            let mut found = tape.backward(&part, one)?;
            for (name, tensor) in tensors {
                // An expert that no token went to has no gradient, and takes no step.
                if !read.contains(&tensor.id()) {
                    continue;
                }
                let gradient = found.remove(&tensor.id()).ok_or_else(|| {
                    Error::failed(format!(
                        "the adapter's `{name}` got no gradient: an operation of the decoder cuts it"
                    ))
                })?;
                let gradient = gradient.flatten_all()?.to_vec1::<f32>()?;
                match gradients.get_mut(&name) {
                    Some(sum) => sum.iter_mut().zip(&gradient).for_each(|(s, g): (&mut f32, _)| *s += g),
                    None => {
                        gradients.insert(name, gradient);
                    }
                }
            }
        }
        Ok((loss, gradients))
    }

    fn loss_of(&self, adapter: &Adapter, examples: &[Encoded]) -> Result<f64> {
        let adapter = adapter.low_rank(1.0)?;
        let adapters = Adapters::Train { adapter: &adapter, dropout: None, tape: None, checkpointing: false };
        let labelled: usize = examples.iter().map(|e| targets(e).count()).sum();
        let mut loss = 0.0;
        for batch in examples.chunks(self.recipe.micro_batch_size.examples()) {
            let batch: Vec<&Encoded> = batch.iter().filter(|e| targets(e).next().is_some()).collect();
            if !batch.is_empty() {
                loss += f64::from(self.sum(&batch, adapters, labelled as f64)?.to_scalar::<f32>()?);
            }
        }
        Ok(loss)
    }

    /// Σ NLL of the batch's labelled tokens over `divisor`.
    fn sum(&self, batch: &[&Encoded], adapters: Adapters<'_>, divisor: f64) -> Result<Tensor> {
        let prefix = shared_prefix(batch);
        let (mut rows, mut wanted, mut start) = (Vec::new(), Vec::new(), prefix);
        for example in batch {
            for (row, token) in targets(example) {
                rows.push((start + row - prefix) as u32);
                wanted.push(token);
            }
            start += example.ids.len() - prefix;
        }
        let own = batch.iter().map(|e| &e.ids[prefix..]);
        let batch = match batch.first() {
            Some(first) if prefix > 0 => Batch::sharing(&first.ids[..prefix], own),
            _ => Batch::new(own),
        };
        let hidden = self.decoder.borrow().hidden(&batch, adapters)?;
        let labelled = select_rows(adapters.tape(), &hidden, rows)?;
        Ok(self.decoder.borrow().cross_entropy(adapters.tape(), &labelled, wanted, divisor)?)
    }
}

/// Tokens that all examples of a batch begin with and that are not learnt: a system message, say. They are computed once, and
/// their gradient is the sum of what every example adds to it. Every example keeps a row of its own before its first target.
pub(super) fn shared_prefix(batch: &[&Encoded]) -> usize {
    let Some((first, others)) = batch.split_first().filter(|(_, others)| !others.is_empty()) else {
        return 0;
    };
    let same = |other: &&&Encoded| first.ids.iter().zip(&other.ids).take_while(|(a, b)| a == b).count();
    let shared = others.iter().map(|other| same(&other)).min().unwrap_or(0);
    let before_targets = batch.iter().map(|e| targets(e).map(|(row, _)| row).next().unwrap_or(e.ids.len() - 1)).min();
    let shared = shared.min(before_targets.unwrap_or(0));
    if shared >= SHORTEST_PREFIX { shared } else { 0 }
}

/// Tokens that a step on this batch computes: what all examples begin with counts once.
pub(crate) fn computed_tokens(batch: &[&Encoded]) -> usize {
    let all: usize = batch.iter().map(|example| example.ids.len()).sum();
    all - shared_prefix(batch) * batch.len().saturating_sub(1)
}

/// (row whose logits predict it, token) of each labelled token.
pub(crate) fn targets(example: &Encoded) -> impl Iterator<Item = (usize, u32)> {
    let labelled = example.ids.iter().zip(&example.labels).enumerate().skip(1);
    labelled.filter(|(_, (_, labelled))| **labelled).map(|(i, (token, _))| (i - 1, *token))
}
