//! Learning rate by step.

use crate::config::{Recipe, Scheduler};

/// The learning rate of optimizer step `step` (from 0) of `total`: it rises in a straight line over the warm-up, so that its last
/// step has the whole rate, and then follows the recipe's scheduler.
#[must_use]
pub(crate) fn learning_rate(recipe: &Recipe, step: usize, total: usize) -> f64 {
    let warmup = recipe.warmup(total).min(total);
    let factor = if step < warmup {
        (step + 1) as f64 / warmup as f64
    } else {
        let progress = (step - warmup) as f64 / (total - warmup).max(1) as f64;
        match recipe.lr_scheduler {
            Scheduler::Constant => 1.0,
            Scheduler::Linear => 1.0 - progress,
            Scheduler::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
        }
    };
    recipe.learning_rate * factor
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(scheduler: Scheduler) -> Vec<f64> {
        let recipe = Recipe { lr_scheduler: scheduler, learning_rate: 1.0, warmup_steps: Some(2), ..Recipe::default() };
        (0..10).map(|step| learning_rate(&recipe, step, 10)).collect()
    }

    #[test]
    fn warm_up_rises_to_the_whole_rate() {
        let rates = rates(Scheduler::Cosine);
        assert_eq!(rates[..3], [0.5, 1.0, 1.0]);
    }

    #[test]
    fn cosine_is_half_way_at_the_middle_and_small_at_the_end() {
        let rates = rates(Scheduler::Cosine);
        assert!((rates[6] - 0.5).abs() < 1e-12);
        assert!(rates[9] > 0.0 && rates[9] < 0.05);
    }

    #[test]
    fn linear_falls_evenly_and_constant_stays() {
        let linear = rates(Scheduler::Linear);
        assert!((linear[2] - linear[3] - 0.125).abs() < 1e-12);
        assert!(rates(Scheduler::Constant)[1..].iter().all(|r| (*r - 1.0).abs() < 1e-12));
    }

    #[test]
    fn a_training_of_one_step_has_a_rate() {
        let recipe = Recipe { learning_rate: 1.0, ..Recipe::default() };
        assert!(learning_rate(&recipe, 0, 1) > 0.0);
    }
}
