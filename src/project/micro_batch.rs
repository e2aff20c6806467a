//! `micro_batch_size = "auto"`: as many examples of an optimizer step at once as fit into memory.

use std::path::Path;

use super::lesson::Lesson;
use crate::config::{MicroBatch, Recipe};
use crate::model::{ModelFiles, spec_of};
use crate::plan::hardware::available;
use crate::plan::{self, Memory, Step};

/// Share of this machine's memory that a training may fill: other programs run beside it, and an estimate is within some percent.
const SHARE: f64 = 0.8;

/// The recipe with a number of examples in place of `auto`; any other recipe as it is. An optimizer step keeps its examples.
pub(super) fn fitted(recipe: &Recipe, files: &ModelFiles, lesson: &Lesson) -> Recipe {
    if recipe.micro_batch_size != MicroBatch::Auto {
        return recipe.clone();
    }
    let longest = lesson.train.iter().map(|example| example.ids.len()).max().unwrap_or(0);
    let tokens = if recipe.sample_packing { recipe.sequence_len } else { longest } as u64;
    let per_step = recipe.examples_per_step();
    // llama.cpp computes a step as one whole, also of families that have no decoder here.
    let (Ok(spec), Some(memory)) = (spec_of(files), available()) else { return split(recipe, per_step) };
    let weights = weight_bytes(files);
    let of = |examples: usize| {
        let tokens = tokens.saturating_mul(examples as u64);
        plan::here(
            &spec,
            weights,
            Step { tokens, rank: recipe.lora_r as u64, checkpointing: recipe.gradient_checkpointing },
        )
    };
    split(recipe, largest(per_step, (memory as f64 * SHARE) as u64, of))
}

/// Bytes of the files of a model's weights.
pub(super) fn weight_bytes(files: &ModelFiles) -> u64 {
    let bytes = |path: &Path| path.metadata().map_or(0, |about| about.len());
    files.weights().into_iter().map(bytes).sum()
}

/// The largest divisor of `per_step` whose memory is at most `available`; 1 where none is.
fn largest(per_step: usize, available: u64, memory: impl Fn(usize) -> Memory) -> usize {
    let divisors = (1..=per_step).rev().filter(|examples| per_step.is_multiple_of(*examples));
    divisors.into_iter().find(|examples| memory(*examples).total() <= available).unwrap_or(1)
}

/// The same optimizer steps with `examples`, a divisor of a step's, at once.
fn split(recipe: &Recipe, examples: usize) -> Recipe {
    let gradient_accumulation_steps = recipe.examples_per_step() / examples;
    Recipe { micro_batch_size: examples.into(), gradient_accumulation_steps, ..recipe.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_of_a_step_s_examples_as_fit_are_computed_at_once() {
        let memory = |examples: usize| Memory { weights: 100, activations: 10 * examples as u64, ..Memory::default() };
        let recipe = Recipe { micro_batch_size: MicroBatch::Auto, gradient_accumulation_steps: 3, ..Recipe::default() };
        for (available, expected) in [(1000, 12), (219, 6), (160, 6), (159, 4), (139, 3), (120, 2), (110, 1), (5, 1)] {
            let found = split(&recipe, largest(recipe.examples_per_step(), available, memory));
            assert_eq!(found.micro_batch_size, MicroBatch::Examples(expected), "{available}");
            assert_eq!(found.examples_per_step(), 12);
        }
    }
}
