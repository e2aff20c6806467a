//! Which examples are in which step: fixed by the recipe's seed before the first step.
//!
//! An epoch is planned when its first step comes, so that a plan takes the memory of one epoch, however many there are.

use super::encode::Encoded;
use crate::config::{MOST_STEPS, Recipe};
use crate::data;
use crate::error::{Error, Result};

/// All steps of a training, in order.
pub(crate) struct Plan<'r> {
    recipe: &'r Recipe,
    /// Tokens of each example.
    lengths: Vec<usize>,
    steps: usize,
}

/// One optimizer step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    /// Examples of each micro-batch.
    pub(crate) micro: Vec<Vec<usize>>,
    /// Passes over the data done after it.
    pub(crate) epoch: f64,
}

impl<'r> Plan<'r> {
    /// # Errors
    /// More steps than [`MOST_STEPS`].
    pub(crate) fn new(recipe: &'r Recipe, examples: &[Encoded]) -> Result<Self> {
        let mut plan = Self { recipe, lengths: examples.iter().map(|e| e.ids.len()).collect(), steps: 0 };
        plan.steps = plan.count()?;
        Ok(plan)
    }

    /// Number of steps: at most the recipe's `max_steps`.
    pub(crate) fn len(&self) -> usize {
        self.steps
    }

    /// The steps from step `first` (counted from 0) on.
    pub(crate) fn steps_from(&self, first: usize) -> impl Iterator<Item = Step> + '_ {
        let all = (0..self.epochs()).flat_map(|epoch| self.epoch(epoch));
        all.take(self.steps).skip(first)
    }

    /// Steps of the first epoch.
    pub(crate) fn steps_per_epoch(&self) -> usize {
        self.rows(0).len().div_ceil(self.recipe.micro_batch_size.examples()).div_ceil(self.accumulation())
    }

    fn epochs(&self) -> usize {
        if self.lengths.is_empty() { 0 } else { self.recipe.num_epochs }
    }

    fn count(&self) -> Result<usize> {
        let most = self.recipe.max_steps.unwrap_or(usize::MAX);
        let steps = if self.recipe.sample_packing {
            // How many packs an epoch has depends on its order, but each has a step.
            if self.epochs().min(most) > MOST_STEPS {
                return Err(self.too_long());
            }
            let mut steps = 0_usize;
            for epoch in 0..self.epochs() {
                steps += self
                    .rows(epoch)
                    .len()
                    .div_ceil(self.recipe.micro_batch_size.examples())
                    .div_ceil(self.accumulation());
                if steps >= most || steps > MOST_STEPS {
                    break;
                }
            }
            steps
        } else {
            let micro = self.lengths.len().div_ceil(self.recipe.micro_batch_size.examples());
            micro.div_ceil(self.accumulation()).saturating_mul(self.epochs())
        };
        let steps = steps.min(most);
        if steps > MOST_STEPS { Err(self.too_long()) } else { Ok(steps) }
    }

    fn too_long(&self) -> Error {
        let epochs = self.recipe.num_epochs;
        Error::failed(format!(
            "[train] num_epochs is {epochs}, which is more than {MOST_STEPS} steps; lower it, or give max_steps"
        ))
    }

    fn accumulation(&self) -> usize {
        self.recipe.gradient_accumulation_steps
    }

    /// The examples of an epoch, in its order: one a row, or packs of them.
    fn rows(&self, epoch: usize) -> Vec<Vec<usize>> {
        let order = data::order(self.lengths.len(), self.recipe.seed, epoch as u64);
        if self.recipe.sample_packing {
            data::packs(&self.lengths, &order, self.recipe.sequence_len)
        } else {
            order.into_iter().map(|i| vec![i]).collect()
        }
    }

    fn epoch(&self, epoch: usize) -> Vec<Step> {
        let rows = self.rows(epoch);
        let micro: Vec<Vec<usize>> =
            rows.chunks(self.recipe.micro_batch_size.examples()).map(|rows| rows.concat()).collect();
        let mut seen = 0;
        let mut steps = Vec::new();
        for micro in micro.chunks(self.accumulation()) {
            seen += micro.iter().map(Vec::len).sum::<usize>();
            let share = seen as f64 / self.lengths.len() as f64;
            steps.push(Step { micro: micro.to_vec(), epoch: epoch as f64 + share });
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MicroBatch;

    fn examples(lengths: &[usize]) -> Vec<Encoded> {
        lengths.iter().map(|n| Encoded { ids: vec![1; *n], labels: vec![true; *n], line: 0 }).collect()
    }

    /// The plan as it was made when all epochs were listed before the first step: trainings that were begun then go on by it.
    fn listed(recipe: &Recipe, examples: &[Encoded]) -> Vec<Step> {
        let lengths: Vec<usize> = examples.iter().map(|e| e.ids.len()).collect();
        let mut steps = Vec::new();
        for epoch in 0..recipe.num_epochs {
            let order = data::order(examples.len(), recipe.seed, epoch as u64);
            let rows: Vec<Vec<usize>> = if recipe.sample_packing {
                data::packs(&lengths, &order, recipe.sequence_len)
            } else {
                order.into_iter().map(|i| vec![i]).collect()
            };
            let micro: Vec<Vec<usize>> =
                rows.chunks(recipe.micro_batch_size.examples()).map(|rows| rows.concat()).collect();
            let mut seen = 0;
            for micro in micro.chunks(recipe.gradient_accumulation_steps) {
                seen += micro.iter().map(Vec::len).sum::<usize>();
                let share = seen as f64 / examples.len() as f64;
                steps.push(Step { micro: micro.to_vec(), epoch: epoch as f64 + share });
            }
        }
        steps.truncate(recipe.max_steps.unwrap_or(usize::MAX));
        steps
    }

    #[test]
    fn the_order_is_that_of_a_plan_of_all_epochs() {
        let examples = examples(&[9, 3, 14, 5, 5, 8, 2, 7, 11, 4, 6]);
        for sample_packing in [false, true] {
            for (micro_batch_size, gradient_accumulation_steps) in [(1, 1), (2, 3), (4, 1), (64, 64)] {
                for max_steps in [None, Some(1), Some(5), Some(7), Some(1000)] {
                    let recipe = Recipe {
                        sample_packing,
                        micro_batch_size: MicroBatch::Examples(micro_batch_size),
                        gradient_accumulation_steps,
                        max_steps,
                        num_epochs: 3,
                        sequence_len: 16,
                        ..Recipe::default()
                    };
                    let expected = listed(&recipe, &examples);
                    let plan = Plan::new(&recipe, &examples).expect("a plan");
                    assert_eq!(plan.len(), expected.len(), "{recipe:?}");
                    for first in [0, 1, 4, expected.len()] {
                        let steps: Vec<Step> = plan.steps_from(first).collect();
                        assert_eq!(steps, expected[first.min(expected.len())..], "from {first}: {recipe:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_first_order_of_the_default_seed_never_changes() {
        let recipe = Recipe { micro_batch_size: 3.into(), num_epochs: 2, ..Recipe::default() };
        let examples = examples(&[4; 7]);
        let plan = Plan::new(&recipe, &examples).expect("a plan");
        let order: Vec<usize> = plan.steps_from(0).flat_map(|step| step.micro.concat()).collect();
        assert_eq!(order, [3, 1, 5, 6, 4, 0, 2, 5, 2, 4, 0, 1, 3, 6]);
    }

    #[test]
    fn a_plan_is_as_long_as_max_steps_whatever_the_number_of_epochs() {
        let examples = examples(&[4; 7]);
        for sample_packing in [false, true] {
            let recipe = Recipe { num_epochs: usize::MAX, max_steps: Some(4), sample_packing, ..Recipe::default() };
            let plan = Plan::new(&recipe, &examples).expect("a plan");
            assert_eq!((plan.len(), plan.steps_from(0).count(), plan.steps_from(3).count()), (4, 4, 1));
            let endless = Recipe { max_steps: None, num_epochs: usize::MAX, ..recipe };
            let message = Plan::new(&endless, &examples).err().expect("too many steps").to_string();
            assert!(message.contains("num_epochs") && message.contains("max_steps"), "{message}");
        }
        assert_eq!(Plan::new(&Recipe::default(), &[]).expect("nothing to do").len(), 0);
    }
}
