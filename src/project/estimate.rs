//! How much memory and time a run or a training will take, roughly: from the sizes of the model and the numbers of tokens, and from how
//! fast this machine multiplies matrices.

use serde::Serialize;

use crate::model::{DecoderSpec, Sizes};
use crate::plan::time::{self, DECODING, READING};
use crate::plan::{self, Memory, Step};

/// What is to be computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// Prompt tokens of all cases and all arms.
    pub(super) read: u64,
    /// New tokens at most, of all cases and all arms.
    pub(super) generated: u64,
    /// Tokens of all training steps; 0 without a training.
    pub(super) trained: u64,
    /// Tokens that the cache holds at once: the longest case times the rows that are computed together.
    pub(super) cached: u64,
    /// Micro-batches of all training steps.
    pub(super) batches: u64,
    /// Tokens of the largest micro-batch of the training.
    pub(super) step: u64,
    /// The training computes blocks again in the backward.
    pub(super) checkpointing: bool,
    /// Rank of the adapter.
    pub(super) rank: u64,
    /// Bytes of the weights' files.
    pub(super) weights: u64,
}

/// About what a run takes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// Bytes of memory.
    pub memory: u64,
    /// Those of the training by part; `None` without a training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub training: Option<Memory>,
    /// Seconds to answer, if every answer is as long as it may be and none is stored.
    pub run_seconds: f64,
    /// Seconds to train; 0 without a training.
    pub train_seconds: f64,
}

impl Estimate {
    /// Of this work on a machine of `speed` multiplications and additions a second.
    pub(super) fn of(work: Work, spec: &DecoderSpec, speed: f64) -> Self {
        let sizes = Sizes::of(spec);
        let token = 2.0 * sizes.active_parameters as f64;
        let adapter = sizes.lora_values.saturating_mul(work.rank).saturating_mul(4);
        let cache = sizes.kv_values.saturating_mul(4).saturating_mul(work.cached);
        let run = work.weights.saturating_add(adapter).saturating_add(cache);
        // One after the other: what a training held is free when the run begins.
        let training = if work.trained > 0 {
            let step = Step { tokens: work.step, rank: work.rank, checkpointing: work.checkpointing };
            plan::here(spec, work.weights, step)
        } else {
            Memory::default()
        };
        let amount = time::Amount { tokens: work.trained as f64, batches: work.batches as f64 };
        Self {
            memory: run.max(training.total()),
            training: (work.trained > 0).then_some(training),
            run_seconds: token * (work.read as f64 / READING + work.generated as f64 / DECODING) / speed,
            train_seconds: time::here(spec, amount, work.checkpointing, speed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn twice_the_work_takes_twice_the_time_and_a_training_more_memory() {
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama/config.json");
        let spec = DecoderSpec::from_config(&config).expect("a model");
        let sizes = Sizes::of(&spec);
        let work = Work { read: 1000, generated: 100, cached: 10, rank: 8, weights: 4_000_000, ..Work::default() };
        let one = Estimate::of(work, &spec, 1e9);
        assert_eq!(one.memory, 4_000_000 + 8 * sizes.lora_values * 4 + sizes.kv_values * 4 * 10);
        assert_eq!((one.train_seconds, one.training), (0.0, None));
        let twice = Estimate::of(Work { read: 2000, generated: 200, trained: 500, step: 50, ..work }, &spec, 1e9);
        assert!((twice.run_seconds - 2.0 * one.run_seconds).abs() < 1e-9);
        assert!(twice.train_seconds > 0.0 && twice.memory == twice.training.expect("a training").total());
    }
}
