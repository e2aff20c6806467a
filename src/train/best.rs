//! The best validation so far, and when to stop waiting for a better one. Both follow from the log alone, so that a training that was
//! resumed does what one that was not does.

use super::state::TrainerState;
use crate::config::Recipe;

/// The validation with the least loss; of equal ones the first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Best {
    pub(super) step: usize,
    pub(super) loss: f64,
    /// Validations since then.
    pub(super) since: usize,
}

impl Best {
    /// `None` before the first validation.
    pub(super) fn of(state: &TrainerState) -> Option<Self> {
        let mut best: Option<Self> = None;
        for (step, loss) in state.validations() {
            best = match best {
                Some(best) if loss >= best.loss => Some(Self { since: best.since + 1, ..best }),
                _ => Some(Self { step, loss, since: 0 }),
            };
        }
        best
    }

    /// Whether a recipe has waited long enough for a better one.
    pub(super) fn is_final(&self, recipe: &Recipe) -> bool {
        recipe.early_stopping_patience.is_some_and(|patience| self.since >= patience)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Scheduler;
    use crate::error::Result;
    use crate::model::DecoderSpec;
    use crate::model::architecture::outline::Outline;
    use crate::model::lora::{Adapter, Module};
    use crate::train::encode::Encoded;
    use crate::train::{Gradients, LogEntry, Objective, TrainEvent, Trained, Training};

    fn state(losses: &[f64]) -> TrainerState {
        let entry =
            |(i, loss): (usize, &f64)| LogEntry { step: 10 * (i + 1), eval_loss: Some(*loss), ..LogEntry::default() };
        TrainerState { log_history: losses.iter().enumerate().map(entry).collect(), ..TrainerState::default() }
    }

    #[test]
    fn the_least_loss_is_best_and_patience_counts_from_there() {
        assert_eq!(Best::of(&state(&[])), None);
        let best = Best::of(&state(&[2.0, 1.0, 1.0, 1.5])).expect("a validation");
        assert_eq!(best, Best { step: 20, loss: 1.0, since: 2 });
        let patient = |patience| Recipe { early_stopping_patience: patience, ..Recipe::default() };
        assert!(
            best.is_final(&patient(Some(2))) && !best.is_final(&patient(Some(3))) && !best.is_final(&patient(None))
        );
        assert_eq!(Best::of(&state(&[2.0, 1.0, 0.5])).expect("a validation").since, 0);
    }
    /// Every step moves every value by the rate; validation is best where the first one has passed 0.35 of its way.
    struct Passing {
        start: f32,
    }

    impl Objective for Passing {
        fn gradients(&mut self, adapter: &Adapter, _: &[Vec<&Encoded>], _: usize) -> Result<(f64, Gradients)> {
            let ones = |(path, m): (&String, &Module)| {
                [(format!("{path}.lora_A"), vec![1.0; m.a.len()]), (format!("{path}.lora_B"), vec![1.0; m.b.len()])]
            };
            Ok((1.0, adapter.modules.iter().flat_map(ones).collect()))
        }

        fn loss(&mut self, adapter: &Adapter, _: &[Encoded]) -> Result<f64> {
            let moved = self.start - adapter.modules.values().next().expect("a module").a[0];
            Ok(1.0 + f64::from(moved - 0.35).powi(2))
        }

        fn first_non_finite(&self) -> Result<Option<String>> {
            Ok(None)
        }
    }

    fn trained(
        directory: &Path,
        recipe: &Recipe,
        validation: usize,
        killed_at: Option<usize>,
    ) -> Option<Result<Trained>> {
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama/config.json");
        let outline = Outline::of(&DecoderSpec::from_config(&config).expect("a model"));
        let start = Adapter::initialised(recipe, &outline, "base").expect("an adapter");
        let start = start.modules.values().next().expect("a module").a[0];
        let examples = vec![Encoded { ids: vec![1, 2], labels: vec![false, true], line: 0 }; 10];
        let training = Training {
            outline: &outline,
            recipe,
            train: &examples,
            validation: &examples[..validation],
            checkpoints: directory,
            again: false,
            fingerprint: "same",
            base: "base",
        };
        let run = std::panic::AssertUnwindSafe(|| {
            training.run(Box::new(Passing { start }), &mut |event| {
                if let TrainEvent::Step { entry, .. } = event
                    && killed_at == Some(entry.step)
                {
                    std::panic::resume_unwind(Box::new("killed"));
                }
            })
        });
        std::panic::catch_unwind(run).ok()
    }

    fn recipe() -> Recipe {
        // A rate of 0.1: the best of ten steps is the third or fourth.
        Recipe {
            lora_r: 1,
            micro_batch_size: 1.into(),
            learning_rate: 0.1,
            lr_scheduler: Scheduler::Constant,
            warmup_steps: Some(0),
            max_grad_norm: 0.0,
            eval_steps: Some(1),
            save_steps: Some(3),
            early_stopping_patience: Some(2),
            ..Recipe::default()
        }
    }

    #[test]
    fn a_training_stops_when_validation_does_not_get_better_and_keeps_the_best_however_often_it_is_killed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let whole = trained(&directory.path().join("whole"), &recipe(), 1, None).expect("it ran").expect("a training");
        let best = whole.state.best_global_step.expect("a validation");
        assert!((3..=4).contains(&best) && whole.state.stopped_early, "{:?}", whole.state);
        assert_eq!(whole.state.global_step, best + 2);
        let to_best = Recipe { max_steps: Some(best), early_stopping_patience: None, ..recipe() };
        let to_best = trained(&directory.path().join("best"), &to_best, 1, None).expect("it ran").expect("a training");
        assert_eq!(whole.adapter.modules, to_best.adapter.modules);
        for killed_at in 1..=best + 2 {
            let place = directory.path().join(format!("killed-{killed_at}"));
            assert!(trained(&place, &recipe(), 1, Some(killed_at)).is_none());
            // The second time it is over, and nothing is computed.
            for _ in 0..2 {
                let resumed = trained(&place, &recipe(), 1, None).expect("it ran").expect("a training");
                assert_eq!(resumed.adapter.modules, whole.adapter.modules, "killed at {killed_at}");
                assert_eq!(resumed.state, whole.state, "killed at {killed_at}");
            }
        }
    }

    #[test]
    fn the_last_is_kept_if_asked_for_and_a_lost_best_or_no_validation_is_an_error() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let last = Recipe { load_best_model_at_end: Some(false), ..recipe() };
        let found = trained(&directory.path().join("last"), &last, 1, None).expect("it ran").expect("a training");
        assert!(found.state.stopped_early && found.state.best_global_step.is_none());

        let place = directory.path().join("lost");
        trained(&place, &recipe(), 1, None).expect("it ran").expect("a training");
        std::fs::remove_dir_all(place.join("best")).expect("removed");
        let error = trained(&place, &recipe(), 1, None).expect("it ran").err().expect("an error").to_string();
        assert!(error.contains("cannot be read: it is gone") && error.contains("--force"), "{error}");

        let error =
            trained(&directory.path().join("none"), &recipe(), 0, None).expect("it ran").err().expect("an error");
        assert!(error.to_string().contains("need validation examples"), "{error}");
    }
}
