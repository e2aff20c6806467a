//! Training an adapter: the loop, and what it tells while it runs.
//!
//! The state is complete: adapter, moments, schedule, the order of the examples and the dropped inputs all follow from the
//! recipe's seed and the step, so that a training that was killed and resumed writes the same bytes as one that was not.

mod best;
mod checkpoint;
pub(crate) mod encode;
pub(crate) mod engine;
mod find_rate;
mod objective;
mod optimizer;
#[cfg(test)]
pub(crate) mod parity;
mod plan;
mod plot;
mod schedule;
mod size;
mod state;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

pub use find_rate::{RatePoint, RateSweep};
pub(crate) use objective::{Gradients, InProcess, Objective, computed_tokens, targets};
pub use plot::{loss_plot, rate_plot};
pub use state::{LogEntry, TRAINER_STATE, TrainerState};

use crate::config::Recipe;
use crate::error::{Error, Result};
use crate::model::architecture::outline::Outline;
use crate::model::lora::Adapter;
use crate::train::encode::Encoded;
use best::Best;
use checkpoint::Checkpoint;
pub(crate) use checkpoint::{checkpoint_at, checkpoint_steps, finished_state};
use optimizer::{AdamWConfig, Moments, norm};
pub(crate) use plan::Plan;
use schedule::learning_rate;

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
    pub(crate) outline: &'a Outline,
    pub(crate) recipe: &'a Recipe,
    pub(crate) train: &'a [Encoded],
    pub(crate) validation: &'a [Encoded],
    /// Directory of the checkpoints.
    pub(crate) checkpoints: &'a Path,
    /// A training that is over is made once more; one that was cut goes on all the same.
    pub(crate) again: bool,
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
    /// Trains to the end, from the newest checkpoint of the same training when there is one; `objective` gives losses and gradients.
    ///
    /// # Errors
    /// There is nothing to train on, a loss that is not finite, or a checkpoint that cannot be written.
    pub(crate) fn run(
        &self,
        objective: Box<dyn Objective + '_>,
        on_event: &mut dyn FnMut(TrainEvent),
    ) -> Result<Trained> {
        let plan = Plan::new(self.recipe, self.train)?;
        if plan.len() == 0 {
            return Err(Error::failed("there are no training examples"));
        }
        if self.validation.is_empty() && (self.recipe.early_stopping_patience.is_some() || self.recipe.keeps_best()) {
            return Err(Error::failed(
                "[train] early_stopping_patience and load_best_model_at_end need validation examples, and there are none; raise \
                 val_set_size, or give [data] validation",
            ));
        }
        let (found, errors) = Checkpoint::newest(self.checkpoints, self.fingerprint);
        for error in errors {
            on_event(TrainEvent::Note(format!("a checkpoint cannot be used: {error}")));
        }
        let over = found.as_ref().is_some_and(|c| c.state.stopped_early || c.state.global_step >= plan.len());
        let found = if self.again && over {
            on_event(TrainEvent::Note(
                "this training is over already; it begins again, and its checkpoints go".to_owned(),
            ));
            std::fs::remove_dir_all(self.checkpoints).map_err(Error::io(self.checkpoints, "remove"))?;
            None
        } else {
            found
        };
        let resumed_at = found.as_ref().map_or(0, |c| c.state.global_step);
        let mut trainer = match found {
            Some(checkpoint) => Trainer::resumed(self, objective, checkpoint),
            None => Trainer::begin(self, objective, plan.len())?,
        };
        on_event(TrainEvent::Started {
            steps: plan.len(),
            resumed_at,
            examples: (self.train.len(), self.validation.len()),
            tokens: self.train.iter().map(|e| e.ids.len()).sum(),
            parameters: trainer.adapter.parameters(),
        });
        if !trainer.state.stopped_early {
            self.steps(&mut trainer, &plan, on_event)?;
        }
        self.finish(trainer, on_event)
    }

    /// Makes the steps that are left.
    fn steps(&self, trainer: &mut Trainer<'_>, plan: &Plan<'_>, on_event: &mut dyn FnMut(TrainEvent)) -> Result<()> {
        let begin = trainer.state.global_step;
        let eval_every = self.recipe.eval_steps.unwrap_or_else(|| plan.len().div_ceil(10));
        let save_every = self.recipe.save_steps.unwrap_or_else(|| plan.len().div_ceil(10));
        for (index, step) in (begin..).zip(plan.steps_from(begin)) {
            let done = index + 1;
            let started = Instant::now();
            let micro = self.micro_batches(&step);
            let entry = trainer.step(&micro, learning_rate(self.recipe, index, plan.len()), step.epoch)?;
            let tokens = micro.iter().flatten().map(|e| e.ids.len()).sum();
            on_event(TrainEvent::Step { entry, tokens, elapsed: started.elapsed() });
            let last = done == plan.len();
            if !self.validation.is_empty() && (done % eval_every == 0 || last) {
                on_event(TrainEvent::Validated(trainer.validate(self.validation, step.epoch)?));
                self.keep_best(trainer)?;
            }
            if done % save_every == 0 || last || trainer.state.stopped_early {
                trainer.checkpoint().save(self.checkpoints, self.recipe.save_total_limit)?;
                on_event(TrainEvent::Saved { step: done });
            }
            if trainer.state.stopped_early {
                break;
            }
        }
        Ok(())
    }

    /// The examples of a step, micro-batch by micro-batch.
    fn micro_batches(&self, step: &plan::Step) -> Vec<Vec<&Encoded>> {
        step.micro.iter().map(|batch| batch.iter().map(|i| &self.train[*i]).collect()).collect()
    }

    /// Directory of the checkpoint of the best validation.
    fn best(&self) -> std::path::PathBuf {
        self.checkpoints.join("best")
    }

    /// After a validation: keeps the trainer as it is when it is the best so far, and decides whether it was the last.
    fn keep_best(&self, trainer: &mut Trainer<'_>) -> Result<()> {
        let Some(best) = Best::of(&trainer.state) else { return Ok(()) };
        trainer.state.stopped_early = best.is_final(self.recipe);
        if !self.recipe.keeps_best() {
            return Ok(());
        }
        (trainer.state.best_global_step, trainer.state.best_metric) = (Some(best.step), Some(best.loss));
        if best.since == 0 { trainer.checkpoint().save(&self.best(), 1) } else { Ok(()) }
    }

    /// What the training comes to: the last adapter, or the best one.
    fn finish(&self, trainer: Trainer<'_>, on_event: &mut dyn FnMut(TrainEvent)) -> Result<Trained> {
        let Trainer { adapter, state, .. } = trainer;
        if state.stopped_early {
            let (step, all) = (state.global_step, state.max_steps);
            on_event(TrainEvent::Note(format!(
                "stopped after {step} of {all} steps: validation was not better for long enough"
            )));
        }
        let (Some(step), Some(loss)) = (state.best_global_step, state.best_metric) else {
            return Ok(Trained { adapter, state });
        };
        if step == state.global_step {
            return Ok(Trained { adapter, state });
        }
        let (best, errors) = Checkpoint::newest(&self.best(), self.fingerprint);
        let best = best.filter(|best| best.state.global_step == step).ok_or_else(|| {
            let why = errors.first().map_or_else(|| "it is gone".to_owned(), ToString::to_string);
            let message = format!(
                "the adapter of step {step}, whose validation was best, cannot be read: {why}; train again with --force"
            );
            Error::model(self.best(), message)
        })?;
        on_event(TrainEvent::Note(format!(
            "the adapter is that of step {step}, whose validation loss of {loss:.4} was the least"
        )));
        Ok(Trained { adapter: best.adapter, state })
    }
}

/// The moving parts of a training.
pub(crate) struct Trainer<'a> {
    objective: Box<dyn Objective + 'a>,
    recipe: &'a Recipe,
    pub(crate) adapter: Adapter,
    moments: BTreeMap<String, Moments>,
    pub(crate) state: TrainerState,
}

impl<'a> Trainer<'a> {
    /// A trainer at its start.
    fn begin(training: &Training<'a>, objective: Box<dyn Objective + 'a>, steps: usize) -> Result<Self> {
        size::check(training.recipe, training.outline)?;
        let adapter = Adapter::initialised(training.recipe, training.outline, training.base)?;
        let state = TrainerState {
            max_steps: steps,
            num_train_epochs: training.recipe.num_epochs,
            fingerprint: training.fingerprint.to_owned(),
            ..TrainerState::default()
        };
        Ok(Self::new(objective, training.recipe, adapter, state))
    }

    fn resumed(training: &Training<'a>, objective: Box<dyn Objective + 'a>, checkpoint: Checkpoint) -> Self {
        let Checkpoint { adapter, moments, state } = checkpoint;
        Self { objective, recipe: training.recipe, adapter, moments, state }
    }

    /// A trainer that continues from an adapter, with moments of zero.
    pub(crate) fn new(
        objective: Box<dyn Objective + 'a>,
        recipe: &'a Recipe,
        adapter: Adapter,
        state: TrainerState,
    ) -> Self {
        let sizes = adapter
            .modules
            .iter()
            .flat_map(|(name, m)| [(format!("{name}.lora_A"), m.a.len()), (format!("{name}.lora_B"), m.b.len())]);
        let moments = sizes.map(|(name, len)| (name, Moments::zero(len))).collect();
        Self { objective, recipe, adapter, moments, state }
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
        let lines = micro.iter().flatten().filter(|example| example.line > 0).map(|example| example.line.to_string());
        let entry = LogEntry {
            step: done,
            epoch,
            loss: Some(loss),
            learning_rate: Some(lr),
            grad_norm: Some(grad_norm),
            eval_loss: None,
            lines: lines.collect::<Vec<_>>().join(","),
        };
        self.state.global_step = done;
        self.state.epoch = epoch;
        self.state.log_history.push(entry.clone());
        Ok(entry)
    }

    /// Mean loss over the labelled tokens of all micro-batches, and its gradients.
    pub(crate) fn gradients(&mut self, micro: &[Vec<&Encoded>]) -> Result<(f64, Gradients)> {
        if micro.iter().flatten().all(|e| targets(e).next().is_none()) {
            return Err(Error::failed("a step has no token to learn: every label of its examples is masked"));
        }
        let (loss, gradients) = self.objective.gradients(&self.adapter, micro, self.state.global_step)?;
        if loss.is_finite() { Ok((loss, gradients)) } else { Err(self.not_finite("loss")) }
    }

    /// Mean NLL of the validation examples' labelled tokens.
    pub(crate) fn validate(&mut self, examples: &[Encoded], epoch: f64) -> Result<LogEntry> {
        let loss = self.objective.loss(&self.adapter, examples)?;
        if !loss.is_finite() {
            return Err(self.not_finite("validation loss"));
        }
        let entry = LogEntry { step: self.state.global_step, epoch, eval_loss: Some(loss), ..LogEntry::default() };
        self.state.log_history.push(entry.clone());
        Ok(entry)
    }

    fn checkpoint(&self) -> Checkpoint {
        Checkpoint { adapter: self.adapter.clone(), moments: self.moments.clone(), state: self.state.clone() }
    }

    fn not_finite(&self, what: &str) -> Error {
        let step = self.state.global_step + 1;
        let why = match self.objective.first_non_finite() {
            Ok(Some(tensor)) => format!("the base's tensor `{tensor}` holds NaN or infinite values"),
            Ok(None) => "the base's weights are finite, so the training diverged; lower learning_rate".to_owned(),
            Err(why) => format!(
                "the training diverged, or the base's weights are not finite, which cannot be told here ({why}); lower learning_rate"
            ),
        };
        Error::failed(format!("the {what} of step {step} is not finite: {why}"))
    }
}
