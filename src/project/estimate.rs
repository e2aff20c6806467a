//! How much memory and time a run or a training will take, roughly: from the sizes of the model and the numbers of tokens, and from how
//! fast this machine multiplies matrices.

use serde::Serialize;

use crate::model::Sizes;
use crate::plan::time::{self, DECODING, READING};

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
    /// Seconds to answer, if every answer is as long as it may be and none is stored.
    pub run_seconds: f64,
    /// Seconds to train; 0 without a training.
    pub train_seconds: f64,
}

impl Estimate {
    /// Of this work on a machine of `speed` multiplications and additions a second.
    pub(super) fn of(work: Work, sizes: &Sizes, speed: f64) -> Self {
        let token = 2.0 * sizes.active_parameters as f64;
        let adapter = sizes.lora_values.saturating_mul(work.rank).saturating_mul(4);
        // The adapter's values, gradients and both moments.
        let training = if work.trained > 0 { adapter.saturating_mul(3) } else { 0 };
        let cache = sizes.kv_values.saturating_mul(4).saturating_mul(work.cached);
        Self {
            memory: work.weights.saturating_add(adapter).saturating_add(training).saturating_add(cache),
            run_seconds: token * (work.read as f64 / READING + work.generated as f64 / DECODING) / speed,
            train_seconds: time::here(sizes.active_parameters, work.trained as f64, false, speed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_the_work_takes_twice_the_time_and_a_training_more_memory() {
        let sizes = Sizes {
            parameters: 1_000_000,
            active_parameters: 1_000_000,
            kv_values: 100,
            latent_kv_values: None,
            lora_values: 1000,
        };
        let work = Work { read: 1000, generated: 100, trained: 0, cached: 10, rank: 8, weights: 4_000_000 };
        let one = Estimate::of(work, &sizes, 1e9);
        assert_eq!(one.memory, 4_000_000 + 8 * 1000 * 4 + 100 * 4 * 10);
        assert_eq!(one.train_seconds, 0.0);
        let twice = Estimate::of(Work { read: 2000, generated: 200, trained: 500, ..work }, &sizes, 1e9);
        assert!((twice.run_seconds - 2.0 * one.run_seconds).abs() < 1e-9);
        assert!(twice.train_seconds > 0.0 && twice.memory == one.memory + 3 * 8 * 1000 * 4);
    }
}
