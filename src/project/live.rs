//! A training watched while it runs: what its losses show is said when it shows.

use crate::diagnosis::{self, Log, Point};
use crate::train::{LogEntry, TrainEvent};

/// Steps before anything is said.
const FEWEST: usize = 20;
/// The log is looked at so often in a training.
const LOOKS: usize = 40;
/// What may be said before the end; the rest depends on how a training ends.
const SIGNS: [&str; 6] =
    ["diverged", "rate too high", "jumping", "one batch stands out", "one bad example", "overfitting"];

/// The log so far, and what was said of it.
#[derive(Default)]
pub(super) struct Watch {
    log: Log,
    every: usize,
    said: Vec<&'static str>,
}

impl Watch {
    /// What shows for the first time after this event.
    pub(super) fn notes(&mut self, event: &TrainEvent) -> Vec<String> {
        match event {
            TrainEvent::Started { steps, .. } => self.every = steps.div_ceil(LOOKS).max(1),
            TrainEvent::Step { entry, .. } => {
                self.log.add_lines(entry.step, &entry.lines);
                self.log.train.extend(entry.loss.map(|loss| point(entry, loss)));
                if entry.step >= FEWEST && entry.step.is_multiple_of(self.every.max(1)) {
                    return self.look();
                }
            }
            TrainEvent::Validated(entry) => {
                self.log.validation.extend(entry.eval_loss.map(|loss| point(entry, loss)));
                return self.look();
            }
            TrainEvent::Saved { .. } | TrainEvent::Note(_) => {}
        }
        Vec::new()
    }

    fn look(&mut self) -> Vec<String> {
        if self.log.train.len() < FEWEST {
            return Vec::new();
        }
        let found = diagnosis::diagnose(&self.log).into_iter().filter(|found| SIGNS.contains(&found.sign));
        let new: Vec<_> = found.filter(|found| !self.said.contains(&found.sign)).collect();
        self.said.extend(new.iter().map(|found| found.sign));
        new.iter()
            .map(|found| format!("{}: {} ({}); try: {}", found.sign, found.words, found.evidence, found.remedy))
            .collect()
    }
}

fn point(entry: &LogEntry, loss: f64) -> Point {
    Point { step: entry.step, loss, rate: entry.learning_rate, gradient: entry.grad_norm }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn overfitting_is_said_once_and_while_the_training_runs() {
        let mut watch = Watch::default();
        let mut said = Vec::new();
        let started = TrainEvent::Started { steps: 200, resumed_at: 0, examples: (10, 2), tokens: 100, parameters: 1 };
        assert!(watch.notes(&started).is_empty());
        for step in 1..=200 {
            let loss = Some(2.0 * (-(step as f64) / 40.0).exp());
            let entry = LogEntry { step, loss, lines: format!("{step}"), ..LogEntry::default() };
            let event = TrainEvent::Step { entry, tokens: 1, elapsed: Duration::ZERO };
            said.extend(watch.notes(&event).into_iter().map(|note| (step, note)));
            if step % 20 == 0 {
                let eval_loss = Some(1.0 + (step as f64 - 60.0).abs() / 60.0);
                let event = TrainEvent::Validated(LogEntry { step, eval_loss, ..LogEntry::default() });
                said.extend(watch.notes(&event).into_iter().map(|note| (step, note)));
            }
        }
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            (80..=120).contains(&said[0].0) && said[0].1.starts_with("overfitting: ") && said[0].1.contains("step 60")
        );
    }
}
