//! What fetching and training tell, in the one stream of a project.

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
