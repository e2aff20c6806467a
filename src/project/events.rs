//! What fetching and training tell, in the one stream of a project.

use std::time::Instant;

use super::Events;
use crate::model::SourceEvent;
use crate::run::RunEvent;
use crate::train::TrainEvent;

impl From<SourceEvent> for RunEvent {
    fn from(event: SourceEvent) -> Self {
        match event {
            SourceEvent::Started { what, bytes } => {
                Self::Stage { what, units: usize::try_from(bytes.unwrap_or(0)).unwrap_or(0), bytes: true }
            }
            SourceEvent::Advanced { bytes } => {
                Self::Advanced { units: usize::try_from(bytes).unwrap_or(usize::MAX), tokens: 0 }
            }
            SourceEvent::Finished => Self::StageFinished,
            SourceEvent::Waiting { what } => Self::note(format!("another process is fetching {what}; waiting")),
        }
    }
}

/// Steps after which it is said how long a training takes.
const PACED: usize = 3;
/// Trainings shorter than this need no warning.
const SHORT: f64 = 30.0;

/// How long a training will take, from its first steps.
#[derive(Default)]
pub(super) struct Pace {
    started: Option<Instant>,
    steps: usize,
    done: usize,
}

impl Pace {
    /// After the first steps: about how long the others take.
    pub(super) fn note(&mut self, event: &TrainEvent) -> Option<String> {
        match event {
            TrainEvent::Started { steps, resumed_at, .. } => {
                (self.started, self.steps, self.done) = (Some(Instant::now()), steps.saturating_sub(*resumed_at), 0);
                None
            }
            TrainEvent::Step { .. } => {
                self.done += 1;
                let seconds = self.started?.elapsed().as_secs_f64() / self.done as f64;
                let left = seconds * self.steps.saturating_sub(self.done) as f64;
                let is_time = self.done == PACED && left > SHORT;
                is_time.then(|| format!("{seconds:.1} s a step: the training takes about {}", minutes(left)))
            }
            _ => None,
        }
    }
}

fn minutes(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} minutes", (s / 60.0).ceil()),
        s => format!("{:.1} hours", s / 3600.0),
    }
}

/// Passes on what a training tells.
pub(super) fn training(event: TrainEvent, on_event: Events<'_>) {
    match event {
        TrainEvent::Started { steps, resumed_at, examples: (train, validation), tokens, parameters } => {
            on_event(RunEvent::Stage { what: "training".to_owned(), units: steps, bytes: false });
            on_event(RunEvent::note(format!(
                "{train} examples of {tokens} tokens, {validation} to validate, {steps} steps, {parameters} values"
            )));
            if resumed_at > 0 {
                on_event(RunEvent::note(format!("resumed at step {resumed_at}")));
                on_event(RunEvent::Saved { step: resumed_at });
            }
        }
        TrainEvent::Step { entry, tokens, .. } => {
            on_event(RunEvent::Step { step: entry.step, loss: entry.loss, tokens });
        }
        TrainEvent::Validated(entry) => on_event(RunEvent::Validated { step: entry.step, loss: entry.eval_loss }),
        TrainEvent::Saved { step } => on_event(RunEvent::Saved { step }),
        TrainEvent::Note(text) => on_event(RunEvent::note(text)),
    }
}
