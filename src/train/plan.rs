//! Which examples are in which step: fixed by the recipe's seed before the first step.

use crate::config::Recipe;
use crate::data;
use crate::data::encode::Encoded;

/// All steps of a training, in order.
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
}

/// One optimizer step.
pub(crate) struct Step {
    /// Examples of each micro-batch.
    pub(crate) micro: Vec<Vec<usize>>,
    /// Passes over the data done after it.
    pub(crate) epoch: f64,
}

impl Plan {
    pub(crate) fn new(recipe: &Recipe, examples: &[Encoded]) -> Self {
        let lengths: Vec<usize> = examples.iter().map(|e| e.ids.len()).collect();
        let mut steps = Vec::new();
        for epoch in 0..recipe.num_epochs {
            let order = data::order(examples.len(), recipe.seed, epoch as u64);
            let rows: Vec<Vec<usize>> = match recipe.sample_packing {
                true => data::packs(&lengths, &order, recipe.sequence_len),
                false => order.into_iter().map(|i| vec![i]).collect(),
            };
            let micro: Vec<Vec<usize>> = rows.chunks(recipe.micro_batch_size).map(|rows| rows.concat()).collect();
            let mut seen = 0;
            for micro in micro.chunks(recipe.gradient_accumulation_steps) {
                seen += micro.iter().map(Vec::len).sum::<usize>();
                let share = seen as f64 / examples.len() as f64;
                steps.push(Step { micro: micro.to_vec(), epoch: epoch as f64 + share });
            }
        }
        steps.truncate(recipe.max_steps.unwrap_or(usize::MAX));
        Self { steps }
    }
}
