//! Training an adapter: the loop, and what it tells while it runs.
//!
//! The state is complete: adapter, moments, schedule, the order of the examples and the dropped inputs all follow from the
//! recipe's seed and the step, so that a training that was killed and resumed writes the same bytes as one that was not.

mod checkpoint;
mod optimizer;
#[cfg(test)]
mod parity;
mod plan;
mod plot;
mod schedule;
mod state;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::Tensor;

pub use plot::loss_plot;
pub use state::{LogEntry, TRAINER_STATE, TrainerState};

use crate::adapter::Adapter;
use crate::config::Recipe;
use crate::data::encode::Encoded;
use crate::error::{Error, Result};
use crate::model::decoder::{Batch, Decoder};
use crate::model::linear::Adapters;
use crate::model::ops::lora::{Dropout, mix};
use crate::model::tape::{Tape, select_rows};
use checkpoint::Checkpoint;
use optimizer::{AdamWConfig, Moments, norm};
use plan::Plan;
use schedule::learning_rate;

/// Shorter beginnings are not worth sharing.
const SHORTEST_PREFIX: usize = 8;

/// What a training tells while it runs.
#[derive(Clone, Debug)]
pub enum TrainEvent {
    /// Before the first step.
    Started {
        /// Optimizer steps in all.
        steps: usize,
        /// Steps already done, when a checkpoint was found.
        resumed_at: usize,
        /// Training examples and the validation examples.
        examples: (usize, usize),
        /// Tokens in one pass over the training examples.
        tokens: usize,
        /// Values in the adapter.
        parameters: usize,
    },
    /// A step was made.
    Step {
        /// What the log says of it.
        entry: LogEntry,
        /// Tokens computed in it.
        tokens: usize,
        /// How long it took.
        elapsed: Duration,
    },
    /// The validation loss was measured.
    Validated(LogEntry),
    /// A checkpoint was written.
    Saved {
        /// Its step.
        step: usize,
    },
    /// Something that a person should know.
    Note(String),
}

/// A training's inputs.
pub(crate) struct Training<'a> {
    pub(crate) decoder: &'a Decoder,
    pub(crate) recipe: &'a Recipe,
    pub(crate) train: &'a [Encoded],
    pub(crate) validation: &'a [Encoded],
    /// Directory of the checkpoints.
    pub(crate) checkpoints: &'a Path,
    /// Hash of the recipe, the data and the base.
    pub(crate) fingerprint: &'a str,
    /// Name of the base, for `adapter_config.json`.
    pub(crate) base: &'a str,
}

/// A training's result.
pub(crate) struct Trained {
    pub(crate) adapter: Adapter,
    pub(crate) state: TrainerState,
}

impl Training<'_> {
    /// Trains to the end, from the newest checkpoint of the same training when there is one.
    ///
    /// # Errors
    /// There is nothing to train on, a loss that is not finite, or a checkpoint that cannot be written.
    pub(crate) fn run(&self, on_event: &mut dyn FnMut(TrainEvent)) -> Result<Trained> {
        let plan = Plan::new(self.recipe, self.train);
        if plan.steps.is_empty() {
            return Err(Error::failed("there are no training examples"));
        }
        let (found, errors) = Checkpoint::newest(self.checkpoints, self.fingerprint);
        for error in errors {
            on_event(TrainEvent::Note(format!("a checkpoint cannot be used: {error}")));
        }
        let resumed_at = found.as_ref().map_or(0, |c| c.state.global_step);
        let mut trainer = match found {
            Some(checkpoint) => Trainer::resumed(self, checkpoint),
            None => Trainer::new(self, plan.steps.len())?,
        };
        on_event(TrainEvent::Started {
            steps: plan.steps.len(),
            resumed_at,
            examples: (self.train.len(), self.validation.len()),
            tokens: self.train.iter().map(|e| e.ids.len()).sum(),
            parameters: trainer.adapter.parameters(),
        });
        let eval_every = self.recipe.eval_steps.unwrap_or_else(|| plan.steps.len().div_ceil(10));
        let save_every = self.recipe.save_steps.unwrap_or_else(|| plan.steps.len().div_ceil(10));
        for (index, step) in plan.steps.iter().enumerate().skip(resumed_at) {
            let done = index + 1;
            let started = Instant::now();
            let micro: Vec<Vec<&Encoded>> =
                step.micro.iter().map(|m| m.iter().map(|i| &self.train[*i]).collect()).collect();
            let entry = trainer.step(&micro, learning_rate(self.recipe, index, plan.steps.len()), step.epoch)?;
            let tokens = micro.iter().flatten().map(|e| e.ids.len()).sum();
            on_event(TrainEvent::Step { entry, tokens, elapsed: started.elapsed() });
            let last = done == plan.steps.len();
            if !self.validation.is_empty() && (done % eval_every == 0 || last) {
                on_event(TrainEvent::Validated(trainer.validate(self.validation, step.epoch)?));
            }
            if done % save_every == 0 || last {
                trainer.checkpoint().save(self.checkpoints, self.recipe.save_total_limit)?;
                on_event(TrainEvent::Saved { step: done });
            }
        }
        Ok(Trained { adapter: trainer.adapter, state: trainer.state })
    }
}

/// The moving parts of a training.
pub(crate) struct Trainer<'a> {
    decoder: &'a Decoder,
    recipe: &'a Recipe,
    pub(crate) adapter: Adapter,
    moments: BTreeMap<String, Moments>,
    pub(crate) state: TrainerState,
}

/// Gradients of an adapter, by `<module path>.lora_A` and `.lora_B`.
pub(crate) type Gradients = BTreeMap<String, Vec<f32>>;

impl<'a> Trainer<'a> {
    fn new(training: &Training<'a>, steps: usize) -> Result<Self> {
        let adapter = Adapter::initialised(training.recipe, training.decoder.linears(), training.base)?;
        let state = TrainerState {
            max_steps: steps,
            num_train_epochs: training.recipe.num_epochs,
            fingerprint: training.fingerprint.to_owned(),
            ..TrainerState::default()
        };
        Ok(Self::with_adapter(training.decoder, training.recipe, adapter, state))
    }

    fn resumed(training: &Training<'a>, checkpoint: Checkpoint) -> Self {
        let Checkpoint { adapter, moments, state } = checkpoint;
        Self { decoder: training.decoder, recipe: training.recipe, adapter, moments, state }
    }

    /// A trainer that goes on from an adapter, with moments of zero.
    pub(crate) fn with_adapter(
        decoder: &'a Decoder,
        recipe: &'a Recipe,
        adapter: Adapter,
        state: TrainerState,
    ) -> Self {
        let sizes = adapter
            .modules
            .iter()
            .flat_map(|(name, m)| [(format!("{name}.lora_A"), m.a.len()), (format!("{name}.lora_B"), m.b.len())]);
        let moments = sizes.map(|(name, len)| (name, Moments::zero(len))).collect();
        Self { decoder, recipe, adapter, moments, state }
    }

    /// One optimizer step on all micro-batches together; their labelled tokens weigh the same, however they are divided.
    pub(crate) fn step(&mut self, micro: &[Vec<&Encoded>], lr: f64, epoch: f64) -> Result<LogEntry> {
        let (loss, mut gradients) = self.gradients(micro)?;
        let grad_norm = norm(gradients.values());
        if !grad_norm.is_finite() {
            return Err(self.not_finite("gradient"));
        }
        if self.recipe.max_grad_norm > 0.0 && grad_norm > self.recipe.max_grad_norm {
            let factor = (self.recipe.max_grad_norm / (grad_norm + 1e-6)) as f32;
            gradients.values_mut().flatten().for_each(|g| *g *= factor);
        }
        let done = self.state.global_step + 1;
        let config = AdamWConfig {
            beta1: self.recipe.adam_beta1,
            beta2: self.recipe.adam_beta2,
            eps: self.recipe.adam_epsilon,
            weight_decay: self.recipe.weight_decay,
        };
        for (path, module) in &mut self.adapter.modules {
            for (kind, values) in [("lora_A", &mut module.a), ("lora_B", &mut module.b)] {
                let name = format!("{path}.{kind}");
                if let (Some(gradient), Some(moments)) = (gradients.get(&name), self.moments.get_mut(&name)) {
                    config.step(done, lr, values, gradient, moments);
                }
            }
        }
        let entry = LogEntry {
            step: done,
            epoch,
            loss: Some(loss),
            learning_rate: Some(lr),
            grad_norm: Some(grad_norm),
            eval_loss: None,
        };
        self.state.global_step = done;
        self.state.epoch = epoch;
        self.state.log_history.push(entry.clone());
        Ok(entry)
    }

    /// Mean loss over the labelled tokens of all micro-batches, and its gradients.
    pub(crate) fn gradients(&self, micro: &[Vec<&Encoded>]) -> Result<(f64, Gradients)> {
        let labelled: usize = micro.iter().flatten().map(|e| targets(e).count()).sum();
        if labelled == 0 {
            return Err(Error::failed("a step has no token to learn: every label of its examples is masked"));
        }
        let (mut loss, mut gradients) = (0.0, Gradients::new());
        for (i, batch) in micro.iter().enumerate() {
            let adapter = self.adapter.low_rank(1.0)?;
            let tape = Tape::default();
            for pair in adapter.pairs.values() {
                tape.watch(&pair.a);
                tape.watch(&pair.b);
            }
            let dropout = (self.recipe.lora_dropout > 0.0).then(|| Dropout {
                p: self.recipe.lora_dropout,
                seed: mix(self.recipe.seed ^ mix(self.state.global_step as u64) ^ mix(!(i as u64))),
            });
            let part =
                self.loss(batch, Adapters::Train { adapter: &adapter, dropout, tape: Some(&tape) }, labelled as f64)?;
            let value = f64::from(part.to_scalar::<f32>()?);
            if !value.is_finite() {
                return Err(self.not_finite("loss"));
            }
            loss += value;
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

    /// Σ NLL of the batch's labelled tokens over `divisor`.
    fn loss(&self, batch: &[&Encoded], adapters: Adapters<'_>, divisor: f64) -> Result<Tensor> {
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
        let hidden = self.decoder.hidden(&batch, adapters)?;
        let labelled = select_rows(adapters.tape(), &hidden, rows)?;
        Ok(self.decoder.cross_entropy(adapters.tape(), &labelled, wanted, divisor)?)
    }

    /// Mean NLL of the validation examples' labelled tokens.
    pub(crate) fn validate(&mut self, examples: &[Encoded], epoch: f64) -> Result<LogEntry> {
        let adapter = self.adapter.low_rank(1.0)?;
        let adapters = Adapters::Train { adapter: &adapter, dropout: None, tape: None };
        let labelled: usize = examples.iter().map(|e| targets(e).count()).sum();
        let mut loss = 0.0;
        for batch in examples.chunks(self.recipe.micro_batch_size) {
            let batch: Vec<&Encoded> = batch.iter().filter(|e| targets(e).next().is_some()).collect();
            if !batch.is_empty() {
                loss += f64::from(self.loss(&batch, adapters, labelled as f64)?.to_scalar::<f32>()?);
            }
        }
        if !loss.is_finite() {
            return Err(self.not_finite("validation loss"));
        }
        let entry = LogEntry {
            step: self.state.global_step,
            epoch,
            loss: None,
            learning_rate: None,
            grad_norm: None,
            eval_loss: Some(loss),
        };
        self.state.log_history.push(entry.clone());
        Ok(entry)
    }

    fn checkpoint(&self) -> Checkpoint {
        Checkpoint { adapter: self.adapter.clone(), moments: self.moments.clone(), state: self.state.clone() }
    }

    fn not_finite(&self, what: &str) -> Error {
        let step = self.state.global_step + 1;
        let why = match self.decoder.first_non_finite() {
            Some(tensor) => format!("the base's tensor `{tensor}` holds NaN or infinite values"),
            None => "the base's weights are finite, so the training diverged; lower learning_rate".to_owned(),
        };
        Error::failed(format!("the {what} of step {step} is not finite: {why}"))
    }
}

/// Tokens that all examples of a batch begin with and that are not learnt: a system message, say. They are computed once, and
/// their gradient is the sum of what every example adds to it. Every example keeps a row of its own before its first target.
fn shared_prefix(batch: &[&Encoded]) -> usize {
    let Some((first, others)) = batch.split_first().filter(|(_, others)| !others.is_empty()) else {
        return 0;
    };
    let same = |other: &&&Encoded| first.ids.iter().zip(&other.ids).take_while(|(a, b)| a == b).count();
    let shared = others.iter().map(|other| same(&other)).min().unwrap_or(0);
    let before_targets = batch.iter().map(|e| targets(e).map(|(row, _)| row).next().unwrap_or(e.ids.len() - 1)).min();
    let shared = shared.min(before_targets.unwrap_or(0));
    if shared >= SHORTEST_PREFIX { shared } else { 0 }
}

/// (row whose logits predict it, token) of each labelled token.
fn targets(example: &Encoded) -> impl Iterator<Item = (usize, u32)> {
    let labelled = example.ids.iter().zip(&example.labels).enumerate().skip(1);
    labelled.filter(|(_, (_, labelled))| **labelled).map(|(i, (token, _))| (i - 1, *token))
}
